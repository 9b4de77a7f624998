"""Class counts: to class weights, to the head's initial bias, and weights that start late. No losses here."""

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from steelyard._validation import check_choice, check_number

Scheme = Literal["none", "inverse", "sqrt_inverse", "effective_number", "median_frequency", "balanced", "power"]
Normalize = Literal["classes", "samples", "none"]
OnEmpty = Literal["error", "zero", "one"]
Counts = Sequence[int] | Mapping[Any, int] | np.ndarray[Any, Any] | Tensor


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
    r"""Class weights from class counts.

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
        class_counts: K counts: sequence, array, tensor, or a mapping from class to count. Keys that are integers
            must be 0 to K - 1; names are ordered by ``class_names``, or as they come.
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
        TypeError: an argument of a kind that cannot be meant.
        ValueError: counts that are no counts, an unknown scheme, an option that the scheme does not have.

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
    for option, value, owner in (("beta", beta, "effective_number"), ("exponent", exponent, "power")):
        if value is not None and scheme != owner:
            raise ValueError(f"{option} belongs to scheme {owner!r}, got it with {scheme!r}")
    counts = count_tensor(class_counts, class_names=class_names)
    empty = counts == 0
    if bool(empty.any()) and on_empty == "error":
        raise ValueError(
            f"class_counts has no samples of {_some(empty, class_counts, class_names)}; "
            "pass on_empty='zero' or 'one' to weigh such classes 0 or 1"
        )
    if bool(empty.all()):
        raise ValueError("class_counts must have a sample of at least one class, got none")
    n = counts[~empty].double()
    formula = {
        "none": lambda: torch.ones_like(n),
        "inverse": lambda: 1 / n,
        "sqrt_inverse": lambda: n.rsqrt(),
        "power": lambda: n ** -check_number("exponent", 0.5 if exponent is None else exponent, low=0),
        "effective_number": lambda: _effective_number(n, 0.999 if beta is None else beta),
        "balanced": lambda: n.sum() / (len(n) * n),
        "median_frequency": lambda: n.quantile(0.5) / n,
    }
    own_scale = {"balanced": "samples", "median_frequency": "none"}.get(scheme, "classes")
    scale = own_scale if normalize is None else normalize
    check_choice("normalize", scale, get_args(Normalize))
    cap = math.inf if max_weight is None else check_number("max_weight", max_weight, low=0)
    share = {"classes": torch.full_like(n, 1 / len(n)), "samples": n / n.sum(), "none": None}[scale]
    result = torch.full(counts.shape, float(on_empty == "one"), dtype=torch.float64)
    result[~empty] = _scaled(formula[scheme](), share, cap)
    return result.to(dtype)


def initial_bias(class_counts: Counts, link: Literal["softmax", "logistic"]) -> Tensor:
    r"""Bias of a classifier's head with which it starts at the class frequencies.

    .. math:: b_k = \log \frac{n_k}{N} \quad \text{(softmax)}, \qquad
        b_k = \log \frac{n_k}{N - n_k} \quad \text{(logistic)}

    One-vs-all outputs at zero bias start with a loss of K log 2, nearly all of it from negatives that a bias
    alone would settle. LGL-INR needs none: it weighs positives and negatives one to one, and its constant
    solution is a probability of 1/2.

    Args:
        class_counts: K counts, as in :func:`class_weights`.
        link: ``"softmax"`` or ``"logistic"``.

    Returns:
        (K,) float32.

    Raises:
        ValueError: a class without samples, or with all of them under ``"logistic"``: its bias is infinite.

    Source:
        Lin et al., ICCV 2017 (prior for rare positives); here from the counts.

    Example:
        >>> initial_bias([75, 25], "logistic")
        tensor([ 1.0986, -1.0986])
    """
    check_choice("link", link, ("softmax", "logistic"))
    counts = count_tensor(class_counts).double()
    total = counts.sum()
    if bool((counts == 0).any()):
        raise ValueError(
            f"class_counts has no samples of {_some(counts == 0, class_counts, None)}: its bias is -inf"
        )
    if link == "softmax":
        return (counts / total).log().float()
    if len(counts) == 1:
        raise ValueError("class_counts must have at least two classes for link 'logistic', got one")
    return (counts / (total - counts)).log().float()


class DeferredReweighting:
    """Class weights that start at a later epoch: first learn features, then rebalance.

    Args:
        class_weights: (K,) tensor or sequence, not negative.
        start_epoch: first epoch, counted from 0, with the weights.

    Attributes:
        weight: (K,) ones before ``start_epoch``, the weights from then on; hand it to the loss at each epoch.

    Raises:
        TypeError, ValueError: weights or an epoch that are none.

    Source:
        Cao et al., NeurIPS 2019 (deferred re-weighting).

    Example:
        >>> schedule = DeferredReweighting([0.5, 1.5], start_epoch=160)
        >>> schedule.weight
        tensor([1., 1.])
        >>> schedule.set_epoch(160)
        >>> schedule.weight
        tensor([0.5000, 1.5000])
    """

    def __init__(self, class_weights: Tensor | Sequence[float], *, start_epoch: int) -> None:
        weights = torch.as_tensor(class_weights).detach().clone()
        weights = weights if weights.is_floating_point() else weights.float()
        if weights.dim() != 1 or not bool((torch.isfinite(weights) & (weights >= 0)).all()):
            raise ValueError(f"class_weights must be one finite weight >= 0 per class, got {class_weights}")
        self._weights = weights
        self.start_epoch = _epoch("start_epoch", start_epoch)
        self.epoch = 0

    @property
    def weight(self) -> Tensor:
        return self._weights if self.epoch >= self.start_epoch else torch.ones_like(self._weights)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins; going back is refused (restore a state with `load_state_dict`)."""
        if _epoch("epoch", epoch) < self.epoch:
            raise ValueError(f"epoch must not go back, got {epoch} after {self.epoch}")
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.epoch = _epoch("epoch", state["epoch"])


