"""What may have happened in training, and how badly the model fits each of it."""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from steelyard._common.checks import check_beta
from steelyard.auditing.effective import Confusion, implied_by
from steelyard.auditing.findings import Hypothesis, Numbers, Refit
from steelyard.auditing.gather import Evidence
from steelyard.auditing.judge import judge
from steelyard.auditing.refit import PerSample, in_negative, one_vs_all, refit, softmax
from steelyard.auditing.report import AuditReport
from steelyard.balance.flows import HardClasses, hard_classes, ledger, trades
from steelyard.balance.implied import AppliedPower, ImpliedWeights
from steelyard.balance.laws import Balance, lgl_inr_law, one_vs_all_law, softmax_law
from steelyard.balance.means import Link
from steelyard.balance.setup import TrainingSetup
from steelyard.losses.functional import in_negative_weights

Law = Callable[[Tensor, Tensor | None], Balance]


class Scales:
    """The hypotheses on one side, the model on the other."""

    def __init__(self, evidence: Evidence, counts: Tensor, names: tuple[str, ...], tolerance: float) -> None:
        self.evidence, self.statement = evidence, evidence.stated
        self.counts, self.names, self.tolerance = counts, names, tolerance
        self.P, self.own = evidence.mean_confusion, evidence.own(counts)
        self.E = self.own.compute()
        self.folded = evidence.metric.folds > 1

    def report(self) -> AuditReport:
        statement, link = self.statement, self.statement.link
        hypotheses = self.hypotheses()
        error = self.own.standard_error()
        numbers = Numbers(
            statement=statement,
            names=self.names,
            rows=self.evidence.rows,
            dropped=self.evidence.invalid,
            samples=tuple(self.own.class_counts.tolist()),
            class_counts=self.counts,
            balance=self.stated(self.E, error if statement.in_negative is None and self.folded else None),
            hypotheses=hypotheses,
            implied=self.implied if link == "softmax" else None,
            implied_pos_weight=self.implied_pos_weight(),
            power=self.power(),
            frequency_power=self.frequency_power(),
            order=self.order,
            refit=self.refit(hypotheses),
            spread=self.spread(),
            mean_row_sum=self.evidence.mean_row_sum if "logistic" in self.evidence.metrics else None,
            trades=trades(self.E, self.counts, statement.total),
            hard=self.hard(),
            standard_error=error,
            notes=self.evidence.notes,
        )
        entries = ledger(self.E, self.counts, statement.total, pos_weight=statement.pos_weight)
        return AuditReport(judge(numbers), numbers, self.P, entries)

    def stated(self, E: Tensor, error: Tensor | None = None) -> Balance:
        s = self.statement
        if s.in_negative is not None:
            inner = s.in_negative
            return lgl_inr_law(
                E,
                beta=inner.beta,
                pos_weight=s.pos_weight,
                presence=self.presence(),
                statistics=None if inner.detached else self.evidence.statistics,
            )
        return self.law(s.link, s.total, s.pos_weight)(E, error)

    def presence(self) -> Tensor | None:
        """Return the (K,) share of the mini-batches that have each class, for LGL-INR; None for one batch."""
        return self.statement.setup.presence_of(self.counts)

    def omega(self) -> Tensor:
        """Return LGL-INR's (K, K) weights of the classes in each output."""
        assert self.statement.in_negative is not None
        beta = check_beta(self.statement.in_negative.beta, len(self.P))
        return in_negative_weights(self.P, beta=beta, presence=self.presence())

    def law(self, link: Link, weights: Tensor | None, pos_weight: Tensor | None = None) -> Law:
        def of(E: Tensor, error: Tensor | None = None) -> Balance:
            if link == "softmax":
                return softmax_law(E, self.counts, weights, standard_error=error)
            return one_vs_all_law(E, self.counts, weights, pos_weight=pos_weight, standard_error=error)

        return of

    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """Return the statement, and what else could have happened."""
        s, own = self.statement, self.own
        result = [self.weigh("as stated", own, s.link, self.stated)]
        total, u = s.total, s.pos_weight
        if s.in_negative is None and s.weighted:
            result.append(self.weigh("no weights", own, s.link, self.law(s.link, None)))
            twice = self.law(s.link, _power(total, 2), _power(u, 2))
            result.append(self.weigh("twice", own, s.link, twice))
            if len(s.parts) > 1:
                for part, weights in s.parts.items():
                    result.append(self.weigh(f"only the {part}", own, s.link, self.law(s.link, weights)))
            if self.order is not None:
                moved = self.law(s.link, total[self.order])  # type: ignore[index]
                result.append(self.weigh("other order", own, s.link, moved))
        if not s.binary:
            result += [
                self.weigh(name, self.evidence.metrics[link], link, law)
                for name, link, law in self.other_losses()
                if link in self.evidence.metrics
            ]
        return tuple(result)

    def other_losses(self) -> list[tuple[str, Link, Any]]:
        """Return the losses that training may have had in place of the stated one."""
        s = self.statement
        others: list[tuple[str, Link, Any]] = []
        if s.link == "logistic" or not s.closed:
            others.append(("softmax", "softmax", self.law("softmax", None)))
            if s.total is not None:
                others.append(("softmax, weighted", "softmax", self.law("softmax", s.total)))
        if s.link == "softmax" or not s.closed or s.in_negative is not None:
            others.append(("one-vs-all", "logistic", self.law("logistic", None)))
        if s.in_negative is None:
            others.append(("LGL-INR", "logistic", lambda P, error=None: lgl_inr_law(P)))
        return others

    def weigh(self, name: str, confusion: Confusion, link: Link, law: Callable[..., Balance]) -> Hypothesis:
        error = None
        if self.folded:
            error = float(confusion.jackknife(lambda P, _: torch.tensor(law(P).misfit, dtype=torch.float64)))
        return Hypothesis(name, link, law(confusion.compute()).misfit, error)

    @cached_property
    def implied(self) -> ImpliedWeights:
        return implied_by(self.own, self.counts, self.tolerance)

    @cached_property
    def order(self) -> Tensor | None:
        """Return the class whose weight each class seems to have: the stated weights by rank of the implied ones.

        Only where all observed classes communicate: implied weights of different groups do not compare.
        """
        total = self.statement.total
        if self.statement.link != "softmax" or total is None or self.statement.binary:
            return None
        observed = self.counts > 0
        if len(self.implied.groups[0]) != int(observed.sum()) or not _varies(total[observed]):
            return None
        places = observed.nonzero()[:, 0]
        order = torch.arange(len(total))
        order[places[self.implied.weights[places].argsort()]] = places[total[places].argsort()]
        return None if torch.equal(total[order], total) else order

    def power(self) -> AppliedPower | None:
        """Return the exponent with which the stated weights acted."""
        s = self.statement
        if not s.weighted or s.in_negative is not None:
            return None
        if s.link == "softmax":
            return self.power_of(s.total)
        grid = torch.linspace(-1, 3, 81, dtype=torch.float64)

        def best(P: Tensor, _: Tensor | None = None) -> Tensor:
            misfits = [
                self.law("logistic", _power(s.total, g), _power(s.pos_weight, g))(P, None).misfit
                for g in grid.tolist()
            ]
            return grid[int(torch.tensor(misfits).argmin())]

        error = float(self.own.jackknife(best)) if self.folded else math.nan
        return AppliedPower(float(best(self.E)), error)

    def frequency_power(self) -> AppliedPower | None:
        """Return the exponent g of N^-g in the implied weights: 0, none; 1, classes were balanced."""
        if self.statement.link != "softmax" or not bool((self.counts[self.counts > 0] > 0).all()):
            return None
        return self.power_of(1 / self.counts.clamp(min=1e-300))

    def power_of(self, weights: Tensor | None) -> AppliedPower | None:
        if weights is None:
            return None
        try:
            power = self.implied.power_of(weights)
        except ValueError:  # they do not differ within any group
            return None
        return power if math.isfinite(power.power) else None

    def implied_pos_weight(self) -> Tensor | None:
        """Return the weight of each output's positives that would make the one-vs-all law hold, push over pull."""
        if self.statement.link != "logistic" or self.statement.in_negative is not None:
            return None
        law = self.law("logistic", self.statement.total)(self.E, None)
        return (law.push_down / law.pull_up).masked_fill(self.counts == 0, torch.nan)

    def refit(self, hypotheses: tuple[Hypothesis, ...]) -> Refit | None:
        """Return what new scale and shifts would gain, under the weights that the model fits best; None where
        those stand in the formula of a loss that has not these weights."""
        s = self.statement
        own = [h for h in hypotheses if h.name in ("as stated", "no weights", "twice", "other order")]
        best = min(own, key=lambda h: h.misfit).name
        total, u = (None, None) if best == "no weights" else (s.total, s.pos_weight)
        if best == "twice":
            total, u = _power(total, 2), _power(u, 2)
        if best == "other order" and total is not None:
            total = total[self.order]
        logits, target = self.evidence.sample
        samples = self.evidence.metric.class_counts
        weights = self.counts / samples.clamp(min=1)
        weights = weights if total is None else weights * total
        loss: PerSample
        if s.in_negative is not None:
            presence, omega = self.presence(), self.omega()
            positive = torch.ones_like(self.counts) if presence is None else presence
            loss = in_negative(omega, positive if s.pos_weight is None else positive * s.pos_weight)
            weights, logits = 1 / samples.clamp(min=1).double(), s.as_trained(logits)
        elif s.closed:
            logits = s.as_trained(logits)
            loss = softmax if s.link == "softmax" else one_vs_all(u)
        elif best != "as stated" and s.column_smoothing:
            weight = None if total is None else total.float()
            loss = TrainingSetup(nn.CrossEntropyLoss(weight=weight, label_smoothing=s.column_smoothing)).per_sample
            logits = s.as_trained(logits)
        elif best != "as stated" and s.setup.pos_weight is not None:
            return None
        else:
            loss = s.setup.per_sample
        return refit(logits, target, weights[target], loss)

    def spread(self) -> float:
        """Return how far the rows of P are from one another: largest total variation from their mean, in [0,
        1]."""
        rows = self.P[self.counts > 0]
        return float(((rows - rows.mean(0)).abs().sum(1) / 2).max())

    def hard(self) -> tuple[HardClasses, ...]:
        if self.statement.link == "softmax":
            return ()
        return hard_classes(self.P, self.counts, self.statement.total)


def _power(weights: Tensor | None, exponent: float) -> Tensor | None:
    return None if weights is None else weights**exponent


def _varies(values: Tensor) -> bool:
    return bool((values / values[0] - 1).abs().max() > 1e-9)
