"""Poly-1 loss: cross-entropy plus a multiple of the miss."""

import torch
from torch import Tensor

from steelyard.losses.base import Loss
from steelyard.losses.function import function_of
from steelyard.losses.odds import log_odds_against
from steelyard.losses.one_vs_all import softplus
from steelyard.losses.options import option
from steelyard.losses.registry import register
from steelyard.targets import Targets


def poly1(z: Tensor, target: Targets, *, epsilon: float = 1.0) -> Tensor:
    r"""Return :math:`-\log p_y + \epsilon (1 - p_y)` over softmax, (M,) of (M, K) logits."""
    if target.labels is not None and not target.smoothing:
        odds = log_odds_against(z, target.labels)
        return softplus(odds) + epsilon * torch.sigmoid(odds)
    log_p = torch.log_softmax(z, 1)
    if target.dense is not None:  # what counts for nothing may be a logit of minus infinity
        log_p = log_p.masked_fill(target.dense == 0, 0.0)
    return target.dot(-epsilon * torch.expm1(log_p) - log_p)


@register
class Poly1Loss(Loss):
    r"""Poly-1 loss: cross-entropy plus a multiple of the miss, over softmax.

    .. math:: \ell_i = c_{y_i} \big[-\log p_{i y_i} + \epsilon (1 - p_{i y_i})\big], \qquad
        p_i = \mathrm{softmax}(z_i)

    with :math:`c` = ``class_weights``. Cross-entropy is the series :math:`\sum_j (1 - p_y)^j / j`, and
    :math:`\epsilon` is added to its first coefficient. With ``epsilon=0`` it is the softmax loss. A soft or
    smoothed target is a mixture of samples of each class, in both terms: :math:`\sum_k T_{ik} c_k \ell(z_i, k)`,
    as in the code of timm.

    A model trained on it with a positive :math:`\epsilon` is overconfident: its posterior is
    :math:`p_k / (c_k (1 + \epsilon p_k))`, normalised, which :func:`steelyard.log_posterior` returns.

    Args:
        epsilon: from -1 to 1000. Default: 1. The paper takes 2 for ImageNet. Towards -1 the two terms
            cancel where the miss is small: the error there is relative to each of them, and not to their sum.
        class_weights, logit_adjustment: (K,).
        label_smoothing, ignore_index, reduction, normalization, class_dim, validate: see
            :class:`~steelyard.losses.base.Loss`.

    Source:
        Leng, Tan, Liu, Cubuk, Shi, Cheng, Anguelov, ICLR 2022 (Poly-1).

    Example:
        >>> Poly1Loss()(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
        tensor(0.7196)
    """

    name = "poly1"
    link = "softmax"
    formula = staticmethod(poly1)
    formula_text = "`−log p_y + epsilon (1 − p_y)`"
    posterior_text = "`p / (w (1 + epsilon p))`, normalised"
    use_text = "You compare with its paper. Its softmax is no probability until corrected."

    epsilon: float = option(1.0, "multiple of the miss; 0 is the softmax loss.", kind="number", low=-1, high=1000)


poly1_loss = function_of(Poly1Loss, "poly1_loss")
