"""From class counts to class weights, by the schemes of the field. No losses here."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from steelyard._common.checks import check_choice, check_number, dtype_name
from steelyard._common.text import NUMBER, nearest
from steelyard.weights.counts import Counts, count_tensor, some_classes

Scheme = Literal["none", "inverse", "sqrt_inverse", "effective_number", "median_frequency", "balanced", "power"]
Normalize = Literal["classes", "samples", "none"]
OnEmpty = Literal["error", "zero", "one"]
_OWNED = {"effective_number": "beta", "power": "exponent"}


def class_weights(
    class_counts: Counts,
    scheme: Scheme = "inverse",
    *,
    beta: float | None = None,
    exponent: float | None = None,
    normalize: Normalize | None = None,
    max_weight: float | None = None,
    on_empty: OnEmpty = "error",
    class_names: Sequence[str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    r"""Return class weights from class counts.

    ==================== ============================================ ==========================
    scheme               weight of a class with n of N samples        scale, unless `normalize`
    ==================== ============================================ ==========================
    ``none``             1                                            1
    ``inverse``          1 / n                                        mean over classes is 1
    ``sqrt_inverse``     1 / sqrt(n)                                  mean over classes is 1
    ``power``            n ** -exponent                               mean over classes is 1
    ``effective_number`` (1 - beta) / (1 - beta ** n)                 mean over classes is 1
    ``balanced``         N / (K n), scikit-learn's "balanced"         mean over samples is 1
    ``median_frequency`` median(n) / n                                the median class has 1
    ==================== ============================================ ==========================

    ``inverse``, ``balanced`` and ``median_frequency`` are proportional to each other: they differ only in what is
    1, which matters where the loss does not divide by the weights, and for the learning rate.

    Args:
        class_counts: K counts, not labels (:func:`~steelyard.class_counts` counts those): sequence, array, tensor,
            or by class, as a mapping or a pandas Series. Keys are class indices, 0 to K - 1, as whole numbers of
            any type, or names, ordered by ``class_names``; without them names must come in alphabetical order.
        scheme: see above.
        beta: of ``effective_number``, in [0, 1): 0 is uniform, the limit 1 is ``inverse``. Default: 0.999.
        exponent: of ``power``, >= 0. Default: 0.5.
        normalize: which mean is 1: ``"classes"``, the plain mean of the K weights (as timm); ``"samples"``, the
            mean over samples, :math:`\sum_k n_k w_k / N`; ``"none"``, neither. Default: as in the table.
        max_weight: no weight is above it. A mean that is to be 1 is still exactly 1: the other weights take up
            what the cap cuts off.
        on_empty: a class without samples is an ``"error"``, or weighs exactly 0 (``"zero"``) or 1 (``"one"``);
            the mean is over the other classes.
        class_names: order of a mapping's names.
        dtype: of the result; all is computed in float64.

    Returns:
        (K,) weights.

    Raises:
        TypeError: an argument of another type than described.
        ValueError: counts that are no counts, an unknown scheme, an option that the scheme does not have, weights
            that the dtype cannot hold.

    Warns:
        UserWarning: counts that look like labels: more values than classes that they could name.

    Source:
        Effective number: Cui et al., CVPR 2019. Median frequency: Eigen and Fergus, ICCV 2015.

    Example:
        >>> class_weights([900, 90, 10])
        tensor([0.0297, 0.2970, 2.6733])
        >>> class_weights({"cat": 4, "dog": 1}, "sqrt_inverse", max_weight=1.2)
        tensor([0.8000, 1.2000])
    """
    check_choice("scheme", scheme, get_args(Scheme))
    check_choice("on_empty", on_empty, get_args(OnEmpty))
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be floating point, got {dtype_name(dtype)}")
    for (owner, option), value in zip(_OWNED.items(), (beta, exponent), strict=True):
        if value is not None and scheme != owner:
            raise ValueError(f"{option} belongs to scheme {owner!r}, got it with {scheme!r}")
    counts = count_tensor(class_counts, class_names=class_names)
    empty = counts == 0
    if bool(empty.any()) and on_empty == "error":
        raise ValueError(
            f"class_counts has no samples of {some_classes(empty, class_counts, class_names)}; "
            "pass on_empty='zero' or 'one' to weigh such classes 0 or 1 (counts are meant, not labels)"
        )
    if bool(empty.all()):
        raise ValueError("class_counts must have a sample of at least one class, got none")
    n = counts[~empty].double()
    formula = {
        "none": lambda: torch.ones_like(n),
        "inverse": lambda: 1 / n,
        "sqrt_inverse": lambda: n.rsqrt(),
        "power": lambda: _power(n, 0.5 if exponent is None else exponent),
        "effective_number": lambda: _effective_number(n, 0.999 if beta is None else beta),
        "balanced": lambda: n.sum() / (len(n) * n),
        "median_frequency": lambda: n.quantile(0.5) / n,
    }
    own_scale = {"balanced": "samples", "median_frequency": "none"}.get(scheme, "classes")
    scale = own_scale if normalize is None else normalize
    check_choice("normalize", scale, get_args(Normalize))
    cap = math.inf if max_weight is None else check_number("max_weight", max_weight, low=0)
    share = {"classes": torch.full_like(n, 1 / len(n)), "samples": n / n.sum(), "none": None}[scale]
    result = torch.full_like(counts, float(on_empty == "one"), dtype=torch.float64)
    result[~empty] = _scaled(formula[scheme](), share, cap)
    weights = result.to(dtype)
    lost = (weights == 0) & (result != 0) | ~torch.isfinite(weights)
    if bool(lost.any()):
        least, most = float(result[~empty].min()), float(result.max())
        raise ValueError(
            f"dtype must hold the weights, which go from {least:g} to {most:g}, got {dtype_name(dtype)}"
        )
    return weights


def parse_scheme(text: str) -> tuple[Scheme, dict[str, float]]:
    """Return a weight scheme as `name[@value]`, such as ``inverse`` or ``power@0.5``.

    Returns:
        The scheme and its options for :func:`class_weights`.

    Raises:
        ValueError: an unknown scheme (the nearest is named), or a value that is none.

    Example:
        >>> parse_scheme("effective_number@0.9999")
        ('effective_number', {'beta': 0.9999})
    """
    name, at, number = text.partition("@")
    if name not in get_args(Scheme):
        near = nearest(name, get_args(Scheme))
        raise ValueError(f"unknown weight scheme {name!r}{near}; choose from {', '.join(get_args(Scheme))}")
    if at and name not in _OWNED:
        raise ValueError(f"scheme {name!r} takes no value, got {text!r}")
    if at and not NUMBER.fullmatch(number.strip()):
        raise ValueError(f"{text!r} must end in a number")
    return name, {_OWNED[name]: float(number)} if at else {}  # type: ignore[return-value]


def _power(n: Tensor, exponent: float) -> Tensor:
    weights: Tensor = n ** -check_number("exponent", exponent, low=0)
    if float(weights.min()) < 1e-200:  # room for sums and quotients of weights
        raise ValueError(
            f"exponent must be small enough for the weights to be told from 0, got {exponent:g} "
            f"with {int(n.max())} samples of a class"
        )
    return weights


def _effective_number(n: Tensor, beta: float) -> Tensor:
    beta = check_number("beta", beta, low=0, high=1)
    if beta == 1:
        raise ValueError("beta must be in [0, 1), got 1, whose limit is scheme 'inverse'")
    if beta == 0:
        return torch.ones_like(n)
    return (1 - beta) / -torch.expm1(n * math.log(beta))


def _scaled(weights: Tensor, share: Tensor | None, cap: float) -> Tensor:
    """Return min(c w, cap), with c such that the mean under `share` is 1 (c = 1 for no share)."""
    if share is None:
        return weights.clamp(max=cap)
    if cap < 1:
        raise ValueError(f"max_weight must be at least 1, the mean of the weights, got {cap:g}")
    # Cap the m heaviest for the least m that leaves no other above the cap.
    heaviest = torch.argsort(weights, descending=True)
    w, s = weights[heaviest], share[heaviest]
    capped = 0
    if math.isfinite(cap):
        free = (s * w).flip(0).cumsum(0).flip(0)
        fits = (1 - cap * (s.cumsum(0) - s)).clamp(min=0) * w <= cap * free
        if not bool(fits.any()):
            return torch.full_like(weights, cap)  # cap = 1
        capped = int(fits.nonzero()[0])
    # Summed again: a running sum over many classes is less exact.
    rest = (1 - cap * s[:capped].sum()).clamp(min=0) if capped else torch.ones_like(w[0])
    factor = rest * (1 / (s[capped:] * w[capped:]).sum())
    scaled = torch.where(torch.arange(len(w), device=w.device) < capped, cap, (factor * w).clamp(max=cap))
    return scaled[torch.argsort(heaviest)]
