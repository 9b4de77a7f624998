"""One epoch's sums as numbers: implied weights, the power of the stated ones, what an untrained model shows."""

import math
import warnings
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steelyard.auditing.batch_sums import Sums, as_outputs
from steelyard.auditing.stated import Stated
from steelyard.balance.implied import implied_weights
from steelyard.balance.law import balance_of
from steelyard.balance.setup import TrainingSetup

NOISE = 0.35
"""Standard deviation of a log implied weight from epoch to epoch, beyond what batches differ by."""
_T = {
    1: 12.71,
    2: 4.30,
    3: 3.18,
    4: 2.78,
    5: 2.57,
    6: 2.45,
    7: 2.36,
    8: 2.31,
    9: 2.26,
    11: 2.20,
    13: 2.16,
    15: 2.13,
}


@dataclass(frozen=True)
class Fit:
    """A power of the stated weights with the half of its 95% interval."""

    power: float
    half: float

    def excludes(self, value: float, times: float = 1.0) -> bool:
        """Return whether a power lies outside the interval, made wider by a factor."""
        return abs(self.power - value) > times * self.half


@dataclass(frozen=True)
class Epoch:
    """What an epoch's batches say, before anything is judged; vectors are (K,) float64.

    Attributes:
        implied: log implied weights, NaN where batches do not tell. With class counts known they contain what
            the sampler did.
        stated: log of the stated weights that `implied` should be.
        lean: log of the weights that a model which gives all classes the same probability seems to have.
        error: standard errors of `implied` between the batches of the epoch.
        groups: classes whose implied weights compare with each other; those of independent outputs are absolute.
        replicates: (F, K) `implied` without a block of batches each.
        balance: misfit of the law under the stated weights, from 0 to 1.
        drawn: the power of the weights in how often batches drew each class, or None where nobody states counts.
        drawn_stated: the power that the stated sampler would have had.
        absolute: whether the outputs are independent.
        few: variances of `implied` for that few samples carry all of the gradient, which blocks do not show.
        rates: (K, K) mean probabilities by class; (2, K) for outputs.
        base: the samples of each class that the weights multiply.
    """

    implied: Tensor
    stated: Tensor
    lean: Tensor
    error: Tensor
    groups: tuple[tuple[int, ...], ...]
    replicates: Tensor
    balance: float
    drawn: Fit | None
    drawn_stated: float
    absolute: bool
    few: Tensor
    rates: Tensor
    base: Tensor

    @property
    def off(self) -> Tensor:
        """Return log implied over stated, less the median of its group."""
        d = self.implied - self.stated
        if self.absolute:
            return d
        result = torch.full_like(d, torch.nan)
        for group in self.groups:
            members = torch.tensor(group)
            result[members] = d[members] - d[members].nanmedian()
        return result

    def fit(self, without: tuple[int, ...] = ()) -> Fit | None:
        """Return the power of the stated weights over all classes but some, or None where they tell nothing."""
        x = self._centred(self.stated, without)
        spread = float(x @ x)
        if spread < 0.05:
            return None
        power = float(x @ self._centred(self.implied, without)) / spread
        parts = self._centred(self.replicates, without) @ x / spread
        freedom = len(parts) - 1
        jackknife = math.sqrt(freedom * float(parts.var(0, correction=0)))
        noise = float((x * x * (NOISE**2 + self._in_order(self.few, without))).sum()) / spread**2
        return Fit(
            power, math.hypot(_T.get(freedom, _T.get(freedom - 1, 2.0)) * jackknife, 1.96 * math.sqrt(noise))
        )

    def fits_without_one(self, most: int = 16) -> list[float]:
        """Return the power without one class, for each of those that it rests on most."""
        weight = (self.stated - self.stated.nanmean()).abs() * self.off.abs()
        order = weight.nan_to_num(-1.0).argsort(descending=True)[:most].tolist()
        return [found.power for k in order if (found := self.fit((k,))) is not None]

    def lean_power(self) -> float:
        """Return the power that a model seems to have which gives all classes the same probability."""
        x = self._centred(self.stated)
        return float(x @ self._centred(self.lean) / (x @ x))

    def tells(self, power: float) -> bool:
        """Return whether the model is farther from giving all classes the same probability than it would have to
        be if it knew of the classes no more than their counts, under the stated weights to this power.

        By then what it leans to is no longer where it started.
        """
        if self.absolute:
            mass = self.base * torch.stack([torch.zeros_like(self.stated), power * self.stated]).exp()
            mass = mass / mass.sum(0)
            to = (mass * _divergence(torch.stack([1 - self.rates, self.rates], -1))).sum(0)
            return float(to.nanmean()) >= float(_divergence(mass.T).nanmean()) - 1e-9
        mass = self.base * (power * self.stated).exp()
        known = self.rates.isfinite().all(1) & (mass > 0)
        mass = torch.where(known, mass, 0.0) / mass[known].sum()
        apart = float((mass[known] * _divergence(self.rates[known])).sum())
        return apart >= float(_divergence(mass)) - 1e-9

    def _members(self, without: tuple[int, ...]) -> list[Tensor]:
        """Return the classes that compare with each other, group by group, without those that are not known."""
        known = self.error.isfinite() & self.implied.isfinite()
        known[list(without)] = False
        if self.absolute:
            return [known.nonzero()[:, 0]]
        groups = [torch.tensor(group)[known[list(group)]] for group in self.groups]
        return [group for group in groups if len(group) > 1]

    def _in_order(self, values: Tensor, without: tuple[int, ...]) -> Tensor:
        return torch.cat([values[..., members] for members in self._members(without)] or [values[..., :0]], -1)

    def _centred(self, values: Tensor, without: tuple[int, ...] = ()) -> Tensor:
        """Return values along the last dimension, those of a group less their mean."""
        if self.absolute:
            return self._in_order(values, without)
        parts = [values[..., members] for members in self._members(without)]
        return torch.cat([part - part.mean(-1, keepdim=True) for part in parts] or [values[..., :0]], -1)


