"""Which stated weights explain the implied ones: to which power, without which classes, in which order."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from steelyard._common.intervals import QUANTILE
from steelyard.balance.implied import AppliedPower

_FLOOR = 0.05  # scatter of log implied weights that no training is without
_UNKNOWN = 5.0  # standard error of a logarithm of which the samples say nothing
_MANY = 300  # classes from which on errors count as independent
_FEW = 8  # classes that are named as off, at most
_OFF, _OFF_ERRORS = math.log(1.5), 4.0  # a class is off by more than a factor, and more than so many errors
_AT_REST = 0.01  # log weights that differ by less are equal as only a training that came to rest leaves them
_HELD = 0.35  # scatter up to which all other classes count as having their weights
_ORDERLY = 0.25  # an order found from the implied weights leaves at most this part of the scatter
_DISTORTED = 1 / 3  # of the scatter may go along with the stated weights by itself


@dataclass(frozen=True)
class Fit:
    """Log implied weights fitted by stated ones.

    Attributes:
        power: exponent of the stated weights, as fitted or as it was held.
        error: its standard error over samples and trainings; NaN where it was held. The scatter enters twice: as
            chance, and as something that goes along with the weights, which more classes do not average out.
        scatter: standard deviation of the log implied weights about the fit, beyond what samples explain.
    """

    power: float
    error: float
    scatter: float

    def holds(self, power: float, slack: float = 0.0) -> bool:
        """Return whether the 95% interval reaches this power, up to a slack."""
        return abs(self.power - power) <= max(QUANTILE * self.error, slack)

    @property
    def applied(self) -> AppliedPower:
        """Return power and error alone."""
        return AppliedPower(self.power, self.error)


@dataclass(frozen=True)
class Off:
    """A class whose weight is another than stated: by this factor, with the error of its logarithm."""

    index: int
    factor: float
    log_error: float


@dataclass(frozen=True)
class Explained:
    """What explains the implied weights.

    Attributes:
        weights: (K,) the implied weights themselves, NaN where unknown.
        of_classes: whether they are weights of classes, of which only ratios mean something; else of positives.
        none, once, twice: fits of no weights, of the stated ones, and of their squares.
        frequency: fit of the reciprocal class counts, or None where they do not differ.
        range: largest difference of two log implied weights that compare, or of one of positives from 0, with its
            error over samples.
        classes: how many compare.
        free: how many ratios of weights the rows tell: a statement that leaves fewer open can be refuted.
        power: the stated weights' fit, or None where they do not differ within any group.
        parts: of each part of the statement alone, where there are several.
        off: classes whose weight is another than stated, where all others have theirs, or weigh the same where
            nothing is stated.
        at_rest: whether all others have theirs as only a training that came to rest leaves them.
        apart: classes whose weight is another than stated beyond what samples explain, by the median class.
        order: (K,) the class whose weight each class seems to have, or None where that is its own.
    """

    weights: Tensor
    of_classes: bool
    none: Fit
    once: Fit
    twice: Fit
    frequency: Fit | None
    range: tuple[float, float]
    classes: int
    free: int
    power: Fit | None = None
    parts: dict[str, Fit] = field(default_factory=dict)
    off: tuple[Off, ...] = ()
    at_rest: bool = False
    apart: tuple[Off, ...] = ()
    order: Tensor | None = None

    @property
    def scatter(self) -> float:
        """Return the scatter of the implied weights about what explains them best."""
        fits = [self.none, self.once, self.twice, *(f for f in (self.power, self.frequency) if f is not None)]
        return min(fit.scatter for fit in fits)


def explain(
    source: "Explanations", stated: Tensor | None, parts: dict[str, Tensor], counts: Tensor
) -> Explained | None:
    """Return what explains the implied weights, or None where none compare.

    Args:
        source: the implied weights.
        stated: (K,) weights that are stated, or None.
        parts: of what they are the product, by name.
        counts: (K,) training samples of each class.
    """
    if not source.enough:
        return None
    nothing = torch.zeros(len(counts), dtype=torch.float64)
    x = nothing if stated is None else stated.log()
    rare = -counts.clamp(min=1e-300).log()
    frequency = source.fit(rare) if source.constants and source.varies(rare) else None
    none = source.hold(nothing)
    off = source.off(x)
    found = Explained(
        weights=source.logs.exp(),
        of_classes=source.constants,
        none=none,
        once=none,
        twice=none,
        frequency=frequency,
        range=source.differ(),
        classes=len(source.places),
        free=source.free,
        off=off,
        at_rest=bool(off) and source.exact(x, [apart.index for apart in off]),
    )
    if not source.varies(x):
        return found
    return replace(
        found,
        power=source.fit(x),
        once=source.hold(x),
        twice=source.hold(2 * x),
        parts={name: source.hold(w.log()) for name, w in parts.items()} if len(parts) > 1 else {},
        apart=source.apart(x),
        order=source.order(x),
    )


class Explanations:
    r"""Fits of the implied weights, each group of classes with a constant of its own.

    .. math:: \log w_k^{\text{implied}} = c_{\text{group}} + g \log w_k + e_k, \qquad
        e \sim (0, C + \tau^2)

    by generalised least squares. C is the covariance over samples, from the jackknife; :math:`\tau` the scatter
    that training leaves, from the residuals (Paule and Mandel's equation), at least 0.05.

    Args:
        logs: (K,) log implied weights.
        replicates: (F, K) the same without a part of the samples each, or None.
        groups: classes whose weights compare; None where each stands for itself, on an absolute scale.
    """

    def __init__(self, logs: Tensor, replicates: Tensor | None, groups: Sequence[Sequence[int]] | None) -> None:
        kept = [list(g) for g in groups if len(g) > 1] if groups is not None else None
        places = [k for group in kept for k in group] if kept is not None else list(range(len(logs)))
        self.places = [k for k in places if math.isfinite(float(logs[k]))]
        self.logs = logs
        self.group = torch.zeros(len(logs), dtype=torch.long)
        for i, members in enumerate(kept or []):
            self.group[members] = i
        self.constants = kept is not None
        self.variance, self.covariance = _errors(logs, replicates, kept)

    @property
    def enough(self) -> bool:
        """Return whether there is anything to fit."""
        return len(self.places) > (1 if self.constants else 0)

    @property
    def free(self) -> int:
        """Return how many ratios of weights there are; of weights on an absolute scale, how many weights."""
        return self._ratios(self.places)

    def varies(self, values: Tensor) -> bool:
        """Return whether values differ within a group, or from 0 where classes stand for themselves."""
        return self._varies_in(values, self.places) if self.enough else False

    def fit(self, x: Tensor, skip: Sequence[int] = ()) -> Fit:
        """Return the power of weights, given by their logarithms, that fits best."""
        return self._fit(self.logs, x, skip)

    def hold(self, offset: Tensor, skip: Sequence[int] = ()) -> Fit:
        """Return the fit of these weights as they are."""
        found = self._fit(self.logs - offset, None, skip)
        return Fit(1.0, math.nan, found.scatter)

    def residuals(self, offset: Tensor) -> Tensor:
        """Return how far each class is from these weights, about the median of its group; NaN for classes that do
        not compare."""
        residual = torch.full_like(self.logs, torch.nan)
        residual[self.places] = self._about(self.logs - offset, self.places, lambda values: values.quantile(0.5))
        return residual

    def exact(self, offset: Tensor, skip: Sequence[int]) -> bool:
        """Return whether the other classes have these weights as only a training that came to rest leaves them, by
        at least two ratios: then what other rows would change is no doubt of what acted."""
        rest = [k for k in self.places if k not in skip]
        apart = self._about(self.logs - offset, rest, lambda values: values.quantile(0.5))
        return self._ratios(rest) >= 2 and float(apart.abs().max()) <= _AT_REST

    def off(self, offset: Tensor) -> tuple[Off, ...]:
        """Return the few classes that stand apart from all others, which have these weights; () where there are
        none, or too many."""
        size = len(self.places)
        residual = self.residuals(offset)
        named: list[int] = []
        for k in residual.abs().nan_to_num(0.0).argsort(descending=True).tolist()[: max(1, min(_FEW, size // 5))]:
            if size < 4 or float(residual[k].abs()) <= _OFF:
                break
            named.append(k)
        while named:
            rest = [k for k in self.places if k not in named]
            fit = self.fit(offset, named) if self._varies_in(offset, rest) else None
            held = self.hold(offset, named)
            if held.scatter <= _HELD and (fit is None or fit.holds(1, 0.15)):
                apart = [self._apart(k, offset, rest, held.scatter) for k in named]
                errors = 0.0 if self.exact(offset, named) else _OFF_ERRORS
                if all(abs(math.log(a.factor)) > max(_OFF, errors * a.log_error) for a in apart):
                    return tuple(apart)
            named.pop()
        return ()

    def apart(self, offset: Tensor) -> tuple[Off, ...]:
        """Return the classes that are off beyond what samples explain, whatever scatter training leaves."""
        residual = self.residuals(offset)
        found = []
        for k in residual.abs().nan_to_num(0.0).argsort(descending=True).tolist():
            value, error = float(residual[k]), math.sqrt(float(self.variance[k]))
            if math.isfinite(value) and abs(value) > max(_OFF, _OFF_ERRORS * error):
                found.append(Off(k, math.exp(max(-50.0, min(50.0, value))), error))
        return tuple(found)

    def order(self, x: Tensor) -> Tensor | None:
        """Return the class whose weight each class seems to have, where another order than stated fits far better.

        Tried are the reversed order, orders moved by one class, and the order by size of the implied weights.
        """
        places = torch.tensor(self.places)
        groups = torch.unique(self.group[places]) if len(places) else places
        if not self.constants or len(groups) != 1 or len(places) < 3:
            return None
        size = len(places)
        everywhere = torch.arange(len(x))
        simple = [torch.arange(size).flip(0), torch.arange(size).roll(1), torch.arange(size).roll(-1)]
        ranked = torch.empty(size, dtype=torch.long)
        ranked[self.logs[places].argsort()] = x[places].argsort()
        least = min(self.hold(x).scatter, self.hold(torch.zeros_like(x)).scatter)
        for moved in (*simple, ranked):
            order = everywhere.clone()
            order[places] = places[moved]
            if bool((x[order] == x).all()) or not self.varies(x[order]):
                continue
            part = 0.5 if moved is not ranked else _ORDERLY
            slack = 0.1 if moved is ranked else 0.5
            if self.hold(x[order]).scatter <= part * least and abs(self.fit(x[order]).power - 1) <= slack:
                return order
        return None

    def differ(self) -> tuple[float, float]:
        """Return the largest difference of two log implied weights of a group, and its error over samples; of
        classes that stand for themselves that of one from 0."""
        if not self.constants:
            furthest = max(self.places, key=lambda k: abs(float(self.logs[k])))
            return abs(float(self.logs[furthest])), math.sqrt(float(self.variance[furthest]))
        best, error = 0.0, math.inf
        for g in torch.unique(self.group[self.places]).tolist():
            inside = [k for k in self.places if int(self.group[k]) == g]
            values = self.logs[inside]
            high, low = inside[int(values.argmax())], inside[int(values.argmin())]
            together = 0.0 if self.covariance is None else float(self.covariance[high, low])
            spread = math.sqrt(float(self.variance[high] + self.variance[low]) - 2 * together)
            if float(values.max() - values.min()) > best:
                best, error = float(values.max() - values.min()), spread
        return best, error

    def _apart(self, k: int, offset: Tensor, rest: list[int], scatter: float) -> Off:
        own = [j for j in rest if int(self.group[j]) == int(self.group[k])] or rest
        values = (self.logs - offset)[own]
        W = 1 / (self.variance[own] + scatter**2)
        centre = float((W * values).sum() / W.sum()) if self.constants else 0.0
        error = math.sqrt(float(self.variance[k]) + scatter**2 + (float(1 / W.sum()) if self.constants else 0.0))
        factor = math.exp(max(-50.0, min(50.0, float(self.logs[k] - offset[k]) - centre)))
        return Off(k, factor, error)

    def _ratios(self, places: list[int]) -> int:
        """Return how many ratios of weights there are among the classes at places."""
        return len(places) - (len(set(self.group[places].tolist())) if self.constants else 0)

    def _varies_in(self, x: Tensor, places: list[int]) -> bool:
        return bool((self._about(x, places, torch.mean).abs() > 1e-9).any())

    def _about(self, values: Tensor, places: list[int], centre: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the values at places, those of each group less their centre; as they are without constants."""
        part = values[places]
        if self.constants:
            for g in torch.unique(self.group[places]).tolist():
                inside = self.group[places] == g
                part[inside] = part[inside] - centre(part[inside])
        return part

    def _fit(self, y: Tensor, x: Tensor | None, skip: Sequence[int]) -> Fit:
        left_out = set(skip)
        places = [k for k in self.places if k not in left_out]
        groups = torch.unique(self.group[places], return_inverse=True)[1]
        constants = int(groups.max()) + 1 if self.constants and places else 0
        free = len(places) - constants - (x is not None)
        values, stated = y[places], None if x is None else x[places].to(y)

        def solved(scatter: float) -> tuple[float, float, float]:
            """Return the power, its variance, and the sum of squares that is left, in units of the errors."""
            if self.covariance is None:
                own = self.variance[places] + scatter**2
                return _independent(values, stated, own, groups if self.constants else None)
            C = self.covariance[places][:, places]
            dummies = F.one_hot(groups, constants).to(y) if constants else y.new_zeros(len(places), 0)
            X = dummies if stated is None else torch.cat([dummies, stated[:, None]], 1)
            return _together(values, X, C + scatter**2 * torch.eye(len(C), dtype=C.dtype))

        low, high = math.log(_FLOOR), math.log(50.0)
        if free >= 1 and solved(_FLOOR)[2] > free:
            for _ in range(30):
                middle = (low + high) / 2
                low, high = (middle, high) if solved(math.exp(middle))[2] > free else (low, middle)
        scatter = math.exp(low)
        power, variance, _ = solved(scatter)
        if x is None:
            return Fit(0.0, math.nan, scatter)
        deviation = float(self._about(x, places, torch.mean).square().mean().sqrt())
        distorted = _DISTORTED * scatter / max(deviation, 1e-9)
        return Fit(power, math.hypot(math.sqrt(variance), distorted), scatter)


def _together(values: Tensor, X: Tensor, V: Tensor) -> tuple[float, float, float]:
    """Return the last coefficient of generalised least squares, its variance, and the sum of squares left."""
    factor = torch.linalg.cholesky(V)
    A = torch.linalg.solve_triangular(factor, torch.cat([X, values[:, None]], 1), upper=False)
    left, right = A[:, :-1], A[:, -1]
    if X.shape[1] == 0:
        return 0.0, math.nan, float(right.square().sum())
    inverse = torch.linalg.pinv(left.T @ left, hermitian=True)
    beta = inverse @ (left.T @ right)
    return float(beta[-1]), float(inverse[-1, -1]), float((right - left @ beta).square().sum())


def _independent(
    values: Tensor, x: Tensor | None, own: Tensor, groups: Tensor | None
) -> tuple[float, float, float]:
    """Return the same for errors that are independent, in time that is linear in the classes."""
    weight = 1 / own

    def centred(v: Tensor) -> Tensor:
        if groups is None:
            return v
        size = int(groups.max()) + 1
        total, mass = (
            torch.zeros(size, dtype=v.dtype).index_add_(0, groups, part) for part in (weight * v, weight)
        )
        return v - (total / mass)[groups]

    y = centred(values)
    if x is None:
        return 0.0, math.nan, float((weight * y.square()).sum())
    a = centred(x)
    information = float((weight * a.square()).sum())
    power = float((weight * a * y).sum()) / information
    return power, 1 / information, float((weight * (y - power * a).square()).sum())


def _errors(
    logs: Tensor, replicates: Tensor | None, groups: list[list[int]] | None
) -> tuple[Tensor, Tensor | None]:
    """Return the (K,) variances over samples, and the (K, K) covariance where classes are few.

    Half of the covariance is taken as independent, because folds are few beside classes.
    """
    size = len(logs)
    few = size < _MANY
    variance = torch.zeros(size, dtype=logs.dtype)
    if replicates is None:
        return variance, torch.diag(variance) if few else None
    parts = replicates.clone()
    for members in groups or []:  # in the unit of the median class, so that a rare class does not move all
        parts[:, members] = parts[:, members] - parts[:, members].nanquantile(0.5, dim=1, keepdim=True)
    known = torch.isfinite(parts).all(0)
    parts = (parts - parts.mean(0)).masked_fill(~known, 0.0)
    share = (len(parts) - 1) / len(parts)
    variance = torch.where(known, share * parts.square().sum(0), _UNKNOWN**2)
    if not few:
        return variance, None
    C = 0.5 * share * parts.T @ parts
    return variance, C.diagonal_scatter(variance)
