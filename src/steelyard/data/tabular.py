"""Tables: which column is the label, which are inputs and as what, which are left out and why."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.data.dataset import Dataset
from steelyard.data.making import Part, code_labels, make_dataset, missing, place_labels
from steelyard.data.predictions.columns import Choice, choose
from steelyard.data.predictions.source import Opened, check_kinds, told
from steelyard.data.predictions.tables import describe_table, kinds_in, list_column
from steelyard.data.preparing import MOST_WORDS, Columns, Fit, fit_matrix
from steelyard.data.times import moments

NULLS = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "?")  # cells of CSV that are missing
_IDS = re.compile(r"(.*[_. -])?(id|uuid|guid|index|idx|key|row|nr|no|number)|unnamed: \d+|", re.IGNORECASE)
_WORDS = 4  # of a text, on average; what has fewer is a name or a category
_TEXTS = ("text", "sentence", "review", "document", "message", "content")  # whatever they hold


@dataclass(frozen=True)
class Asked:
    """What was asked of a data set: the names of its columns, as the command line takes them."""

    target: str | None = None
    features: str | None = None
    group: str | None = None
    time: str | None = None

    def __post_init__(self) -> None:
        if self.group is not None and self.time is not None:
            raise ValueError(
                "group and time cannot both be given: rows are split by one of them, "
                f"got {self.group!r} and {self.time!r}"
            )

    def given(self) -> list[str]:
        """Return the names of those that were said."""
        return [name for name in ("target", "features", "group", "time") if getattr(self, name) is not None]


def from_tables(
    name: str,
    train: Any,
    test: Any | None,
    asked: Asked,
    *,
    class_names: Sequence[str] | None = None,
    notes: Sequence[str] = (),
    digest: str | None = None,
) -> Dataset:
    """Return a data set of tables as pyarrow holds them.

    Args:
        name: as it was asked for.
        train, test: its parts.
        asked: the columns that were named.
        class_names: in the order of integer labels.
        notes: of the reader, for the line.
        digest: of the data.

    Raises:
        ValueError: the table does not tell what its columns are, or holds none that is an input.
    """
    opened = describe_table(name, train)
    group = None if asked.group is None else _column(opened, asked.group, "group")
    time = None if asked.time is None else _column(opened, asked.time, "time")
    by = group or time
    listed = [f.name for f in opened.fields if f.kind == "list"]
    if asked.features is None and listed:
        choice = choose(opened, values="features", target=asked.target)
    else:
        choice = choose(opened, values="features", columns=asked.features or "*", target=asked.target)
        choice = replace(choice, columns=tuple(c for c in choice.columns if c != by))
    if choice.multi_hot:
        raise ValueError(f"dataset {name!r} must have one label a row, got {told(choice.labels)}")
    if by in choice.labels:
        told_by = "group" if group else "time"
        raise ValueError(f"{told_by} must be a column of its own in dataset {name!r}, got {by!r}")
    label = choice.labels[0]
    parts = {"train": train} | ({} if test is None else {"test": test})
    used = [*choice.columns, label, *([by] if by else ())]
    for split, table in parts.items():
        absent = [c for c in used if c not in table.column_names]
        if absent:
            raise ValueError(f"dataset {name!r}, split {split} has no column {absent[0]!r}, which the other has")
    _check_same(name, parts, [c for c in used if c not in choice.columns])
    where = f"dataset {name!r}, {{}}column {label!r}"
    target, names, classes = code_labels(where.format(""), cells(train, label), class_names)
    targets = {"train": target}
    if test is not None:
        targets["test"] = place_labels(where.format("split test, "), cells(test, label), classes)
    groups = {s: None if group is None else cells(table, group) for s, table in parts.items()}
    times = {
        s: None if time is None else moments(f"dataset {name!r}, column {time!r}", table.column(time))
        for s, table in parts.items()
    }
    fit: Fit
    if len(choice.columns) == 1 and opened.field(choice.columns[0]).kind == "list":
        first = choice.columns[0]
        inputs, found = _lists(parts, first, opened), f"features: {first} ({opened.field(first).width})"
        fit, left_out = fit_matrix, {n: "" for n in choice.left_out if n != by}
    else:
        kinds, left_out = _sort(opened, train, choice, by, named=asked.features is not None)
        _check_same(name, parts, [*kinds.numbers, *kinds.categories, *kinds.texts])
        inputs, fit, found = (
            {s: _frame(name, t, kinds) for s, t in parts.items()},
            kinds.fit,
            _describe(kinds, train),
        )
    found = "; ".join(
        [
            f"{name}: {found}",
            f"label: {label}",
            *([f"groups: {group}"] if group else []),
            *([f"time: {time}"] if time else []),
            *([f"left out: {_left_out(left_out)}"] if left_out else []),
            *notes,
        ]
    )
    made = {s: Part(targets[s], _taker(inputs[s]), groups[s], times[s]) for s in parts}
    return make_dataset(name, names, made["train"], made.get("test"), found=found, fit=fit, digest=digest)


def cells(table: Any, name: str) -> NDArray[Any]:
    """Return a column as NumPy holds it: float64 with NaN, or texts with None."""
    import pyarrow as pa

    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        column = column.cast(pa.large_string())
    if pa.types.is_boolean(column.type) and column.null_count:
        column = column.cast(pa.int8())
    found: NDArray[Any] = column.combine_chunks().to_numpy(zero_copy_only=False)
    return found.astype(np.float64) if found.dtype.kind == "f" else found


def finite(where: str, values: NDArray[Any]) -> NDArray[Any]:
    """Return numbers after refusing infinite ones; NaN stands for missing ones."""
    wrong = np.isinf(values)
    if wrong.any():
        row = int(np.argwhere(wrong)[0][0])
        raise ValueError(f"{where} must hold finite numbers, got {values[wrong][0]} in row {row}")
    return values


def _column(opened: Opened, name: str, what: str) -> str:
    if name not in (names := [f.name for f in opened.fields]):
        raise ValueError(f"dataset {str(opened.path)!r} has no column {name!r} for {what}: it has {told(names)}")
    return name


def _check_same(name: str, parts: dict[str, Any], columns: list[str]) -> None:
    check_kinds({f"dataset {name!r}, split {s}": kinds_in(table.select(columns)) for s, table in parts.items()})


def _sort(
    opened: Opened, table: Any, choice: Choice, by: str | None, *, named: bool
) -> tuple[Columns, dict[str, str]]:
    """Return which of the chosen columns are what, and why others are left out; one that was named is not."""
    numbers, categories, texts = [], [], []
    left_out = {n: "" for n in choice.left_out if n != by}
    for name in choice.columns:
        kind, values = opened.field(name).kind, cells(table, name)
        why = None if named else _no_input(name, kind, values)
        if kind in ("other", "list"):
            why = "neither numbers nor text"
            if named:
                raise ValueError(f"{opened.where(name)} must hold numbers or text, got {opened.field(name).type}")
        if why is not None:
            left_out[name] = why
        elif kind in ("number", "integer", "bool"):
            numbers.append(name)
        elif kind == "text" and _is_text(name, values):
            texts.append(name)
        else:
            categories.append(name)
    if not (numbers or categories or texts):
        raise ValueError(
            f"dataset {str(opened.path)!r} has no column that is an input beside its label "
            f"{choice.labels[0]!r}: {_left_out(left_out) or 'there is no other'}; name them as features"
        )
    return Columns(tuple(numbers), tuple(categories), tuple(texts)), left_out


def _no_input(name: str, kind: str, values: NDArray[Any]) -> str | None:
    """Return why a column is like an id: a value of its own in every row, or in most where it is text."""
    if kind in ("number", "integer"):
        if (
            len(values) < 3
            or not np.isfinite(values.astype(np.float64)).all()
            or (values != np.floor(values)).any()
        ):
            return None
        counted = bool((np.diff(values) == 1).all())
        if counted or (_IDS.fullmatch(name.strip()) and len(np.unique(values)) == len(values)):
            return "like an id: another number in every row"
        return None
    if kind == "text" and not _is_text(name, values):
        known = values[~missing(values)]
        if len(values) >= 3 and len(np.unique(known.astype(str))) > len(values) / 2:
            return "like an id: another text in most rows"
    return None


def _is_text(name: str, values: NDArray[Any]) -> bool:
    """Return whether a column is called as texts are, or most cells are texts of their own, of several words."""
    if name.lower() in _TEXTS:
        return True
    known = [str(v) for v in values.tolist() if v is not None]
    return 2 * len(set(known)) > len(known) and sum(len(v.split()) for v in known) >= _WORDS * len(known)


def _frame(name: str, table: Any, kinds: Columns) -> Any:
    """Return the inputs as a pandas frame: numbers with NaN, texts without missing ones."""
    import pandas as pd

    columns: dict[str, Any] = {}
    for each in kinds.numbers:
        columns[each] = finite(f"dataset {name!r}, column {each!r}", cells(table, each).astype(np.float64))
    for each in (*kinds.categories, *kinds.texts):
        empty = "" if each in kinds.texts else "(missing)"
        texts = [empty if v is None or v != v else str(v) for v in cells(table, each).tolist()]
        columns[each] = np.array(texts, dtype=object)
    return pd.DataFrame(columns)


def _lists(parts: dict[str, Any], name: str, opened: Opened) -> dict[str, NDArray[Any]]:
    width = opened.field(name).width
    where = opened.where(name)
    return {split: finite(where, list_column(where, table, name, width)) for split, table in parts.items()}


def _taker(rows: Any) -> Any:
    if isinstance(rows, np.ndarray):
        return lambda indices: rows[indices.numpy()]
    return lambda indices: rows.iloc[indices.numpy()]


def _describe(kinds: Columns, table: Any) -> str:
    parts = [f"numbers: {told(kinds.numbers)}"] if kinds.numbers else []
    if kinds.categories:
        parts.append(f"categories: {told(kinds.categories)}")
    if kinds.texts:
        parts.append(f"texts, as TF-IDF of at most {MOST_WORDS:,} words: {told(kinds.texts)}")
    empty = {n: int(missing(cells(table, n)).sum()) for n in kinds.numbers}
    filled = [f"{n} ({count:,})" for n, count in empty.items() if count]
    return "; ".join([*parts, *([f"missing, taken as the median: {told(filled)}"] if filled else [])])


def _left_out(left_out: dict[str, str]) -> str:
    why: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        why.setdefault(reason, []).append(name)
    return ", ".join(told(names) + (f" ({reason})" if reason else "") for reason, names in why.items())
