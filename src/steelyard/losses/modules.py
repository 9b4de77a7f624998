"""The losses as modules: each holds its options and buffers and calls its function."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from steelyard._common.checks import (
    REDUCTIONS,
    Beta,
    Reduction,
    check_beta,
    check_choice,
    check_finite,
    check_flag,
    check_number,
)
from steelyard.kernels.lgl_inr.group import check_group, group_class_sums
from steelyard.losses import functional

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Weights = Tensor | Sequence[float]


class _WeightedLoss(nn.Module):
    """What the modules share: weights as buffers that move with the module and stay out of its checkpoints."""

    logit_adjustment: Tensor | None
    ignore_index: int
    reduction: Reduction
    validate: bool | None

    def __init__(
        self, *, ignore_index: int, reduction: Reduction, validate: bool | None, **weights: Weights | None
    ) -> None:
        super().__init__()
        check_choice("reduction", reduction, REDUCTIONS)
        self.ignore_index, self.reduction, self.validate = ignore_index, reduction, validate
        for name, value in weights.items():
            buffer = None if value is None else torch.as_tensor(value).detach().clone()
            if buffer is not None:
                if buffer.dim() != 1:
                    raise ValueError(f"{name} must have one value per class, got shape {tuple(buffer.shape)}")
                buffer = buffer if buffer.is_floating_point() else buffer.to(torch.get_default_dtype())
                check_finite(name, buffer, low=-math.inf if name == "logit_adjustment" else 0)
            # Not persistent: a checkpoint of a model that owns its loss loads whatever the weights are now.
            self.register_buffer(name, buffer, persistent=False)

    def extra_repr(self) -> str:
        shown = {k: v for k, v in vars(self).items() if not k.startswith("_") and k != "training"}
        weights = {k: f"({len(v)},)" for k, v in self.named_buffers(recurse=False) if v.dim() == 1}
        return ", ".join(f"{k}={v}" for k, v in (shown | weights).items())


class SoftmaxLoss(_WeightedLoss):
    r"""Softmax loss (SML): weighted cross-entropy; the module of :func:`~functional.softmax_loss`.

    .. math:: \ell_i = -w_{y_i} \log \mathrm{softmax}(z_i)_{y_i}

    Args:
        weight: (K,) weight of the samples of each class; tensor or sequence. Default: all 1.
        logit_adjustment: (K,) added to the logits; tensor or sequence. Default: none.
        ignore_index, reduction, label_smoothing, normalization, validate: as in the function.

    Shapes, dtypes and errors are those of the function.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020.

    Example:
        >>> loss = SoftmaxLoss(weight=[1.0, 3.0], normalization="count")
        >>> loss(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
        tensor(1.1032)
    """

    weight: Tensor | None

    def __init__(
        self,
        *,
        weight: Weights | None = None,
        logit_adjustment: Weights | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        normalization: functional.Normalization = "weights",
        validate: bool | None = None,
    ) -> None:
        super().__init__(
            ignore_index=ignore_index,
            reduction=reduction,
            validate=validate,
            weight=weight,
            logit_adjustment=logit_adjustment,
        )
        check_choice("normalization", normalization, functional.NORMALIZATIONS)
        self.label_smoothing = check_number("label_smoothing", label_smoothing, low=0, high=1)
        self.normalization: functional.Normalization = normalization

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return functional.softmax_loss(
            logits,
            target,
            weight=self.weight,
            logit_adjustment=self.logit_adjustment,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            normalization=self.normalization,
            validate=self.validate,
        )


class LogisticLoss(_WeightedLoss):
    r"""Logistic loss (LGL), binary or one-vs-all; the module of :func:`~functional.logistic_loss`.

    .. math:: \ell_i = c_{y_i} \Big[v_{y_i} u_{y_i}\, s(-z_{i y_i}) + \sum_{j \ne y_i} v_j\, s(z_{ij})\Big],
        \qquad s(z) = \log(1 + e^z)

    Args:
        weight: (K,) :math:`v`, weight of each output; tensor or sequence. Default: all 1.
        pos_weight: (K,) :math:`u`, weight of each output's positives. Default: all 1.
        class_weights: (K,), or (2,) for K = 1: :math:`c`, weight of the samples of each class. Default: all 1.
        logit_adjustment: (K,) added to the logits; tensor or sequence. Default: none.
        ignore_index, reduction, normalization, validate: as in the function.

    Shapes, dtypes and errors are those of the function.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020.

    Example:
        >>> LogisticLoss()(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
        tensor(1.1032)
    """

    weight: Tensor | None
    pos_weight: Tensor | None
    class_weights: Tensor | None

    def __init__(
        self,
        *,
        weight: Weights | None = None,
        pos_weight: Weights | None = None,
        class_weights: Weights | None = None,
        logit_adjustment: Weights | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        normalization: functional.Normalization = "count",
        validate: bool | None = None,
    ) -> None:
        super().__init__(
            ignore_index=ignore_index,
            reduction=reduction,
            validate=validate,
            weight=weight,
            pos_weight=pos_weight,
            class_weights=class_weights,
            logit_adjustment=logit_adjustment,
        )
        check_choice("normalization", normalization, functional.NORMALIZATIONS)
        self.normalization: functional.Normalization = normalization

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return functional.logistic_loss(
            logits,
            target,
            weight=self.weight,
            pos_weight=self.pos_weight,
            class_weights=self.class_weights,
            logit_adjustment=self.logit_adjustment,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            normalization=self.normalization,
            validate=self.validate,
        )


class LGLINRLoss(_WeightedLoss):
    r"""In-negative reweighted logistic loss (LGL-INR); the module of :func:`~functional.lgl_inr_loss`.

    .. math:: \ell_j = v_j \Big[u_j\, [j \in C]\, \tfrac{1}{n_j} \sum_{i \in j} s(-z_{ij})
        + \sum_{k \in C, k \ne j} \omega_{kj} A_{kj}\Big]

    With ``statistics="running"`` the weights :math:`\omega` come from an exponential average of the mean
    confusion P, not from the batch: with many classes and small batches a batch holds one or two samples of a
    class, and its own P is noise. Row k is set by the first batch with class k, then moves by ``momentum``
    towards each further one; :math:`\omega` is normalised over the classes in the batch, as ever, and is a
    constant in the gradient. The average moves in training mode only and is part of ``state_dict``.

    Args:
        beta: finite; 0 weights the non-target classes alike, large values keep the hardest; ``"auto"`` as in the
            function.
        detach_weights: treat :math:`\omega` as a constant in the gradient; always so for running statistics.
        weight: (K,) :math:`v`, weight of each column's loss; tensor or sequence. Default: all 1.
        pos_weight: (K,) :math:`u`, weight of each column's positive term. Default: all 1.
        logit_adjustment: (K,) added to the logits; tensor or sequence. Default: none.
        statistics: ``"batch"`` or ``"running"``.
        momentum: share of the new batch in the running average, in (0, 1]; for ``"running"`` only.
        num_classes: K; needed for ``"running"`` only, whose buffers take K x K numbers.
        process_group: as in the function; running statistics then move by the whole batch, alike in every process.
        ignore_index, reduction, validate: as in the function.

    Shapes, dtypes and errors are those of the function.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020, and the authors' published loss; running statistics are ours.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0], [0.5, 0.0, 0.0]])
        >>> LGLINRLoss()(logits, torch.tensor([0, 1, 1]))
        tensor(0.8940)
        >>> loss = LGLINRLoss(statistics="running", num_classes=3, beta=10.0)
        >>> loss(logits, torch.tensor([0, 1, 1]))
        tensor(0.9386)
    """

    weight: Tensor | None
    pos_weight: Tensor | None
    running_mean_confusion: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        *,
        beta: Beta = 1.0,
        detach_weights: bool = False,
        weight: Weights | None = None,
        pos_weight: Weights | None = None,
        logit_adjustment: Weights | None = None,
        statistics: Literal["batch", "running"] = "batch",
        momentum: float = 0.1,
        num_classes: int | None = None,
        process_group: "ProcessGroup | None" = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        validate: bool | None = None,
    ) -> None:
        super().__init__(
            ignore_index=ignore_index,
            reduction=reduction,
            validate=validate,
            weight=weight,
            pos_weight=pos_weight,
            logit_adjustment=logit_adjustment,
        )
        if process_group is not None:
            check_group(process_group)
        self.process_group = process_group
        check_choice("statistics", statistics, ("batch", "running"))
        self.beta: Beta = beta if beta == "auto" else check_beta(beta, 1)
        check_flag("detach_weights", detach_weights)
        self.detach_weights = detach_weights
        self.statistics = statistics
        if statistics == "running":
            self.momentum = check_number("momentum", momentum, low=0, high=1)
            if self.momentum == 0:
                raise ValueError("momentum must be in (0, 1], got 0, with which the average would never move")
            if not isinstance(num_classes, int) or num_classes < 1:
                raise ValueError(f'statistics="running" needs num_classes, an int >= 1, got {num_classes}')
            self.register_buffer("running_mean_confusion", torch.zeros(num_classes, num_classes))
            self.register_buffer("num_batches_tracked", torch.zeros(num_classes, dtype=torch.long))

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        mean_confusion = None
        if self.statistics == "running":
            num_classes = len(self.num_batches_tracked)
            if logits.dim() > 1 and logits.shape[1] != num_classes:
                raise ValueError(f"logits must have num_classes = {num_classes} columns, got {logits.shape[1]}")
            if self.training:
                self._update(functional.adjusted_logits(logits, self.logit_adjustment, self.validate), target)
            seen = self.num_batches_tracked[:, None] > 0
            mean_confusion = self.running_mean_confusion.masked_fill(~seen, torch.nan)
        return functional.lgl_inr_loss(
            logits,
            target,
            beta=self.beta,
            detach_weights=self.detach_weights,
            weight=self.weight,
            pos_weight=self.pos_weight,
            mean_confusion=mean_confusion,
            logit_adjustment=self.logit_adjustment,
            process_group=self.process_group,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            validate=self.validate,
        )

    @torch.no_grad()
    def _update(self, logits: Tensor, target: Tensor) -> None:
        """Move the rows of the classes in the batch; the first batch of a class sets its row."""
        average = self.running_mean_confusion
        probabilities = torch.sigmoid(logits.to(average.dtype))
        if self.process_group is None:
            batch, counts = functional.class_means(probabilities, target, ignore_index=self.ignore_index)
        else:
            rows = probabilities.movedim(1, -1).reshape(-1, len(average))
            labels = target.long().reshape(-1)
            sums, counts = group_class_sums(rows, labels, self.ignore_index, self.process_group)
            batch = sums / counts.clamp(min=1)[:, None]
        share = torch.where(self.num_batches_tracked == 0, 1.0, self.momentum) * (counts > 0)
        average.lerp_(batch, share[:, None].to(average.dtype))
        self.num_batches_tracked.add_((counts > 0).long())
