"""What a table of results holds: metrics of one run, and their mean and interval over seeds."""

import torch
from torch import Tensor

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


def mean_recall(recall: Tensor) -> float | None:
    """Return the mean of the recalls of classes that have samples; None where none has."""
    known = recall[~recall.isnan()]
    return known.mean().item() if len(known) else None


def uniform_accuracy(logits: Tensor, target: Tensor) -> float:
    r"""Return the share of samples that one threshold for all classes and samples gets right.

    .. math:: \max_t \frac{1}{N} \big|\{i : z_{i y_i} > t \ge \max_{j \ne y_i} z_{ij}\}\big|

    Args:
        logits: (N, K) finite, K at least 2.
        target: (N,) labels.

    Source:
        Li, Jia, Zhou, Shen, Duan, "Rediscovering BCE loss for uniform classification", arXiv 2403.07289.

    Example:
        >>> z = torch.tensor([[2.0, 1.0], [0.0, 3.0], [-1.0, -2.0]])    # 1 and 1.5 are right for two of three
        >>> uniform_accuracy(z, torch.tensor([0, 1, 0]))
        0.6666666666666666
    """
    scores = logits.double()
    own = scores.gather(1, target[:, None])[:, 0]
    other = scores.scatter(1, target[:, None], -torch.inf).amax(1)
    right = own > other
    if not bool(right.any()):
        return 0.0
    starts, ends = other[right].sort().values, own[right].sort().values  # right from a start to below its end
    begun, over = (torch.searchsorted(ordered, starts, right=True) for ordered in (starts, ends))
    return int((begun - over).max()) / len(target)


def run_metrics(
    logits: Tensor, target: Tensor, link: str, groups: dict[str, list[int]]
) -> dict[str, float | None]:
    """Return metrics of one run as fractions; None for a group without samples.

    NLL is in nats. ECE is the 15-bin L1 expected calibration error of the top class (Guo et al. 2017).
    """
    recall = recalls(logits, target)
    log_p = log_probabilities(logits, link)
    return {
        "accuracy": (logits.argmax(1) == target).double().mean().item(),
        "balanced_accuracy": recall.nanmean().item(),
        **{f"recall_{g}": mean_recall(recall[classes]) for g, classes in groups.items()},
        **probability_metrics(log_p, target),
    }


def probability_metrics(log_p: Tensor, target: Tensor) -> dict[str, float]:
    """Return NLL and ECE, as :func:`run_metrics` has them, of (N, K) log-probabilities."""
    from torchmetrics.functional.classification import multiclass_calibration_error  # takes seconds to import

    ece = multiclass_calibration_error(log_p.exp(), target, num_classes=log_p.shape[1], n_bins=15, norm="l1")
    return {"nll": -log_p.gather(1, target[:, None]).mean().item(), "ece": ece.item()}
