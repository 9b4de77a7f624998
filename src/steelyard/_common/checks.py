"""One clear sentence for every bad argument of the losses; no arithmetic lives here."""

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from steelyard._common.private_torch import is_transformed

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
Vector = Tensor | np.ndarray[Any, np.dtype[Any]] | Sequence[float]
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
    name: str, values: Tensor, *, length: int, logits: Tensor, validate: bool | None, low: float = -math.inf
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
    if values_readable(values, validate):
        check_finite(name, values, low=low)
    return values.to(compute_dtype(logits))


def check_finite(name: str, values: Tensor, *, low: float = -math.inf, high: float = math.inf) -> None:
    """Refuse values that are NaN, infinite, below `low` (0 for weights) or above `high`, naming the first."""
    bad = ~(torch.isfinite(values) & (values >= low) & (values <= high))
    if bool(bad.any()):
        position = int(bad.nonzero()[0])
        limit = " and not negative" if low == 0 else f" and at least {low:g}" if low > -math.inf else ""
        rule = f"lie in [{low:g}, {high:g}]" if high < math.inf else f"be finite{limit}"
        raise ValueError(f"{name} must {rule}, got {float(values[position])} at position {position}")


def check_vector(
    name: str,
    values: Vector,
    size: int | None = None,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    positive: bool = False,
    dtype: torch.dtype | None = torch.float64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return a vector of finite numbers as a new tensor, or refuse it in one sentence.

    Args:
        name: of the argument, for the sentence.
        values: tensor, NumPy array or sequence of numbers; bool and complex are none.
        size: how many there must be. Default: any number, at least one.
        low, high: least and largest value that is accepted: from 0 for weights.
        positive: refuse 0 too.
        dtype: of the result. None: that of a floating tensor or array, else torch's default.
        device: of the result.

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
    if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
        tensor = torch.tensor(values if values.dtype in (np.float32, np.float64) else values.astype(np.float64))
    elif isinstance(values, Sequence) and not isinstance(values, str | bytes):
        if not all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in values):
            odd = next(v for v in values if isinstance(v, bool) or not isinstance(v, numbers.Real))
            raise TypeError(f"{name} must hold numbers, got a value of type {type(odd).__name__}")
        given = torch.get_default_dtype() if dtype is None else torch.float64
        tensor = torch.tensor([float(v) for v in values], dtype=given)
    elif isinstance(values, Tensor) and values.dtype in FLOATS + INTEGERS:
        tensor = values.detach()
    else:
        came = type(values).__name__
        if isinstance(values, Tensor | np.ndarray):
            came = f"{came} of dtype {str(values.dtype).removeprefix('torch.')}"
        raise TypeError(f"{name} must be a tensor, an array or a sequence of numbers, got {came}")
    if tensor.dim() != 1 or (len(tensor) == 0 if size is None else len(tensor) != size):
        raise ValueError(f"{name} must have shape {expected}, got {tuple(tensor.shape)}")
    if dtype is None:
        dtype = tensor.dtype if tensor.is_floating_point() else torch.get_default_dtype()
    result = tensor.to(device=device, dtype=dtype, copy=True)
    if values_readable(result, True):
        check_finite(name, result, low=low, high=high)
        if positive and bool((result == 0).any()):
            raise ValueError(f"{name} must be positive, got 0 at position {int(result.argmin())}")
    return result


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a value outside `choices`, listing them."""
    if value not in choices:
        listed = ", ".join(repr(c) for c in choices)
        raise ValueError(f"{name} must be one of {listed}, got {value!r}")


def check_same(name: str, before: Mapping[str, object], now: Mapping[str, object]) -> None:
    """Refuse what was made under other settings, naming the first that differs."""
    for key, value in now.items():
        if before.get(key) != value:
            raise ValueError(f"{name} is of another run: {key} is {before.get(key)!r}, not {value!r}")


def check_number(name: str, value: float, *, low: float = -math.inf, high: float = math.inf) -> float:
    """Return `value` as a float after refusing what is not a finite number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not (-math.inf < value < math.inf and low <= value <= high):  # so that torch.compile can trace it
        below = f" >= {low:g}" if math.isfinite(low) else ""
        limits = f" in [{low:g}, {high:g}]" if math.isfinite(high) else below
        raise ValueError(f"{name} must be a finite number{limits}, got {value}")
    return float(value)


def check_beta(beta: Beta, num_classes: int) -> float:
    """A finite beta, or 2 log(K - 1) for "auto"; beyond 1e30 its products could leave the range of float32."""
    if beta == "auto":
        return 2 * math.log(max(num_classes - 1, 1))
    if isinstance(beta, str):
        raise ValueError(f"beta must be a number or 'auto', got {beta!r}")
    return check_number("beta", beta, low=-1e30, high=1e30)


def check_flag(name: str, value: bool) -> None:
    """Refuse what is no bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, got {type(value).__name__}")


def compute_dtype(logits: Tensor) -> torch.dtype:
    """float64 for float64 logits, float32 for every other: what losses compute in and return."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


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
