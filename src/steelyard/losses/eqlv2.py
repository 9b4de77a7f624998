"""Equalization loss v2: one-vs-all outputs weighed by how their positive and negative gradients compare so far."""

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from steelyard._common.checks import LARGEST, check_integer
from steelyard.kernels.lgl_inr.group import check_group
from steelyard.losses.base import Loss
from steelyard.losses.function import function_of
from steelyard.losses.one_vs_all import one_vs_all, softplus
from steelyard.losses.options import OUTPUT_WEIGHTS, POS_WEIGHT, option
from steelyard.losses.registry import register
from steelyard.losses.vectors import check_columns
from steelyard.targets import TargetLike, Targets

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def side_weights(ratio: Tensor, gamma: float, mu: float, alpha: float) -> tuple[Tensor, Tensor]:
    r"""Return :math:`1 + \alpha (1 - f)` for positives and :math:`f = \sigma(\gamma (g - \mu))` for negatives."""
    f = torch.sigmoid(gamma * (ratio - mu))
    return 1 + alpha * torch.sigmoid(gamma * (mu - ratio)), f


def eqlv2(
    z: Tensor,
    target: Targets,
    *,
    gradient_ratio: Tensor | None = None,
    gamma: float = 12.0,
    mu: float = 0.8,
    alpha: float = 4.0,
    pos_weight: Tensor | None = None,
    output_weights: Tensor | None = None,
) -> Tensor:
    r"""Return sums over outputs of :math:`-q_j T \log p - r_j (1 - T) \log(1 - p)`, (M,), p = sigmoid(z)."""
    neg_weight = None
    if gradient_ratio is not None:
        up, neg_weight = side_weights(gradient_ratio, gamma, mu, alpha)
        pos_weight = up if pos_weight is None else up * pos_weight
    return one_vs_all(
        z,
        target,
        positive=lambda z: softplus(-z),  # -log p
        negative=softplus,  # -log(1 - p)
        pos_weight=pos_weight,
        neg_weight=neg_weight,
        output_weights=output_weights,
    )


