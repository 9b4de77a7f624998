"""Asymmetric loss (ASL): one-vs-all, with a power of the miss for each side and a shift of the negatives."""

import torch
from torch import Tensor

from steelyard.losses.base import Loss
from steelyard.losses.function import function_of
from steelyard.losses.one_vs_all import one_vs_all, softplus
from steelyard.losses.options import OUTPUT_WEIGHTS, POS_WEIGHT, option
from steelyard.losses.registry import register
from steelyard.targets import Targets


def positive(z: Tensor, gamma: float) -> Tensor:
    r"""Return :math:`-(1 - p)^\gamma \log p`, element by element."""
    return torch.exp(-gamma * softplus(z)) * softplus(-z) if gamma else softplus(-z)  # log(1 - p) = -softplus(z)


def negative(z: Tensor, gamma: float, clip: float) -> Tensor:
    r"""Return :math:`-q^\gamma \log(1 - q)` with :math:`q = \max(p - \mathrm{clip}, 0)`, element by element."""
    if clip == 0:
        return positive(-z, gamma)
    high, miss = z > 0, torch.sigmoid(-z)  # here the miss 1 - p has the digits, elsewhere p
    p = torch.where(high, 1 - miss, torch.sigmoid(z))
    below = p <= clip
    q = (p - clip).masked_fill(below, 0.5)  # so that its power has a derivative where the loss is 0
    rest = torch.where(high, miss + clip, -q)  # 1 - q, or what it lacks to 1
    log_rest = torch.where(high, rest.abs().log(), torch.log1p(rest))
    return (-(q**gamma) * log_rest).masked_fill(below, 0.0)


def asymmetric(
    z: Tensor,
    target: Targets,
    *,
    gamma_pos: float = 1.0,
    gamma_neg: float = 4.0,
    clip: float = 0.05,
    pos_weight: Tensor | None = None,
    output_weights: Tensor | None = None,
) -> Tensor:
    """Return the sums over outputs of asymmetric losses, (M,) of (M, K) logits."""
    return one_vs_all(
        z,
        target,
        positive=lambda z: positive(z, gamma_pos),
        negative=lambda z: negative(z, gamma_neg, clip),
        pos_weight=pos_weight,
        output_weights=output_weights,
    )


@register
class AsymmetricLoss(Loss):
    r"""Asymmetric loss (ASL): one-vs-all, with a focal power for each side and a shift of the negatives.

    .. math:: \ell_i = c_{y_i} \Big[-u_{y_i} v_{y_i} (1 - p_{i y_i})^{\gamma_+} \log p_{i y_i}
        - \sum_{j \ne y_i} v_j\, q_{ij}^{\gamma_-} \log(1 - q_{ij})\Big], \qquad
        p = \mathrm{sigmoid}(z), \quad q = \max(p - m, 0)

    with :math:`c` = ``class_weights``, :math:`u` = ``pos_weight``, :math:`v` = ``output_weights``,
    :math:`\gamma_+` = ``gamma_pos``, :math:`\gamma_-` = ``gamma_neg`` and :math:`m` = ``clip``. Multi-hot targets
    and one output are taken as :class:`~steelyard.LogisticLoss` takes them. With ``clip=0`` and two equal powers
    it is the focal loss of ``link="logistic"``; the authors' loss for single labels without smoothing is the focal
    loss over softmax with ``gamma=gamma_pos``. The focus-rectified logistic loss with soft selection (Dong, Zhu,
    Gong, AAAI 2019; :math:`\alpha` and :math:`\gamma` theirs) is this one with ``gamma_pos=0``, ``gamma_neg``
    :math:`\gamma`, ``clip=0``, all ``output_weights`` :math:`\alpha / (K - 1)` and all ``pos_weight``
    :math:`(K - 1) / \alpha`.

    The gradient is that of the whole formula, the powers included: the authors'
    ``disable_torch_grad_focal_loss=False``. Their clamp of probabilities at 1e-8, below which a positive has no
    gradient, is not needed here. Their loss is the sum over a batch: ``reduction="sum"``.

    The clip has consequences for :func:`steelyard.log_posterior`. A negative with p at or below ``clip`` has no
    loss and no gradient. At an optimum only an output without positives has such a p, so its probability is 0. A
    row in which all outputs have one is refused (NaN, with a warning). The loss of a negative is bounded, by
    :math:`-(1 - m)^{\gamma_-} \log m`, so a very wrong one has next to no gradient. With ``gamma_pos=0`` the
    gradients of both sides fade at the same rate, and no logit stands for a probability above
    :math:`C / (1 + C)` with :math:`C = (1 - m)^{\gamma_-} [1 / m - \gamma_- \log(m) / (1 - m)]`. That is 0.964
    under the defaults of the other options. A class that is surer has no finite optimum, and its posterior comes
    out too small.

    Args:
        gamma_pos, gamma_neg: powers :math:`\ge 0` of the misses of positives and negatives. Default: 1 and 4.
        clip: how far the probabilities of negatives are shifted down, from 0 to 0.9. Default: 0.05.
        class_weights, logit_adjustment, pos_weight, output_weights: (K,).
        label_smoothing, ignore_index, reduction, normalization, class_dim, validate: see
            :class:`~steelyard.losses.base.Loss`.

    Source:
        Ridnik, Ben-Baruch, Zamir, Noy, Friedman, Protter, Zelnik-Manor, ICCV 2021; defaults of the authors' code.

    Example:
        >>> AsymmetricLoss()(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
        tensor(0.2054)
    """

    name = "asymmetric"
    link = "logistic"
    formula = staticmethod(asymmetric)
    formula_text = "`−(1 − p_y)^gamma_pos log p_y − Σⱼ≠y qⱼ^gamma_neg log(1 − qⱼ)`, with `q = max(p − clip, 0)`"
    posterior_text = "by differentiation; 0 where `p ≤ clip`"
    use_text = (
        "There are many outputs, each with few positives. Its sigmoids are no probabilities until corrected."
    )

    gamma_pos: float = option(1.0, "power of the miss of positives.", kind="number", low=0, high=1000)
    gamma_neg: float = option(4.0, "power of negatives' shifted probabilities.", kind="number", low=0, high=1000)
    clip: float = option(0.05, "what is taken off the probability of negatives.", kind="number", low=0, high=0.9)
    pos_weight: Tensor | None = POS_WEIGHT
    output_weights: Tensor | None = OUTPUT_WEIGHTS


asymmetric_loss = function_of(AsymmetricLoss, "asymmetric_loss")
