"""What a loss says of itself: its loss of each sample without class weights, and the options that it holds.

One function for each origin: our modules, torch's, and any other callable. What was done around the loss is in
`setup`.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steelyard._common.checks import Beta, check_beta, check_vector
from steelyard.balance.means import Link
from steelyard.losses import FocalLoss, LGLINRLoss, LogisticLoss, Poly1Loss, SoftmaxLoss, create_loss
from steelyard.losses.base import Loss

Targets = Literal["labels", "multi-hot", "binary"]
PerSample = Callable[[Tensor, Tensor], Tensor]
Closed = Literal["softmax", "torch softmax", "logistic", "focal", "poly1", "lgl-inr"]


@dataclass(frozen=True)
class InNegative:
    """The options of an LGL-INR loss that its closed forms need."""

    beta: Beta
    detached: bool
    own_statistics: bool

    def strength(self, num_classes: int) -> float:
        """Return beta as a number."""
        return check_beta(self.beta, num_classes)


@dataclass(frozen=True)
class Reading:
    """What a loss says of itself.

    Attributes:
        name: of the loss, for sentences.
        per_sample: (N,) losses of (N, K) logits and a target, as trained but without class weights (of soft
            targets with those that the loss holds, where it weighs their parts); None for a loss that is no sum
            over samples.
        link: ``"softmax"`` or ``"logistic"``; None where only the gradient shows it.
        targets: the usual target of the loss.
        held: vectors and numbers that the loss holds, by the name that :class:`TrainingSetup` has for them.
        ignore_index: label of samples that count for nothing.
        closed: which closed form of the posterior belongs to it, or None.
        gamma: of focal losses.
        epsilon: of Poly-1.
        in_negative: of LGL-INR.
        mixes: whether a soft target is a mixture of samples of its classes, and class weights multiply its parts.
        held_in_soft: whether the loss of a soft target contains the class weights that the loss holds.
        constant_factors: whether its gradient is no derivative of its value, as factors are constants in it.
        foreign: whether the formula is not ours, so that what it returns has to be checked.
    """

    name: str
    per_sample: PerSample | None
    link: Link | None
    targets: Targets = "labels"
    held: Mapping[str, Tensor | float] = field(default_factory=dict)
    ignore_index: int = -100
    closed: Closed | None = None
    gamma: float = 0.0
    epsilon: float = 0.0
    in_negative: InNegative | None = None
    mixes: bool = False
    held_in_soft: bool = False
    constant_factors: bool = False
    foreign: bool = False

    @property
    def plain(self) -> Link | None:
        """Return ``"softmax"`` or ``"logistic"`` where the formula is just that loss, with weights, adjustment or
        smoothing; None for every other, focal ones among them."""
        if self.gamma or self.closed not in ("softmax", "logistic"):
            return None
        return "softmax" if self.closed == "softmax" else "logistic"


def read_loss(
    loss: str | nn.Module | PerSample, options: Mapping[str, object], stated: Mapping[str, object]
) -> Reading:
    """Return what `loss` says of itself.

    Args:
        loss: a name in the registry, a module, or a function of logits and target that gives per-sample losses.
        options: of a loss given by name.
        stated: further options of a loss given by name, such as ``pos_weight``.

    Raises:
        TypeError: something that is no loss, or options of a loss that is not given by name.
        ValueError: an unknown name, or a loss of torch whose options have no reading.
    """
    if isinstance(loss, str):
        both = sorted(set(options) & set(stated))
        if both:
            raise ValueError(f"{both[0]} must be stated once, got it as an argument and in options")
        return _ours(create_loss(loss, **{**options, **stated}))  # type: ignore[arg-type]
    if options:
        raise TypeError(f"options belong to a loss given by name, got {', '.join(options)} with a loss object")
    if isinstance(loss, Loss):
        return _ours(loss)
    # A subclass with a formula of its own is a function like any other.
    if isinstance(loss, nn.CrossEntropyLoss) and type(loss).forward is nn.CrossEntropyLoss.forward:
        return _cross_entropy(loss)
    if isinstance(loss, nn.BCEWithLogitsLoss) and type(loss).forward is nn.BCEWithLogitsLoss.forward:
        return _binary_cross_entropy(loss)
    if isinstance(loss, type) or not callable(loss):
        raise TypeError(f"loss must be a name, a module or a function, got {loss!r}")
    _refuse_torch(loss)
    name = getattr(loss, "__name__", type(loss).__name__)
    return Reading(name if name.isidentifier() else "the function", loss, None, foreign=True)


_OF_SAMPLES = (nn.MultiMarginLoss, nn.MultiLabelSoftMarginLoss)  # of logits, with reduction="none"
_LOG = "takes log-probabilities: give CrossEntropyLoss, which is the same of logits"
_PROBABILITIES = "takes probabilities: give BCEWithLogitsLoss, which is the same of logits"
_NO_LOGITS = {
    nn.NLLLoss: _LOG,
    F.nll_loss: _LOG,
    nn.BCELoss: _PROBABILITIES,
    F.binary_cross_entropy: _PROBABILITIES,
}


def _refuse_torch(loss: nn.Module | PerSample) -> None:
    """Refuse a loss of torch that is none of logits and classes, or that gives no loss of each sample."""
    kind = type(loss) if isinstance(loss, nn.Module) else loss
    kind = kind.func if isinstance(kind, functools.partial) else kind
    why = next((why for other, why in _NO_LOGITS.items() if kind is other), None)
    if why is None and isinstance(loss, nn.Module) and kind.__module__ == "torch.nn.modules.loss":
        if kind not in _OF_SAMPLES:
            why = "is no loss of logits and classes: give CrossEntropyLoss or BCEWithLogitsLoss"
        elif loss.reduction != "none":
            why = f'must have reduction="none", a loss for each sample, got {loss.reduction!r}'
    if why is not None:
        raise ValueError(f"loss cannot be read: {kind.__name__} {why}")


def _ours(loss: Loss) -> Reading:
    """One of our modules; the one place that knows their options."""
    held: dict[str, Tensor | float] = {
        name: value
        for name in ("class_weights", "pos_weight", "output_weights", "logit_adjustment", "label_smoothing")
        if (value := getattr(loss, name, None)) is not None and not (isinstance(value, float) and value == 0)
    }
    if loss.separable_over == "rows" and any(not bool(buffer.any()) for buffer in loss.buffers()):
        raise ValueError(
            f"loss {loss.name} has seen no batch, and its formula depends on those that it was trained on: "
            "give the module that was trained"
        )
    closed: Closed | None = None
    gamma, poly, inner = 0.0, 0.0, None
    if isinstance(loss, LGLINRLoss):
        closed, own = "lgl-inr", loss.statistics == "batch"
        inner = InNegative(loss.beta, loss.detach_weights or not own, own)
    elif loss.formula is SoftmaxLoss.formula:
        closed = "softmax"
    elif loss.formula is LogisticLoss.formula:
        closed = None if "label_smoothing" in held else "logistic"
    elif isinstance(loss, FocalLoss) and loss.formula is FocalLoss.formula and "label_smoothing" not in held:
        closed, gamma = "focal" if loss.link == "softmax" else "logistic", loss.gamma
    elif isinstance(loss, Poly1Loss) and "label_smoothing" not in held:
        closed, poly = "poly1", loss.epsilon
    return Reading(
        loss.name,
        loss.per_sample if loss.separable_over == "rows" else None,
        loss.link,
        held=held,
        ignore_index=getattr(loss, "ignore_index", -100),
        closed=closed,
        gamma=gamma,
        epsilon=poly,
        in_negative=inner,
        mixes="soft" in loss.takes,
        constant_factors=loss.constant_factors,
    )


def _cross_entropy(loss: nn.CrossEntropyLoss) -> Reading:
    r"""Return torch's cross-entropy: under smoothing its weights also weigh the smoothing mass, column by column.

    .. math:: w_y\, \ell = (1 - \epsilon)\, w_y (-\log p_y) + \tfrac{\epsilon}{K} \sum_j w_j (-\log p_j)
    """
    held: dict[str, Tensor | float] = {} if loss.weight is None else {"class_weights": loss.weight}
    weight, epsilon = loss.weight, float(loss.label_smoothing)
    if epsilon:
        held["label_smoothing"] = epsilon
        if weight is not None and bool((weight == 0).any()):
            raise ValueError("loss must have positive weights where it smooths labels, got a weight of 0")

    def per_sample(logits: Tensor, target: Tensor) -> Tensor:
        soft = target.dim() > 1
        if weight is None or (epsilon == 0 and not soft):
            return F.cross_entropy(logits, target, reduction="none", label_smoothing=epsilon)
        w = weight.to(logits)
        each = F.cross_entropy(logits, target, weight=w, reduction="none", label_smoothing=epsilon)
        return each if soft else each / w[target]

    return Reading(
        "cross-entropy",
        per_sample,
        "softmax",
        held=held,
        ignore_index=loss.ignore_index,
        closed="torch softmax" if epsilon and weight is not None else "softmax",
        held_in_soft=weight is not None,
    )


def _binary_cross_entropy(loss: nn.BCEWithLogitsLoss) -> Reading:
    held: dict[str, Tensor | float] = {}
    if loss.pos_weight is not None:
        held["pos_weight"] = loss.pos_weight.reshape(-1)
        if loss.pos_weight.dim() > 1 and loss.pos_weight.numel() != loss.pos_weight.shape[-1]:
            raise ValueError(
                f"loss must have one pos_weight for each output, got shape {tuple(loss.pos_weight.shape)}"
            )
    weight = loss.weight
    if weight is not None and (weight.dim() > 1 or bool((weight <= 0).any())):
        raise ValueError("loss must have one positive weight for each output, got " + str(tuple(weight.shape)))

    if weight is not None:
        held["output_weights"] = weight.reshape(-1)

    def per_sample(logits: Tensor, target: Tensor) -> Tensor:
        outputs = logits.shape[1]
        for name in ("pos_weight", "output_weights"):
            values = held.get(name)
            if isinstance(values, Tensor) and len(values) not in (1, outputs):
                raise ValueError(f"{name} must have {outputs} values, one an output, got {len(values)}")
        if target.dim() == 1 and outputs > 1:
            target = F.one_hot(target, outputs)
        u = None if loss.pos_weight is None else held["pos_weight"].to(logits)  # type: ignore[union-attr]
        w = None if weight is None else weight.to(logits)
        rows = target.to(logits).reshape(logits.shape)
        each = F.binary_cross_entropy_with_logits(logits, rows, weight=w, pos_weight=u, reduction="none")
        return each.sum(1)

    return Reading(
        "binary cross-entropy", per_sample, "logistic", targets="multi-hot", held=held, closed="logistic"
    )


def held_vector(reading: Reading, name: str) -> Tensor | None:
    """Return the vector that a loss holds under this name, float64 on the CPU, or None."""
    value = reading.held.get(name)
    low = -math.inf if name == "logit_adjustment" else 0.0
    return None if value is None else check_vector(name, value, low=low)  # type: ignore[arg-type]


def one_value_each(values: object, rows: int, name: str) -> Tensor:
    """Return the per-sample losses of a foreign function; raise an error if it returned something else."""
    if isinstance(values, Tensor) and values.shape == (rows,) and values.is_floating_point():
        return values
    if not isinstance(values, Tensor):
        came = type(values).__name__
    elif values.dim() == 0:
        came = 'a scalar (modules of torch take reduction="none")'
    else:
        came = f"shape {tuple(values.shape)}, {str(values.dtype).removeprefix('torch.')}"
    raise ValueError(f"loss must give one value for each sample, shape ({rows},); {name} gave {came}")


def as_rows(logits: Tensor) -> Tensor:
    """Return (N,), (N, K) or (N, K, d1, ...) logits as rows, (M, K)."""
    if logits.dim() == 1:
        return logits[:, None]
    return logits if logits.dim() == 2 else logits.movedim(1, -1).reshape(-1, logits.shape[1])


def eager_gradient(loss: PerSample, logits: Tensor, target: Tensor) -> Tensor:
    """Return the (M, K) gradient of the sum of per-sample losses in the logits, wherever it is called."""
    with torch.inference_mode(False), torch.enable_grad():
        z = logits.detach().clone().requires_grad_()
        value = loss(z, target.clone()).sum()
        gradient = None
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value, z, allow_unused=True)
    if gradient is None:
        raise ValueError(
            "loss must depend on the logits and be differentiable in them, got one without a gradient"
        )
    return gradient
