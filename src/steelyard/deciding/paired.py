"""What several ways to decide are worth on the same rows, and how sure their differences are."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

_DRAWS = 1000
_STEADY = 4.0  # exponentials of which the weight of a fold is the mean
_MOST_NUMBERS = 1 << 24


@dataclass(frozen=True)
class Paired:
    """Values of M ways to decide on the same rows, and of the same rows drawn again.

    Attributes:
        values: (M,) float64.
        draws: (B, M): draw b weighs the rows in the same way for every way to decide.
    """

    values: Tensor
    draws: Tensor

    def gain(self, one: int, other: int) -> tuple[float, tuple[float, float]]:
        """Return by how much the value of one way is above that of another, and its interval.

        The intervals of the gains of all ways over that other one hold together with probability 0.95, so that of
        a way that was chosen for its gain holds too.
        """
        gain, reach = float(self.values[one] - self.values[other]), self._reach(other) * self.error(one, other)
        return gain, (gain - reach, gain + reach)

    def error(self, one: int, other: int) -> float:
        """Return the standard error of the gain of one way over another."""
        return float((self.draws[:, one] - self.draws[:, other]).std())

    def _reach(self, other: int) -> float:
        """Return how many standard errors the furthest of the gains over a way is off in 95% of the draws.

        At most Bonferroni's number: pairs that differ in a few rows have tails that say nothing of the others.
        """
        gains = self.draws - self.draws[:, other : other + 1]
        error = gains.std(0)
        kept = error > 0
        if not bool(kept.any()):
            return 0.0
        off = (gains - gains.mean(0))[:, kept] / error[kept]
        most = NormalDist().inv_cdf(1 - 0.025 / int(kept.sum()))
        return min(float(off.abs().amax(1).quantile(0.95)), most)


def paired(
    decisions: Tensor,
    target: Tensor,
    folds: Tensor,
    value: Callable[[Tensor], Tensor],
    num_classes: int,
    *,
    groups: Tensor | None = None,
    seed: int = 0,
) -> Paired:
    r"""Return what ways to decide are worth on the same rows, and on rows drawn again.

    A draw is one of the Bayesian bootstrap: every row gets an exponential weight, and every fold another, the mean
    of four, which stands for the training that its rows have in common. With five folds standard errors are a
    sixth above those of rows alone, as the distance between a promised gain and that on fresh rows is (measured).
    Each class has one row more in a draw, at which every way decides right or wrong at random: a few rows on which
    two ways agree do not tell that they always do. Rows of one group are drawn together.

    Args:
        decisions: (M, N) int64, classes.
        target: (N,) int64.
        folds: (N,) int64, the fold of each row.
        value: of confusions (..., K, K), higher is better.
        num_classes: K.
        groups: (N,) int64 from 0 on, each within one fold. Default: every row is one of its own.
        seed: of the draws.

    Returns:
        The values and their draws.

    Source:
        Rubin, Annals of Statistics 1981; Agresti and Min, Statistics in Medicine 2005 (the further rows); the
        rest derived for this project.
    """
    ways, size = len(decisions), num_classes
    grouped = [] if groups is None else [groups[None]]
    table = torch.cat([folds[None], target[None], decisions, *grouped]).T.numpy()
    kinds, counts = np.unique(table, axis=0, return_counts=True)
    kind, count = torch.from_numpy(kinds), torch.from_numpy(counts).double()
    fold, own, decided = kind[:, 0], kind[:, 1], kind[:, 2 : 2 + ways].T
    cells = own * size + decided  # (M, U)
    samples = torch.zeros(size, dtype=torch.float64).index_add(0, own, count)
    present = (samples > 0).nonzero()[:, 0]
    whole = torch.stack([torch.zeros(size * size, dtype=torch.float64).index_add(0, c, count) for c in cells])
    values = value(whole.reshape(ways, size, size))

    random = np.random.default_rng(seed)
    number = int(fold.max()) + 1
    at_once = max(1, min(_DRAWS, _MOST_NUMBERS // (ways * size * size + len(count))))
    draws = []
    for first in range(0, _DRAWS, at_once):
        n = min(at_once, _DRAWS - first)
        of_fold = random.standard_gamma(_STEADY, (n, number))
        of_fold /= of_fold.mean(1, keepdims=True)
        if groups is None:
            drawn = random.standard_gamma(counts, (n, len(counts)))
        else:
            drawn = random.standard_exponential((n, int(groups.max()) + 1))[:, kinds[:, -1]] * counts
        weight = torch.from_numpy(drawn * of_fold[:, fold.numpy()])
        further = torch.from_numpy(random.standard_exponential((n, len(present))))
        right = torch.from_numpy(random.random((n, ways, len(present))) < 0.5)
        step = torch.from_numpy(random.integers(1, size, (n, ways, len(present))))
        chance = present * size + torch.where(right, present, (present + step) % size)
        confusion = torch.zeros(n, ways, size * size, dtype=torch.float64)
        for m in range(ways):
            confusion[:, m].index_add_(1, cells[m], weight)
            confusion[:, m].scatter_add_(1, chance[:, m], further)
        # Further rows must not make rare classes more frequent than they are.
        confusion = confusion.reshape(n, ways, size, size) * (samples / (samples + 1))[:, None]
        draws.append(value(confusion))
    return Paired(values, torch.cat(draws))
