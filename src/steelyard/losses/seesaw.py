"""Seesaw loss: softmax in which samples of frequent classes push rare classes down by less."""

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from steelyard._common.checks import check_integer
from steelyard._common.spread import whole
from steelyard.kernels.lgl_inr.group import check_group
from steelyard.losses.base import Loss
from steelyard.losses.function import function_of
from steelyard.losses.odds import below_the_top, log_odds_against
from steelyard.losses.one_vs_all import softplus
from steelyard.losses.options import option
from steelyard.losses.registry import register
from steelyard.losses.vectors import check_columns
from steelyard.targets import TargetLike, Targets
from steelyard.weights.adjustments import initial_bias
from steelyard.weights.counts import Counts, count_tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_MOST_STEPS = 10_000


def seesaw(
    z: Tensor,
    target: Targets,
    *,
    class_counts: Tensor | None = None,
    mitigation: float = 0.8,
    compensation: float = 2.0,
    floor: float = 1e-2,
) -> Tensor:
    r"""Return :math:`\log(1 + \sum_{j \ne y} S_{yj} e^{z_j - z_y})`, (M,) of (M, K) logits; S has no gradient."""
    assert target.labels is not None
    label = target.labels[:, None]
    z, most = below_the_top(z), torch.finfo(z.dtype).max
    log_p = torch.log_softmax(z.detach().clamp(-most, most), 1)
    log_factor = compensation * (log_p - log_p.gather(1, label).clamp(min=math.log(floor))).clamp(min=0)
    if class_counts is not None:
        log_n = class_counts.clamp(min=1).log()
        log_factor = log_factor + mitigation * (log_n - log_n[label]).clamp(max=0)
    return softplus(log_odds_against(z + log_factor, target.labels, z.gather(1, label)[:, 0]))


