"""The gradients of any loss in place of a mean confusion, so that every law of an audit can be asked of it."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from steelyard.auditing.stated import Stated
from steelyard.balance.implied import ImpliedWeights, implied_weights
from steelyard.balance.perron import Found, communicating, gradient_weights

if TYPE_CHECKING:
    from steelyard.balance.confusion import MeanConfusion
    from steelyard.balance.gradient_ledger import GradientLedger


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
        ledger: the gradients by class; it is updated elsewhere.
        stated: what is said of the training.
    """

    def __init__(self, ledger: "GradientLedger", stated: Stated) -> None:
        self.ledger, self.folds = ledger, ledger.folds
        self.binary, self.pos_weight = stated.binary, stated.setup.pos_weight

    def compute(self) -> Tensor:
        """Return E, (K, K) float64; NaN rows for classes without samples."""
        return self._of(self.ledger.compute(), self.class_counts)

    @property
    def class_counts(self) -> Tensor:
        """Return the (K,) int64 samples of each class."""
        return self.ledger.class_counts.reshape(-1)

    def standard_error(self) -> Tensor:
        """Return (K, K) jackknife errors; NaN for classes with fewer than two samples, and without folds."""
        if self.folds == 1:
            return torch.full_like(self.compute(), torch.nan)
        return self.jackknife(lambda E, counts: E).masked_fill((self.class_counts < 2)[:, None], torch.nan)

    def replicates(self) -> Iterator[tuple[Tensor, Tensor]]:
        """E and class counts without the first fold, without the second, and so on."""
        for sums, counts in self.ledger.replicates():
            yield self._of(sums, counts.reshape(-1)), counts.reshape(-1)

    def jackknife(self, statistic: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return the standard error of a function of E and class counts, as :meth:`MeanConfusion.jackknife`."""
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


class _Remade:
    """The base of a confusion that is made of another one, entry by entry of what that gives."""

    def __init__(self, confusion: Confusion) -> None:
        self.confusion, self.folds = confusion, confusion.folds

    def compute(self) -> Tensor:
        """Return the effective confusion, (K, K) float64."""
        return self._of(self.confusion.compute())

    @property
    def class_counts(self) -> Tensor:
        """Return the (K,) int64 samples of each class."""
        return self.confusion.class_counts

    def replicates(self) -> Iterator[tuple[Tensor, Tensor]]:
        """E and class counts without the first fold, without the second, and so on."""
        for E, counts in self.confusion.replicates():
            yield self._of(E), counts

    def jackknife(self, statistic: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return the standard error of a function of E and class counts, as :meth:`MeanConfusion.jackknife`."""
        return self.confusion.jackknife(lambda E, counts: statistic(self._of(E), counts))

    def _of(self, E: Tensor) -> Tensor:
        raise NotImplementedError


class SmoothedConfusion(_Remade):
    r"""The same for torch's cross-entropy with weights and label smoothing, which weighs the smoothing by columns.

    .. math:: E_k = e_k + (1 - \epsilon) (P_k - e_k) + \frac{\epsilon}{K N_k} \sum_m N_m (P_m - e_k)

    for then :math:`\sum_k w_k N_k (E_k - e_k)` is the gradient whatever the weights are, although they stand in it
    twice. All classes have samples.

    Args:
        metric: the mean confusion, updated elsewhere.
        epsilon: the label smoothing.
        class_counts: (K,) training samples of each class.
    """

    def __init__(self, metric: "MeanConfusion", epsilon: float, class_counts: Tensor) -> None:
        super().__init__(metric)
        self.epsilon, self.counts = epsilon, class_counts

    def standard_error(self) -> Tensor:
        """Return (K, K) errors from the own rows of P; the other rows enter by the share of the smoothing only."""
        return (1 - self.epsilon) * self.confusion.standard_error()

    def _of(self, E: Tensor) -> Tensor:
        own, N = torch.eye(len(E), dtype=E.dtype), self.counts
        smoothing = (N @ E.nan_to_num(0.0) - N.sum() * own) / (len(E) * N[:, None])
        return own + (1 - self.epsilon) * (E - own) + self.epsilon * smoothing


class WeightedPositives(_Remade):
    """An effective confusion in which positives weigh more, of a loss whose class weights are asked for.

    Args:
        confusion: without any weights.
        pos_weight: (K,) weight of each output's positives.
    """

    def __init__(self, confusion: Confusion, pos_weight: Tensor) -> None:
        super().__init__(confusion)
        self.pos_weight = pos_weight

    def standard_error(self) -> Tensor:
        """Return (K, K) errors."""
        error = self.confusion.standard_error()
        return error.diagonal_scatter(error.diagonal() * self.pos_weight)

    def _of(self, E: Tensor) -> Tensor:
        own = E.diagonal()
        return E.diagonal_scatter(1 - self.pos_weight * (1 - own))


def implied_by(confusion: Confusion, counts: Tensor, tolerance: float) -> ImpliedWeights:
    r"""Return the class weights under which the law holds: :math:`a (E - 1) = 0` with :math:`a_k = w_k N_k`.

    Where E is a Markov chain, a is its stationary distribution; else the left Perron vector of push over pull, or
    the null vector where push is negative: NaN where that is not positive.
    """
    E = confusion.compute()
    observed = ~E.isnan().any(1) & (counts > 0)
    if bool((E[observed] >= 0).all()) and bool(((E[observed].sum(1) - 1).abs() < 1e-4).all()):
        parts = confusion.replicates() if confusion.folds > 1 else None
        return implied_weights(E, counts, tolerance=tolerance, replicates=parts)
    eye = torch.eye(len(E), dtype=E.dtype)
    rates = (E - eye).masked_fill(eye.bool(), 0.0).nan_to_num(0.0)
    groups = communicating(rates.abs(), observed, tolerance)

    def found(values: Tensor, group: Tensor) -> Found:
        return gradient_weights((counts[:, None] * (values - eye))[group][:, group], counts[group])

    def weights(values: Tensor) -> Tensor:
        result = torch.full_like(counts, torch.nan)
        for group in groups:
            if not bool(values[group].isnan().any()):
                w = found(values, group).weights
                result[group] = w * counts[group].sum() / (w * counts[group]).sum()
        return result

    logs = None
    if confusion.folds > 1:
        logs = torch.stack([weights(part).log() for part, _ in confusion.replicates()])
    outside = [rates[g].abs().sum(1) - rates[g][:, g].abs().sum(1) for g in groups]
    return ImpliedWeights(
        weights(E),
        tuple(tuple(group.tolist()) for group in groups),
        tuple(found(E, group).gap for group in groups),
        tuple(float(leak.max().clamp(min=0)) for leak in outside),
        tolerance,
        (len(E) - 1) ** 2,
        logs,
        tuple(found(E, group).eigenvalue for group in groups),
    )
