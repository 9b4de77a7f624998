"""From rows with labels to a data set: classes are counted, and a test split is made where none came along."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steelyard._common.text import as_texts, listed
from steelyard.data.dataset import Dataset, Inputs
from steelyard.data.splits import split_validation
from steelyard.data.times import moment_text

TEST_FRACTION, TEST_SEED = 0.25, 0


@dataclass(frozen=True)
class Part:
    """Rows that came together: a whole data set, or one of its splits.

    Attributes:
        target: (N,) labels, int64.
        take: given the indices of rows, returns what is known of their inputs: decoded images, or what
            `fit` of :func:`make_dataset` takes.
        groups: (N,) what groups the rows are of, as text; None where nobody asked.
        times: (N,) when the rows were, as :func:`steelyard.data.times.moments` returns it; None where nobody
            asked.
    """

    target: Tensor
    take: Callable[[Tensor], Any]
    groups: NDArray[Any] | None = None
    times: NDArray[Any] | None = None


def make_dataset(
    name: str,
    class_names: Sequence[str],
    train: Part,
    test: Part | None,
    *,
    found: str,
    fit: Callable[[Any], Callable[[Any], Tensor]] | None = None,
    digest: str | None = None,
) -> Dataset:
    """Return a data set; without a test part, a quarter of every class is set aside for it, with seed 0, or the
    latest quarter of the rows where they have times.

    Args:
        name: as it was asked for.
        class_names: K names.
        train, test: its parts.
        found: what was read as what, for the line that is told.
        fit: from what `take` gives of the training rows, to a function from what it gives of any to inputs.
            Default: it gives inputs.
        digest: of the data, by which trainings on it are known.

    Raises:
        ValueError: fewer than two classes, a class with too few samples to be split, a group that stands in both
            parts, a training row that is no earlier than every test row.
    """
    size = len(class_names)
    counts = torch.bincount(train.target, minlength=size)
    if size < 2:
        raise ValueError(f"dataset {name!r} must hold at least two classes, got {listed(list(class_names))}")
    told = f"{size} classes of {int(counts.max()):,} to {int(counts.min()):,} samples"
    groups = _group_codes(name, train.groups, None if test is None else test.groups)
    times = _time_codes(name, train.times, None if test is None else test.times)
    rows = {"train": torch.arange(len(train.target))}
    if test is None:
        few = [f"{class_names[k]!r} ({int(counts[k])})" for k in range(size) if counts[k] < 3]
        if few and times is None:
            raise ValueError(
                f"dataset {name!r} has no test split, and every class needs 3 samples or more for training, "
                f"validation and test, got fewer of class {listed(few, 5)}; leave such rows out or join classes"
            )
        rows["train"], rows["test"] = split_validation(
            train.target, TEST_FRACTION, seed=TEST_SEED, groups=groups, times=times, class_names=class_names
        )
        how = f"stratified{'' if groups is None else ', groups kept whole'}, seed {TEST_SEED}"
        if train.times is not None:
            how = f"the latest, from {moment_text(train.times[rows['test'].numpy()].min())} on"
        split = f"no test split: {len(rows['test']):,} of {len(train.target):,} rows are set aside for it, {how}"
        test = train
        groups = None if groups is None else groups[rows["train"]]
        times = None if times is None else times[rows["train"]]
    else:
        if bool((counts == 0).any()):
            none = class_names[int((counts == 0).nonzero()[0])]
            raise ValueError(f"dataset {name!r} has no training sample of class {none!r}")
        rows["test"] = torch.arange(len(test.target))
        split = f"test split: {len(test.target):,} rows"
    of_test = torch.bincount(test.target[rows["test"]], minlength=size)
    if absent := [class_names[k] for k in range(size) if not of_test[k]]:
        split += f", none of class {listed(absent, 5)}"
    parts = {"train": train, "test": test}

    def take(split: str, indices: Tensor) -> Any:
        return parts[split].take(rows[split][indices])

    def fitted(indices: Tensor) -> Inputs:
        assert fit is not None
        transform = fit(take("train", indices))
        return lambda split, indices: transform(take(split, indices))

    return Dataset(
        name,
        tuple(class_names),
        train.target[rows["train"]],
        test.target[rows["test"]],
        None if fit is not None else take,
        None if fit is None else fitted,
        groups=groups,
        times=times,
        reading=f"{found}; {told}; {split}",
        digest=digest,
    )


def digest_of(values: Mapping[str, Any]) -> str:
    """Return a digest of arrays, tensors, frames and plain values by their names."""
    import joblib

    plain = {key: value.numpy() if hasattr(value, "detach") else value for key, value in values.items()}
    found: str = joblib.hash(plain)
    return found


def code_labels(
    where: str, values: NDArray[Any], names: Sequence[str] | None = None
) -> tuple[Tensor, tuple[str, ...], NDArray[Any]]:
    """Return labels as int64, the names of the classes, and the values that stand for them.

    Args:
        where: what to call the labels in an error.
        values: (N,) integers, booleans, floating integers or texts; None and NaN are missing.
        names: of the classes: integers are places in it. Default: the values in rising order.

    Raises:
        ValueError: missing labels, numbers that are no integers, more classes than half the rows, or a label
            without a name.
    """
    _refuse_missing(where, values)
    numeric = values.dtype.kind in "iufb"
    if numeric and not np.array_equal(values, np.floor(values.astype(np.float64))):
        row = int(np.argmax(values != np.floor(values)))
        raise ValueError(
            f"{where} must hold classes (integers, booleans or texts), got {values[row]:g} in row {row}"
        )
    values = values if numeric else as_texts(values)
    if names is not None and numeric:
        classes = np.arange(len(names))
    elif names is not None:
        classes = np.array(names, dtype=object)
    else:
        classes = np.unique(values)
        if len(classes) > max(2, len(values) // 2):
            raise ValueError(
                f"{where} must hold classes, got {len(classes):,} different values in {len(values):,} rows"
            )
    return _places(where, values, classes), tuple(names or map(_name, classes.tolist())), classes


def place_labels(where: str, values: NDArray[Any], classes: NDArray[Any]) -> Tensor:
    """Return labels as places among the values that stand for the classes.

    Raises:
        ValueError: a label that is missing, or none of them.
    """
    _refuse_missing(where, values)
    return _places(where, as_texts(values) if classes.dtype.kind == "O" else values, classes)


def _places(where: str, values: NDArray[Any], classes: NDArray[Any]) -> Tensor:
    order = np.argsort(classes)
    at = np.searchsorted(classes, values, sorter=order).clip(max=len(classes) - 1)
    wrong = classes[order[at]] != values
    if wrong.any():
        row = int(wrong.argmax())
        known = listed([_name(c) for c in classes.tolist()], 8)
        raise ValueError(f"{where} must hold one of the classes {known}, got {_name(values[row])!r} in row {row}")
    return torch.from_numpy(order[at].astype(np.int64))


def _name(value: object) -> str:
    return str(int(value)) if isinstance(value, float) else str(value)


def missing(values: NDArray[Any]) -> NDArray[Any]:
    """Return which cells are None or NaN."""
    if values.dtype.kind != "O":
        return np.asarray(values != values)
    return np.array([value is None or value != value for value in values.tolist()], dtype=bool)


def _refuse_missing(where: str, values: NDArray[Any]) -> None:
    none = missing(values)
    if none.any():
        number, row = int(none.sum()), int(none.argmax())
        raise ValueError(f"{where} must hold a value in every row, got none in {number:,}, such as row {row}")


def _group_codes(name: str, train: NDArray[Any] | None, test: NDArray[Any] | None) -> Tensor | None:
    """Return the training groups as numbers, after refusing a group of both parts."""
    if train is None:
        return None
    _refuse_missing(f"the groups of dataset {name!r}", train)
    groups, codes = np.unique(as_texts(train), return_inverse=True)
    if test is not None and (both := np.intersect1d(groups, as_texts(test))).size:
        raise ValueError(
            f"groups of dataset {name!r} must stand on one side of a split, "
            f"got {str(both[0])!r} in training and test"
        )
    return torch.from_numpy(codes.astype(np.int64))


def _time_codes(name: str, train: NDArray[Any] | None, test: NDArray[Any] | None) -> Tensor | None:
    """Return the times of training rows as numbers that are ordered as they are, after refusing a test row that
    is no later than all of them."""
    if train is None:
        return None
    for split, values in (("train", train), ("test", test)):
        if values is not None:
            _refuse_missing(f"the times of dataset {name!r}, split {split},", values)
    if test is not None and (train.dtype.kind == "M") != (test.dtype.kind == "M"):
        raise ValueError(
            f"the times of dataset {name!r} must be all numbers or all dates, got {train.dtype} in training and "
            f"{test.dtype} in test"
        )
    if test is not None and test.min() <= train.max():
        raise ValueError(
            f"the test rows of dataset {name!r} must be later than all training rows, got "
            f"{moment_text(test.min())} in test and {moment_text(train.max())} in training"
        )
    return torch.from_numpy(np.unique(train, return_inverse=True)[1].astype(np.int64))
