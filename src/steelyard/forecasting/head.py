"""A linear head at the optimum of a weighted loss on fixed features."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steelyard._common.checks import Vector, check_number, check_vector
from steelyard.balance.readings import PerSample, Targets, eager_gradient
from steelyard.balance.setup import TrainingSetup
from steelyard.targets import check_target

LossLike = TrainingSetup | str | nn.Module | PerSample
_BALANCED = 10  # tolerances that the relative residual of each output is aimed at
_ROUGH = 1e-3  # gradient up to which L-BFGS goes; Newton steps, which rounding does not stop, do the rest


@dataclass(frozen=True)
class Head:
    """A linear head at the optimum of a weighted loss.

    Attributes:
        weight: (K, D) float64; (1, D) for one output.
        bias: (K,) float64; (1,) for one output.
        gradient: largest entry of the objective's gradient there.
        steps: evaluations of the objective and products with its Hessian.
    """

    weight: Tensor
    bias: Tensor
    gradient: float
    steps: int

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits, (N, K) float64 or (N, 1) for one output, of features (N, D)."""
        logits: Tensor = features.double() @ self.weight.T + self.bias
        return logits


def fit_head(
    features: Tensor,
    target: Tensor,
    *,
    num_classes: int | None = None,
    loss: LossLike = "softmax",
    class_weights: Tensor | None = None,
    weight_decay: float = 5e-4,
    tolerance: float = 1e-8,
    max_steps: int = 20_000,
    start: Head | None = None,
) -> Head:
    r"""Return the linear head that minimises a weighted loss on fixed features.

    The search takes L-BFGS and Newton steps in float64.

    .. math:: \min_{W, b} \; \frac{\sum_i w_{y_i} \, \ell(W h_i + b, y_i)}{\sum_i w_{y_i}}
        + \frac{\lambda}{2} \lVert W \rVert^2

    The bias does not decay, so the balance law of the loss holds at the optimum, to the tolerance.

    Args:
        features: (N, D), floating: what the head multiplies.
        target: (N,) labels; (N, K) multi-hot for K outputs that stand for themselves; 0 and 1, (N,) or (N, 1), for
            one output.
        num_classes: K. Default: the largest label and one, or the columns of a multi-hot target.
        loss: a :class:`~steelyard.TrainingSetup`, or what it takes for a loss: any sum over samples that can be
            differentiated twice. Its adjustment, weights of positives and smoothing are in the objective. The head
            has one output for a setup with ``targets="binary"``, for ``torch.nn.BCEWithLogitsLoss`` with (N,)
            labels 0 and 1, and for a target (N, 1).
        class_weights: (K,) :math:`w`, per sample of each class; (2,) for one output; none for a multi-hot target.
            Default: the setup's, else all 1.
        weight_decay: :math:`\lambda`.
        tolerance: of the gradient's largest entry.
        max_steps: evaluations of the objective and products with its Hessian at most.
        start: a head to start from, such as that of other weights.

    Returns:
        The head.

    Raises:
        TypeError, ValueError: arguments of another type, shape or value than described.
        ArithmeticError: the tolerance was not reached; without weight decay separable samples have no optimum.

    Source:
        Derived for this project; L-BFGS: Liu and Nocedal, Mathematical Programming 1989.

    Example:
        >>> features = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> head = fit_head(features, torch.tensor([0, 1, 0, 1]), weight_decay=0.01)
        >>> head.gradient <= 1e-8
        True
    """
    setup = setup_of(loss, target)
    h, target, size = checked_features(features, target, num_classes, setup.targets)
    formula = _Formula(setup, target, size)
    decay = check_number("weight_decay", weight_decay, low=0)
    tolerance = check_number("tolerance", tolerance, low=1e-14)
    a = formula.weights(class_weights)
    a = a / a.sum()
    size = formula.own.shape[1]

    # New coordinates in which the objective curves about equally everywhere: principal axes of the features,
    # each scaled by its variance and the decay. The penalty stays that of the old ones.
    centre = a @ h
    variance, axes = torch.linalg.eigh((h - centre).T @ ((h - centre) * a[:, None]))
    curvature = 0.05 * variance.clamp(min=0) + decay
    kept = curvature > 1e-12 * curvature.max().clamp(min=1e-300)
    to_old = (axes / curvature.clamp(min=1e-300).sqrt())[:, kept]
    u = (h - centre) @ to_old
    V, b = torch.zeros(size, u.shape[1], dtype=h.dtype), torch.zeros(size, dtype=h.dtype)
    if start is not None:
        V = torch.linalg.lstsq(to_old, start.weight.T).solution.T.contiguous()
        b = start.bias + start.weight @ centre
    with torch.no_grad():  # what cannot be differentiated twice is refused before the search, not after it
        z = u @ V.T + b
        formula.curved(z, torch.ones_like(z))
    V.requires_grad_()
    b.requires_grad_()

    def objective() -> Tensor:
        value: Tensor = (a * formula.each(u @ V.T + b)).sum() + decay / 2 * (V @ to_old.T).square().sum()
        return value

    steps = 0

    def closure() -> float:
        nonlocal steps
        steps += 1
        optimizer.zero_grad()
        value = objective()
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    optimizer = torch.optim.LBFGS(
        [V, b],
        max_iter=max_steps,
        history_size=50,
        tolerance_grad=_ROUGH,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )
    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    V, b = V.detach(), b.detach()

    def curve(z: Tensor, direction: Tensor) -> Tensor:
        """Return the Hessian times a direction, (K, D + 1): the head's matrix and its bias."""
        dz = u @ direction[:, :-1].T + direction[:, -1]
        t = a[:, None] * formula.curved(z, dz)
        in_matrix = t.T @ u + decay * (direction[:, :-1] @ to_old.T) @ to_old
        return torch.cat([in_matrix, t.sum(0)[:, None]], 1)

    reached = before = math.inf
    while steps < max_steps:
        z = u @ V.T + b
        error = a[:, None] * formula.gradient(z)
        W = V @ to_old.T
        reached = float(max((error.T @ h + decay * W).abs().max(), error.sum(0).abs().max()))
        # Rare or well separated classes have small pulls: their balance is asked for in proportion, as far as
        # rounding lets it be had.
        even = bool((error.sum(0).abs() <= _BALANCED * tolerance * error.abs().sum(0)).all())
        if reached <= tolerance and (even or reached > before / 2):
            break
        before = reached
        gradient = torch.cat([error.T @ u + decay * W @ to_old, error.sum(0)[:, None]], 1)
        # The Hessian's diagonal, about: rare classes have a small share of the curvature.
        units = torch.eye(size, dtype=h.dtype)
        share = torch.stack([a @ formula.curved(z, unit.expand_as(z))[:, k] for k, unit in enumerate(units)])
        share = share.clamp(min=1e-12)[:, None]
        scale = torch.cat([(share * variance[kept].clamp(min=0) + decay) / curvature[kept], share], 1)
        direction, used = _conjugate_gradients(
            functools.partial(curve, z), gradient, scale, most=max_steps - steps
        )
        steps += used + 1
        now, slope, step = float(objective()), float((gradient * direction).sum()), 1.0
        held = V, b
        while step > 1e-9:
            V, b = held[0] - step * direction[:, :-1], held[1] - step * direction[:, -1]
            if float(objective()) <= now - 1e-4 * step * slope + 1e-14 * abs(now):
                break
            step /= 2
    if not reached <= tolerance or (decay == 0 and float(objective()) < 100 * tolerance):
        why = "; without weight_decay samples that can be separated have no optimum" if decay == 0 else ""
        raise ArithmeticError(
            f"the head was not fitted to {tolerance:g}: gradient {reached:.2g} in {steps} steps{why}"
        )
    with torch.no_grad():
        W = V @ to_old.T
        return Head(W, b - W @ centre, reached, steps)