def pooled(epochs: list[Epoch]) -> Epoch:
    """Return the mean of epochs, as far back as their classes form the groups of the last."""
    last = epochs[-1]
    same = [one for one in epochs if one.groups == last.groups and len(one.replicates) == len(last.replicates)]

    def mean(name: str) -> Tensor:
        return torch.stack([getattr(one, name) for one in same]).mean(0)

    error = torch.stack([one.error for one in same]).square().mean(0).div(len(same)).sqrt()
    return replace(
        last,
        implied=mean("implied"),
        replicates=mean("replicates"),
        error=error,
        few=mean("few") / len(same),
        rates=mean("rates"),
    )


def read_epoch(sums: Sums, stated: Stated) -> Epoch | None:
    """Return what an epoch says of weights, or None where the loss has none or the sums are not finite."""
    setup = stated.setup
    if setup.in_negative is not None or not bool(sums.gradient.isfinite().all()):
        return None
    if sums.form == "classes" and setup.class_weights is None and setup.pos_weight is not None:
        sums = as_outputs(sums)
    sums = _spread_rare(sums)
    w, x, base, moved = _weights(sums, stated)
    if sums.form == "outputs":
        logs, parts = _outputs(sums, setup)
        groups: tuple[tuple[int, ...], ...] = ()
    else:
        logs, parts, groups = _classes(sums, stated)
    logs, parts = _levelled(logs + moved, groups), _levelled(parts + moved, groups)
    freedom = len(parts) - 1
    error = (freedom * parts.var(0, correction=0)).sqrt() if freedom > 0 else torch.full_like(logs, torch.nan)
    error = torch.where(_seen_often(sums), error, torch.nan)
    drawn, expected = _drawn(sums, stated)
    if sums.form == "outputs":
        lean = (base[0] / base[1]).log()
        u = torch.ones_like(logs) if setup.pos_weight is None else setup.pos_weight
        masses = sums.masses.sum(0)
        total = sums.gradient.sum(0)
        rates = torch.stack([total[0] / masses[0], 1 + total[1] / (u * masses[1])]).clamp(0, 1)
    else:
        lean = -base.log()
        masses = sums.masses.sum(0)
        rates = (torch.eye(len(logs)) + sums.gradient.sum(0) / masses[:, None]).clamp(min=0)
        rates = rates / rates.sum(1, keepdim=True)
    few = _few(sums)
    absolute = sums.form == "outputs"
    return Epoch(logs, x, lean, error, groups, parts, misfit(sums, w), drawn, expected, absolute, few, rates, base)


def misfit(sums: Sums, weights: Tensor | None) -> float:
    """Return how far pull and push are from each other, over all outputs, from 0 to 1."""
    gradient, masses = sums.gradient.sum(0), sums.masses.sum(0)
    if weights is not None:
        weights = weights if masses.dim() == 1 else weights[:, None]
        gradient, masses = gradient * weights.reshape(-1, 1), masses * weights
    return balance_of(gradient, masses, TrainingSetup("softmax")).misfit


def _weights(sums: Sums, stated: Stated) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
    """Return the class weights of the loss, the log stated weights, the samples that lean, and the log of how
    often each class was drawn, where that is known."""
    setup = stated.setup
    w, drawn = setup.class_weights, sums.drawn.sum(0)
    counts = None if stated.several or (sums.form == "outputs" and not stated.binary) else setup.class_counts
    sampler = setup.sampler_weights if counts is not None else None
    if sums.form == "classes":
        x = torch.zeros(len(drawn), dtype=torch.float64)
        for one in (w, sampler):
            x = x if one is None else x + one.log()
        if counts is None:
            return w, x, sums.masses.sum(0), torch.zeros_like(x)
        return w, x, counts.clamp(min=1e-9), (drawn / counts).log()
    x = torch.zeros(drawn.shape[1], dtype=torch.float64)
    if setup.pos_weight is not None:
        x = x + setup.pos_weight.log()
    for one in (w, sampler):
        x = x if one is None else x + (one[1] / one[0]).log()
    if counts is None:
        return w, x, sums.masses.sum(0), torch.zeros_like(x)
    moved = (drawn[1] / drawn[0]).log() - (counts[1] / counts[0]).log()
    return w, x, counts[:, None], moved


