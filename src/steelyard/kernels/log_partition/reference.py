"""The log partition function of scaled and shifted logits in torch's operations."""

import torch
from torch import Tensor

_BLOCK = 1 << 15  # numbers that stay in cache


def log_partition(logits: Tensor, weights: Tensor, scale: float, shift: Tensor) -> tuple[float, float, Tensor]:
    r"""Return the log partition function of scaled and shifted logits, summed over rows, and its derivatives.

    .. math:: \sum_i a_i \log \sum_j e^{s z_{ij} + b_j}, \qquad \sum_i a_i\, p_i \cdot z_i, \qquad \sum_i a_i p_i

    Args:
        logits: (N, K) float64.
        weights: (N,) float64, a.
        scale: s.
        shift: (K,) float64, b.

    Returns:
        The sum, its derivative in s, and those in b, (K,).
    """
    value, by_scale, by_shift = 0.0, 0.0, torch.zeros_like(shift)
    rows = max(1, _BLOCK // logits.shape[1])
    for start in range(0, len(logits), rows):
        z, a = logits[start : start + rows], weights[start : start + rows]
        x = torch.add(shift, z, alpha=scale)
        most = x.amax(1, keepdim=True)
        total = x.sub_(most).exp_().sum(1)
        value += float(a @ (total.log() + most[:, 0]))
        share = a / total
        by_shift.addmv_(x.T, share)
        by_scale += float(x.mul_(z).sum(1) @ share)
    return value, by_scale, by_shift
