"""What a table of results holds: metrics of one run, and their mean and interval over seeds."""

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from steelyard.report.results import Metric

METRICS = [
    Metric("accuracy", "Accuracy", "%", "higher"),
    Metric("balanced_accuracy", "Balanced accuracy", "%", "higher"),
    Metric("recall_many", "Many-shot recall", "%", "higher"),
    Metric("recall_medium", "Medium-shot recall", "%", "higher"),
    Metric("recall_few", "Few-shot recall", "%", "higher"),
    Metric("nll", "NLL", "", "lower"),
    Metric("ece", "ECE", "%", "lower"),
]


def log_probabilities(logits: Tensor, link: str) -> Tensor:
    """Return the (N, K) float64 log-probabilities over classes; one-vs-all sigmoids are normalised over the
    classes."""
    scores = logits.double()
    if link == "logistic":
        scores = torch.nn.functional.logsigmoid(scores)
    return torch.log_softmax(scores, 1)


def recalls(logits: Tensor, target: Tensor) -> Tensor:
    """Return the (K,) share of each class's samples whose largest logit is their own; NaN for a class without
    samples."""
    size = logits.shape[1]
    right = (logits.argmax(1) == target).double()
    return torch.bincount(target, right, minlength=size) / torch.bincount(target, minlength=size)


def run_metrics(
    logits: Tensor, target: Tensor, link: str, groups: dict[str, list[int]]
) -> dict[str, float | None]:
    """Return metrics of one run as fractions; None for a group without classes.

    NLL is in nats. ECE is the 15-bin L1 expected calibration error of the top class (Guo et al. 2017).
    """
    recall = recalls(logits, target)
    log_p = log_probabilities(logits, link)
    ece = multiclass_calibration_error(log_p.exp(), target, num_classes=logits.shape[1], n_bins=15, norm="l1")
    return {
        "accuracy": (logits.argmax(1) == target).double().mean().item(),
        "balanced_accuracy": recall.nanmean().item(),
        **{f"recall_{g}": recall[classes].nanmean().item() if classes else None for g, classes in groups.items()},
        "nll": -log_p.gather(1, target[:, None]).mean().item(),
        "ece": ece.item(),
    }
