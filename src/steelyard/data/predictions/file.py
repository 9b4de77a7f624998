"""Files of predictions: rows of numbers with their labels, from tables and NumPy arrays, read as a stream."""

import os
import re
import reprlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from steelyard._common.checks import check_choice
from steelyard.data.predictions.arrays import open_npy, open_npz
from steelyard.data.predictions.source import Array, Source, check_file, list_names
from steelyard.data.predictions.tables import open_table


@dataclass(frozen=True)
class Predictions:
    """An opened file of predictions; nothing but its schema is in memory.

    Attributes:
        path: of the file.
        class_names: as given, or from the file's metadata, or the names of its columns; None if nobody says.
        link, loss: what a Steelyard experiment wrote into the metadata.
        weight_decay: of the training, where the metadata says it.
        logit_adjustment: what training added to the logits of each class, where the metadata says it.
        batch_size: of the training, where the metadata says it.
        num_classes: numbers in a row, which are K logits or probabilities (or any number of features).
    """

    path: Path
    class_names: tuple[str, ...] | None
    link: str | None
    loss: str | None
    weight_decay: float | None
    logit_adjustment: tuple[float, ...] | None
    batch_size: int | None
    num_classes: int
    _source: "Source" = field(repr=False)
    _num_labels: int | None = field(repr=False)
    _missing: bool = field(repr=False, default=False)

    def batches(self, rows: int = 8192) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield numbers (n, K), float32 or float64, and labels (n,), int64, of at most `rows` rows at a time.

        NaN and infinite numbers are passed on.

        Raises:
            TypeError: `rows` that is no int.
            ValueError: data that cannot be read, naming the row, counted from 0.
        """
        if isinstance(rows, bool) or not isinstance(rows, int):
            raise TypeError(f"rows must be an int, got {type(rows).__name__}")
        if rows < 1:
            raise ValueError(f"rows must be at least 1, got {rows}")
        return self._batches(rows)

    def _batches(self, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
        first = 0
        for values, labels in self._source.read(rows, self._missing):
            wide = values.dtype.kind != "f" or values.dtype.itemsize == 8
            numbers = np.array(values, dtype=np.float64 if wide else np.float32, order="C")
            codes = _codes(self._source.label, labels, self.class_names, self._num_labels, first, self._missing)
            yield torch.from_numpy(numbers), torch.from_numpy(codes)
            first += len(codes)


def open_predictions(
    path: str | os.PathLike[str],
    *,
    target: str | os.PathLike[str] | None = None,
    values: str = "logits",
    class_names: Sequence[str] | None = None,
    missing_labels: Literal["refuse", "ignore"] = "refuse",
) -> Predictions:
    """Open a file of predictions: look at what it declares and, in tables, at the first rows.

    Args:
        path: ``.parquet``, ``.arrow``, ``.feather`` or ``.ipc``, ``.csv`` or ``.tsv``, ``.npz`` or ``.npy``.
        target: name of the column or array of labels, integers from 0 or class names. Default: the one of
            ``target``, ``label``, ``labels`` and ``y`` that there is. For ``.npy``, the file of labels.
        values: name of the list column, or of the array, of numbers. A table without such a column has one column
            a class: those named after `values` (``logit_cat``, ``logits.cat``) if there are any, or else all of
            numbers but the labels; a row index of pandas is left out. For ``"features"`` columns are no classes.
        class_names: K names, in the order of the numbers.
        missing_labels: ``"ignore"`` gives rows without a label, and those that have it, the label -100, which
            audits leave out.

    Returns:
        The opened file; what is wrong in its other rows shows when they are read.

    Raises:
        FileNotFoundError: no such file.
        IsADirectoryError: a folder.
        ImportError: a table, and pyarrow is not installed.
        TypeError: a column or array that holds something else than numbers or labels.
        ValueError: a file of another kind, damaged, empty, or without the columns that are asked for.
    """
    path = Path(path)
    check_choice("missing_labels", missing_labels, ("refuse", "ignore"))
    if isinstance(class_names, str) or not all(isinstance(name, str) for name in class_names or ()):
        raise TypeError(f"class_names must be a sequence of str, got {reprlib.repr(class_names)}")
    check_file(path)
    if path.suffix.lower() not in _OPENERS:
        raise ValueError(f"{path} must be of a known kind ({', '.join(_OPENERS)}), got suffix {path.suffix!r}")
    source = _OPENERS[path.suffix.lower()](path, None if target is None else os.fspath(target), values)

    is_classes = values != "features"
    classes = max(source.width, 2)  # one number a row is a binary output
    from_columns = source.columns if is_classes and source.width > 1 else None
    in_file = source.metadata.get("class_names")
    names = tuple(class_names) if class_names is not None else tuple(in_file.split("\x1f")) if in_file else None
    if names is not None and is_classes and len(names) != classes:
        raise ValueError(f"{path} has {source.width} numbers a row, but there are {len(names)} class names")
    if names and from_columns and names != from_columns and set(names) == set(from_columns):
        raise ValueError(
            f"{path} has columns in the order {list_names(from_columns)}, class names are {list_names(names)}"
        )
    names = names or from_columns
    if names is not None and len(set(names)) < len(names):
        raise ValueError(f"{path} must have class names that differ, got {list_names(names)}")
    if names is None and source.label_is_text:
        raise ValueError(f"{source.label} holds text, which needs class_names to tell the order of the classes")
    num_labels = classes if is_classes else len(names) if names else None
    told = source.metadata
    decay = _numbers(told.get("weight_decay", ""))
    adjustment = _numbers(told.get("logit_adjustment", ""))
    batch_size = told.get("batch_size", "")
    return Predictions(
        path,
        names,
        told.get("link"),
        told.get("loss"),
        decay[0] if len(decay) == 1 and decay[0] >= 0 else None,
        adjustment if len(adjustment) == source.width else None,
        int(batch_size) if re.fullmatch(r"[1-9]\d{0,8}", batch_size) else None,
        source.width,
        source,
        num_labels,
        missing_labels == "ignore",
    )


_IGNORED = -100


def _numbers(text: str) -> tuple[float, ...]:
    """Return finite numbers with spaces between; none where the text is anything else."""
    parts = text.split()
    if not all(re.fullmatch(r"-?\d+(\.\d+)?(e-?\d{1,2})?", part) for part in parts):
        return ()
    return tuple(float(part) for part in parts)


def _codes(
    where: str, labels: Array, names: Sequence[str] | None, num_labels: int | None, first: int, missing: bool
) -> Array:
    """Return labels as int64; `first` is the row of the first."""
    limit = num_labels or 1 << 53  # where floating labels stop being exact
    accepted = f"labels from 0 to {limit - 1}"
    if labels.dtype.kind in "OU":
        index = {name: k for k, name in enumerate(names or ())}
        codes = np.array([index.get(label, -1) for label in labels.tolist()], dtype=np.int64)
        absent = np.array([label is None for label in labels.tolist()], dtype=bool)
        bad, accepted = codes < 0, f"class names ({list_names(list(index))})"
    else:
        with np.errstate(invalid="ignore"):
            absent = (labels != labels) | (labels == _IGNORED)
            bad = (labels < 0) | (labels >= limit) | (labels != np.floor(labels))
        codes = np.where(bad | absent, 0, labels).astype(np.int64)
    if missing:
        bad, codes = bad & ~absent, np.where(absent, _IGNORED, codes)
    if bad.any():
        row = int(bad.argmax())
        got = reprlib.repr(labels[row : row + 1].tolist()[0])
        raise ValueError(f"{where} must hold {accepted}, got {got} in row {first + row}")
    return codes


_OPENERS: dict[str, Callable[[Path, str | None, str], Source]] = {
    **dict.fromkeys((".parquet", ".arrow", ".feather", ".ipc", ".csv", ".tsv"), open_table),
    ".npz": open_npz,
    ".npy": open_npy,
}
