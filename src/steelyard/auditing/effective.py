"""The gradients of any loss in place of a mean confusion, so that every law of an audit can be asked of it."""

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from steelyard.auditing.stated import Stated
from steelyard.balance.gradient_ledger import GradientLedger
from steelyard.balance.implied import ImpliedWeights, implied_weights


class Confusion(Protocol):
    """What an audit needs of a mean confusion: :class:`~steelyard.balance.MeanConfusion`, or an effective one."""

    folds: int

    def compute(self) -> Tensor: ...

    @property
    def class_counts(self) -> Tensor: ...

    def standard_error(self) -> Tensor: ...

    def replicates(self) -> Iterator[tuple[Tensor, Tensor]]: ...

    def jackknife(self, statistic: Callable[[Tensor, Tensor], Tensor]) -> Tensor: ...


class EffectiveConfusion:
    r"""The mean gradients of a loss by class, in the form of a mean confusion.

    .. math:: E_{kj} = [k = j] + \frac{1}{N_k} \sum_{i \in k} g_j(z_i, k), \qquad
        g(z, k) = \partial \ell(z, k) / \partial z

    Under softmax and one-vs-all losses that is the mean confusion itself. With E in its place the law of any loss
    reads as theirs: pull :math:`a_j (1 - E_{jj})`, push :math:`\sum_{k \ne j} a_k E_{kj}`. Weights of positives
    are taken out of E. One binary output is taken as the two logits (0, z), of which the first has minus the
    gradient of the second.

    Args:
        ledger: that is updated elsewhere.
        stated: what is said of the training.
    """

    def __init__(self, ledger: GradientLedger, stated: Stated) -> None:
        self.ledger, self.folds = ledger, ledger.folds
        self.binary, self.pos_weight = stated.binary, stated.setup.pos_weight

    def compute(self) -> Tensor:
        """(K, K) float64; NaN rows for classes without samples."""
        return self._of(self.ledger.compute(), self.class_counts)

    @property
    def class_counts(self) -> Tensor:
        """(K,) int64 samples of each class."""
        return self.ledger.class_counts.reshape(-1)

    def standard_error(self) -> Tensor:
        """(K, K) by the jackknife; NaN for classes with fewer than two samples, and where there are no folds."""
        if self.folds == 1:
            return torch.full_like(self.compute(), torch.nan)
        return self.jackknife(lambda E, counts: E).masked_fill((self.class_counts < 2)[:, None], torch.nan)

    def replicates(self) -> Iterator[tuple[Tensor, Tensor]]:
        """E and class counts without the first fold, without the second, and so on."""
        for sums, counts in self.ledger.replicates():
            yield self._of(sums, counts.reshape(-1)), counts.reshape(-1)

    def jackknife(self, statistic: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Standard error of a function of E and class counts, as :meth:`MeanConfusion.jackknife`."""
        values = torch.stack([statistic(E, counts) for E, counts in self.replicates()])
        return ((self.folds - 1) * values.var(0, correction=0)).sqrt()

    def _of(self, sums: Tensor, counts: Tensor) -> Tensor:
        mean = sums / counts[:, None]
        own = torch.eye(len(counts), dtype=torch.bool)
        if self.binary:
            mean = torch.cat([-mean, mean], 1)
            factor = (
                torch.ones(2, 1) if self.pos_weight is None else torch.stack([self.pos_weight**0, self.pos_weight])
            )
            mean = mean / factor
        elif self.pos_weight is not None:
            mean = torch.where(own, mean / self.pos_weight, mean)
        return (mean + own.double()).masked_fill((counts == 0)[:, None], torch.nan)


def implied_by(confusion: Confusion, counts: Tensor, tolerance: float) -> ImpliedWeights:
    r"""Class weights that make the law of a loss hold that does not change when all logits shift.

    Its rows of E sum to 1, so that :math:`1 + (E - 1) / c` is a Markov chain whose stationary distribution is the
    weighted class counts, whatever c; c makes its diagonal non-negative.
    """
    E = confusion.compute()
    scale = max(1.0, float((1 - E.diagonal()).nan_to_num(0.0).max()))

    def chain(values: Tensor) -> Tensor:
        eye = torch.eye(len(values), dtype=values.dtype)
        return values if scale == 1 else eye + (values - eye) / scale

    replicates = None
    if confusion.folds > 1:
        replicates = ((chain(part), samples) for part, samples in confusion.replicates())
    return implied_weights(chain(E), counts, tolerance=tolerance, replicates=replicates)