class _Formula:
    """The loss of each sample, its gradient and its curvature in the logits; closed for the two plain losses."""

    def __init__(self, setup: TrainingSetup, target: Tensor, size: int) -> None:
        self.setup = setup
        reading = setup.reading
        if reading.per_sample is None:
            raise ValueError(
                f"loss must be a sum over samples for a head to be refitted, got {reading.name}, "
                "a function of the whole batch"
            )
        if reading.constant_factors:
            raise ValueError(
                f"loss must have a gradient that is the derivative of its value for a head to be refitted; "
                f"{reading.name} holds factors constant"
            )
        if setup.size not in (None, size):
            raise ValueError(f"loss must be of {size} classes, as the target, got {setup.size}")
        if target.dim() == 1 and bool((target == reading.ignore_index).any()):
            raise ValueError(f"target must hold no label that the loss ignores, got {reading.ignore_index}")
        self.target, self.size = target, size
        if target.dim() == 2:
            self.own = target
        else:
            one_hot = F.one_hot(target, size).double()
            self.own = one_hot[:, 1:] if setup.targets == "binary" else one_hot
        self.plain = None if set(reading.held) - {"pos_weight"} else reading.plain
        if setup.logit_adjustment is not None or (self.plain == "softmax" and reading.held):
            self.plain = None
        up = torch.ones(1, dtype=torch.float64) if setup.pos_weight is None else setup.pos_weight
        self.sides = 1 + (up - 1) * self.own  # what each entry weighs in the plain logistic loss

    def weights(self, class_weights: Tensor | None) -> Tensor:
        """Return what each sample weighs, (N,)."""
        effect = self.setup.class_effect
        if class_weights is not None and effect is not None:
            raise ValueError("class_weights must be stated once, got them beside a setup that has some")
        given = effect if class_weights is None else class_weights
        if self.target.dim() == 1:
            return class_weights_or_ones(given, self.size)[self.target]
        if given is not None:
            raise ValueError(
                "class_weights must be None for a multi-hot target, whose samples have no one class: "
                "give pos_weight"
            )
        return torch.ones(len(self.target), dtype=torch.float64)

    def each(self, z: Tensor) -> Tensor:
        """Return the (N,) losses of (N, K) logits."""
        if self.plain == "logistic":
            return F.binary_cross_entropy_with_logits(z, self.own, self.sides, reduction="none").sum(1)
        return self.setup.per_sample(z, self.target)

    def gradient(self, z: Tensor) -> Tensor:
        """Return the gradient of each sample in its logits, (N, K)."""
        if self.plain is None:
            return eager_gradient(self.setup.per_sample, z, self.target)
        if self.plain == "softmax":
            return torch.softmax(z, 1) - self.own
        return self.sides * (torch.sigmoid(z) - self.own)

    def curved(self, z: Tensor, dz: Tensor) -> Tensor:
        """Return each sample's Hessian in its logits times a direction, (N, K)."""
        if self.plain == "softmax":
            p = torch.softmax(z, 1)
            return p * (dz - (p * dz).sum(1, keepdim=True))
        if self.plain == "logistic":
            p = torch.sigmoid(z)
            return self.sides * p * (1 - p) * dz
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.setup.per_sample(z, self.target).sum(), z, create_graph=True)
            try:
                (curved,) = torch.autograd.grad((slope * dz).sum(), z)
            except RuntimeError as error:
                raise ValueError(
                    "loss must be differentiable twice for a head to be refitted, "
                    f"{self.setup.reading.name} is not: "
                    f"{str(error).splitlines()[0]}"
                ) from error
        return curved