@register
class SeesawLoss(Loss):
    r"""Seesaw loss: cross-entropy over softmax with a factor for each pair of a label and another class.

    .. math:: \ell_i = -c_{y_i} \log \frac{e^{z_{i y_i}}}{e^{z_{i y_i}} + \sum_{j \ne y_i} S_{ij} e^{z_{ij}}},
        \qquad S_{ij} = \min\Big(1, \frac{n_j}{n_{y_i}}\Big)^{p}
        \max\Big(1, \frac{\sigma_{ij}}{\max(\sigma_{i y_i}, f)}\Big)^{q}

    with :math:`c` = ``class_weights``, :math:`n` = class counts (those below 1 count as 1), :math:`\sigma` =
    softmax(z), :math:`p` = ``mitigation``, :math:`q` = ``compensation`` and :math:`f` = ``floor``. Under the first
    factor samples of a frequent class push rarer classes down by less. Under the second a sample that is mistaken
    for another class pushes that class down by more. :math:`S` is a constant in the gradient.

    The counts are given as ``class_counts``, or the module counts: with ``num_classes`` it adds up the labels of
    every batch that it is called with in training mode, before the loss of that batch. They are int64 in
    ``running_class_counts``, which is part of ``state_dict``. With neither, all classes count the same, and the
    second factor alone is left. In accumulated micro-batches counts grow from one to the next:
    :func:`~steelyard.exact_accumulation` calls the loss once for all.

    Law and posterior are those of the gradient under the counts as they are now, with which training ends.

    Args:
        class_counts: (K,) training samples of each class, fixed. Default: counted, see above.
        mitigation: power of the ratio of counts; 0 is without. Default: 0.8.
        compensation: power of the ratio of scores; 0 is without. Default: 2.
        floor: least score that the score of another class is divided by, in (0, 1].
        num_classes: K, to count labels; of the module only, as is ``process_group``.
        process_group: count the labels of all processes of this group (``torch.distributed.group.WORLD`` for all),
            each of which calls with its own rows, or none, in one collective of K numbers. By default each process
            counts its own labels alone, so give the group where data are spread over processes.
        class_weights, logit_adjustment: (K,); an adjustment is in the scores too.
        ignore_index, reduction, normalization, class_dim, validate: see :class:`~steelyard.losses.base.Loss`.

    Source:
        Wang et al., CVPR 2021, equations 3 to 7; the floor is that of OpenMMLab's published loss.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
        >>> SeesawLoss(class_counts=[90, 10])(logits, torch.tensor([0, 1]))
        tensor(0.3581)
        >>> loss = SeesawLoss(num_classes=2)
        >>> loss(logits, torch.tensor([0, 1]))
        tensor(0.4100)
        >>> loss.running_class_counts
        tensor([1, 1])
    """

    name = "seesaw"
    link = "softmax"
    formula = staticmethod(seesaw)
    why_labels = "its factors compare each class with the one class of the sample"
    refuses: ClassVar[dict[str, str]] = {"label_smoothing": "a smoothed label belongs to no one class"}
    needs = ("class_counts", "num_classes")
    constant_factors = True
    formula_text = (
        "`log(1 + Σⱼ≠y S_yj exp(zⱼ − z_y))`, with the constant "
        "`S_yj = min(1, nⱼ / n_y)^mitigation max(1, pⱼ / max(p_y, floor))^compensation`"
    )
    use_text = (
        "Few classes are frequent and many are rare, as in detecting objects. It takes counts, or counts labels."
    )

    class_counts: Tensor | None = option(
        None, "(K,) training samples of each class.", kind="vector", low=0, per="class"
    )
    mitigation: float = option(0.8, "power of the ratio of counts.", kind="number", low=0, high=100)
    compensation: float = option(2.0, "power of the ratio of scores.", kind="number", low=0, high=100)
    floor: float = option(1e-2, "least score to divide by.", kind="number", low=1e-30, high=1)
    num_classes: int | None = option(None, "K, to count labels in training.", of="module")
    process_group: "ProcessGroup | None" = option(None, "processes whose labels are counted.", of="module")

    running_class_counts: Tensor

    def __init__(self, *nameless: Any, **given: Any) -> None:
        super().__init__(*nameless, **given)
        if self.num_classes is None:
            if self.process_group is not None:
                raise ValueError("process_group needs num_classes: without it no labels are counted")
            return
        if self.class_counts is not None:
            raise ValueError("class_counts are fixed and num_classes counts them: give one of the two")
        size = self.num_classes = check_integer("num_classes", self.num_classes, low=1)
        if self.process_group is not None:
            check_group(self.process_group)
        self.register_buffer("running_class_counts", torch.zeros(size, dtype=torch.long))

    def forward(self, logits: Tensor, target: TargetLike, *, sample_weight: TargetLike | None = None) -> Tensor:
        if self.num_classes is not None and self.training:
            check_columns(logits, self.class_dim, self.num_classes)
            self._count(logits, target)
        return super().forward(logits, target, sample_weight=sample_weight)

    def placed(self, beside: Tensor) -> dict[str, Any]:
        options = super().placed(beside)
        if self.num_classes is not None:
            check_columns(beside, self.class_dim, self.num_classes)
            options["class_counts"] = self.running_class_counts.to(beside.device)
        return options

    @torch.no_grad()
    def _count(self, logits: Tensor, target: TargetLike) -> None:
        _, targets, rows, _ = self.read(whole(logits), whole(target), super().placed(logits))
        counts = self.running_class_counts
        assert targets.labels is not None
        ones = torch.ones_like(targets.labels)
        if targets.ignored is not None:
            ones = ones.masked_fill(targets.ignored, 0)
        batch = torch.zeros_like(counts, device=rows.device).index_add(0, targets.labels, ones)
        if self.process_group is not None:
            dist.all_reduce(batch, group=self.process_group)
        counts.add_(batch.to(counts.device))

    def first_bias(self, class_counts: Counts, *, num_samples: int | None = None) -> Tensor:
        """Return the logits of a model that knows the class counts alone, at which the gradient is zero.

        Raises:
            ArithmeticError: the search does not end, as may be under very large powers.
        """
        if num_samples is not None:
            raise TypeError(f"seesaw takes no num_samples: {self.why_labels}")
        bias = initial_bias(class_counts, "softmax").double()
        counts = count_tensor(class_counts).double()
        share = counts / counts.sum()
        adjustment = 0.0 if self.logit_adjustment is None else self.logit_adjustment.cpu().double()
        bias, labels = bias - adjustment, torch.arange(len(counts))
        for _ in range(_MOST_STEPS):
            with torch.enable_grad():
                each = bias.expand(len(counts), -1).clone().requires_grad_()
                (gradient,) = torch.autograd.grad(self.per_sample(each, labels).sum(), each)
            ratio = (share @ gradient) / share  # how far the push on an output exceeds its pull
            if float(ratio.abs().max()) < 1e-10:
                return bias.float()
            bias = bias - torch.log1p(ratio) / (1 + self.compensation)
        raise ArithmeticError(f"no first bias was found within {_MOST_STEPS} steps")


seesaw_loss = function_of(SeesawLoss, "seesaw_loss")
