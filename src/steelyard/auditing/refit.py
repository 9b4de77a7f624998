"""How much of the loss would go if the logits were only rescaled and shifted, and the loss of knowing nothing."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from steelyard.auditing.findings import Refit

PerSample = Callable[[Tensor, Tensor], Tensor]


def refit(logits: Tensor, target: Tensor, sample_weights: Tensor, loss: PerSample) -> Refit:
    r"""Return how much the loss falls when one scale of all logits and a shift of each are fitted to the samples.

    .. math:: \min_{s, b} \; \sum_i a_i \, \ell(e^s z_i + b, y_i) \Big/ \sum_i a_i

    Args:
        logits: (N, K) float64.
        target: (N,) labels, or (N, K) multi-hot.
        sample_weights: (N,) :math:`a_i`.
        loss: :math:`\ell`, per sample.

    Returns:
        The loss as it is, with the best shift alone, at its minimum, the scale there (1: the logits are as large
        as they should be), and the least loss of logits that are the same for all samples.
    """
    a = sample_weights / sample_weights.sum()
    log_scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    shift = torch.zeros(logits.shape[1], dtype=torch.float64, requires_grad=True)

    # The scale stays below e^8: separable samples have no minimum, and it is far enough to see where it goes.
    def moved() -> Tensor:
        return (a * loss(logits * (8 * torch.tanh(log_scale / 8)).exp() + shift, target)).sum()

    with torch.no_grad():
        before = float(moved())
    shifted = _minimise([shift], moved)
    after = _minimise([log_scale, shift], moved)
    constant = torch.zeros(logits.shape[1], dtype=torch.float64, requires_grad=True)
    kinds, kind = torch.unique(target, dim=0, return_inverse=True)
    mass = torch.zeros(len(kinds), dtype=torch.float64).index_add_(0, kind, a)
    chance = _minimise([constant], lambda: (mass * loss(constant.expand(len(kinds), -1), kinds)).sum())
    shifted = shifted if shifted < before else before  # NaN is not less
    best = after if after < shifted else shifted
    scale = float((8 * torch.tanh(log_scale.detach() / 8)).exp()) if after < shifted else 1.0
    return Refit(before, shifted, best, scale, chance)


def softmax(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of each sample."""
    return F.cross_entropy(logits, target, reduction="none")


def one_vs_all(pos_weight: Tensor | None) -> PerSample:
    """Return the binary cross-entropies of each sample, summed over outputs."""

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        own = target.double() if target.dim() > 1 else F.one_hot(target, logits.shape[1]).double()
        each = F.binary_cross_entropy_with_logits(logits, own, reduction="none", pos_weight=pos_weight)
        return each.sum(1)

    return loss


def in_negative(omega: Tensor, positive: Tensor) -> PerSample:
    r"""LGL-INR of each sample with constant weights: :math:`\omega` (K, K) of classes in outputs, and positives'.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020; :math:`\omega` is held for the refit.
    """

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        own = logits.gather(1, target[:, None])[:, 0]
        others = omega[target].scatter(1, target[:, None], 0.0)
        pushed = (others * F.softplus(logits, threshold=40.0)).sum(1)
        return positive[target] * F.softplus(-own, threshold=40.0) + pushed

    return loss


def _minimise(parameters: list[Tensor], value: Callable[[], Tensor]) -> float:
    optimizer = torch.optim.LBFGS(parameters, max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        result = value()
        result.backward()  # type: ignore[no-untyped-call]
        return float(result.detach())

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return float(value())
