"""What must hold before anything is said of weights: columns are those of the labels, scores have their sign."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steelyard.kernels.class_sums.dispatch import add_by_class

_BETTER = 2.5  # times that another assignment of columns must be as good as the one that is given
_CLEAR = 0.5  # standard deviations of a column by which a class that has it stands out, at least
_ERRORS = 4.0


@dataclass(frozen=True)
class Columns:
    """Whether the columns of the logits are those of the labels.

    Attributes:
        own: (K,) the column that the samples of each class raise, where it is clear; its own elsewhere.
        agreement: mean standardised logit of a class in its own column, over classes.
        best: the same in the column of `own`.
        flipped: outputs, each a binary problem of its own, that score negatives above positives.
    """

    own: Tensor
    agreement: float
    best: float
    flipped: tuple[int, ...] = ()

    @property
    def moved(self) -> tuple[tuple[int, int], ...]:
        """Return pairs of a class and the column that its samples raise, where that is another class's."""
        return tuple((k, int(j)) for k, j in enumerate(self.own.tolist()) if k != j)


class ColumnSums:
    """Sums over a stream of rows, from which :class:`Columns` is made.

    A logit less the mean of its row, standardised over all rows, and averaged over the samples of a class says how
    much that class raises that column, whatever the frequencies of the classes.

    Args:
        classes: K; 2 for one binary output.
        columns: of the logits.
    """

    def __init__(self, classes: int, columns: int) -> None:
        self.binary, self.single = classes == 2, columns == 1
        self.sums = torch.zeros(classes, 1 if self.binary else columns, dtype=torch.float64)
        self.squares = torch.zeros_like(self.sums if self.binary else self.sums[0])
        self.counts = torch.zeros(1, classes, dtype=torch.long)

    def update(self, rows: Tensor, labels: Tensor) -> None:
        """Add (n, columns) logits and (n,) labels."""
        if not self.binary:
            add_by_class("centred", rows, labels, self.sums, self.squares, counts=self.counts)
            return
        z = rows.double()
        z = z[:, -1:] if z.shape[1] == 1 else z[:, 1:] - z[:, :1]
        self.squares.index_add_(0, labels, z.square())
        self.sums.index_add_(0, labels, z)
        self.counts += torch.bincount(labels, minlength=2)

    def compute(self) -> Columns:
        """Return which columns the classes raise."""
        n = self.counts[0].double()
        size = len(n)
        identity = torch.arange(size)
        if self.binary:
            flipped, gap = _flipped(self.sums, self.squares, n[:, None])
            own = identity.flip(0) if bool(flipped) and not self.single else identity
            return Columns(own, float(gap), abs(float(gap)), (0,) if bool(flipped) and self.single else ())
        total = n.sum()
        centre = self.sums.sum(0) / total
        deviation = (self.squares / total - centre.square()).clamp(min=0).sqrt()
        scale = float(deviation.max())
        means = self.sums / n[:, None] - centre
        R = torch.where(deviation > 1e-9 * scale, means / deviation.clamp(min=1e-300), 0.0)
        seen = n > 0
        own = R.diagonal()[seen].mean()
        most = R[seen][:, seen].max(1).values.mean() if bool(seen.any()) else own
        given = Columns(identity, float(own), float(own))
        if float(most) <= _BETTER * float(own):  # no assignment can be so much better, of all classes together
            few = self._exchanged(R, seen)
            return given if few is None else Columns(few, float(own), float(_along(R, few)[seen].mean()))
        order = _assigned(R, seen)
        best = float(_along(R, order)[seen].mean())
        error = math.sqrt(float((2 / n[seen]).mean()) / int(seen.sum()))
        clear = best > max(_BETTER * float(own), 2 * _CLEAR, float(own) + _ERRORS * error)
        return Columns(order, float(own), best) if clear else given

    def _exchanged(self, R: Tensor, seen: Tensor) -> Tensor | None:
        """Return an order in which a few classes have changed columns among themselves, or None."""
        top = torch.where(seen, R, -torch.inf).argmax(1)
        places = torch.arange(len(top))
        doubtful = seen & (top != places)
        if not bool(doubtful.any()):
            return None
        order = places.clone()
        for k in doubtful.nonzero()[:, 0].tolist():
            cycle, at = [k], int(top[k])
            while at != k and at not in cycle and bool(doubtful[at]):
                cycle.append(at)
                at = int(top[at])
            if at != k or int(order[k]) != k:
                continue
            members = torch.tensor(cycle)
            own, best = R.diagonal()[members], R[members, top[members]]
            error = (2 / self.counts[0, members].double()).sqrt()
            if bool((best > _CLEAR + _BETTER * own.clamp(min=0)).all()) and bool(
                (best - own > _ERRORS * error).all()
            ):
                order[members] = top[members]
        return None if torch.equal(order, places) else order


class OutputSums:
    """The same for outputs that stand for themselves: each has positives and negatives.

    Args:
        outputs: K.
    """

    def __init__(self, outputs: int) -> None:
        self.sums = torch.zeros(2, outputs, dtype=torch.float64)
        self.squares, self.counts = torch.zeros_like(self.sums), torch.zeros_like(self.sums)

    def update(self, rows: Tensor, target: Tensor) -> None:
        """Add (n, K) logits and (n, K) multi-hot targets; entries below 0 count for nothing."""
        z = rows.double()
        for row, chosen in enumerate(((target == 0).double(), (target > 0).double())):
            self.sums[row] += (z * chosen).sum(0)
            self.squares[row] += (z.square() * chosen).sum(0)
            self.counts[row] += chosen.sum(0)

    def compute(self) -> Columns:
        """Return which outputs score negatives above positives."""
        flipped, gap = _flipped(self.sums, self.squares, self.counts)
        places = tuple(flipped.nonzero()[:, 0].tolist())
        mean = float(gap.nanmean())
        return Columns(torch.arange(len(flipped)), mean, mean, places)


def _flipped(sums: Tensor, squares: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return for the columns of (2, m) sums over negatives and positives whether the negatives have the higher
    mean, beyond chance, and the difference of the means."""
    mean = sums / counts
    variance = (squares / counts - mean.square()).clamp(min=0) / (counts - 1).clamp(min=1)
    gap = mean[1] - mean[0]
    clear = (gap < -_ERRORS * variance.sum(0).sqrt()) & (counts > 1).all(0)
    return clear, gap


def _along(R: Tensor, order: Tensor) -> Tensor:
    return R.gather(1, order[:, None])[:, 0]


def _assigned(R: Tensor, seen: Tensor) -> Tensor:
    """Return a column for each class, the clearest pairs first; a class without samples keeps what is left."""
    size = len(R)
    order = torch.full((size,), -1)
    free = torch.ones(size, dtype=torch.bool)
    values = R[seen].reshape(-1)
    classes = seen.nonzero()[:, 0]
    for at in values.argsort(descending=True).tolist():
        k, j = int(classes[at // size]), at % size
        if int(order[k]) < 0 and bool(free[j]):
            order[k], free[j] = j, False
    for k in (order < 0).nonzero()[:, 0].tolist():
        j = k if bool(free[k]) else int(free.nonzero()[0])
        order[k], free[j] = j, False
    return order
