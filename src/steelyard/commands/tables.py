"""Small CSV tables that say something of each class, which people write."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from steelyard._common.labelled import by_class

_MOST_BYTES = 1 << 24


def read_cells(path: Path) -> list[list[str]]:
    """Return the rows of a small CSV file, header first, without spaces around cells.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file that is no text, is large, or has no rows below its header.
    """
    if not path.is_file():
        raise FileNotFoundError(f"file {path} does not exist")
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path} must be a small table, got {path.stat().st_size} bytes")
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = [
            [cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if any(map(str.strip, row))
        ]
    except (UnicodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV: {error}") from None
    if len(rows) < 2:
        raise ValueError(f"{path} must have a header and rows below it, got {len(rows)} lines")
    return rows


def number_of(cell: str, where: str) -> float:
    """Return the finite number that a cell holds."""
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where} must hold finite numbers, got {cell[:100]!r}")
    return value


def class_table(path: Path, column: str, class_names: Sequence[str]) -> Tensor:
    """Return a number of each class, (K,) float64, from a CSV with the columns ``class`` and `column`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: other columns, a class that is missing, unknown or there twice, or a cell that is no number.
    """
    header, *rows = read_cells(path)
    if header != ["class", column]:
        raise ValueError(f"{path} must have the columns class and {column}, got {', '.join(header)[:200]}")
    found: dict[str, float] = {}
    for row in rows:
        if len(row) != 2:
            raise ValueError(f"{path} must have 2 cells a row, got {len(row)}: {', '.join(row)[:100]}")
        if row[0] in found:
            raise ValueError(f"{path} must have each class once, got {row[0]!r} twice")
        found[row[0]] = number_of(row[1], f"{path}, column {column!r}")
    labelled = by_class(str(path), found, class_names)
    assert labelled is not None
    return torch.tensor(labelled.values, dtype=torch.float64)
