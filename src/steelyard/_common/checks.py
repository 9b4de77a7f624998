"""One clear sentence for every bad argument of the losses; no arithmetic lives here."""

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from steelyard._common.labelled import by_class
from steelyard._common.private_torch import is_transformed

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS, _NUMBERS, _FLAGS = (int, np.integer), (int, float, np.integer, np.floating), (bool, np.bool_)
"""In tuples: torch.compile of torch 2.9 cannot trace a union of types."""
LARGEST = 1e30
"""Of weights, adjustments and beta: with a loss, summed over a batch, they stay in the range of float32."""
_FEW = 64  # numbers that Python looks at faster than torch
Vector = Tensor | np.ndarray[Any, np.dtype[Any]] | Sequence[float] | Mapping[Any, float]
Beta = float | Literal["auto"]


def check_weights(
    name: str,
    weights: Tensor | None,
    *,
    length: int,
    logits: Tensor,
    validate: bool | None,
    constant: bool = False,
) -> Tensor | None:
    """Return `weights` in the dtype that the loss computes in, after refusing what cannot be weights.

    `constant` ones get no gradient from the loss, so they may not ask for one.
    """
    if weights is None:
        return None
    if constant and isinstance(weights, Tensor) and weights.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} must not require a gradient, as this loss has none for it: pass {name}.detach()")
    return check_values(name, weights, length=length, logits=logits, validate=validate, low=0)


def check_values(
    name: str,
    values: Tensor,
    *,
    length: int,
    logits: Tensor,
    validate: bool | None,
    low: float = -math.inf,
    high: float = math.inf,
) -> Tensor:
    """Return one finite value per class, in the dtype that the loss computes in, or refuse it."""
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must be a tensor of shape ({length},), got {type(values).__name__}")
    if values.dtype not in FLOATS + INTEGERS:
        raise TypeError(f"{name} must be of a floating or integer dtype, got {dtype_name(values.dtype)}")
    if values.shape != (length,):
        raise ValueError(f"{name} must have shape ({length},), got {tuple(values.shape)}")
    if values.device != logits.device:
        raise ValueError(f"{name} must be on the device of logits, {logits.device}, got {values.device}")
    dtype = compute_dtype(logits)
    if not values_readable(values, validate):
        return values.to(dtype)
    return check_range(name, values, dtype, low=low, high=min(high, LARGEST))


def are_ready(values: Tensor, length: int, dtype: torch.dtype) -> bool:
    """Return whether these are `length` positive values that :func:`check_values` would return as they are, and
    which ask for no gradient. To be asked where nothing looks on at torch's operations."""
    if type(values) is not Tensor or values.dtype is not dtype or values.shape != (length,) or not values.is_cpu:
        return False
    if values.requires_grad:
        return False
    if length <= _FEW:
        return all(0 < value <= LARGEST for value in values.tolist())
    least, most = torch.aminmax(values)  # NaN of NaN
    return 0 < least.item() <= most.item() <= LARGEST


def check_finite(name: str, values: Tensor, *, low: float = -math.inf, high: float = math.inf) -> None:
    """Refuse values that are NaN, infinite, below `low` (0 for weights) or above `high`, naming the first."""
    bad = ~(torch.isfinite(values) & (values >= low) & (values <= high))
    if bool(bad.any()):
        position = int(bad.nonzero()[0])
        least = " and not negative" if low == 0 else f" and at least {low:g}" if low > -LARGEST else ""
        if high == LARGEST:
            value = abs(float(values[position]))
            rule = f"be finite{least}" + (f" and at most {LARGEST:g}" if LARGEST < value < math.inf else "")
        else:
            rule = f"lie in [{low:g}, {high:g}]" if high < math.inf else f"be finite{least}"
        raise ValueError(f"{name} must {rule}, got {float(values[position])} at position {position}")


def check_range(
    name: str, values: Tensor, dtype: torch.dtype, *, low: float = -LARGEST, high: float = LARGEST
) -> Tensor:
    """Return the values in another dtype after refusing those out of range and those that would become 0."""
    check_finite(name, values, low=max(low, -LARGEST), high=high)
    result = values.to(dtype)
    if values.dtype in (dtype, torch.float16, torch.bfloat16):
        return result
    lost = (result == 0) & (values != 0)
    if bool(lost.any()):
        position = int(lost.nonzero()[0])
        raise ValueError(
            f"{name} must be 0 or large enough for {dtype_name(dtype)}, "
            f"got {float(values[position])} at position {position}"
        )
    return result


