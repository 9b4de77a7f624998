"""What other class weights would do: the linear head refitted on frozen features, before anything is retrained."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_calibration_error

from steelyard._validation import check_choice, check_finite, check_number, check_target
from steelyard.balance.confusion import Link, mean_confusion
from steelyard.balance.laws import Balance, one_vs_all_law, softmax_law

GUARANTEE = (
    "Guaranteed, of the mean training loss: where one class's weight alone is raised and all else in the "
    "objective stays, that class's mean loss does not rise. Guaranteed, for two classes: mean probabilities "
    "satisfy P_0 / (1 - P_1) = w_1 N_1 / (w_0 N_0) on the training samples, whatever the data. Not guaranteed, "
    "for more: any class's mean probability, recall or precision; these are what a refitted head does on these "
    "features, and features that are trained anew with other weights are other features."
)
_BALANCED = 1e-7  # relative residual of each output that is aimed at
_ROUGH = 1e-3  # gradient up to which L-BFGS goes; Newton steps, which rounding does not stop, do the rest


@dataclass(frozen=True)
class Head:
    """A linear head at the optimum of a weighted loss.

    Attributes:
        weight: (K, D) float64.
        bias: (K,) float64.
        gradient: largest entry of the objective's gradient there.
        steps: evaluations of the objective and products with its Hessian.
    """

    weight: Tensor
    bias: Tensor
    gradient: float
    steps: int

    def logits(self, features: Tensor) -> Tensor:
        """(N, D) -> (N, K) float64."""
        logits: Tensor = features.double() @ self.weight.T + self.bias
        return logits


@dataclass(frozen=True)
class Forecast:
    """What one weighting would do.

    Attributes:
        name: of the weighting.
        class_weights: (K,) float64.
        mean_confusion: (K, K), on the held-out samples if there are any, like all that follows but the last three.
        recall: (K,) share of each class's samples whose largest logit is their own; NaN without samples.
        precision: (K,) share of right among what is taken for the class; NaN where nothing is.
        accuracy, balanced_accuracy: fractions.
        nll: mean negative log-likelihood, nats; one-vs-all sigmoids are normalised over the classes.
        ece: expected calibration error of the top class, 15 bins.
        held_out: whether those numbers are of held-out samples; if not, they flatter.
        class_loss: (K,) mean training loss of each class.
        balance: the law of the loss on the training samples: the check that the head is at its optimum.
        gradient: largest entry of the gradient there.
    """

    name: str
    class_weights: Tensor
    mean_confusion: Tensor
    recall: Tensor
    precision: Tensor
    accuracy: float
    balanced_accuracy: float
    nll: float
    ece: float
    held_out: bool
    class_loss: Tensor
    balance: Balance
    gradient: float

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists for JSON, None for NaN; without the mean confusion."""
        numbers = ("accuracy", "balanced_accuracy", "nll", "ece", "held_out", "gradient")
        vectors = ("class_weights", "recall", "precision", "class_loss")
        return (
            {"name": self.name}
            | {key: getattr(self, key) for key in numbers}
            | {key: [v if math.isfinite(v) else None for v in getattr(self, key).tolist()] for key in vectors}
            | {"misfit": self.balance.misfit}
        )


