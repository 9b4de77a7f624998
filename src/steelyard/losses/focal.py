"""Focal loss, over softmax or over each output: easy samples count for less."""

import torch
from torch import Tensor

from steelyard.losses.base import Loss
from steelyard.losses.function import function_of
from steelyard.losses.odds import log_odds_against
from steelyard.losses.one_vs_all import one_vs_all, softplus
from steelyard.losses.options import OUTPUT_WEIGHTS, POS_WEIGHT, Link, option
from steelyard.losses.registry import register
from steelyard.targets import Targets


def softmax_focal(z: Tensor, target: Targets, gamma: float) -> Tensor:
    r"""Return :math:`-(1 - p_y)^\gamma \log p_y` over softmax, (M,) of (M, K) logits."""
    if target.labels is not None and not target.smoothing:
        odds = log_odds_against(z, target.labels)
        return torch.exp(-gamma * softplus(-odds)) * softplus(odds) if gamma else softplus(odds)

    def of(log_p: Tensor) -> Tensor:
        miss = -torch.expm1(log_p)  # 1 - p, without cancellation; kept from 0, where its powers have no derivative
        return -(miss.clamp(min=torch.finfo(z.dtype).tiny) ** gamma) * log_p

    log_p = torch.log_softmax(z, 1)
    if target.dense is not None:  # what counts for nothing may be a logit of minus infinity
        log_p = log_p.masked_fill(target.dense == 0, 0.0)
    return target.dot(of(log_p))


def sigmoid_focal(
    z: Tensor, target: Targets, gamma: float, pos_weight: Tensor | None, output_weights: Tensor | None
) -> Tensor:
    r"""Return the sums over outputs of :math:`-(1-p)^\gamma \log p` or :math:`-p^\gamma \log(1-p)`, (M,)."""

    def positive(z: Tensor) -> Tensor:
        return (
            torch.exp(-gamma * softplus(z)) * softplus(-z) if gamma else softplus(-z)
        )  # log(1 - p) = -softplus(z)

    return one_vs_all(
        z, target, positive, lambda z: positive(-z), pos_weight=pos_weight, output_weights=output_weights
    )


def focal(
    z: Tensor,
    target: Targets,
    *,
    gamma: float = 2.0,
    link: Link = "softmax",
    pos_weight: Tensor | None = None,
    output_weights: Tensor | None = None,
) -> Tensor:
    """Return the focal losses of samples, (M,) of (M, K) logits."""
    if link == "softmax":
        return softmax_focal(z, target, gamma)
    return sigmoid_focal(z, target, gamma, pos_weight, output_weights)


@register
class FocalLoss(Loss):
    r"""Focal loss: cross-entropy times a power of the miss, over softmax or over each output.

    .. math:: \ell_i = -c_{y_i} (1 - p_{i y_i})^\gamma \log p_{i y_i} \quad \text{(softmax)}, \qquad
        \ell_i = -c_{y_i} \Big[u_{y_i} v_{y_i} (1 - p_{i y_i})^\gamma \log p_{i y_i}
        + \sum_{j \ne y_i} v_j\, p_{ij}^\gamma \log(1 - p_{ij})\Big] \quad \text{(logistic)}

    with :math:`c` = ``class_weights``, the alpha of the paper for each class; :math:`u` = ``pos_weight``, and
    :math:`v` = ``output_weights``. With ``gamma=0`` it is the softmax or logistic loss. The paper's binary
    alpha is ``pos_weight=[alpha / (1 - alpha)]`` with ``output_weights=[1 - alpha]``.

    A model trained on it is underconfident: the softmax of its logits is no posterior.
    :func:`steelyard.log_posterior` takes that out.

    Args:
        gamma: :math:`\gamma \ge 0`; larger values leave more to the hard samples. Default: 2.
        link: ``"softmax"``, or ``"logistic"`` for one output, one-vs-all and multi-label targets.
        class_weights, logit_adjustment: (K,).
        pos_weight, output_weights: (K,), for ``"logistic"`` only.
        label_smoothing, ignore_index, reduction, normalization, class_dim, validate: see
            :class:`~steelyard.losses.base.Loss`.

    Source:
        Lin, Goyal, Girshick, He, Dollár, ICCV 2017, equations 4 and 5 (binary, normalised here by samples, not by
        positives); the softmax form is the usual generalisation to class labels.

    Example:
        >>> FocalLoss()(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
        tensor(0.0875)
    """

    name = "focal"
    link: Link = option("softmax", "``softmax`` or ``logistic``.", kind="choice", choices=("softmax", "logistic"))
    formula = staticmethod(focal)
    formula_text = "that of `softmax` or `logistic`, each term times its miss to the power `gamma`"
    posterior_text = (
        "softmax: `p / (w c(p))`, normalised, with `c(p) = (1 − p)^(gamma − 1) (1 − p − gamma p log p)`; "
        "logistic: by differentiation"
    )
    use_text = "Easy samples outnumber hard ones by far. Its softmax is no probability until corrected."

    gamma: float = option(2.0, "power of the miss; 0 is the loss without it.", kind="number", low=0, high=1000)
    pos_weight: Tensor | None = POS_WEIGHT
    output_weights: Tensor | None = OUTPUT_WEIGHTS


focal_loss = function_of(FocalLoss, "focal_loss")
