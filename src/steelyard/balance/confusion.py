"""The mean confusion of a classifier in a stream of batches; `means` has it at once. It needs torchmetrics."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from steelyard._common.checks import check_choice, check_integer, compute_dtype
from steelyard.balance.folded import FoldedSums
from steelyard.balance.means import Link
from steelyard.kernels.class_sums.dispatch import add_by_class
from steelyard.targets import check_logits, check_target


class MeanConfusion(FoldedSums):
    r"""Mean confusion of a stream of batches, in memory that does not grow with the samples.

    .. math:: P_{kj} = \frac{1}{N_k} \sum_{i \in k} p_{ij}, \qquad
        \mathrm{SE}_{kj}^2 = \frac{1}{N_k (N_k - 1)} \sum_{i \in k} (p_{ij} - P_{kj})^2

    Probabilities are float32 (float64 for float64 logits); they are added in float64.
    Processes merge by adding up, so the result of several differs from one's by rounding alone: the order of the
    additions is another.

    Args:
        num_classes: K, the columns of the logits; 1 for one binary output with labels 0 and 1, whose P is (2, 1).
        link: ``"softmax"`` or ``"logistic"``; one output is ``"logistic"``.
        ignore_index: label of positions that count for nothing.
        folds: keep the sums in so many parts, each class spread evenly over them, for :meth:`jackknife`: errors of
            anything that is made of P. Memory grows by K x K numbers for each.
        **options: of ``torchmetrics.Metric``.

    ``update(logits, target)`` takes what the losses take; ``compute()`` gives (K, K) float64, NaN rows for classes
    without samples. :attr:`class_counts`, :meth:`standard_error`, :meth:`replicates` and :meth:`jackknife` belong
    to it; under data parallelism each gathers all processes, as ``compute()`` does.

    Raises:
        TypeError, ValueError: as the losses do.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020 (mean predicted probabilities); the standard errors are the usual ones.

    Example:
        >>> metric = MeanConfusion(2, link="softmax")
        >>> metric.update(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
        >>> metric.update(torch.tensor([[9.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
        >>> metric.compute()
        tensor([[0.7499, 0.2501],
                [0.5000, 0.5000]], dtype=torch.float64)
    """

    square_sums: Tensor

    def __init__(
        self, num_classes: int, *, link: Link, ignore_index: int = -100, folds: int = 1, **options: Any
    ) -> None:
        check_choice("link", link, ("softmax", "logistic"))
        rows = max(check_integer("num_classes", num_classes, low=1), 2)
        if num_classes == 1 and link == "softmax":
            raise ValueError('link must be "logistic" for one output, got "softmax"')
        ignore_index = check_integer("ignore_index", ignore_index)
        identity = (int(link == "softmax"), ignore_index)
        super().__init__(rows, num_classes, check_integer("folds", folds, low=1), identity, **options)
        self.num_classes, self.link, self.ignore_index = num_classes, link, ignore_index
        self.add_state("square_sums", torch.zeros_like(self.fold_sums[0]), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add a batch."""
        check_logits(logits)
        if logits.shape[1] != self.num_classes:
            raise ValueError(f"logits must have {self.num_classes} columns, got {logits.shape[1]}")
        check_target(
            logits, target, num_labels=len(self.square_sums), ignore_index=self.ignore_index, validate=None
        )
        rows = logits.detach().movedim(1, -1).reshape(-1, self.num_classes)
        add_by_class(
            "softmax" if self.link == "softmax" else "sigmoid",
            rows.to(compute_dtype(rows)),
            target.long().reshape(-1),
            self.fold_sums,
            self.square_sums,
            counts=self.fold_counts,
            ignore_index=self.ignore_index,
        )

    def compute(self) -> Tensor:
        """Return the (K, K) float64 mean confusion so far."""
        return _means(self.fold_sums.sum(0), self.fold_counts.sum(0))

    @property
    def class_counts(self) -> Tensor:
        """Return the (K,) int64 samples of each class so far."""
        with self._gathered():
            return self.fold_counts.sum(0)

    def standard_error(self) -> Tensor:
        """Return the (K, K) float64 standard errors of the means; NaN for classes with fewer than two samples."""
        with self._gathered():
            counts = self.fold_counts.sum(0)[:, None].double()
            mean = self.fold_sums.sum(0) / counts
            variance = (self.square_sums / counts - mean.square()).clamp(min=0) / (counts - 1)
            return variance.sqrt().masked_fill(counts < 2, torch.nan)

    def replicates(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield mean confusion and class counts without the first fold, without the second, and so on.

        Raises:
            ValueError: there is one fold only.
        """
        if self.folds < 2:
            raise ValueError("folds must be at least 2 for replicates, got 1")
        with self._gathered():
            sums, counts = self.fold_sums, self.fold_counts
        total, samples = sums.sum(0), counts.sum(0)
        for part, number in zip(sums, counts, strict=True):
            yield _means((total - part).clamp_(min=0), samples - number), samples - number


def _means(sums: Tensor, counts: Tensor) -> Tensor:
    """Return the means, written over the sums."""
    return sums.div_(counts[:, None]).masked_fill_(counts[:, None] == 0, torch.nan)
