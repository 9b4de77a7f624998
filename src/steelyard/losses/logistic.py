"""Logistic loss (LGL): binary for one output, one-vs-all over class labels, multi-label over multi-hot targets."""

import torch
from torch import Tensor

from steelyard._common.checks import in_compute_dtype
from steelyard.losses.base import Loss, Options, are_usual
from steelyard.losses.function import function_of
from steelyard.losses.one_vs_all import one_vs_all, softplus
from steelyard.losses.options import OUTPUT_WEIGHTS, POS_WEIGHT
from steelyard.losses.registry import register
from steelyard.targets import Targets

_SMALL = 1 << 16  # numbers: of more, the general way makes fewer passes over memory
_NOT_QUICK = ("class_weights", "pos_weight", "output_weights", "logit_adjustment")


def logistic(
    z: Tensor, target: Targets, *, pos_weight: Tensor | None = None, output_weights: Tensor | None = None
) -> Tensor:
    r"""Return sums over outputs of :math:`-T \log p - (1 - T) \log(1 - p)`, (M,), p = sigmoid(z) of (M, K)."""
    return one_vs_all(
        z,
        target,
        positive=lambda z: softplus(-z),  # -log p
        negative=softplus,  # -log(1 - p)
        pos_weight=pos_weight,
        output_weights=output_weights,
    )


@register
class LogisticLoss(Loss):
    r"""Logistic loss (LGL): binary, one-vs-all over class labels, or multi-label over multi-hot rows.

    .. math:: \ell_i = c_{y_i} \Big[v_{y_i} u_{y_i}\, s(-z_{i y_i}) + \sum_{j \ne y_i} v_j\, s(z_{ij})\Big],
        \qquad s(z) = \log(1 + e^z)

    with :math:`v` = ``output_weights``, :math:`u` = ``pos_weight`` and :math:`c` = ``class_weights``. With K = 1
    the target is 0 or 1, of any dtype and of shape (N,) or (N, 1), logits may be (N,) too, and
    :math:`\ell_i = c_1 v u\, s(-z_i)` or :math:`c_0 v\, s(z_i)`. A multi-hot target (N, K) makes each output
    a binary problem: :math:`\ell_i = \sum_j v_j [u_j T_{ij} s(-z_{ij}) + (1 - T_{ij}) s(z_{ij})]`; an entry of
    ``ignore_index`` leaves its output out. Labels are never expanded to one-hot rows.

    The default is the mean over samples of the *sum* over outputs, so that values and learning rates compare
    with the softmax loss. ``F.binary_cross_entropy_with_logits`` on one-hot labels is this divided by K
    (its mean runs over the N K elements); timm's ``BinaryCrossEntropy(smoothing=0, sum_classes=True)`` is the
    same.

    Args:
        output_weights: (K,) weight of each output's whole loss; tensor or sequence. Default: all 1.
        pos_weight: (K,) further weight of each output's positives. Default: all 1.
        class_weights: (K,), or (2,) for K = 1: weight of the samples of each class, in all outputs (the paper's
            class-wise reweighting). Not for multi-hot targets of several outputs. Default: all 1.
        logit_adjustment: (K,) added to the logits. Default: none.
        label_smoothing, ignore_index, reduction, normalization, class_dim, validate: see
            :class:`~steelyard.losses.base.Loss`.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020 (LGL, with class-wise reweighting).

    Example:
        >>> import torch
        >>> LogisticLoss()(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
        tensor(1.1032)
        >>> LogisticLoss(pos_weight=[4.0])(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 0.0]))
        tensor(0.6004)
    """

    name = "logistic"
    link = "logistic"
    formula = staticmethod(logistic)
    torch_weight = "output_weights"
    law_text = "uⱼ wⱼNⱼ (1 − P[j,j]) = Σₖ≠ⱼ wₖNₖ P[k,j]: only the average over the other classes is tied"
    formula_text = "`−log p_y − Σⱼ≠y log(1 − pⱼ)`"
    posterior_text = "`sigmoid(z − log u) / w`, normalised over classes; of several labels `sigmoid(z − log u)`"
    use_text = "A sample may have several labels or none, or there is one binary output."

    pos_weight: Tensor | None = POS_WEIGHT
    output_weights: Tensor | None = OUTPUT_WEIGHTS

    @classmethod
    def _quick(cls, logits: Tensor, target: Tensor, options: Options) -> Tensor | None:
        """Return the sum or mean without weights of a small batch: each logit with the sign of its side."""
        classes = logits.shape[1]
        if classes == 1 or logits.numel() > _SMALL or any(options[key] is not None for key in _NOT_QUICK):
            return None
        if options["label_smoothing"] or options["reduction"] == "none" or not are_usual(target, options):
            return None
        rows = in_compute_dtype(logits)
        signs = torch.ones_like(rows)
        try:
            signs.scatter_(1, target.long()[:, None], -1.0)
        except RuntimeError:  # a label out of range, of which the general way says which and where
            return None
        total = softplus(rows * signs).sum()
        count = options["reduction"] == "mean" and options["normalization"] != "none"
        return total / len(target) if count else total


logistic_loss = function_of(LogisticLoss, "logistic_loss")
