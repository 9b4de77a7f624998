"""Gradients of any loss, summed by class over a stream; what they say of weights is in `implied`."""

import secrets
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from steelyard._common.checks import Vector, check_integer
from steelyard.balance.folded import FoldedSums
from steelyard.balance.law import Batch, balance_of, gradients, read_batch
from steelyard.balance.laws import Balance
from steelyard.balance.setup import TrainingSetup
from steelyard.kernels.class_sums.reference import turns


class GradientLedger(FoldedSums):
    r"""Gradients of the loss in the logits, summed by class over a stream of batches.

    .. math:: G_{kj} = \sum_{i: y_i = k} s_i\, g_j(z_i, k), \qquad g(z, k) = \partial \ell(z, k) / \partial z

    without class weights and sampler, so that :math:`w G = 0` says which weights :math:`w` hold the model where it
    is. For independent outputs (multi-hot targets, one binary output) G is (2, K): the negatives and the positives
    of each output. Sums are float64, and memory does not grow with the samples.

    Args:
        setup: what was done in training. A batch loss (LGL-INR) has no ledger.
        num_classes: K, the columns of the logits; 1 for one binary output.
        folds: keep the sums in so many parts, each class spread evenly over them, for :meth:`jackknife`.
        **options: of ``torchmetrics.Metric``.

    ``update(logits, target, sample_weight=None)`` takes what :func:`law` takes, but no soft targets; ``compute()``
    returns G. :attr:`class_counts` and :attr:`masses` are (K,), or (2, K); under data parallelism each gathers all
    processes, as ``compute()`` does.

    Raises:
        TypeError, ValueError: as :func:`law` does.

    Source:
        Derived for this project.

    Example:
        >>> from steelyard import TrainingSetup
        >>> ledger = GradientLedger(TrainingSetup("softmax"), 2)
        >>> ledger.update(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
        >>> ledger.compute()
        tensor([[-0.5000,  0.5000],
                [ 0.5000, -0.5000]], dtype=torch.float64)
    """

    fold_masses: Tensor

    def __init__(self, setup: TrainingSetup, num_classes: int, *, folds: int = 1, **options: Any) -> None:
        if setup.reading.per_sample is None:
            raise ValueError(
                f"loss {setup.reading.name} is a function of the whole batch, so it has no gradients by class"
            )
        rows = 2 if setup.kind(check_integer("num_classes", num_classes, low=1)) != "labels" else num_classes
        # No two ledgers share their sums: setups hold functions, and nobody can say whether those are the same.
        identity = tuple(secrets.randbelow(2**20) for _ in range(8))
        super().__init__(rows, num_classes, check_integer("folds", folds, low=1), identity, **options)
        self.setup, self.num_classes = setup, num_classes
        self.by_label = setup.kind(num_classes) == "labels"
        shape = (folds, num_classes) if self.by_label else (folds, 2, num_classes)
        if not self.by_label:
            self.add_state("fold_counts", torch.zeros(shape, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("fold_masses", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor, sample_weight: Vector | None = None) -> None:
        """Add a batch."""
        batch = read_batch(logits, target, self.setup, sample_weight)
        if batch.logits.shape[1] != self.num_classes:
            raise ValueError(f"logits must have {self.num_classes} columns, got {batch.logits.shape[1]}")
        if batch.soft:
            raise ValueError("target must hold labels or 0 and 1: soft targets belong to no class of a ledger")
        gradient = gradients(self.setup, batch)
        if self.by_label:
            self._add_by_label(gradient, batch)
        else:
            self._add_by_output(gradient, batch)

    def _add_by_label(self, gradient: Tensor, batch: Batch) -> None:
        size = self.num_classes
        turn = turns(batch.target, self.fold_counts) if self.folds > 1 else torch.zeros_like(batch.target)
        cells = turn * size + batch.target
        self.fold_sums.view(-1, size).index_add_(0, cells, gradient)
        self.fold_masses.view(-1).index_add_(0, cells, batch.weights)
        self.fold_counts.view(-1).index_add_(0, cells, torch.ones_like(cells))

    def _add_by_output(self, gradient: Tensor, batch: Batch) -> None:
        rows = len(gradient)
        own = batch.target.reshape(gradient.shape) > 0
        kept = torch.ones_like(own) if batch.kept is None else batch.kept
        start = int(self.fold_counts[:, :, 0].sum()) if self.folds > 1 else 0
        fold = (torch.arange(rows, device=gradient.device) + start) % self.folds
        for row, chosen in enumerate((~own & kept, own & kept)):
            self.fold_sums[:, row].index_add_(0, fold, gradient.masked_fill(~chosen, 0.0))
            self.fold_masses[:, row].index_add_(0, fold, chosen * batch.weights[:, None])
            self.fold_counts[:, row].index_add_(0, fold, chosen.long())

    def compute(self) -> Tensor:
        """Return G so far, float64."""
        return self.fold_sums.sum(0)

    @property
    def class_counts(self) -> Tensor:
        """Return the (K,) int64 samples of each class so far; (2, K) negatives and positives of independent
        outputs."""
        with self._gathered():
            return self.fold_counts.sum(0)

    @property
    def masses(self) -> Tensor:
        """Return the sample weights of each class so far, float64, in the shape of :attr:`class_counts`."""
        with self._gathered():
            return self.fold_masses.sum(0)

    def replicates(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield G and class counts without the first fold, without the second, and so on.

        For class labels each row is scaled to the weight that the whole has of its class.

        Raises:
            ValueError: there is one fold only.
        """
        for sums, counts, _ in self._without_each():
            yield sums, counts

    def law(self) -> Balance:
        """Return the law of the samples so far; its residual has a standard error where there are folds.

        Returns:
            As :func:`steelyard.balance.law`.
        """
        balance = balance_of(self.compute(), self.masses, self.setup)
        if self.folds == 1:
            return balance
        parts = [balance_of(sums, masses, self.setup).residual for sums, _, masses in self._without_each()]
        error = ((self.folds - 1) * torch.stack(parts).var(0, correction=0)).sqrt()
        return Balance(balance.pull_up, balance.push_down, error)

    def _without_each(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        if self.folds < 2:
            raise ValueError("folds must be at least 2 for replicates, got 1")
        with self._gathered():
            states = self.fold_sums, self.fold_counts, self.fold_masses
        totals = [state.sum(0) for state in states]
        for f in range(self.folds):
            sums, counts, masses = (total - state[f] for total, state in zip(totals, states, strict=True))
            if self.by_label:  # how many of each class a fold has is no property of the model
                sums, masses = sums * (totals[2] / masses)[:, None], totals[2]
            yield sums, counts, masses
