"""Costs that people write into CSV files."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from steelyard._common.labelled import by_class
from steelyard._common.text import NUMBER
from steelyard.deciding.costs import read_costs


def load_costs(path: Path, class_names: Sequence[str]) -> Tensor:
    """Return the (K, K) costs, ``[true, decided]``, that a CSV file holds.

    The file has one of three forms: K rows of K numbers, in the order of the classes; the same with the names of
    the decisions above and of the true classes at the left, in any order; or two columns with a header,
    ``class,cost``: the cost of missing each class.

    Raises:
        ValueError: another form, a name that is no class, a cost that is no number.
        FileNotFoundError: no such file.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(cell.strip() for cell in row)]
    size, names = len(class_names), [str(one) for one in class_names]
    form = (len(rows), len(rows[0]) if rows else 0)
    if any(len(row) != form[1] for row in rows) or form not in ((size, size), (size + 1, size + 1), (size + 1, 2)):
        raise ValueError(
            f"costs {path} must be {size} rows of {size} numbers, the same with names of the {size} classes above "
            f"and at the left, or rows of class,cost under such a header, got {form[0]} rows"
            + (
                f" of {form[1]} cells"
                if rows and all(len(row) == form[1] for row in rows)
                else " of uneven length"
            )
        )
    if form == (size, size):
        return read_costs([_costs(path, row) for row in rows], size)
    body = [(row[0], _costs(path, row[1:])) for row in rows[1:]]
    true = by_class(f"costs {path}", dict(_once(path, body)), names)
    assert true is not None
    if form == (size + 1, 2):
        return read_costs([cells[0] for cells in true.values], size)
    columns = [
        by_class(f"costs {path}", dict(_once(path, list(zip(rows[0][1:], cells, strict=True)))), names)
        for cells in true.values
    ]
    return read_costs([one.values for one in columns if one is not None], size)


def _once(path: Path, pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"costs {path} must name each class once, got {twice!r} more than once")
    return pairs


def _costs(path: Path, cells: list[str]) -> list[float]:
    odd = next((cell for cell in cells if not NUMBER.fullmatch(cell)), None)
    if odd is not None:
        raise ValueError(f"costs {path} must hold numbers, got {odd!r}")
    return [float(cell) for cell in cells]
