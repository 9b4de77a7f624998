"""Offsets that make an objective best on given rows: coordinate ascent whose line search is exact."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from steelyard.deciding.objectives import Objective

_MOST_SWEEPS = 10
_GAIN = 1e-9
_SETTLED = 2e-4  # a sweep that gains less, of what the objective can be, is the last
_APART = 1e-11  # two margins nearer than that, relative to their size, are one
_KICKS = 1  # restarts from the best offsets, moved at random
_KICK = 0.5  # by a standard deviation of so much, in log-probability


def best_offsets(values: Tensor, target: Tensor, objective: Objective, seed: int = 0) -> Tensor:
    """Return the (C,) offsets, mean 0, under which the argmax of rows (N, C) has the best score found.

    For two choices, and for an objective with a minimum, which moves the offset of its class alone, that is the
    best there is. For more it is where no single offset can be moved for the better, from several starts.
    """
    size = values.shape[1]
    counts = torch.bincount(target, minlength=size).double()
    search = _Search(values, target, objective, counts)
    if size == 2 or objective.minimum is not None:
        one = 1 if objective.minimum is None else objective.minimum[0]
        tops = _Tops(values, torch.zeros(size, dtype=torch.float64))
        offsets = torch.zeros(size, dtype=torch.float64)
        offsets[one] = search.line(tops, one, stay=False).offset
        return offsets - offsets.mean()
    starts = [torch.zeros(size, dtype=torch.float64), -(counts.clamp(min=0.5) / counts.sum()).log()]
    if objective.costs is not None:
        missed = (objective.costs - objective.costs.diagonal()[:, None]).mean(1)
        starts.append(missed.clamp(min=1e-6 * float(missed.abs().max().clamp(min=1e-300))).log())
    generator = torch.Generator().manual_seed(seed)
    best, high = starts[0], -torch.inf
    for start in starts:
        best, high = search.better(search.ascend(start), best, high)
    for _ in range(_KICKS):
        moved = best + _KICK * torch.randn(size, generator=generator, dtype=torch.float64)
        best, high = search.better(search.ascend(moved), best, high)
    return best


class _Move(NamedTuple):
    offset: float
    score: float
    now: float


class _Tops:
    """The two largest of each row under offsets, the first index where several are equal, as argmax takes it."""

    def __init__(self, values: Tensor, offsets: Tensor) -> None:
        self.values, self.offsets, self.shifted = values, offsets.clone(), values + offsets
        self.first, self.first_of, self.second, self.second_of = self._two(self.shifted)

    def _two(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        first, first_of = rows.max(1)
        second, second_of = rows.scatter(1, first_of[:, None], -torch.inf).max(1)
        return first, first_of, second, second_of

    def others(self, k: int) -> tuple[Tensor, Tensor]:
        """Return the largest of each row beside class k, and whose it is."""
        own = self.first_of == k
        return torch.where(own, self.second, self.first), torch.where(own, self.second_of, self.first_of)

    def move(self, k: int, offset: float) -> None:
        self.offsets[k] = offset
        new = self.values[:, k] + offset
        self.shifted[:, k] = new
        again = (self.first_of == k) | (self.second_of == k)
        above = ~again & ((new > self.first) | ((new == self.first) & (k < self.first_of)))
        between = ~again & ~above & ((new > self.second) | ((new == self.second) & (k < self.second_of)))
        self.second = torch.where(above, self.first, torch.where(between, new, self.second))
        self.second_of = torch.where(above, self.first_of, self.second_of).masked_fill(between, k)
        self.first = torch.where(above, new, self.first)
        self.first_of = self.first_of.masked_fill(above, k)
        rows = again.nonzero()[:, 0]
        self.first[rows], self.first_of[rows], self.second[rows], self.second_of[rows] = self._two(
            self.shifted[rows]
        )


class _Search:
    def __init__(self, values: Tensor, target: Tensor, objective: Objective, counts: Tensor) -> None:
        self.values, self.target, self.objective, self.counts = values, target, objective, counts
        self.gains = objective.gains(counts)
        self.scale = objective.limits[1] - objective.limits[0]
        self.least = _GAIN * self.scale

    def score(self, offsets: Tensor) -> float:
        decided = (self.values + offsets).argmax(1)
        return float(self.objective.score(confusion_of(self.target, decided, len(offsets))))

    def better(self, offsets: Tensor, best: Tensor, high: float) -> tuple[Tensor, float]:
        score = self.score(offsets)
        return (offsets, score) if score > high + self.least else (best, high)

    def ascend(self, start: Tensor) -> Tensor:
        tops = _Tops(self.values, start - start.mean())
        for _ in range(_MOST_SWEEPS):
            gained = 0.0
            for k in range(len(start)):
                found = self.line(tops, k)
                if found.score > found.now + self.least:
                    tops.move(k, found.offset)
                    gained += found.score - found.now
            if gained < _SETTLED * self.scale:
                break
        return tops.offsets - tops.offsets.mean()

    def line(self, tops: _Tops, k: int, *, stay: bool = True) -> _Move:
        """Return the best offset of class k with the others as they are, halfway between two rows' values.

        Class k is decided in the rows whose margin, the largest of the others less its own, is below its offset.
        Sorted by margin, the rows go over to it one by one, and each changes two columns of the confusion.
        """
        rest, rival = tops.others(k)
        margin = rest - self.values[:, k]
        margin = torch.where(self.values[:, k] == -torch.inf, torch.inf, margin)  # never decided k
        order = torch.from_numpy(np.argsort(margin.numpy()))  # NumPy sorts several times faster than torch
        margin = margin[order]
        y, b = self.target[order], rival[order]
        fixed, free = int((margin == -torch.inf).sum()), int((margin < torch.inf).sum())
        b = torch.where(torch.arange(len(b)) < fixed, k, b)
        after = self._after(y, b, k, fixed, free)  # scores after 0, 1, ... of the free rows went over
        margin = margin[fixed:free]
        now, here = float(tops.offsets[k]), 0
        if len(margin):
            scale = _APART * margin.abs().clamp(min=1)
            inside = torch.cat([margin[1:] - margin[:-1] > scale[1:], margin.new_ones(1, dtype=torch.bool)])
            allowed = torch.cat([margin.new_ones(1, dtype=torch.bool), inside])
            here = int((margin < now).sum())
            current = float(after[here])
            after = after.masked_fill(~allowed, -torch.inf)
        else:
            current = float(after[0])
        high = float(after.max())
        if stay and high <= current + self.least:
            return _Move(now, current, current)
        best = (after >= high - self.least / 1000).nonzero()[:, 0]
        p = int(best[-1]) if self.objective.minimum is not None else int(best[(best - here).abs().argmin()])
        if len(margin) == 0:
            return _Move(now, high, current)
        if p == 0:
            return _Move(float(margin[0]) - 1, high, current)
        if p == len(margin):
            return _Move(float(margin[-1]) + 1, high, current)
        return _Move(float(margin[p - 1] + margin[p]) / 2, high, current)

    def _after(self, y: Tensor, b: Tensor, k: int, fixed: int, free: int) -> Tensor:
        objective, gains, counts, size = self.objective, self.gains, self.counts, len(self.counts)
        own = torch.zeros(size, dtype=torch.float64).index_add(0, b, gains[y, b])  # A and D before any goes over
        decided = torch.bincount(b, minlength=size).double()
        y, b = y[fixed:free], b[fixed:free]
        zero = own.new_zeros(1)
        to_k = own[k] + torch.cat([zero, gains[y, k].cumsum(0)])
        decided_k = decided[k] + torch.arange(len(y) + 1, dtype=torch.float64)
        if objective.minimum is not None:
            return objective.limited(to_k, decided_k, counts[k])
        if objective.linear:  # in A, and D does not matter
            change = objective.columns(-gains[y, b], decided[b], counts, b)
        else:
            change = self._left(y, b, own, decided)
        base = objective.columns(own, decided, counts).sum() - objective.columns(own[k], decided[k], counts, k)
        return base + torch.cat([zero, change.cumsum(0)]) + objective.columns(to_k, decided_k, counts, k)

    def _left(self, y: Tensor, b: Tensor, own: Tensor, decided: Tensor) -> Tensor:
        """Return by how much the column of b changes as each row leaves it, in the order of the rows."""
        grouped = torch.from_numpy(np.argsort(b.numpy().astype(np.int16), kind="stable"))  # by radix
        b = b[grouped]
        size = torch.bincount(b, minlength=len(own))
        starts = size.cumsum(0) - size
        gone = self.gains[y[grouped], b]
        total = torch.cat([own.new_zeros(1), gone.cumsum(0)])
        before = own[b] - (total[:-1] - total[starts[b]])
        number = decided[b] - (torch.arange(len(b)) - starts[b])
        f = self.objective.columns
        change = f(before - gone, number - 1, self.counts, b) - f(before, number, self.counts, b)
        return torch.empty_like(change).scatter_(0, grouped, change)


def confusion_of(target: Tensor, decided: Tensor, size: int) -> Tensor:
    """Return the (K, K) table of counts, float64, row the true class, column the decision."""
    return torch.bincount(target * size + decided, minlength=size * size).reshape(size, size).double()