def _conjugate_gradients(
    times: Callable[[Tensor], Tensor], right: Tensor, scale: Tensor, *, most: int
) -> tuple[Tensor, int]:
    """Solve H x = right for a Hessian given by its products, as exactly as a Newton step needs; and count them.

    `scale` is about the diagonal of H.
    """
    size = float(right.norm())
    x, r = torch.zeros_like(right), right.clone()
    d = r / scale
    square = float((r * d).sum())
    for used in range(1, min(most, 2 * right.numel()) + 1):
        Hd = times(d)
        curvature = float((d * Hd).sum())
        if curvature <= 0:  # a direction that changes nothing, such as a shift of all biases
            return (right / scale if used == 1 else x), used
        x = x + square / curvature * d
        r = r - square / curvature * Hd
        if float(r.norm()) <= min(0.1, size**0.5) * size:
            break
        s = r / scale
        previous, square = square, float((r * s).sum())
        d = s + square / previous * d
    return x, used


def setup_of(loss: LossLike, target: Tensor, size: int | None = None) -> TrainingSetup:
    """Return the setup of a loss for such a target: labels, multi-hot, or 0 and 1 for one output."""
    if isinstance(loss, TrainingSetup):
        return loss
    targets: Targets | None = None
    if isinstance(target, Tensor) and target.dim() == 2:
        targets = "binary" if target.shape[1] == 1 else "multi-hot"
    elif isinstance(loss, nn.BCEWithLogitsLoss):  # labels of more classes are one-vs-all
        targets = "labels" if isinstance(target, Tensor) and bool((target > 1).any()) else "binary"
    if size is not None and targets == "binary":
        size = 2
    return TrainingSetup(loss, targets=targets, class_counts=None if size is None else [1.0] * size)


