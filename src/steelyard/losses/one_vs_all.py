"""Sums over outputs of losses that see each output as a binary problem."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from steelyard.targets import Targets


def one_vs_all(
    rows: Tensor,
    target: Targets,
    positive: Callable[[Tensor], Tensor],
    negative: Callable[[Tensor], Tensor],
    *,
    pos_weight: Tensor | None,
    neg_weight: Tensor | None = None,
    output_weights: Tensor | None,
) -> Tensor:
    r"""Return sums over outputs of losses that see each output as a binary problem, (M,).

    .. math:: \ell_i = \sum_j v_j \big[u_j T_{ij}\, \ell^+(z_{ij}) + r_j (1 - T_{ij})\, \ell^-(z_{ij})\big]

    Args:
        rows: (M, K) logits.
        target: labels, whose own output alone is positive, or multi-hot.
        positive, negative: :math:`\ell^+` and :math:`\ell^-`, element by element, with
            :math:`\ell^+(\infty) = \ell^-(-\infty) = 0` and a derivative of 0 there.
        pos_weight, neg_weight, output_weights: (K,) :math:`u`, :math:`r` and :math:`v`, or None for 1.
    """
    if target.labels is not None and target.smoothing == 0:  # labels are never expanded to rows
        label = target.labels[:, None]
        own, others = positive(rows.gather(1, label))[:, 0], negative(rows.scatter(1, label, -torch.inf))
        if pos_weight is not None:
            own = own * pos_weight[target.labels]
        if neg_weight is not None:
            others = others * neg_weight
        if output_weights is not None:
            own, others = own * output_weights[target.labels], others * output_weights
        return own + others.sum(1)
    ups, downs = target.sides(rows)
    up = ups * positive(rows.masked_fill(ups == 0, torch.inf))
    down = downs * negative(rows.masked_fill(downs == 0, -torch.inf))
    both = (up if pos_weight is None else up * pos_weight) + (down if neg_weight is None else down * neg_weight)
    return (both if output_weights is None else both * output_weights).sum(1)


def softplus(z: Tensor) -> Tensor:
    """Return log(1 + exp(z)); torch's default threshold of 20 is exact for float32 only."""
    return F.softplus(z, threshold=40.0)
