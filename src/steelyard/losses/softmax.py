"""Softmax loss (SML): cross-entropy over softmax."""

import torch
from torch import Tensor
from torch.nn import functional as F

from steelyard._common.checks import are_ready, in_compute_dtype
from steelyard.losses.base import Loss, Options, are_usual
from steelyard.losses.function import function_of
from steelyard.losses.options import WEIGHTED_MEAN, Normalization
from steelyard.losses.registry import register
from steelyard.targets import Targets

_NONE = torch.iinfo(torch.int64).min  # the ignored are taken care of: no label is special to torch


def softmax(z: Tensor, target: Targets) -> Tensor:
    r"""Return the cross-entropies :math:`-\sum_j T_{ij} \log \mathrm{softmax}(z_i)_j`, (M,) of (M, K) logits."""
    if target.dense is not None:
        return -target.dot(torch.log_softmax(z, 1))
    assert target.labels is not None
    return F.cross_entropy(
        z, target.labels, ignore_index=_NONE, reduction="none", label_smoothing=target.smoothing
    )


@register
class SoftmaxLoss(Loss):
    r"""Softmax loss (SML): cross-entropy with one weight per class.

    .. math:: \ell_i = w_{y_i} \Big[-(1-\epsilon) \log p_{i y_i} - \tfrac{\epsilon}{K} \sum_j \log p_{ij}\Big],
        \qquad p_i = \mathrm{softmax}(z_i)

    with :math:`w` = ``class_weights`` and :math:`\epsilon` = ``label_smoothing``. The loss is torch's
    :func:`~torch.nn.functional.cross_entropy`, with two differences. Torch's weighted mean divides by the weights
    of the batch, which cancels them in a batch of one class (or one sample) and makes accumulated micro-batches
    differ from the whole batch: ``normalization`` offers the alternatives. And under ``label_smoothing`` the
    weight multiplies the sample's whole loss, so that every sample's optimum is the smoothed label
    whatever the weights; torch also weights the smoothing mass class by class, which moves the optimum towards
    heavy classes.

    A soft target (N, K), whose rows sum to 1, is a mixture of samples of each class, as mixup makes them:
    :math:`\sum_k T_{ik} w_k \ell(z_i, k)`. A class of target 0 adds nothing, whatever its logit. Its weight in the
    mean is :math:`\sum_k T_{ik} w_k`; torch's mean of soft targets ignores weights, as ``normalization="count"``.

    Args:
        class_weights, logit_adjustment: (K,); tensor or sequence. Default: none.
        label_smoothing, ignore_index, reduction, normalization, class_dim, validate: see
            :class:`~steelyard.losses.base.Loss`.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020 (SML, with class-wise reweighting).

    Example:
        >>> loss = SoftmaxLoss(class_weights=[1.0, 3.0], normalization="count")
        >>> loss(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
        tensor(1.1032)
    """

    name = "softmax"
    link = "softmax"
    formula = staticmethod(softmax)
    law_text = "wⱼNⱼ (1 − P[j,j]) = Σₖ≠ⱼ wₖNₖ P[k,j]: the weighted counts are the stationary distribution of P"
    formula_text = "`−log p_y`"
    posterior_text = "`softmax(z − log w)`"
    use_text = "Start here. Each sample has one class, and its probabilities add up to 1."

    normalization: Normalization = WEIGHTED_MEAN

    @classmethod
    def _quick(cls, logits: Tensor, target: Tensor, options: Options) -> Tensor | None:
        """Return the cross-entropy of plain labels by one call of torch's, which looks for labels out of range
        itself."""
        if not are_usual(target, options) or options["logit_adjustment"] is not None:
            return None
        target = target.long()
        weights, reduction, smoothing = options["class_weights"], options["reduction"], options["label_smoothing"]
        rows, counted = in_compute_dtype(logits), False
        if reduction == "mean":
            if options["normalization"] == "none":
                reduction = "sum"
            elif weights is not None and options["normalization"] == "count":
                reduction, counted = "sum", True
        if weights is not None and (smoothing or not are_ready(weights, logits.shape[1], rows.dtype)):
            return None
        try:
            loss = F.cross_entropy(rows, target, weights, reduction=reduction, label_smoothing=smoothing)
        except IndexError:  # a label out of range, of which the general way says which and where
            return None
        return loss / len(target) if counted else loss


softmax_loss = function_of(SoftmaxLoss, "softmax_loss")
