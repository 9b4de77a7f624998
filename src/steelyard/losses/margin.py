"""Softmax loss of scaled logits with a margin for each class: the formula of LDAM, CDT, the VS loss and IMMAX."""

import torch
from torch import Tensor

from steelyard.losses.base import Loss
from steelyard.losses.function import function_of
from steelyard.losses.odds import below_the_top, log_odds_against, log_odds_against_each
from steelyard.losses.one_vs_all import softplus
from steelyard.losses.options import WEIGHTED_MEAN, Normalization, option
from steelyard.losses.registry import register
from steelyard.targets import Targets


def margin_softmax(
    z: Tensor,
    target: Targets,
    *,
    margins: Tensor | None = None,
    logit_factors: Tensor | None = None,
    confidence_margins: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    r"""Return :math:`-\log \mathrm{softmax}((a - s m_y e_y) / \rho_y)_y` of :math:`a = s d z`, (M,) of (M, K)
    logits."""
    a = scale * (below_the_top(z) if logit_factors is None else z * logit_factors)

    def odds_against(label: Tensor) -> Tensor:
        own = a.gather(1, label[:, None])[:, 0]
        own = own if margins is None else own - scale * margins[label]
        if confidence_margins is None:
            return log_odds_against(a, label, own)
        rho = confidence_margins[label]
        return log_odds_against(a / rho[:, None], label, own / rho)

    if target.labels is not None and not target.smoothing:
        return softplus(odds_against(target.labels))
    if confidence_margins is not None:  # every label has a softmax of its own
        every = torch.arange(z.shape[1], device=z.device)
        odds = torch.stack([odds_against(label.expand(len(z))) for label in every], 1)
    else:
        odds = log_odds_against_each(a)
        odds = odds if margins is None else odds + scale * margins
    if target.dense is not None:  # what counts for nothing may be a logit of minus infinity
        odds = odds.masked_fill(target.dense == 0, 0.0)
    return target.dot(softplus(odds))


@register
class MarginSoftmaxLoss(Loss):
    r"""Softmax loss whose logits are scaled, and lowered by a margin at the label.

    .. math:: \ell_i = c_{y_i} \log \Big[1 + \sum_{j \ne y_i}
        e^{(a_{ij} - a_{i y_i} + s m_{y_i}) / \rho_{y_i}}\Big], \qquad a_{ij} = s\, d_j (z_{ij} + b_j)

    with :math:`c` = ``class_weights``, :math:`m` = ``margins``, :math:`d` = ``logit_factors``, :math:`\rho` =
    ``confidence_margins``, :math:`s` = ``scale`` and :math:`b` = ``logit_adjustment``. Without these it is the
    softmax loss. Presets make the vectors from class counts: ``ldam`` (margins), ``cdt`` (factors), ``vs``
    (factors and an adjustment), ``ldam-drw``, ``eql`` (negative margins and an adjustment), ``immax``
    (confidence margins).

    A margin or a factor acts in training only. The softmax of the logits is then no posterior, and
    :func:`steelyard.log_posterior` takes out what they did.

    Args:
        margins: (K,) in units of the logits before ``scale``; a negative one raises the own logit. Default: none.
        logit_factors: (K,) not negative; each multiplies an output. Default: all 1.
        confidence_margins: (K,) at least 1e-8; each divides all logits of the samples of its class. A soft or
            smoothed target then takes K times the work. Default: all 1.
        scale: multiplies all logits and margins. Default: 1. The authors of LDAM take 30, for heads whose logits
            are cosines.
        class_weights, logit_adjustment: (K,).
        label_smoothing, ignore_index, reduction, normalization, class_dim, validate: see
            :class:`~steelyard.losses.base.Loss`.

    Source:
        Cao et al., NeurIPS 2019 (LDAM: margins and scale); Ye et al., 2020, arXiv 2001.01385 (CDT: factors);
        Kini et al., NeurIPS 2021 (VS: factors and adjustment); Cortes, Mao, Mohri, Zhong, ICML 2025, equation
        6 (IMMAX: confidence margins).

    Example:
        >>> import torch
        >>> loss = MarginSoftmaxLoss(margins=[0.1, 0.5])
        >>> loss(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
        tensor(0.5567)
    """

    name = "margin-softmax"
    link = "softmax"
    formula = staticmethod(margin_softmax)
    formula_text = (
        "`log(1 + Σⱼ≠y exp((aⱼ − a_y + scale m_y) / ρ_y))`, with `a = scale d z`, `m = margins`, "
        "`d = logit_factors`, `ρ = confidence_margins`"
    )
    use_text = (
        "Rare classes are to win by a margin. `ldam`, `cdt`, `vs` and `immax` make its vectors from class counts."
    )

    margins: Tensor | None = option(
        None, "(K,) what each class's own logit is lowered by in training.", kind="vector"
    )
    logit_factors: Tensor | None = option(None, "(K,) what each logit is multiplied by.", kind="vector", low=0)
    confidence_margins: Tensor | None = option(
        None,
        "(K,) what all logits of the samples of each class are divided by in training.",
        kind="vector",
        low=1e-8,
        per="class",
    )
    scale: float = option(1.0, "what all logits and margins are multiplied by.", kind="number", low=1e-3, high=1e4)
    normalization: Normalization = WEIGHTED_MEAN


margin_softmax_loss = function_of(MarginSoftmaxLoss, "margin_softmax_loss")