def fit_head(
    features: Tensor,
    target: Tensor,
    *,
    num_classes: int | None = None,
    loss: Link = "softmax",
    class_weights: Tensor | None = None,
    weight_decay: float = 5e-4,
    tolerance: float = 1e-8,
    max_steps: int = 20_000,
    start: Head | None = None,
) -> Head:
    r"""The linear head that minimises a weighted loss on fixed features, by L-BFGS and Newton steps in
    float64.

    .. math:: \min_{W, b} \; \frac{\sum_i w_{y_i} \, \ell(W h_i + b, y_i)}{\sum_i w_{y_i}}
        + \frac{\lambda}{2} \lVert W \rVert^2

    The bias does not decay, so the balance law of the loss holds at the optimum, to the tolerance.

    Args:
        features: (N, D), floating: what the head multiplies.
        target: (N,) labels.
        num_classes: K. Default: the largest label and one.
        loss: ``"softmax"``: cross-entropy; ``"logistic"``: binary cross-entropies summed over the outputs.
        class_weights: (K,) :math:`w`, per sample of each class. Default: all 1.
        weight_decay: :math:`\lambda`.
        tolerance: of the gradient's largest entry.
        max_steps: evaluations of the objective and products with its Hessian at most.
        start: a head to start from, such as that of other weights.

    Returns:
        The head.

    Raises:
        TypeError, ValueError: arguments that cannot be meant.
        ArithmeticError: the tolerance was not reached; without weight decay separable samples have no optimum.

    Source:
        Derived for this project; L-BFGS: Liu and Nocedal, Mathematical Programming 1989.

    Example:
        >>> features = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> head = fit_head(features, torch.tensor([0, 1, 0, 1]), weight_decay=0.01)
        >>> head.gradient <= 1e-8
        True
    """
    h, target, size = _checked(features, target, num_classes)
    check_choice("loss", loss, ("softmax", "logistic"))
    decay = check_number("weight_decay", weight_decay, low=0)
    tolerance = check_number("tolerance", tolerance, low=1e-14)
    a = _class_weights(class_weights, size)[target]
    a = a / a.sum()

    # New coordinates in which the objective curves about alike in every direction: principal axes of the features,
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
    V.requires_grad_()
    b.requires_grad_()
    own = F.one_hot(target, size).to(h)

    def objective() -> Tensor:
        z = u @ V.T + b
        if loss == "softmax":
            each = F.cross_entropy(z, target, reduction="none")
        else:
            each = F.binary_cross_entropy_with_logits(z, own, reduction="none").sum(1)
        value: Tensor = (a * each).sum() + decay / 2 * (V @ to_old.T).square().sum()
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

    def error_of(z: Tensor) -> tuple[Tensor, Tensor]:
        p = torch.softmax(z, 1) if loss == "softmax" else torch.sigmoid(z)
        return p, a[:, None] * (p - own)

    def curve(p: Tensor, direction: Tensor) -> Tensor:
        """The Hessian times a direction, (K, D + 1): the head's matrix and its bias."""
        dz = u @ direction[:, :-1].T + direction[:, -1]
        t = p * (dz - (p * dz).sum(1, keepdim=True)) if loss == "softmax" else p * (1 - p) * dz
        t = a[:, None] * t
        in_matrix = t.T @ u + decay * (direction[:, :-1] @ to_old.T) @ to_old
        return torch.cat([in_matrix, t.sum(0)[:, None]], 1)

    reached = before = math.inf
    while steps < max_steps:
        z = u @ V.T + b
        p, error = error_of(z)
        W = V @ to_old.T
        reached = float(max((error.T @ h + decay * W).abs().max(), error.sum(0).abs().max()))
        # Rare or well separated classes have small pulls: their balance is asked for in proportion, as far as
        # rounding lets it be had.
        even = bool((error.sum(0).abs() <= _BALANCED * error.abs().sum(0)).all())
        if reached <= tolerance and (even or reached > before / 2):
            break
        before = reached
        gradient = torch.cat([error.T @ u + decay * W @ to_old, error.sum(0)[:, None]], 1)
        direction, used = _conjugate_gradients(functools.partial(curve, p), gradient, most=max_steps - steps)
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


def forecast(
    features: Tensor,
    target: Tensor,
    *,
    class_weights: Mapping[str, Tensor | None],
    loss: Link = "softmax",
    test: tuple[Tensor, Tensor] | None = None,
    weight_decay: float = 5e-4,
    tolerance: float = 1e-8,
) -> tuple[Forecast, ...]:
    """Refit the head for each weighting, and say what it would do. What that guarantees: :data:`GUARANTEE`.

    Args:
        features: (N, D) of the training samples, from a trained network.
        target: (N,) labels.
        class_weights: a name and (K,) weights, or None for none, for each weighting.
        loss: ``"softmax"`` or ``"logistic"`` (one-vs-all).
        test: features and labels of held-out samples to judge by. Default: the training samples, which flatters.
        weight_decay: of the head's matrix, as in training.
        tolerance: of the gradient; see :func:`fit_head`.

    Returns:
        One forecast for each weighting, in their order.

    Raises:
        TypeError, ValueError, ArithmeticError: as :func:`fit_head` does.

    Source:
        Derived for this project.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> target = torch.tensor([0] * 90 + [1] * 10)
        >>> features = torch.randn(100, 2, generator=generator) + target[:, None]
        >>> plain, balanced = forecast(
        ...     features, target, class_weights={"none": None, "inverse": torch.tensor([0.2, 1.8])})
        >>> bool(plain.recall[1] < balanced.recall[1])
        True
    """
    if not class_weights:
        raise ValueError("class_weights must name at least one weighting, got none")
    given = [len(w) for w in class_weights.values() if w is not None and w.dim() == 1]
    labels = [target] if test is None else [target, test[1]]
    highest = max((int(part.max()) for part in labels if part.numel()), default=0)
    h, target, size = _checked(features, target, max([highest + 1, 2, *given]))
    judged = (h, target) if test is None else _checked(test[0], test[1], size)[:2]
    if judged[0].shape[1] != h.shape[1]:
        raise ValueError(f"test must have {h.shape[1]} features as training has, got {judged[0].shape[1]}")
    found: list[Forecast] = []
    head: Head | None = None
    for name, weights in class_weights.items():
        w = _class_weights(weights, size)
        head = fit_head(
            h,
            target,
            num_classes=size,
            loss=loss,
            class_weights=w,
            weight_decay=weight_decay,
            tolerance=tolerance,
            start=head,
        )
        P, counts = mean_confusion(head.logits(h), target, link=loss)
        law = softmax_law if loss == "softmax" else one_vs_all_law
        found.append(
            Forecast(
                name=name,
                class_weights=w,
                **_judge(head.logits(judged[0]), judged[1], loss),
                held_out=test is not None,
                class_loss=_class_loss(head.logits(h), target, loss),
                balance=law(P, counts, w),
                gradient=head.gradient,
            )
        )
    return tuple(found)


