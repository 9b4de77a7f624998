"""What logits are worth on rows that nothing was fitted to, with 95% intervals over these rows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from steelyard._common.intervals import NORMAL, wilson
from steelyard.balance.means import Link, mean_confusion

_BINS = 15
_NUMBERS = ("accuracy", "balanced_accuracy", "nll", "ece")
_VECTORS = ("recall", "precision")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What logits are worth on rows that nothing was fitted to.

    For multi-hot targets an output stands for a class: its recall is that of its positives, and a row is right or
    wrong once for each output.

    Attributes:
        mean_confusion: (K, K) mean probability of each class on the rows of each class; (2, K) for multi-hot
            targets: mean probability of each output on its negatives and on its positives.
        recall: (K,) share of each class's rows whose largest logit is their own; NaN without rows.
        precision: (K,) share of right among what is taken for the class; NaN where nothing is.
        accuracy: share of rows that are right.
        balanced_accuracy: mean recall of the classes; for multi-hot targets the mean over outputs of the mean of
            both recalls, that of positives and that of negatives.
        nll: mean negative log-likelihood, nats; one-vs-all sigmoids are normalised over the classes; for multi-hot
            targets the mean over rows and outputs.
        ece: expected calibration error of the top class, 15 bins; for multi-hot targets of all outputs' sigmoids.
        intervals: the ends of a 95% interval by the name of the number, (2,) float64, or (K, 2) for recall and
            precision. They count that other rows would have been judged by, not that other rows would have been
            trained on. Shares have Wilson's interval, balanced accuracy the one that the square-and-add rule makes
            of these, NLL the normal one. The estimated ECE is too large by chance: its lower end lies below it by
            what chance alone shows in 97.5% of cases, so it may be far lower.
    """

    mean_confusion: Tensor
    recall: Tensor
    precision: Tensor
    accuracy: float
    balanced_accuracy: float
    nll: float
    ece: float
    intervals: Mapping[str, Tensor]

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists for JSON, None for what is not finite; without the mean confusion."""
        found = {key: plain(getattr(self, key)) for key in (*_NUMBERS, *_VECTORS)}
        return found | {"intervals": {key: plain(ends) for key, ends in self.intervals.items()}}


def judge(logits: Tensor, target: Tensor, link: Link) -> Scores:
    """Return the scores of (N, K) float64 logits, K at least 2, on (N,) labels or (N, K) multi-hot targets."""
    if target.dim() == 2:
        return _judge_outputs(logits, target)
    size = logits.shape[1]
    taken = logits.argmax(1)
    right = (taken == target).double()
    hits = torch.bincount(target, right, minlength=size)
    rows, decided = torch.bincount(target, minlength=size), torch.bincount(taken, minlength=size)
    recall = hits / rows
    log_p = torch.log_softmax(logits if link == "softmax" else F.logsigmoid(logits), 1)
    losses = -log_p.gather(1, target[:, None])[:, 0]
    confidence = log_p.amax(1).exp()
    ece, of_ece = _calibration(confidence[:, None], right[:, None])
    of_recall = wilson(recall, rows)
    return Scores(
        mean_confusion=mean_confusion(logits, target, link=link)[0],
        recall=recall,
        precision=hits / decided,
        accuracy=right.mean().item(),
        balanced_accuracy=recall.nanmean().item(),
        nll=losses.mean().item(),
        ece=ece,
        intervals={
            "accuracy": wilson(right.mean(), len(right)),
            "balanced_accuracy": _of_mean(recall, of_recall),
            "nll": _of_losses(losses),
            "ece": of_ece,
            "recall": of_recall,
            "precision": wilson(hits / decided, decided),
        },
    )


def paired_gain(
    decided: Tensor, other: Tensor, target: Tensor, size: int, *, folds: bool, comparisons: int = 1
) -> tuple[float, float, float]:
    r"""Return by how much the balanced accuracy of decisions is above that of others on the same rows, with ends.

    Of the :math:`n_k` rows of class k, :math:`b_k` are right by the first alone, :math:`c_k` by the other alone:

    .. math:: G = \frac1K \sum_k \frac{b_k - c_k}{n_k}, \quad \mathrm{var}\, G = \frac1{K^2} \sum_k
        \frac{b'_k + c'_k - (b'_k - c'_k)^2 / n'_k}{n'^2_k}

    with half a row more in each of the four cells of a class, so that few rows on which both agree are not sure.

    Args:
        decided, other: (N,) classes.
        target: (N,) labels.
        size: K.
        folds: whether the decisions are out of fold; rows of a fold share a training, for which errors are a sixth
            larger, as measured for :mod:`steelyard.deciding.paired`.
        comparisons: of which the intervals shall hold together with probability 0.95 (Bonferroni).

    Returns:
        The gain and the ends of its interval.

    Source:
        Agresti and Min, Statistics in Medicine 2005; the mean over classes derived for this project.
    """
    own, others = (decided == target).double(), (other == target).double()
    n, b, c = (
        torch.bincount(target, weights, minlength=size)
        for weights in (torch.ones_like(own), own * (1 - others), others * (1 - own))
    )
    there = n > 0
    n, b, c = n[there], b[there], c[there]
    variance = (b + c + 1 - (b - c).square() / (n + 2)) / (n + 2).square()
    gain = float(((b - c) / n).mean())
    quantile = NormalDist().inv_cdf(1 - 0.025 / comparisons)
    half = quantile * float(variance.sum().sqrt()) / len(n) * (7 / 6 if folds else 1)
    return gain, max(gain - half, -1.0), min(gain + half, 1.0)


def plain(value: float | Tensor) -> Any:
    """Return a number, or lists of numbers, for JSON: None for what is not finite."""
    if isinstance(value, Tensor):
        return [plain(part) for part in value] if value.dim() else plain(value.item())
    return value if math.isfinite(value) else None


def _judge_outputs(logits: Tensor, target: Tensor) -> Scores:
    """Multi-hot: every output a binary problem; a row is drawn whole, with all its outputs."""
    p, own = torch.sigmoid(logits), target.bool()
    taken = logits > 0
    right = (taken == own).double()
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)
    sides = torch.stack([~own, own]).double()  # (2, N, K)
    rows, hits = sides.sum(1), (sides * right).sum(1)
    shares = hits / rows  # recall of negatives, of positives
    balanced = shares.nanmean().item()
    # Shares of several outputs vary together: each row's part in the mean of all of them, summed before squared.
    known = rows > 0
    parts = ((right - shares[:, None]) * sides / rows.clamp(min=1)[:, None]).nan_to_num(0.0)
    error = (parts.sum((0, 2)) / known.sum()).square().sum().sqrt().item()
    ece, of_ece = _calibration(p, target)
    per_row = right.mean(1)
    return Scores(
        mean_confusion=(sides * p).sum(1) / rows,
        recall=shares[1],
        precision=hits[1] / taken.sum(0),
        accuracy=per_row.mean().item(),
        balanced_accuracy=balanced,
        nll=losses.mean().item(),
        ece=ece,
        intervals={
            "accuracy": _of_losses(per_row).clamp(0, 1),
            "balanced_accuracy": torch.tensor(
                [balanced - NORMAL * error, balanced + NORMAL * error], dtype=torch.float64
            ).clamp(0, 1),
            "nll": _of_losses(losses),
            "ece": of_ece,
            "recall": wilson(shares[1], rows[1]),
            "precision": wilson(hits[1] / taken.sum(0), taken.sum(0)),
        },
    )


def _of_mean(shares: Tensor, ends: Tensor) -> Tensor:
    """Return the interval of a mean of independent shares, (2,), from theirs: square and add (Zou, Donner)."""
    known = ~shares.isnan()
    mean, below, above = shares[known].mean(), shares[known] - ends[known, 0], ends[known, 1] - shares[known]
    return torch.stack([mean - below.norm() / known.sum(), mean + above.norm() / known.sum()]).clamp(0, 1)


def _of_losses(values: Tensor) -> Tensor:
    """Return the normal interval of a mean over rows, (2,); NaN of one row."""
    half = NORMAL * values.std() / len(values) ** 0.5 if len(values) > 1 else values.new_tensor(math.nan)
    return torch.stack([values.mean() - half, values.mean() + half])


def _calibration(confidence: Tensor, right: Tensor) -> tuple[float, Tensor]:
    r"""Return the ECE of (N, J) probabilities against 0 and 1, and its interval.

    With the mean gap :math:`d_b + \epsilon_b` of bin b seen and :math:`d_b` sought,
    :math:`|\sum_b |d_b + \epsilon_b| - \sum_b |d_b|| \le \sum_b |\epsilon_b|`, whose 97.5% point, of normal noise,
    is taken below. Above, :math:`E \sum_b |d_b + \epsilon_b| \ge \sum_b |d_b|`: a deviation is enough.
    """
    rows = len(confidence)
    bins = (confidence * _BINS).long().clamp(max=_BINS - 1)
    gaps = torch.zeros(rows, _BINS, dtype=torch.float64).scatter_add_(1, bins, right.double() - confidence)
    gaps /= rows * confidence.shape[1]
    ece = float(gaps.sum(0).abs().sum())
    # Not about the mean: a bin of one row has a spread too, and it is at most too large.
    spread, axes = torch.linalg.eigh(gaps.T @ gaps)
    root = axes * spread.clamp(min=0).sqrt()
    noise = torch.randn(4000, _BINS, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) @ root.T
    chance = float(noise.abs().sum(1).quantile(0.975))
    deviation = float((gaps @ gaps.sum(0).sign()).norm())
    return ece, torch.tensor([max(ece - chance, 0.0), min(ece + NORMAL * deviation, 1.0)], dtype=torch.float64)
