"""Containers that say which class each value belongs to, such as mappings: read by their keys, never by order."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from steelyard._common.text import nearest


class ByClass(NamedTuple):
    """The values of a labelled container in the order of the classes, and its names of the classes."""

    values: list[Any]
    classes: list[Any]


def by_class(name: str, container: Any, class_names: Sequence[Any] | None = None) -> ByClass | None:
    """Return the values of a labelled container in the order of the classes, or None for any other container.

    Labelled are mappings, and containers with an ``index`` beside their values, such as a pandas Series. A key is
    a class index if it is a whole number: an int, an integral float, a bool, such a number of NumPy, a tensor of
    one of them, or, where all keys are, digits as text. Other keys are names. A `Counter` may hold several keys
    for one class, such as tensors of equal value: their counts add up.

    Args:
        name: name of the argument, for errors.
        container: any object.
        class_names: the names in the order of the classes. Without them, names must come in alphabetical order:
            then the order in which they come and the sorted order are the same.

    Raises:
        TypeError: keys that are neither indices nor names, or a mixture of both; a table.
        ValueError: a class with no value, a class with several, an unknown class, or names whose order is not
            known.
    """
    if isinstance(container, (Tensor, list, tuple)):  # which torch.compile cannot ask for more
        return None
    if isinstance(container, Mapping):
        keys, values = list(container), list(container.values())
    elif hasattr(container, "columns") or hasattr(container, "coords"):
        raise TypeError(f"{name} must hold one value per class, got a table ({type(container).__name__})")
    elif hasattr(container, "index") and not callable(container.index):
        keys, values = list(container.index), list(container)
    else:
        return None
    return _in_order(name, _read_keys(name, keys), values, isinstance(container, Counter), class_names)


def _in_order(
    name: str, keys: list[Any], values: list[Any], adds_up: bool, class_names: Sequence[Any] | None
) -> ByClass:
    known: Sequence[Any]
    if class_names is not None:
        known = list(class_names)
        if twice := [one for one, times in Counter(known).items() if times > 1]:
            raise ValueError(f"class_names must name each class once, got {twice[0]!r} more than once")
        position = {str(one): k for k, one in enumerate(known)}
        indices = all(isinstance(key, int) for key in keys) and not all(str(key) in position for key in keys)
        placed = [key if indices else position.get(str(key)) for key in keys]
        placed = [None if k is None or not 0 <= k < len(known) else k for k in placed]
    elif all(isinstance(key, int) for key in keys):
        known = range(max([len(set(keys)), *(key + 1 for key in keys)]))
        placed = [key if key >= 0 else None for key in keys]
    else:
        if sorted(keys) != keys:
            raise ValueError(
                f"{name} names its classes in an order that may be any, {keys[0]!r} first: give class_names, "
                "or a list in the order of the classes"
            )
        known, placed = list(dict.fromkeys(keys)), [keys.index(key) for key in keys]
    found: dict[int, Any] = {}
    for k, value in zip(placed, values, strict=True):
        if k is not None and k in found and not adds_up:
            raise ValueError(f"{name} must have one entry for class {known[k]!r}, got several")
        if k is not None:
            found[k] = found[k] + value if k in found else value
    odd = keys[placed.index(None)] if None in placed else None
    is_name = isinstance(odd, str) and not odd.lstrip("-").isdecimal()
    near = nearest(str(odd), [str(one) for one in known]) if is_name else ""
    if near:  # before what is missing: a name misspelt is both
        raise ValueError(f"{name} names an unknown class {odd!r}{near}")
    for k, one in enumerate(known):
        if k not in found:
            hint = "; give 0 if it has no samples" if name == "class_counts" else ""
            raise ValueError(f"{name} has no entry for class {one!r}{hint}")
    if odd is not None:
        raise ValueError(f"{name} names an unknown class {odd!r}")
    return ByClass([found[k] for k in range(len(known))], list(known))


def _read_keys(name: str, keys: list[Any]) -> list[Any]:
    """Return each key as an int or a string; digits are ints where all keys are."""
    plain = [_plain(name, key) for key in keys]
    names = [key for key in plain if isinstance(key, str)]
    if 0 < len(names) < len(plain):
        raise TypeError(f"{name} must have class indices or class names as keys, got both")
    if all(one.isdecimal() and str(int(one)) == one for one in names):
        return [int(key) for key in plain]
    return plain


def _plain(name: str, key: Any) -> int | str:
    if isinstance(key, np.generic) or (isinstance(key, Tensor) and key.numel() == 1 and not key.is_meta):
        key = key.item()
    if isinstance(key, str):
        return key
    if isinstance(key, int) or (isinstance(key, float) and key.is_integer()):
        return int(key)
    came = repr(key) if isinstance(key, float) else type(key).__name__
    raise TypeError(f"{name} must have class indices or class names as keys, got {came}")
