"""What other class weights would do: the linear head refitted on frozen features, before anything is retrained."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_calibration_error

from steelyard._common.checks import check_number
from steelyard.balance.law import law
from steelyard.balance.laws import Balance
from steelyard.balance.means import Link, mean_confusion
from steelyard.balance.setup import TrainingSetup
from steelyard.forecasting.head import Head, LossLike, checked_features, class_weights_or_ones, fit_head

GUARANTEE = (
    "Guaranteed, of the mean training loss: where one class's weight alone is raised and all else in the "
    "objective stays, that class's mean loss does not rise. Guaranteed, for two classes under softmax or "
    "logistic loss: mean probabilities satisfy P_0 / (1 - P_1) = w_1 N_1 / (w_0 N_0) on the training samples, "
    "whatever the data. Not guaranteed, for more: any class's mean probability, recall or precision; these are "
    "what a refitted head does on these features, and features that are trained with other weights are "
    "other features."
)


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
        """Return plain numbers and lists for JSON, None for NaN; without the mean confusion."""
        numbers = ("accuracy", "balanced_accuracy", "nll", "ece", "held_out", "gradient")
        vectors = ("class_weights", "recall", "precision", "class_loss")
        return (
            {"name": self.name}
            | {key: getattr(self, key) for key in numbers}
            | {key: [v if math.isfinite(v) else None for v in getattr(self, key).tolist()] for key in vectors}
            | {"misfit": self.balance.misfit}
        )


def forecast(
    features: Tensor,
    target: Tensor,
    *,
    class_weights: Mapping[str, Tensor | None],
    loss: LossLike = "softmax",
    test: tuple[Tensor, Tensor] | None = None,
    weight_decay: float = 5e-4,
    tolerance: float = 1e-8,
) -> tuple[Forecast, ...]:
    """Refit the head for each weighting and return what it would do; :data:`GUARANTEE` says what that guarantees.

    Args:
        features: (N, D) of the training samples, from a trained network.
        target: (N,) labels.
        class_weights: a name and (K,) weights, or None for none, for each weighting.
        loss: a :class:`~steelyard.TrainingSetup` without class weights, or what it takes for a loss, such as
            ``"softmax"``, ``"logistic"`` (one-vs-all) or a module; see :func:`fit_head`.
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
    h, target, size = checked_features(features, target, max([highest + 1, 2, *given]))
    judged = (h, target) if test is None else checked_features(test[0], test[1], size)[:2]
    if judged[0].shape[1] != h.shape[1]:
        raise ValueError(f"test must have {h.shape[1]} features as training has, got {judged[0].shape[1]}")
    setup = loss if isinstance(loss, TrainingSetup) else TrainingSetup(loss, class_counts=[1.0] * size)
    if setup.class_effect is not None:
        raise ValueError(
            "class_weights must be stated once, got a loss or setup that has some beside the weightings"
        )
    found: list[Forecast] = []
    head: Head | None = None
    for name, weights in class_weights.items():
        w = class_weights_or_ones(weights, size)
        head = fit_head(
            h,
            target,
            num_classes=size,
            loss=setup,
            class_weights=w,
            weight_decay=weight_decay,
            tolerance=tolerance,
            start=head,
        )
        logits = head.logits(h)
        found.append(
            Forecast(
                name=name,
                class_weights=w,
                **_judge(head.logits(judged[0]), judged[1], setup.link),
                held_out=test is not None,
                class_loss=_class_loss(setup.per_sample(logits, target), target, size),
                balance=law(logits, target, setup, sample_weight=w[target]),
                gradient=head.gradient,
            )
        )
    return tuple(found)


def binary_ratio(class_counts: tuple[float, float], class_weights: tuple[float, float]) -> float:
    r"""Return what weights do to two classes, in closed form: no fitting, no data.

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


def _class_loss(each: Tensor, target: Tensor, size: int) -> Tensor:
    return torch.bincount(target, each, minlength=size) / torch.bincount(target, minlength=size)
