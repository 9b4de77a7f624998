"""Class counts in any of the forms in which they come, as one tensor."""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Counts = Sequence[int] | Mapping[Any, int] | np.ndarray[Any, Any] | Tensor


def count_tensor(class_counts: Counts, *, class_names: Sequence[str] | None = None) -> Tensor:
    """Return counts in any of the accepted forms as an int64 tensor (K,).

    Raises:
        TypeError, ValueError: counts that are negative, fractional, NaN or missing; a class that is unknown.
    """
    if isinstance(class_counts, Mapping):
        class_counts = [class_counts[key] for key in _ordered_keys(class_counts, class_names)]
    if isinstance(class_counts, Tensor):
        values = class_counts.detach().cpu()
        class_counts = (values.double() if values.is_floating_point() else values).numpy()
    elif isinstance(class_counts, list | tuple) and any(isinstance(v, bool | np.bool_) for v in class_counts):
        raise TypeError("class_counts must hold whole numbers, got bool")
    try:
        counts = np.asarray(class_counts)
    except (TypeError, ValueError):  # ragged
        raise TypeError(f"class_counts must hold whole numbers, got {class_counts!r}") from None
    if counts.dtype.kind in "OSU":
        raise TypeError(f"class_counts must hold whole numbers, got {class_counts!r}")
    if counts.dtype.kind not in "iuf":
        raise TypeError(f"class_counts must hold whole numbers, got {counts.dtype}")
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
    return torch.from_numpy(counts.astype(np.int64))


def _ordered_keys(class_counts: Mapping[Any, int], class_names: Sequence[str] | None) -> Sequence[Any]:
    keys = list(class_counts)
    indices = [isinstance(key, int | np.integer) for key in keys]
    expected: Sequence[Any]
    if any(isinstance(key, bool) for key in keys):
        raise TypeError("class_counts must have class indices or class names as keys, got bool")
    if class_names is not None:
        expected = class_names
        if repeated := [name for name, times in Counter(class_names).items() if times > 1]:
            raise ValueError(f"class_names must name each class once, got {repeated[0]!r} more than once")
    elif all(indices):
        expected = range(max([len(keys), *(int(key) + 1 for key in keys)]))
    elif any(indices):
        raise TypeError("class_counts must have class indices or class names as keys, got both")
    else:
        return keys
    known = expected if isinstance(expected, range) else set(expected)
    for name in expected:
        if name not in class_counts:
            raise ValueError(f"class_counts has no entry for class {name!r}; give 0 if it has no samples")
    for key in keys:
        if key not in known:
            match = difflib.get_close_matches(str(key), [str(n) for n in expected], n=1)
            hint = f" (did you mean {match[0]!r}?)" if match else ""
            raise ValueError(f"class_counts names an unknown class {key!r}{hint}")
    return expected


def some_classes(which: Tensor, class_counts: Counts, class_names: Sequence[str] | None) -> str:
    """Return the classes in question, the first ten of them by name."""
    names = class_names or (list(class_counts) if isinstance(class_counts, Mapping) else None)
    positions = which.nonzero()[:, 0].tolist()
    shown = ", ".join(repr(names[i]) if names else str(i) for i in positions[:10])
    more = f" and {len(positions) - 10} more" if len(positions) > 10 else ""
    return f"class{'es' if len(positions) > 1 else ''} {shown}{more}"
