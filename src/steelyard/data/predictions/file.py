"""Files of predictions: rows of numbers with their labels, from tables and NumPy arrays, read as a stream."""

import os
import re
import reprlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from steelyard._common.checks import check_choice
from steelyard._common.text import as_texts
from steelyard.data.predictions.ahead import read_ahead
from steelyard.data.predictions.arrays import open_npy, open_npz
from steelyard.data.predictions.columns import Choice, Needed, choose
from steelyard.data.predictions.corrected import CORRECTED, is_corrected
from steelyard.data.predictions.rewriting import Change, rewrite
from steelyard.data.predictions.shards import TABLES, check_alike, files_of, suffix_of
from steelyard.data.predictions.source import Array, Missing, Opened, check_file, list_names
from steelyard.data.predictions.tables import open_table


@dataclass(frozen=True)
class Predictions:
    """An opened file of predictions, or several that are one data set; nothing but the schema is in memory.

    Attributes:
        path: of the file, folder or glob.
        reading: what was read as what, in a line: ``"logits: cat, dog; label: y; left out: id"``.
        columns: that the numbers of a row are in; one where it is a list or an array.
        class_names: as given, or from the file's metadata, or the names of its columns; None if nobody says.
        link, loss: what a Steelyard experiment wrote into the metadata.
        weight_decay: of the training, where the metadata says it.
        logit_adjustment: what training added to the logits of each class, where the metadata says it.
        batch_size: of the training, where the metadata says it.
        split: ``"train"`` or ``"test"``, where the metadata says it.
        class_counts: (K) training samples of each class, where the metadata says it.
        num_classes: numbers in a row, which are K logits or probabilities (or any number of features).
        as_list: whether the numbers of a row are in one list column or array.
        metadata: all that Steelyard wrote into the metadata.
        has_labels: whether a column holds labels.
        multi_hot: whether labels are (n, K) of 0 and 1, for outputs that stand for themselves.
    """

    path: Path
    reading: str
    columns: tuple[str, ...]
    class_names: tuple[str, ...] | None
    link: str | None
    loss: str | None
    weight_decay: float | None
    logit_adjustment: tuple[float, ...] | None
    batch_size: int | None
    split: str | None
    class_counts: tuple[int, ...] | None
    num_classes: int
    as_list: bool
    metadata: Mapping[str, str] = field(repr=False)
    _files: tuple[Opened, ...] = field(repr=False)
    _choice: Choice = field(repr=False)
    _num_labels: int | None = field(repr=False)
    _missing: Missing = field(repr=False)

    def batches(self, rows: int = 8192) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield numbers (n, K), float32 or float64, and labels (n,) or (n, K), int64, of at most `rows` rows.

        NaN and infinite numbers are passed on. The next batch is read in a thread meanwhile.

        Raises:
            TypeError: `rows` that is no int.
            ValueError: data that cannot be read, naming the file and its row, counted from 0; a file without
                labels.
        """
        if not self.has_labels:
            raise ValueError(f"{self.path} holds no labels")
        if isinstance(rows, bool) or not isinstance(rows, int):
            raise TypeError(f"rows must be an int, got {type(rows).__name__}")
        if rows < 1:
            raise ValueError(f"rows must be at least 1, got {rows}")
        return read_ahead(self._batches(rows))

    @property
    def multi_hot(self) -> bool:
        return self._choice.multi_hot

    @property
    def has_labels(self) -> bool:
        return bool(self._choice.labels)

    def numbers(self) -> Iterator[Tensor]:
        """Yield the numbers alone, (n, K), float32 or float64, as :meth:`batches` does."""
        for file in self._files:
            for values, _ in file.records(self.columns, self._rows, self._missing):
                yield torch.from_numpy(_floats(values))

    def groups(self, name: str) -> Tensor:
        """Return which group each row is of, (N,) int64 from 0 on, by a column of numbers or texts.

        Raises:
            ValueError: no such column, one that holds the numbers or labels, a row without a group.
        """
        first = self._files[0]
        names = [field.name for field in first.fields if field.kind in ("integer", "text")]
        if name not in names or name in (*self.columns, *self._choice.labels):
            others = [one for one in names if one not in (*self.columns, *self._choice.labels)]
            held = f"only {list_names(others)}" if others else "and none of integers or texts"
            raise ValueError(f"{self.path} has no column {name!r} for group, {held}")
        parts = [as_texts(part) for file in self._files for _, part in file.read((), (name,), 8192, Missing())]
        return torch.from_numpy(np.unique(np.concatenate(parts), return_inverse=True)[1].astype(np.int64))

    def rewrite(
        self, out: str | os.PathLike[str], change: Change, *, replace: bool, metadata: Mapping[str, str]
    ) -> None:
        """Write the rows once more, with other columns in place of the numbers or behind all columns.

        Args:
            out: the new file, a table for tables, ``.npz`` for arrays. See
                :func:`steelyard.data.predictions.rewriting.rewrite`.
            change: from numbers (n, K) to the new columns by their names.
            replace: whether they stand in place of the numbers.
            metadata: of the new file, as Steelyard writes it.

        Raises:
            FileExistsError: there is a file already.
            ValueError: a format that cannot hold the rows, or data that cannot be read.
        """
        rewrite(
            self._files,
            self.columns,
            Path(out),
            lambda values: change(torch.from_numpy(_floats(values))),
            replace=replace,
            metadata=metadata,
            rows=self._rows,
            missing=self._missing,
        )

    @property
    def _rows(self) -> int:
        return max(64, min(8192, _NUMBERS // self.num_classes))

    def _batches(self, rows: int) -> Generator[tuple[Tensor, Tensor], None, None]:
        given = self._choice.labels
        for file in self._files:
            first = 0
            where = file.where(given[0])
            for values, labels in file.read(self.columns, given, rows, self._missing):
                numbers = _floats(values)
                if self.multi_hot:
                    codes = _multi_hot(where if len(given) == 1 else given, labels, first, self._missing.labels)
                else:
                    codes = _codes(where, labels, self.class_names, self._num_labels, first, self._missing.labels)
                yield torch.from_numpy(numbers), torch.from_numpy(codes)
                first += len(codes)


def open_predictions(
    path: str | os.PathLike[str],
    *,
    target: str | os.PathLike[str] | None = None,
    values: Literal["logits", "probabilities", "corrected probabilities", "features"] = "logits",
    columns: str | Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    missing_labels: Literal["refuse", "ignore"] = "refuse",
    missing_values: Literal["refuse", "nan"] = "refuse",
    label: Needed = "required",
) -> Predictions:
    """Open a file of predictions: look at what it declares and, in tables, at the first rows.

    Which columns hold the numbers is told by `columns`; else by a list column that is called as `values` are; by a
    prefix and a class name or number (``logit_cat``, ``prob.0``, ``feature_7``), where numbers tell the order; by
    columns that are called as the classes are, or 0 to K - 1; or by a single column ``logit`` or ``score``. What
    is left over is never read. Arrays of NPZ are chosen in the same way.

    Args:
        path: ``.parquet``, ``.arrow``, ``.feather`` or ``.ipc``, ``.csv`` or ``.tsv`` (also ``.gz``), ``.npz`` or
            ``.npy``; or a folder of tables, or a glob, whose files are one data set, in natural order.
        target: name of the column or array of labels: integers from 0, booleans or class names. Default: the one
            of ``target``, ``label``, ``labels``, ``y``, ``y_true`` and ``label_ids`` that there is. For ``.npy``,
            the file of labels. A list column or an (N, K) array of 0 and 1, or a column for each output (names or
            patterns, with commas between), are labels of outputs that stand for themselves.
        values: what the numbers are; ``"corrected probabilities"`` are those that ``steelyard correct`` wrote,
            which are found by their names.
        columns: names or shell patterns (``"logit_*"``), in a sequence or with commas in a string; each must
            match. The columns of a pattern that end in numbers are ordered by them.
        class_names: K names, in the order of integer labels. Default: what the metadata says.
        missing_labels: ``"ignore"`` gives rows without a label, and those that have it, the label -100, which
            audits leave out.
        missing_values: ``"nan"`` gives NaN for cells and lists that are empty or null.
        label: ``"optional"`` takes a file without labels too, unless `target` names them; ``"none"`` looks for
            none.

    Returns:
        The opened file; what is wrong in its other rows shows when they are read.

    Raises:
        FileNotFoundError: no such file, or no table in a folder.
        ImportError: a table, and pyarrow is not installed.
        TypeError: a column or array that holds something else than numbers or labels.
        ValueError: a file of another kind, damaged, empty, one whose columns do not tell what they are, files of
            a set that differ, or corrected probabilities where logits or probabilities are asked for.
    """
    path = Path(path)
    check_choice("values", values, ("logits", "probabilities", CORRECTED, "features"))
    check_choice("label", label, get_args(Needed))
    check_choice("missing_labels", missing_labels, ("refuse", "ignore"))
    check_choice("missing_values", missing_values, ("refuse", "nan"))
    if isinstance(class_names, str) or not all(isinstance(name, str) for name in class_names or ()):
        raise TypeError(f"class_names must be a sequence of str, got {reprlib.repr(class_names)}")
    if columns is not None and not isinstance(columns, str) and not all(isinstance(c, str) for c in columns):
        raise TypeError(f"columns must be a str or a sequence of str, got {reprlib.repr(columns)}")
    files = [open_file(each, target, label) for each in files_of(path, tuple(OPENERS))]
    first = next((file for file in files if file.has_rows), files[0])
    told = first.metadata
    in_file = told.get("class_names")
    given = tuple(class_names) if class_names is not None else tuple(in_file.split("\x1f")) if in_file else None
    if not first.has_rows:
        raise ValueError(f"{path} has no rows")
    if values in ("logits", "probabilities") and is_corrected(first, told):
        raise ValueError(
            f"{path} holds {CORRECTED}, which `steelyard correct` made: what training did is taken out of them "
            "already; give the file that they were made of"
        )
    choice = _choose(path, files, first, values, columns, target, given, label)
    for file in files:
        if file is not first:
            check_alike(first, file, choice)

    is_classes = values != "features"
    width = len(choice.columns) if len(choice.columns) > 1 else first.field(choice.columns[0]).width
    classes = max(width, 2)  # one number a row is a binary output
    names = _class_names(path, first, choice, given, width if is_classes else None)
    of_labels = first.field(choice.labels[0]).width if len(choice.labels) == 1 else len(choice.labels)
    if choice.multi_hot and (not is_classes or of_labels != width):
        raise ValueError(
            f"{path} must have one label a row"
            + (f", or 0 and 1 for each of {width} outputs" if is_classes else "")
            + f", got {of_labels} labels a row"
        )
    decay, adjustment = _numbers(told.get("weight_decay", "")), _numbers(told.get("logit_adjustment", ""))
    counts = told.get("class_counts", "").split()
    batch_size = told.get("batch_size", "")
    split = told.get("split")
    others = "left out" if label == "required" else "kept as they are"
    return Predictions(
        path,
        "; ".join([*([f"{len(files)} files"] if len(files) > 1 else []), choice.text(others), *first.notes]),
        choice.columns,
        names,
        told.get("link"),
        told.get("loss"),
        decay[0] if len(decay) == 1 and decay[0] >= 0 else None,
        adjustment if len(adjustment) == width else None,
        int(batch_size) if re.fullmatch(r"[1-9]\d{0,8}", batch_size) else None,
        split if split in ("train", "test") else None,
        tuple(map(int, counts)) if counts and all(re.fullmatch(r"\d{1,15}", n) for n in counts) else None,
        width,
        len(choice.columns) == 1 and first.field(choice.columns[0]).kind == "list",
        told,
        tuple(file for file in files if file.has_rows),
        choice,
        classes if is_classes else len(names) if names else None,
        Missing(missing_labels == "ignore", missing_values == "nan"),
    )


def open_file(path: Path, target: str | os.PathLike[str] | None, label: Needed = "required") -> Opened:
    check_file(path)
    suffix = suffix_of(path)
    if suffix not in OPENERS:
        raise ValueError(f"{path} must be of a known kind ({', '.join(OPENERS)}), got suffix {path.suffix!r}")
    if suffix == ".npy" and target is None and label == "required":
        raise ValueError(f"{path} holds no labels: give target, the .npy file of them")
    return OPENERS[suffix](path, None if target is None else os.fspath(target))


def _choose(
    path: Path,
    files: Sequence[Opened],
    first: Opened,
    values: str,
    columns: str | Sequence[str] | None,
    target: str | os.PathLike[str] | None,
    names: tuple[str, ...] | None,
    label: Needed,
) -> Choice:
    if suffix_of(first.path) == ".npy":  # two files of one array each
        if columns is not None:
            raise ValueError(f"{path} is one array, so no {values} can be named in it, got {columns!r}")
        columns = [first.fields[0].name]
    choice = choose(
        first,
        values=values,
        columns=columns,
        target=None if target is None else os.fspath(target),
        class_names=names,
        texts=lambda name: set().union(*(file.texts(name) for file in files if file.has_rows)),
        label=label,
    )
    first.check(choice.columns, choice.labels)
    return choice


def _class_names(
    path: Path, first: Opened, choice: Choice, given: tuple[str, ...] | None, width: int | None
) -> tuple[str, ...] | None:
    """Return the names of the classes; `width` is how many numbers a row has, or None for features."""
    from_columns, label = choice.class_names, first.field(choice.labels[0]) if choice.labels else None
    if given is not None and width is not None and len(given) != max(width, 2):
        raise ValueError(f"{path} has {width} numbers a row, but there are {len(given)} class names")
    if given and from_columns and given != from_columns and set(given) == set(from_columns):
        raise ValueError(
            f"{path} has columns in the order {list_names(from_columns)}, class names are {list_names(given)}"
        )
    names = given or from_columns
    if names is not None and len(set(names)) < len(names):
        raise ValueError(f"{path} must have class names that differ, got {list_names(names)}")
    if names is None and label is not None and label.kind == "text":
        raise ValueError(
            f"{first.where(label.name)} holds text, which needs class_names to tell the order of the classes"
        )
    return names


IGNORED = -100
_NUMBERS = 1 << 22  # at a time


def _floats(values: Array) -> Array:
    wide = values.dtype.kind != "f" or values.dtype.itemsize == 8
    return np.array(values, dtype=np.float64 if wide else np.float32, order="C")


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
    accepted = f"labels from 0 to {limit - 1}" if num_labels else "integer labels from 0 on"
    labels = _of_booleans(labels, names)
    if labels.dtype.kind in "OU":
        index = {name: k for k, name in enumerate(names or ())}
        codes = np.array([index.get(label, -1) for label in labels.tolist()], dtype=np.int64)
        absent = np.array([label is None for label in labels.tolist()], dtype=bool)
        bad, accepted = codes < 0, f"class names ({list_names(list(index))})"
    else:
        with np.errstate(invalid="ignore"):
            absent = (labels != labels) | (labels == IGNORED)
            bad = (labels < 0) | (labels >= limit) | (labels != np.floor(labels))
        codes = np.where(bad | absent, 0, labels).astype(np.int64)
    if missing:
        bad, codes = bad & ~absent, np.where(absent, IGNORED, codes)
    if bad.any():
        row = int(bad.argmax())
        got = reprlib.repr(labels[row : row + 1].tolist()[0])
        raise ValueError(f"{where} must hold {accepted}, got {got} in row {first + row}")
    return codes


def _multi_hot(where: str | Sequence[str], labels: Array, first: int, missing: bool) -> Array:
    """Return (n, K) labels of 0 and 1, -100 for missing ones, as int64; `where` names the list, or each column."""
    numbers = np.array(labels, dtype=np.float64)
    absent = np.isnan(numbers) | (numbers == IGNORED)
    bad = (numbers != 0) & (numbers != 1) & ~(absent & missing)
    if bad.any():
        row, output = (int(at) for at in np.unravel_index(int(bad.argmax()), bad.shape))
        name = where if isinstance(where, str) else f"column {where[output]!r}"
        raise ValueError(
            f"{name} must hold 0 and 1, got {numbers[row, output]:g} in row {first + row}, output {output}"
        )
    return np.where(absent, IGNORED, numbers).astype(np.int64)


def _of_booleans(labels: Array, names: Sequence[str] | None) -> Array:
    """Return booleans as 0 and 1, or by name where the classes are called True and False; others as they are."""
    is_bool = labels.dtype.kind == "b" or (
        labels.dtype.kind == "O" and all(label is None or isinstance(label, bool) for label in labels.tolist())
    )
    if not is_bool:
        return labels
    lower = [name.lower() for name in names or ()]
    codes = [lower.index("false"), lower.index("true")] if sorted(lower) == ["false", "true"] else [0, 1]
    return np.array([np.nan if label is None else codes[label] for label in labels.tolist()], np.float64)


OPENERS: dict[str, Callable[[Path, str | None], Opened]] = {
    **dict.fromkeys(TABLES, open_table),
    ".npz": open_npz,
    ".npy": open_npy,
}
