"""Softmax loss with label smoothing of each class's own size."""

import torch
from torch import Tensor

from steelyard.losses.base import Loss
from steelyard.losses.function import function_of
from steelyard.losses.options import option
from steelyard.losses.registry import register
from steelyard.targets import Targets


def class_smoothing(z: Tensor, target: Targets, *, class_smoothing: Tensor | None = None) -> Tensor:
    r"""Return :math:`-(1 - \epsilon_y) \log p_y - \epsilon_y \sum_j \log p_j / K`, (M,) of (M, K) logits."""
    log_p = torch.log_softmax(z, 1)
    if class_smoothing is None:
        return -target.dot(log_p)
    every = log_p.mean(1, keepdim=True)
    spread = (class_smoothing * every).masked_fill(class_smoothing == 0, 0.0)  # 0 of an infinite loss
    return -target.dot((1 - class_smoothing) * log_p + spread)


@register
class ClassSmoothingLoss(Loss):
    r"""Softmax loss with label smoothing by class: each class has a size of its own.

    .. math:: \ell_i = c_{y_i} \Big[-(1 - \epsilon_{y_i}) \log p_{i y_i}
        - \tfrac{\epsilon_{y_i}}{K} \sum_j \log p_{ij}\Big], \qquad p_i = \mathrm{softmax}(z_i)

    with :math:`c` = ``class_weights`` and :math:`\epsilon` = ``class_smoothing``. One size for all is the softmax
    loss with ``label_smoothing``. Where both are given, the latter mixes the losses of all labels. The preset
    ``label-aware-smoothing`` takes :func:`~steelyard.weights.label_aware_smoothing` of the class counts.

    At an optimum :math:`\sum_k q_k c_k (p - t_k) = 0` with :math:`t_k` the smoothed label of class k, and
    :func:`steelyard.log_posterior` solves this for q. At an optimum no probability is below what the smoothing
    alone gives its class. A row that has a smaller one is refused (NaN, with a warning).

    Args:
        class_smoothing: (K,) in [0, 1]. Default: none.
        class_weights, logit_adjustment: (K,).
        label_smoothing, ignore_index, reduction, normalization, class_dim, validate: see
            :class:`~steelyard.losses.base.Loss`.

    Source:
        Zhong, Cui, Liu, Jia, CVPR 2021 (MiSLAS, label-aware smoothing).

    Example:
        >>> loss = ClassSmoothingLoss(class_smoothing=[0.3, 0.0])
        >>> loss(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
        tensor(0.5600)
    """

    name = "class-smoothing"
    link = "softmax"
    formula = staticmethod(class_smoothing)
    formula_text = "`−(1 − ε_y) log p_y − ε_y Σⱼ log pⱼ / K`, with `ε = class_smoothing`"
    posterior_text = "`q` with `Σₖ qₖ wₖ (p − (1 − εₖ) eₖ − εₖ / K) = 0`, by differentiation"
    use_text = "The model is too sure of frequent classes. Start with the preset `label-aware-smoothing`."

    class_smoothing: Tensor | None = option(
        None, "(K,) label smoothing of the samples of each class.", kind="vector", low=0, high=1, per="class"
    )


class_smoothing_loss = function_of(ClassSmoothingLoss, "class_smoothing_loss")