def check_vector(
    name: str,
    values: Vector,
    size: int | None = None,
    *,
    low: float = -LARGEST,
    high: float = LARGEST,
    positive: bool = False,
    dtype: torch.dtype | None = torch.float64,
    device: torch.device | str = "cpu",
    class_names: Sequence[str] | None = None,
) -> Tensor:
    """Return a vector of finite numbers as a new tensor, or refuse it in one sentence.

    Args:
        name: of the argument, for the sentence.
        values: tensor, NumPy array, sequence, or by class, as a mapping or a pandas Series; bool and complex
            are no numbers.
        size: how many there must be. Default: any number, at least one.
        low, high: least and largest value that is accepted: from 0 for weights.
        positive: refuse 0 too.
        dtype: of the result. None: that of a tensor or array of float32 or float64, else torch's default, but at
            least float32: values are not rounded because a model is.
        device: of the result.
        class_names: the order of the names that a mapping may have as keys.

    Returns:
        (size,) tensor without a gradient.

    Raises:
        TypeError: something else than a vector of real numbers.
        ValueError: another length, or a value that is not accepted.

    Example:
        >>> check_vector("class_weights", [1, 3.0], 2, low=0)
        tensor([1., 3.], dtype=torch.float64)
    """
    expected = "(K,)" if size is None else f"({size},)"
    labelled = by_class(name, values, class_names)
    given: Any = values if labelled is None else labelled.values
    if isinstance(given, np.ndarray) and given.dtype.kind in "iuf":
        tensor = torch.from_numpy(np.array(given, dtype=np.float32 if given.dtype == np.float32 else np.float64))
        found = None if given.dtype.kind != "f" else torch.float32 if given.dtype.itemsize < 8 else torch.float64
    elif isinstance(given, Sequence) and not isinstance(given, str | bytes):
        if not all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in given):
            odd = next(v for v in given if isinstance(v, bool) or not isinstance(v, numbers.Real))
            raise TypeError(f"{name} must hold numbers, got a value of type {type(odd).__name__}")
        tensor, found = torch.tensor([float(v) for v in given], dtype=torch.float64, device="cpu"), None
    elif isinstance(given, Tensor) and given.dtype in FLOATS + INTEGERS:
        tensor, found = given.detach(), given.dtype if given.is_floating_point() else None
    else:
        came = type(given).__name__
        if isinstance(given, Tensor | np.ndarray):
            came = f"{came} of dtype {str(given.dtype).removeprefix('torch.')}"
        raise TypeError(f"{name} must be a tensor, an array or a sequence of numbers, got {came}")
    if tensor.dim() != 1 or (len(tensor) == 0 if size is None else len(tensor) != size):
        raise ValueError(f"{name} must have shape {expected}, got {tuple(tensor.shape)}")
    if dtype is None:
        dtype = torch.promote_types(torch.get_default_dtype() if found is None else found, torch.float32)
    if tensor.is_meta:
        if torch.device(device).type == "meta":
            return tensor.to(dtype)
        raise ValueError(
            f"{name} must hold values, got a tensor on the meta device: give a list, or one made with device='cpu'"
        )
    if not values_readable(tensor, True):
        return tensor.to(device=device, dtype=dtype, copy=True)
    result = check_range(name, tensor, dtype, low=low, high=high)
    if positive and bool((tensor == 0).any()):
        raise ValueError(f"{name} must be positive, got 0 at position {int((tensor == 0).nonzero()[0])}")
    return result.to(device=device, copy=True)


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a value outside `choices`, listing them."""
    if not isinstance(value, str) or value not in choices:
        listed = ", ".join(repr(c) for c in choices)
        came = repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
        raise ValueError(f"{name} must be one of {listed}, got {came}")


def check_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """Return class names as a tuple; one text is not the names of its letters."""
    if isinstance(class_names, str) or not all(isinstance(one, str) for one in class_names):
        came = (
            "one text"
            if isinstance(class_names, str)
            else type(next(one for one in class_names if not isinstance(one, str))).__name__
        )
        raise TypeError(f"class_names must be a sequence of texts, one a class, got {came}")
    return tuple(class_names)


def check_same(name: str, before: Mapping[str, object], now: Mapping[str, object]) -> None:
    """Refuse what was made under other settings, naming the first that differs."""
    for key, value in now.items():
        if before.get(key) != value:
            raise ValueError(f"{name} is of another run: {key} is {before.get(key)!r}, not {value!r}")


def check_number(name: str, value: float, *, low: float = -math.inf, high: float = math.inf) -> float:
    """Return `value` as a float after refusing what is not a finite number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, _NUMBERS):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if isinstance(value, np.number):
        value = float(value)
    if not (-math.inf < value < math.inf and low <= value <= high):  # so that torch.compile can trace it
        below = f" >= {low:g}" if math.isfinite(low) else ""
        limits = f" in [{low:g}, {high:g}]" if math.isfinite(high) else below
        raise ValueError(f"{name} must be a finite number{limits}, got {value}")
    return float(value)


def check_integer(name: str, value: int, *, low: int | None = None) -> int:
    """Return `value` as an int after refusing what is none, or below `low`."""
    if isinstance(value, bool) or not isinstance(value, _INTEGERS):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if low is not None and value < low:
        raise ValueError(f"{name} must be an int >= {low}, got {value}")
    return int(value)


def check_beta(beta: Beta, num_classes: int) -> float:
    """Return a finite beta, or 2 log(K - 1) for "auto"."""
    if isinstance(beta, str):
        if beta == "auto":
            return 2 * math.log(max(num_classes - 1, 1))
        raise ValueError(f"beta must be a number or 'auto', got {beta!r}")
    return check_number("beta", beta, low=-LARGEST, high=LARGEST)


def check_flag(name: str, value: bool) -> bool:
    """Return `value` as a bool after refusing what is none."""
    if not isinstance(value, _FLAGS):
        raise TypeError(f"{name} must be a bool, got {type(value).__name__}")
    return bool(value)


def compute_dtype(logits: Tensor) -> torch.dtype:
    """float64 for float64 logits, float32 for every other: what losses compute in and return."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def in_compute_dtype(logits: Tensor) -> Tensor:
    """The logits in the dtype that losses compute in; as they are, where they have it.

    Asking torch for the dtype that a tensor has takes a quarter of a small cross-entropy's time.
    """
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()


def values_readable(tensor: Tensor, validate: bool | None) -> bool:
    """Whether values may be looked at: by default only where that costs no synchronisation (the CPU)."""
    if validate is False or torch.compiler.is_compiling():
        return False
    if is_transformed(tensor):  # under vmap values have no truth
        return False
    return bool(validate) or tensor.device.type == "cpu"


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


Reduction = Literal["none", "mean", "sum"]
REDUCTIONS: tuple[Reduction, ...] = ("none", "mean", "sum")
