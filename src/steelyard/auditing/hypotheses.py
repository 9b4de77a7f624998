"""What may have happened in training, and how badly the model fits each of it."""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from steelyard._common.checks import check_beta
from steelyard.auditing.effective import Confusion, WeightedPositives, implied_by
from steelyard.auditing.explanations import Explained, Explanations, explain
from steelyard.auditing.findings import Hypothesis, Numbers, Refit
from steelyard.auditing.gather import Evidence
from steelyard.auditing.judge import judge
from steelyard.auditing.refit import PerSample, in_negative, one_vs_all, refit, softmax
from steelyard.auditing.report import AuditReport
from steelyard.balance.flows import HardClasses, hard_classes, ledger, trades
from steelyard.balance.implied import ImpliedWeights
from steelyard.balance.laws import Balance, lgl_inr_law, one_vs_all_law, softmax_law
from steelyard.balance.means import Link
from steelyard.balance.setup import TrainingSetup
from steelyard.losses.functional import in_negative_weights

_TOLD = 2  # equations beyond the numbers that are fitted, which are not all met by chance
Law = Callable[[Tensor, Tensor | None], Balance]


class Scales:
    """The hypotheses on one side, the model on the other."""

    def __init__(
        self,
        evidence: Evidence,
        counts: Tensor,
        names: tuple[str, ...],
        tolerance: float,
        training_counts: Tensor | None = None,
    ) -> None:
        self.evidence, self.statement = evidence, evidence.stated
        self.counts, self.names, self.tolerance = counts, names, tolerance
        self.training_counts = training_counts
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
            explained=self.explained,
            columns=self.evidence.columns.compute(),
            refit=self.refit(hypotheses),
            learned=self.learned(),
            spread=self.spread(),
            mean_row_sum=self.evidence.mean_row_sum if "logistic" in self.evidence.metrics else None,
            # Of two classes each gives as much as it gets, by law: nothing to tell.
            trades=trades(self.E, self.counts, statement.total) if len(self.P) > 2 else (),
            hard=self.hard(),
            standard_error=error,
            # Rows that are said to be others need not be counted for it.
            training_counts=None if "not_training_rows" in self.evidence.notes else self.training_counts,
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
            for name, power in (("twice", 2), ("in reverse", -1)):
                law = self.law(s.link, _power(total, power), _power(u, power))
                result.append(self.weigh(name, own, s.link, law))
            if len(s.parts) > 1:
                for part, weights in s.parts.items():
                    result.append(self.weigh(f"only the {part}", own, s.link, self.law(s.link, weights)))
            if self.order is not None:
                moved = self.law(s.link, total[self.order])  # type: ignore[index]
                result.append(self.weigh("other order", own, s.link, moved))
        for name, weights in self.other_weights():
            of_classes = self.explained is None or self.explained.of_classes
            pair = (weights, u) if of_classes else (total, weights)
            result.append(self.weigh(name, own, s.link, self.law(s.link, *pair)))
        if not s.binary:
            result += [
                self.weigh(name, self.evidence.metrics[link], link, law)
                for name, link, law in self.other_losses()
                if link in self.evidence.metrics
            ]
        return tuple(result)

    def other_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights, of classes or of positives, that the implied ones show in place of the stated ones,
        where at least one equation of the law could refute them."""
        s, e = self.statement, self.explained
        if e is None:
            return
        stated = s.total if e.of_classes else s.pos_weight
        stated = torch.ones_like(self.counts) if stated is None else stated
        if e.power is not None and e.free >= 1 + _TOLD:
            yield "other strength", stated**e.power.power
        elif e.frequency is not None and e.free >= 1 + _TOLD:
            yield "by count", self.counts.clamp(min=1) ** -e.frequency.power
        if e.off and e.free >= len(e.off) + _TOLD:
            factors = {off.index: off.factor for off in e.off}
            yield "few off", stated * stated.new_tensor([factors.get(k, 1.0) for k in range(len(stated))])
        if e.of_classes and s.link == "logistic":
            yield "each its own", e.weights.nan_to_num(1.0)

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
            if s.total is not None and s.link == "softmax":
                others.append(("one-vs-all, weighted", "logistic", self.law("logistic", s.total)))
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
    def explained(self) -> Explained | None:
        """Return what explains the implied class weights; of one-vs-all outputs whose positives' weights are
        stated alone, the implied weights of these."""
        s = self.statement
        if s.in_negative is not None:
            return None
        if s.link == "logistic" and s.total is None and s.pos_weight is not None:
            replicates = None
            if self.folded:
                replicates = torch.stack([self.push_over_pull(E).log() for E, _ in self.own.replicates()])
            source = Explanations(self.push_over_pull(self.E).log(), replicates, None)
            return explain(source, s.pos_weight, {}, self.counts)
        implied = self.implied if s.pos_weight is None else self.implied_under(s.pos_weight)
        source = Explanations(implied.weights.log(), implied.replicates, implied.groups)
        return explain(source, s.total, s.parts, self.counts)

    def implied_under(self, pos_weight: Tensor) -> ImpliedWeights:
        """Return the implied class weights where the positives of each output weigh so much more."""
        return implied_by(WeightedPositives(self.own, pos_weight), self.counts, self.tolerance)

    @property
    def order(self) -> Tensor | None:
        return None if self.explained is None else self.explained.order

    def push_over_pull(self, E: Tensor) -> Tensor:
        """Return the weight of each output's positives that makes its law hold."""
        law = self.law("logistic", self.statement.total)(E, None)
        return (law.push_down / law.pull_up).masked_fill(self.counts == 0, torch.nan)

    def learned(self) -> float:
        """Return the share of the misplaced probability that the model has learned to place, under the weights
        that it behaves as if trained with: 0 where it knows nothing, 1 where nothing is misplaced."""
        weights = torch.ones_like(self.counts) if self.statement.link == "logistic" else self.implied.weights
        a = (weights * self.counts).nan_to_num(0.0)
        a = a / a.sum()
        P = self.P.diagonal().nan_to_num(0.0)
        return 1 - float((a * (1 - P)).sum() / (a * (1 - a)).sum().clamp(min=1e-300))

    def implied_pos_weight(self) -> Tensor | None:
        """Return the weight of each output's positives that would make the one-vs-all law hold, push over pull."""
        if self.statement.link != "logistic" or self.statement.in_negative is not None:
            return None
        return self.push_over_pull(self.E)

    def refit(self, hypotheses: tuple[Hypothesis, ...]) -> Refit | None:
        """Return what new scale and shifts would gain, under the weights that the model fits best; None where
        those stand in the formula of a loss that has not these weights, and where training does not make the loss
        least, as factors are constants in its gradient."""
        s = self.statement
        if s.setup.reading.constant_factors:
            return None
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