def _outputs(sums: Sums, setup: TrainingSetup) -> tuple[Tensor, Tensor]:
    """Return the log implied weight of each output's positives, with all blocks and without each."""
    u = 0.0 if setup.pos_weight is None else setup.pos_weight.log()
    whole = sums.gradient.sum(0)

    def logs(gradient: Tensor, masses: Tensor) -> Tensor:
        gradient = gradient * sums.masses.sum(0) / masses
        return (gradient[0] / -gradient[1]).log() + u

    masses = sums.masses.sum(0)
    parts = [logs(whole - part, masses - mass) for part, mass in zip(sums.gradient, sums.masses, strict=True)]
    return logs(whole, masses), torch.stack(parts)


def _classes(sums: Sums, stated: Stated) -> tuple[Tensor, Tensor, tuple[tuple[int, ...], ...]]:
    """Return the log implied weights of classes, with all blocks and without each, and the groups that compare."""
    from steelyard.balance.gradient_ledger import GradientLedger  # with torchmetrics

    folds = len(sums.gradient)
    ledger = GradientLedger(stated.setup, sums.gradient.shape[-1], folds=max(folds, 1), sync_on_compute=False)
    ledger.fold_sums, ledger.fold_masses, ledger.fold_counts = sums.gradient, sums.masses, sums.drawn
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no positive weights hold the law is in the NaN
        found = implied_weights(ledger, tolerance=1e-9)
    logs = found.weights.log()
    return logs, logs[None] if found.replicates is None else found.replicates, found.groups


def _levelled(logs: Tensor, groups: tuple[tuple[int, ...], ...]) -> Tensor:
    """Return logs less their mean in each group of classes, along the last dimension; outputs as they are."""
    result = logs.clone()
    for group in groups:
        members = list(group)
        result[..., members] = logs[..., members] - logs[..., members].mean(-1, keepdim=True)
    return result


def _spread_rare(sums: Sums) -> Sums:
    """Return the sums with a class that one block alone has spread evenly over all: no block can then be left out
    that has it all, and its error is not known."""
    rare = ~_seen_often(sums)
    folds = len(sums.gradient)

    def evenly(values: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, values.sum(0, keepdim=True) / folds, values)

    mask = rare[None, :, None] if sums.form == "classes" else rare.expand_as(sums.gradient)
    flat = rare.expand_as(sums.masses)
    return Sums(
        evenly(sums.gradient, mask), evenly(sums.masses, flat), evenly(sums.drawn, flat), sums.form, sums.batches
    )


def _few(sums: Sums) -> Tensor:
    """Return a variance of log pull over push: few misses are as uncertain as counts of that size are. Where all
    samples of a class are missed, they say the same, and there is none."""
    gradient, masses, drawn = (part.sum(0) for part in (sums.gradient, sums.masses, sums.drawn))
    scale = drawn / masses
    if sums.form == "outputs":
        pull, push, own, other = -gradient[1] * scale[1], gradient[0] * scale[0], drawn[1], drawn[0]
    else:
        pull = -gradient.diagonal() * scale
        push = (gradient * scale[:, None]).nan_to_num(0.0).sum(0) + pull
        own, other = drawn, drawn.sum() - drawn
    sides = [(1 / side - 1 / count).clamp(min=0) for side, count in ((pull, own), (push, other))]
    return sides[0] + sides[1]


def _seen_often(sums: Sums) -> Tensor:
    """Return whether at least two blocks have samples of a class, or both sides of an output."""
    often = (sums.masses > 0).sum(0) > 1
    return often if sums.form == "classes" else often.all(0)


def _drawn(sums: Sums, stated: Stated) -> tuple[Fit | None, float]:
    """Return the power of the stated weights in how often classes were drawn, and that of the stated sampler.

    The weights are the sampler's where one is stated, else those of the loss.
    """
    setup = stated.setup
    counts = setup.class_counts
    if counts is None or stated.several:
        return None, 0.0
    sampler = setup.sampler_weights
    w = sampler if sampler is not None else stated.total
    drawn = sums.drawn.sum(0)
    drawn = drawn[:, 0] if sums.form == "outputs" and stated.binary else drawn
    if sums.form == "outputs" and not stated.binary:
        drawn = drawn[1]
    if w is None:
        return None, 0.0
    known = (drawn > 0) & (counts > 0)
    x, y, m = w.log()[known], (drawn / counts).log()[known], drawn[known]
    x = x - (m * x).sum() / m.sum()
    spread = float((m * x * x).sum())
    if len(x) < 2 or spread < 1.0:
        return None, 0.0
    power = float((m * x * y).sum() / spread)
    return Fit(power, 1.96 / math.sqrt(spread)), 0.0 if sampler is None else 1.0


def _divergence(p: Tensor) -> Tensor:
    """Return how far distributions, along the last dimension, are from giving everything the same, in nats."""
    return (p * (p.clamp(min=1e-300) * p.shape[-1]).log()).sum(-1)