@register
class EQLv2Loss(Loss):
    r"""Equalization loss v2: the logistic loss, its positives and negatives weighed by their gradients so far.

    .. math:: \ell_i = c_{y_i} \Big[v_{y_i} u_{y_i} q_{y_i}\, s(-z_{i y_i}) + \sum_{j \ne y_i} v_j r_j\,
        s(z_{ij})\Big], \qquad r_j = \frac{1}{1 + e^{-\gamma (g_j - \mu)}}, \qquad q_j = 1 + \alpha (1 - r_j)

    with :math:`s(z) = \log(1 + e^z)`, :math:`v` = ``output_weights``, :math:`u` = ``pos_weight``, :math:`c` =
    ``class_weights``, and :math:`g_j` the ratio of two sums over all samples so far: of the gradient that the
    positives of output j gave its logit, and of that of its negatives. A rare class has a small ratio, so its
    negatives are turned down and its positives up. Multi-hot targets make each output a binary problem, as in
    :class:`~steelyard.LogisticLoss`.

    A module with ``num_classes`` adds up the gradients of every batch that it is called with in training mode,
    after the loss of that batch, which has the weights of those before; the first batch has weights of 1. The
    gradients contain all weights of the loss, but not the mean over a batch. They are in ``positive_gradient`` and
    ``negative_gradient``, parts of ``state_dict``. In accumulated micro-batches a later one has the weights that
    the earlier ones leave: :func:`~steelyard.exact_accumulation` calls the loss once for all.

    Law and posterior are those of the weights as they are now, with which training ends.

    Args:
        gradient_ratio: (K,) fixed :math:`g`, not negative. Default: added up, see above; where nothing was seen
            all weights are 1.
        gamma, mu: slope and middle of the map from ratio to weight. Default: 12 and 0.8.
        alpha: how far positives are turned up. Default: 4.
        num_classes: K, to add up gradients; of the module only, as is ``process_group``.
        process_group: add up the gradients of all processes of this group (``torch.distributed.group.WORLD`` for
            all), each of which calls with its own rows, or none, in one collective of 2 K numbers. By default each
            process adds up its own rows alone, so give the group where data are spread over processes.
        output_weights, pos_weight, class_weights, logit_adjustment: as in :class:`~steelyard.LogisticLoss`.
        label_smoothing, ignore_index, reduction, normalization, class_dim, validate: see
            :class:`~steelyard.losses.base.Loss`.

    Source:
        Tan et al., CVPR 2021, equations 6 to 9, and the authors' published loss, here without its output for
        background.

    Example:
        >>> loss = EQLv2Loss(num_classes=2)
        >>> logits, target = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
        >>> loss(logits, target)
        tensor(1.1032)
        >>> loss.positive_gradient, loss.negative_gradient
        (tensor([0.1192, 0.5000]), tensor([0.5000, 0.5000]))
        >>> loss(logits, target)
        tensor(1.0971)
    """

    name = "eqlv2"
    link = "logistic"
    formula = staticmethod(eqlv2)
    torch_weight = "output_weights"
    needs = ("num_classes", "gradient_ratio")
    formula_text = (
        "that of `logistic`, positives times `1 + alpha (1 − r)`, negatives times `r = sigmoid(gamma (g − mu))`, "
        "with `g = gradient_ratio`"
    )
    use_text = "You need one-vs-all outputs, many classes are rare, and no counts are known: it adds up gradients."

    gradient_ratio: Tensor | None = option(
        None, "(K,) sum of positive over sum of negative gradients.", kind="vector", low=0
    )
    gamma: float = option(12.0, "slope of the map from ratio to weight.", kind="number", low=0, high=1000)
    mu: float = option(0.8, "middle of the map from ratio to weight.", kind="number", low=0, high=1000)
    alpha: float = option(4.0, "how far positives are turned up.", kind="number", low=0, high=1000)
    pos_weight: Tensor | None = POS_WEIGHT
    output_weights: Tensor | None = OUTPUT_WEIGHTS
    num_classes: int | None = option(None, "K, to add up gradients in training.", of="module")
    process_group: "ProcessGroup | None" = option(None, "processes whose gradients are added up.", of="module")

    positive_gradient: Tensor
    negative_gradient: Tensor

    def __init__(self, *nameless: Any, **given: Any) -> None:
        super().__init__(*nameless, **given)
        if self.num_classes is None:
            if self.process_group is not None:
                raise ValueError("process_group needs num_classes: without it no gradients are added up")
            return
        if self.gradient_ratio is not None:
            raise ValueError("gradient_ratio is fixed and num_classes adds it up: give one of the two")
        size = self.num_classes = check_integer("num_classes", self.num_classes, low=1)
        if self.process_group is not None:
            check_group(self.process_group)
        dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
        for key in ("positive_gradient", "negative_gradient"):
            self.register_buffer(key, torch.zeros(size, dtype=dtype))

    def forward(self, logits: Tensor, target: TargetLike, *, sample_weight: TargetLike | None = None) -> Tensor:
        if self.num_classes is None:
            return super().forward(logits, target, sample_weight=sample_weight)
        options = self.placed(logits)
        loss = self.evaluate(logits, target, sample_weight, options)
        if self.training:
            self._add(logits, target, sample_weight, options)
        return loss

    def placed(self, beside: Tensor) -> dict[str, Any]:
        options = super().placed(beside)
        if self.num_classes is not None:
            check_columns(beside, self.class_dim, self.num_classes)
            up, down = self.positive_gradient, self.negative_gradient
            ratio = (up / down).masked_fill(down == 0, torch.inf).clamp(max=LARGEST)  # where large, weights are 1
            options["gradient_ratio"] = ratio.to(beside.device)
        return options

    @torch.no_grad()
    def _add(
        self, logits: Tensor, target: TargetLike, sample_weight: TargetLike | None, options: dict[str, Any]
    ) -> None:
        _, rows, targets, own, factors, _ = self._prepare(logits, target, sample_weight, options)
        ups, downs = targets.sides(rows)
        up, down = side_weights(own["gradient_ratio"].to(rows), self.gamma, self.mu, self.alpha)
        if own["pos_weight"] is not None:
            up = up * own["pos_weight"]
        sides = torch.stack([ups * torch.sigmoid(-rows) * up, downs * torch.sigmoid(rows) * down])
        if own["output_weights"] is not None:
            sides = sides * own["output_weights"]
        if factors is not None:
            sides = sides * factors[:, None]
        if targets.ignored is not None:
            ignored = targets.ignored
            sides = sides.masked_fill(ignored[:, None] if ignored.dim() == 1 else ignored, 0.0)
        sums = sides.sum(1)
        if self.process_group is not None:
            dist.all_reduce(sums, group=self.process_group)
        sums = sums.masked_fill(~sums.isfinite().all(0), 0.0)  # a step of NaN, which a gradient scaler skips
        self.positive_gradient.add_(sums[0].to(self.positive_gradient))
        self.negative_gradient.add_(sums[1].to(self.negative_gradient))


eqlv2_loss = function_of(EQLv2Loss, "eqlv2_loss")
