"""Class counts: to class weights, initial biases, adjustments of logits, and late weights. No losses here."""

import difflib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from steelyard._validation import check_choice, check_number

Scheme = Literal["none", "inverse", "sqrt_inverse", "effective_number", "median_frequency", "balanced", "power"]
Normalize = Literal["classes", "samples", "none"]
OnEmpty = Literal["error", "zero", "one"]
_MOST_NUMBERS = 1 << 20  # of an intermediate table
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
    if not dtype.is_floating_point:
        raise TypeError(f"dtype must be floating point, got {str(dtype).removeprefix('torch.')}")
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


def batch_presence(class_counts: Counts, batch_size: int) -> Tensor:
    r"""Share of the mini-batches that have a sample of each class, of batches drawn without replacement.

    .. math:: \rho_k = 1 - \prod_{i=0}^{B-1} \Big(1 - \frac{n_k}{N - i}\Big) \approx 1 - (1 - n_k / N)^B

    LGL-INR balances the classes *of a batch*: over many batches a class counts by how often it is there. So its
    balance law, the undoing of its probabilities and its :func:`logit_adjustment` all take this share.

    Args:
        class_counts: K counts, as in :func:`class_weights`; 0 has a share of 0.
        batch_size: B samples, >= 1; from N on every batch has everything.

    Returns:
        (K,) float64.

    Raises:
        TypeError, ValueError: counts or a batch size that are none, counts that are all zero.

    Source:
        Derived for this project.

    Example:
        >>> batch_presence([900, 90, 10], batch_size=64)
        tensor([1.0000, 0.9981, 0.4855], dtype=torch.float64)
    """
    n = count_tensor(class_counts).double()
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be an int >= 1, got {batch_size!r}")
    total = int(n.sum())
    if total == 0:
        raise ValueError("class_counts must have a sample of at least one class, got none")
    log_absent = torch.zeros_like(n)
    drawn = torch.arange(min(batch_size, total))
    for part in torch.split(drawn, max(1, _MOST_NUMBERS // len(n))):
        log_absent += torch.log1p(-(n / (total - part)[:, None]).clamp(max=1)).sum(0)
    return -torch.expm1(log_absent)


def logit_adjustment(class_counts: Counts, *, tau: float = 1.0, batch_size: int | None = None) -> Tensor:
    r"""What to add to the logits in training, so that the logits themselves are free of the training prior.

    .. math:: \tau \log \frac{n_k}{N}, \qquad \text{or } \tau \log \rho_k \text{ with a batch size}

    Pass it to a loss as ``logit_adjustment`` and predict from the logits as they are. The softmax of logits *plus*
    adjustment is the posterior under the training frequencies; for one-vs-all losses the adjustment acts as a
    margin, larger for rarer classes.

    Args:
        class_counts: K counts, as in :func:`class_weights`.
        tau: strength, finite; 1 is the prior itself, 0 nothing.
        batch_size: of the mini-batches of LGL-INR, which has balanced all else: then the adjustment is the log of
            each class's :func:`batch_presence`, the prior that it leaves.

    Returns:
        (K,) float32.

    Raises:
        ValueError: a class without samples: its adjustment is infinite.

    Source:
        Menon et al., ICLR 2021 (softmax); Ren et al., NeurIPS 2020 (balanced softmax). For LGL-INR it is ours.

    Example:
        >>> logit_adjustment([75, 25])
        tensor([-0.2877, -1.3863])
        >>> logit_adjustment([900, 90, 10], batch_size=64)
        tensor([ 0.0000, -0.0019, -0.7226])
    """
    tau = check_number("tau", tau)
    if batch_size is None:
        return tau * initial_bias(class_counts, "softmax")
    presence = batch_presence(class_counts, batch_size)
    if bool((presence == 0).any()):
        raise ValueError(
            f"class_counts has no samples of {_some(presence == 0, class_counts, None)}: its adjustment is -inf"
        )
    return (tau * presence.log()).float()


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
        if weights.dim() != 1 or len(weights) == 0:
            raise ValueError(f"class_weights must have shape (K,), got {tuple(weights.shape)}")
        bad = ~(torch.isfinite(weights) & (weights >= 0))
        if bool(bad.any()):
            position = int(bad.nonzero()[0])
            raise ValueError(
                "class_weights must be one finite weight >= 0 per class, "
                f"got {float(weights[position])} at position {position}"
            )
        self._weights = weights
        self.start_epoch = _epoch("start_epoch", start_epoch)
        self.epoch = 0

    @property
    def weight(self) -> Tensor:
        return self._weights.clone() if self.epoch >= self.start_epoch else torch.ones_like(self._weights)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins; going back is refused (restore a state with `load_state_dict`)."""
        if _epoch("epoch", epoch) < self.epoch:
            raise ValueError(f"epoch must not go back, got {epoch} after {self.epoch}")
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        if "epoch" not in state:
            raise ValueError(f"state must have the key 'epoch', got {sorted(state)}")
        self.epoch = _epoch("epoch", state["epoch"])


def count_tensor(class_counts: Counts, *, class_names: Sequence[str] | None = None) -> Tensor:
    """Counts in any of the accepted forms as an int64 tensor (K,).

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
    """min(c w, cap), with c such that the mean under `share` is 1 (c = 1 for no share)."""
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
    # Summed anew: a running sum over many classes is less exact.
    rest = (1 - cap * s[:capped].sum()).clamp(min=0) if capped else torch.ones_like(w[0])
    factor = rest * (1 / (s[capped:] * w[capped:]).sum())
    scaled = torch.where(torch.arange(len(w)) < capped, cap, (factor * w).clamp(max=cap))
    return scaled[torch.argsort(heaviest)]


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