def binary_ratio(class_counts: tuple[float, float], class_weights: tuple[float, float]) -> float:
    r"""What weights do to two classes, in closed form: no fitting, no data.

    .. math:: \frac{P_0}{1 - P_1} = \frac{w_1 N_1}{w_0 N_0}

    Args:
        class_counts: :math:`(N_0, N_1)`, positive.
        class_weights: :math:`(w_0, w_1)`, positive.

    Returns:
        Mean probability of the positive class over the negatives, over the mean miss of the positives.

    Raises:
        TypeError, ValueError: numbers that are not positive.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020 (deterministic).

    Example:
        >>> binary_ratio((1000, 100), (1, 10))      # as much false probability on the negatives as misses
        1.0
    """
    names = ("class_counts", "class_weights")
    (n0, n1), (w0, w1) = (
        [check_number(name, value, low=1e-300) for value in values]
        for name, values in zip(names, (class_counts, class_weights), strict=True)
    )
    return w1 * n1 / (w0 * n0)


def _conjugate_gradients(times: Callable[[Tensor], Tensor], right: Tensor, *, most: int) -> tuple[Tensor, int]:
    """Solve H x = right for a Hessian given by its products, as exactly as a Newton step needs; and count them."""
    size = float(right.norm())
    x, r = torch.zeros_like(right), right.clone()
    d, square = r.clone(), float(r.square().sum())
    for used in range(1, min(most, 2 * right.numel()) + 1):
        Hd = times(d)
        curvature = float((d * Hd).sum())
        if curvature <= 0:  # a direction that changes nothing, such as a shift of all biases
            return (right if used == 1 else x), used
        x = x + square / curvature * d
        r = r - square / curvature * Hd
        previous, square = square, float(r.square().sum())
        if square**0.5 <= min(0.1, size**0.5) * size:
            break
        d = r + square / previous * d
    return x, used


def _judge(logits: Tensor, target: Tensor, link: Link) -> dict[str, Any]:
    size = logits.shape[1]
    taken = logits.argmax(1)
    right = (taken == target).double()
    recall = torch.bincount(target, right, minlength=size) / torch.bincount(target, minlength=size)
    log_p = torch.log_softmax(logits if link == "softmax" else F.logsigmoid(logits), 1)
    ece = multiclass_calibration_error(log_p.exp(), target, num_classes=size, n_bins=15, norm="l1")
    return {
        "mean_confusion": mean_confusion(logits, target, link=link)[0],
        "recall": recall,
        "precision": torch.bincount(taken, right, minlength=size) / torch.bincount(taken, minlength=size),
        "accuracy": right.mean().item(),
        "balanced_accuracy": recall.nanmean().item(),
        "nll": -log_p.gather(1, target[:, None]).mean().item(),
        "ece": ece.item(),
    }


def _class_loss(logits: Tensor, target: Tensor, loss: Link) -> Tensor:
    size = logits.shape[1]
    if loss == "softmax":
        each = F.cross_entropy(logits, target, reduction="none")
    else:
        own = F.one_hot(target, size).double()
        each = F.binary_cross_entropy_with_logits(logits, own, reduction="none").sum(1)
    return torch.bincount(target, each, minlength=size) / torch.bincount(target, minlength=size)


def _checked(features: Tensor, target: Tensor, num_classes: int | None) -> tuple[Tensor, Tensor, int]:
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
    size = (int(target.max()) + 1 if target.numel() else 1) if num_classes is None else num_classes
    size = max(size, 2)
    check_target(features.new_zeros(len(features), 1), target, num_labels=size, ignore_index=-100, validate=True)
    if bool((target < 0).any()):
        raise ValueError(f"target must hold labels from 0, got {int(target.min())}")
    return features.detach().cpu().double(), target.detach().cpu().long(), size


def _class_weights(weights: Tensor | None, size: int) -> Tensor:
    if weights is None:
        return torch.ones(size, dtype=torch.float64)
    if weights.shape != (size,):
        raise ValueError(f"class_weights must have shape ({size},), got {tuple(weights.shape)}")
    check_finite("class_weights", weights, low=0)
    return weights.detach().cpu().double()