def count_tensor(class_counts: Counts, *, class_names: Sequence[str] | None = None) -> Tensor:
    """Counts in any of the accepted forms as an int64 tensor (K,).

    Raises:
        TypeError, ValueError: counts that are negative, fractional, NaN or missing; a class that is unknown.
    """
    if isinstance(class_counts, Mapping):
        class_counts = [class_counts[key] for key in _ordered_keys(class_counts, class_names)]
    elif class_names is not None and len(class_names) != len(class_counts):
        raise ValueError(
            f"class_counts must have one count per class name, {len(class_names)}, got {len(class_counts)}"
        )
    try:
        counts = torch.as_tensor(
            np.asarray(class_counts) if not isinstance(class_counts, Tensor) else class_counts
        )
    except (TypeError, ValueError):
        raise TypeError(f"class_counts must hold whole numbers, got {class_counts!r}") from None
    if counts.dtype == torch.bool or counts.is_complex():
        raise TypeError(f"class_counts must hold whole numbers, got {str(counts.dtype).removeprefix('torch.')}")
    if counts.dim() != 1 or len(counts) == 0:
        raise ValueError(f"class_counts must have one count per class, got shape {tuple(counts.shape)}")
    bad = ~((counts >= 0) & (counts == counts.floor()) & counts.isfinite())
    if bool(bad.any()):
        position = int(bad.nonzero()[0])
        raise ValueError(
            f"class_counts must be whole numbers >= 0, got {counts[position].item()} at position {position}"
        )
    return counts.to("cpu", torch.int64)


def _ordered_keys(class_counts: Mapping[Any, int], class_names: Sequence[str] | None) -> Sequence[Any]:
    keys = list(class_counts)
    expected: Sequence[Any]
    if class_names is not None:
        expected = class_names
    elif all(isinstance(key, int | np.integer) for key in keys):
        expected = range(max([len(keys), *(int(key) + 1 for key in keys)]))
    else:
        return keys
    for name in expected:
        if name not in class_counts:
            raise ValueError(f"class_counts has no entry for class {name!r}; give 0 if it has no samples")
    for key in keys:
        if key not in expected:
            match = difflib.get_close_matches(str(key), [str(n) for n in expected], n=1)
            hint = f" (did you mean {match[0]!r}?)" if match else ""
            raise ValueError(f"class_counts names an unknown class {key!r}{hint}")
    return expected


def _effective_number(n: Tensor, beta: float) -> Tensor:
    beta = check_number("beta", beta, low=0, high=1)
    if beta == 1:
        raise ValueError("beta must be in [0, 1), got 1, whose limit is scheme 'inverse'")
    if beta == 0:
        return torch.ones_like(n)
    return (1 - beta) / -torch.expm1(n * math.log(beta))


def _scaled(weights: Tensor, share: Tensor | None, cap: float) -> Tensor:
    """min(c w, cap), with c such that the mean under `share` is 1 (c = 1 for no share)."""
    if share is None:
        return weights.clamp(max=cap)
    if cap < 1:
        raise ValueError(f"max_weight must be at least 1, the mean of the weights, got {cap:g}")
    # Cap the m heaviest for the least m that leaves no other above the cap.
    heaviest = torch.argsort(weights, descending=True)
    w, s = weights[heaviest], share[heaviest]
    for capped in range(len(w)):
        free = (s[capped:] * w[capped:]).sum()
        factor = (1 - cap * s[:capped].sum()).clamp(min=0) / free if capped else 1 / free
        if factor * w[capped] <= cap:
            return torch.where(torch.arange(len(w)) < capped, cap, factor * w)[torch.argsort(heaviest)]
    return torch.full_like(weights, cap)  # cap = 1


def _some(which: Tensor, class_counts: Counts, class_names: Sequence[str] | None) -> str:
    """The classes in question, the first ten of them by name."""
    names = class_names or (list(class_counts) if isinstance(class_counts, Mapping) else None)
    positions = which.nonzero()[:, 0].tolist()
    shown = ", ".join(repr(names[i]) if names else str(i) for i in positions[:10])
    more = f" and {len(positions) - 10} more" if len(positions) > 10 else ""
    return f"class{'es' if len(positions) > 1 else ''} {shown}{more}"


def _epoch(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < 0:
        raise ValueError(f"{name} must be >= 0, got {value}")
    return value
