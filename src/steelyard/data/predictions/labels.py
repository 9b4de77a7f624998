"""The classes of a file and how many rows each has: nothing but its label column is read."""

import math
import os
import reprlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.data.predictions.columns import choose_label
from steelyard.data.predictions.file import IGNORED, OPENERS, open_file
from steelyard.data.predictions.shards import files_of
from steelyard.data.predictions.source import Missing

Label = str | int


@dataclass(frozen=True)
class ClassCounts:
    """The classes of a file.

    Attributes:
        label: the column.
        classes: (K,) names, whole numbers or booleans, as the file has them, sorted.
        counts: (K,) rows of each.
        without: rows without a label, or with -100.
    """

    label: str
    classes: tuple[Label, ...]
    counts: tuple[int, ...]
    without: int


def count_classes(path: str | os.PathLike[str], *, target: str | None = None) -> ClassCounts:
    """Return the classes of a file of rows, and how many rows each has.

    Args:
        path: as :func:`~steelyard.data.open_predictions` takes it; other columns may hold anything.
        target: name of the label column. Default: by its name, as there.

    Raises:
        FileNotFoundError, ImportError: as there.
        ValueError: a file that cannot be read, no label column, a label that is no class, no rows with a label.
    """
    files = [open_file(each, target) for each in files_of(Path(path), tuple(OPENERS))]
    found: Counter[Any] = Counter()
    names = []
    for file in files:
        if not file.has_rows:
            continue
        label = choose_label(file, target)
        names.append(label.name)
        for _, labels in file.read([], [label.name], 65536, Missing(labels=True)):
            found.update(labels.tolist())
    if len(set(names)) > 1:
        raise ValueError(f"{path} must have labels of one name, got {names[0]} and {names[-1]}: give target")
    without = sum(found.pop(key) for key in list(found) if key is None or key != key or key == IGNORED)
    counted: Counter[Label] = Counter()
    for key, count in found.items():
        counted[_class_of(key, files[0].where(names[0]))] += count
    if not counted:
        raise ValueError(f"{path} has no rows with a label")
    if len({isinstance(key, str) for key in counted}) > 1:
        raise ValueError(f"{path} must have labels of one type, got text in one file and numbers in another")
    classes = tuple(sorted(counted))  # type: ignore[type-var]
    return ClassCounts(names[0], classes, tuple(counted[key] for key in classes), without)


def _class_of(value: Any, where: str) -> Label:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value) and value == int(value)):
        return int(value)
    raise ValueError(f"{where} must hold integers or class names, got {reprlib.repr(value)}")
