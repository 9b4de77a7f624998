"""Class counts in any of the forms in which they come, as one tensor; and counts of labels."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steelyard._common.checks import check_integer
from steelyard._common.labelled import by_class

Counts = Sequence[int] | Mapping[Any, int] | np.ndarray[Any, Any] | Tensor
_MEANT = "counts are meant, and class_counts(labels, num_classes) makes them of labels"


def class_counts(
    labels: Sequence[int] | np.ndarray[Any, Any] | Tensor, num_classes: int, *, ignore_index: int = -100
) -> Tensor:
    r"""Return how many samples each class has.

    .. math:: n_k = |\{i : y_i = k\}|

    Args:
        labels: (N,) or of any other shape, whole numbers from 0 to K - 1: tensor, array, sequence, or a pandas
            Series, which is read by position.
        num_classes: K; a class without samples counts 0.
        ignore_index: label of positions that count for nothing.

    Returns:
        (K,) int64, on the CPU.

    Raises:
        TypeError: labels that are no whole numbers, such as text.
        ValueError: a label outside 0 to K - 1.

    Example:
        >>> class_counts([0, 2, 2, -100, 0], 3)
        tensor([2, 0, 2])
    """
    num_classes = check_integer("num_classes", num_classes, low=1)
    ignore_index = check_integer("ignore_index", ignore_index)
    if isinstance(labels, Mapping):
        raise TypeError("labels must be whole numbers, one a sample, got a mapping")
    found = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if found.size == 0:
        found = found.astype(np.int64)
    if found.dtype.kind not in "iub":
        came = "text" if found.dtype.kind in "US" else str(found.dtype)
        raise TypeError(f"labels must be whole numbers from 0 to {num_classes - 1}, got {came}")
    flat = found[found != ignore_index].astype(np.int64)
    bad = (flat < 0) | (flat >= num_classes)
    if bad.any():
        raise ValueError(
            f"labels must be whole numbers from 0 to {num_classes - 1} or ignore_index {ignore_index}, "
            f"got {flat[bad.argmax()]}"
        )
    return torch.from_numpy(np.bincount(flat, minlength=num_classes))


def count_tensor(class_counts: Counts, *, class_names: Sequence[str] | None = None) -> Tensor:
    """Return counts in any of the accepted forms as an int64 tensor (K,) on the CPU.

    Raises:
        TypeError, ValueError: counts that are negative, fractional, NaN or missing; a class that is unknown.
    """
    labelled = by_class("class_counts", class_counts, class_names)
    given: Any = class_counts if labelled is None else labelled.values
    if isinstance(given, Tensor):
        if given.is_meta:
            raise ValueError("class_counts must hold values, got a tensor on the meta device")
        values = given.detach().cpu()
        given = values.double() if values.is_floating_point() else values
    elif isinstance(given, list | tuple) and any(isinstance(v, bool | np.bool_) for v in given):
        raise TypeError("class_counts must hold whole numbers, got bool")
    elif isinstance(given, str | bytes):
        raise TypeError(f"class_counts must hold whole numbers, got {given!r}")
    try:
        counts = np.asarray(given)
    except (TypeError, ValueError):  # ragged
        raise TypeError("class_counts must hold whole numbers, got rows of several lengths") from None
    if counts.dtype.kind not in "iuf":
        came = {"O": "objects", "U": "text", "S": "text"}.get(counts.dtype.kind, str(counts.dtype))
        raise TypeError(f"class_counts must hold whole numbers, got {came}: {_MEANT}")
    if counts.ndim != 1 or len(counts) == 0:
        raise ValueError(f"class_counts must have one count per class, got shape {counts.shape}")
    if class_names is not None and len(class_names) != len(counts):
        raise ValueError(f"class_counts must have one count per class name, {len(class_names)}, got {len(counts)}")
    for bad, accepted in (
        (~((counts >= 0) & (counts == np.floor(counts))), "whole numbers >= 0"),
        (counts >= 2.0**63, "below 2**63"),  # int64; infinity is its own floor
    ):
        if bad.any():
            position = int(bad.argmax())
            raise ValueError(
                f"class_counts must be {accepted}, got {counts[position].item()} at position {position}"
            )
    if labelled is None and _look_like_labels(counts):
        warnings.warn(
            f"class_counts has {len(counts)} values from {counts.min():g} to {counts.max():g}, which look like "
            f"labels: {_MEANT}",
            stacklevel=3,
        )
    return torch.from_numpy(counts.astype(np.int64))


def _look_like_labels(counts: np.ndarray[Any, Any]) -> bool:
    """Return whether there are more values than classes that they could name, and each of these is named.

    Zeros and ones alone may well be counts of which most are none.
    """
    most = counts.max()
    if len(counts) <= most + 1:
        return False
    named = np.unique(counts)
    return bool(len(named) == most + 1 - named[0] and named[0] <= 1 < most)


def some_classes(which: Tensor, class_counts: Counts, class_names: Sequence[str] | None) -> str:
    """Return the classes in question, the first ten of them by name."""
    labelled = by_class("class_counts", class_counts, class_names)
    names = class_names or (None if labelled is None else labelled.classes)
    positions = which.nonzero()[:, 0].tolist()
    shown = ", ".join(repr(names[i]) if names else str(i) for i in positions[:10])
    more = f" and {len(positions) - 10} more" if len(positions) > 10 else ""
    return f"class{'es' if len(positions) > 1 else ''} {shown}{more}"
