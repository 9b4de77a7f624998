"""How much of the loss would go if the logits were only rescaled and shifted, and the loss of knowing nothing."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from steelyard.auditing.findings import Refit
from steelyard.kernels.log_partition.dispatch import log_partition

PerSample = Callable[[Tensor, Tensor], Tensor]
Moved = Callable[[Tensor, Tensor], tuple[float, tuple[Tensor, Tensor]]]  # of log scale and shift


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
    moved = _moved_softmax(logits, target, a) if loss is softmax else _moved(logits, target, a, loss)
    log_scale, shift = torch.zeros(1, dtype=torch.float64), torch.zeros(logits.shape[1], dtype=torch.float64)
    before, _ = moved(log_scale, shift)
    shifted = _minimise(lambda b: moved(log_scale, b), shift)
    after = _minimise(moved, log_scale, shift)
    kinds, kind = torch.unique(target, dim=0 if target.dim() > 1 else None, return_inverse=True)
    mass = torch.zeros(len(kinds), dtype=torch.float64).index_add_(0, kind, a)
    if loss is softmax:  # the best logits are the logs of the masses
        chance = -float(torch.special.xlogy(mass, mass).sum())
    else:
        constant = _moved(torch.zeros(len(kinds), logits.shape[1], dtype=torch.float64), kinds, mass, loss)
        chance = _minimise(lambda b: constant(log_scale, b), torch.zeros_like(shift))
    shifted = shifted if shifted < before else before  # NaN is not less
    best = after if after < shifted else shifted
    scale = float(_scale(log_scale)) if after < shifted else 1.0
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


def _scale(log_scale: Tensor) -> Tensor:
    """Return a scale below e^8: separable samples have no minimum, and it is far enough to see where it goes."""
    return (8 * torch.tanh(log_scale / 8)).exp()


def _moved(logits: Tensor, target: Tensor, a: Tensor, loss: PerSample) -> Moved:
    """Return the mean loss of moved logits, and its gradient in log scale and shift."""

    def moved(log_scale: Tensor, shift: Tensor) -> tuple[float, tuple[Tensor, Tensor]]:
        s, b = log_scale.clone().requires_grad_(), shift.clone().requires_grad_()
        with torch.enable_grad():
            value = (a * loss(logits * _scale(s) + b, target)).sum()
            by_scale, by_shift = torch.autograd.grad(value, (s, b))
        return float(value.detach()), (by_scale, by_shift)

    return moved


def _moved_softmax(logits: Tensor, target: Tensor, a: Tensor) -> Moved:
    """Return the same of softmax: its loss is the log partition function less the own logit."""
    own = torch.zeros(logits.shape[1], dtype=torch.float64).index_add_(0, target, a)
    own_logit = float(a @ logits.gather(1, target[:, None])[:, 0])

    def moved(log_scale: Tensor, shift: Tensor) -> tuple[float, tuple[Tensor, Tensor]]:
        scale = float(_scale(log_scale))
        value, by_scale, by_shift = log_partition(logits, a, scale, shift)
        by_log_scale = (by_scale - own_logit) * scale * (1 - torch.tanh(log_scale / 8).square())
        return value - scale * own_logit - float(shift @ own), (by_log_scale, by_shift - own)

    return moved


def _minimise(value: Callable[..., tuple[float, tuple[Tensor, ...]]], *at: Tensor) -> float:
    """Move the parameters to where the value is least, in place, and return that."""
    optimizer = torch.optim.LBFGS(at, max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> float:
        found, gradients = value(*at)
        for parameter, gradient in zip(at, gradients[-len(at) :], strict=True):
            parameter.grad = gradient
        return found

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return value(*at)[0]