def checked_features(
    features: Tensor, target: Tensor, num_classes: int | None, targets: Targets = "labels"
) -> tuple[Tensor, Tensor, int]:
    """Return features (N, D) float64, a target, and K: labels (N,) int64, or (N, K) float64 of 0 and 1."""
    if not isinstance(features, Tensor) or not features.is_floating_point():
        came = (
            str(features.dtype).removeprefix("torch.") if isinstance(features, Tensor) else type(features).__name__
        )
        raise TypeError(f"features must be a floating tensor of shape (N, D), got {came}")
    if features.dim() != 2 or len(features) == 0:
        raise ValueError(f"features must have shape (N, D) with N >= 1, got {tuple(features.shape)}")
    if not bool(torch.isfinite(features).all()):
        raise ValueError(
            f"features must be finite, got row {int((~torch.isfinite(features).all(1)).nonzero()[0])}"
        )
    h = features.detach().cpu().double()
    if targets != "labels":
        outputs = 1 if targets == "binary" else num_classes
        return (h, *_zeros_and_ones(target, len(h), outputs))
    size = (int(target.max()) + 1 if target.numel() else 1) if num_classes is None else num_classes
    size = max(size, 2)
    check_target(features.new_zeros(len(features), 1), target, num_labels=size, ignore_index=-100, validate=True)
    if bool((target < 0).any()):
        raise ValueError(f"target must hold labels from 0, got {int(target.min())}")
    return h, target.detach().cpu().long(), size


def _zeros_and_ones(target: Tensor, rows: int, outputs: int | None) -> tuple[Tensor, int]:
    """Return labels and 2 for one output, a multi-hot target and its columns for several."""
    if not isinstance(target, Tensor):
        raise TypeError(f"target must be a tensor, got {type(target).__name__}")
    wanted = f"({rows}, {outputs or 'K'})" if outputs != 1 else f"({rows},)"
    flat = target[:, 0] if outputs == 1 and target.dim() == 2 and target.shape[1] == 1 else target
    fits = flat.dim() == 1 if outputs == 1 else flat.dim() == 2 and outputs in (None, flat.shape[1])
    if not fits or len(flat) != rows:
        raise ValueError(f"target must have shape {wanted}, got {tuple(target.shape)}")
    bad = (flat != 0) & (flat != 1)
    if bool(bad.any()):
        raise ValueError(f"target must hold 0 and 1, got {flat[bad][0].item():g}")
    if outputs == 1:
        return flat.detach().cpu().long(), 2
    return flat.detach().cpu().double(), flat.shape[1]


def class_weights_or_ones(weights: Vector | None, size: int) -> Tensor:
    """Return (K,) float64 class weights, all 1 where none are given."""
    if weights is None:
        return torch.ones(size, dtype=torch.float64)
    return check_vector("class_weights", weights, size, low=0)
