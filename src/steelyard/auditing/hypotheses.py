"""What may have happened in training, and how badly the model fits each of it."""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from steelyard.auditing.findings import Hypothesis, Numbers, Refit
from steelyard.auditing.gather import Evidence
from steelyard.auditing.judge import judge
from steelyard.auditing.report import AuditReport
from steelyard.balance.flows import HardClasses, hard_classes, ledger, trades
from steelyard.balance.implied import AppliedPower, ImpliedWeights, implied_weights
from steelyard.balance.laws import Balance, lgl_inr_law, one_vs_all_law, softmax_law
from steelyard.balance.means import Link
from steelyard.balance.setup import Statement
from steelyard.weights.adjustments import batch_presence


class Scales:
    """The hypotheses on one side, the model on the other."""

    def __init__(
        self,
        evidence: Evidence,
        statement: Statement,
        counts: Tensor,
        names: tuple[str, ...],
        detach_weights: bool,
        tolerance: float,
    ) -> None:
        self.evidence, self.statement, self.counts, self.names = evidence, statement, counts, names
        self.detached, self.tolerance = detach_weights, tolerance
        self.P = evidence.metric.compute()
        self.folded = evidence.metric.folds > 1

    def report(self) -> AuditReport:
        statement, link = self.statement, self.statement.link
        implied = self.implied if link == "softmax" else None
        error = self.evidence.metric.standard_error() if link == "softmax" or statement.beta is None else None
        balance = self.stated(self.P, error)
        hypotheses = self.hypotheses()
        metric = self.evidence.metric
        numbers = Numbers(
            statement=statement,
            names=self.names,
            rows=self.evidence.rows,
            dropped=self.evidence.invalid,
            samples=tuple(metric.class_counts.tolist()),
            class_counts=self.counts,
            balance=balance,
            hypotheses=hypotheses,
            implied=implied,
            implied_pos_weight=self.implied_pos_weight(),
            power=self.power(),
            frequency_power=self.frequency_power(),
            order=self.order,
            refit=self.refit(hypotheses),
            spread=self.spread(),
            mean_row_sum=self.evidence.mean_row_sum if "logistic" in self.evidence.metrics else None,
            trades=trades(self.P, self.counts, statement.total),
            hard=self.hard(),
            standard_error=metric.standard_error(),
        )
        entries = ledger(self.P, self.counts, statement.total, pos_weight=statement.pos_weight)
        return AuditReport(judge(numbers), numbers, self.P, entries)

    def stated(self, P: Tensor, error: Tensor | None = None) -> Balance:
        s = self.statement
        if s.beta is not None:
            return lgl_inr_law(
                P,
                beta=s.beta,
                pos_weight=s.pos_weight,
                presence=None if s.batch_size is None else batch_presence(self.counts, s.batch_size),
                statistics=None if self.detached else self.evidence.statistics,
            )
        return self.law(s.link, s.total, s.pos_weight)(P, error)

    def law(
        self, link: Link, weights: Tensor | None, pos_weight: Tensor | None = None
    ) -> Callable[[Tensor, Tensor | None], Balance]:
        def of(P: Tensor, error: Tensor | None = None) -> Balance:
            if link == "softmax":
                return softmax_law(P, self.counts, weights, standard_error=error)
            return one_vs_all_law(P, self.counts, weights, pos_weight=pos_weight, standard_error=error)

        return of

    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """The statement, and what else could have happened."""
        s, result = self.statement, []
        result.append(self.weigh("as stated", s.link, self.stated))
        total, u = s.total, s.pos_weight
        if s.beta is None and s.weighted:
            result.append(self.weigh("no weights", s.link, self.law(s.link, None)))
            twice = self.law(s.link, _power(total, 2), _power(u, 2))
            result.append(self.weigh("twice", s.link, twice))
            if len(s.parts) > 1:
                for part, weights in s.parts.items():
                    result.append(self.weigh(f"only the {part}", s.link, self.law(s.link, weights)))
            if self.order is not None:
                result.append(self.weigh("other order", s.link, self.law(s.link, total[self.order])))  # type: ignore[index]
        others: list[tuple[str, Link, Any]] = []
        if s.link == "softmax":
            others.append(("one-vs-all", "logistic", self.law("logistic", None)))
        else:
            others.append(("softmax", "softmax", self.law("softmax", None)))
            if total is not None:
                others.append(("softmax, weighted", "softmax", self.law("softmax", total)))
            if s.beta is not None:
                others.append(("one-vs-all", "logistic", self.law("logistic", None)))
        if s.beta is None and not s.binary:
            others.append(("LGL-INR", "logistic", lambda P, error=None: lgl_inr_law(P)))
        if not s.binary:
            result += [self.weigh(*other) for other in others if other[1] in self.evidence.metrics]
        return tuple(result)

    def weigh(self, name: str, link: Link, law: Callable[..., Balance]) -> Hypothesis:
        metric = self.evidence.metrics[link]
        error = None
        if self.folded:
            error = float(metric.jackknife(lambda P, _: torch.tensor(law(P).misfit, dtype=torch.float64)))
        return Hypothesis(name, link, law(metric.compute()).misfit, error)

    @cached_property
    def implied(self) -> ImpliedWeights:
        replicates = self.evidence.metric.replicates() if self.folded else None
        return implied_weights(self.P, self.counts, tolerance=self.tolerance, replicates=replicates)

    @cached_property
    def order(self) -> Tensor | None:
        """Class whose weight each class seems to have: the stated weights by rank of the implied ones.

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
        """The exponent with which the stated weights acted."""
        s = self.statement
        if not s.weighted or s.beta is not None:
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

        error = float(self.evidence.metric.jackknife(best)) if self.folded else math.nan
        return AppliedPower(float(best(self.P)), error)

    def frequency_power(self) -> AppliedPower | None:
        """The exponent g of N^-g in the implied weights: 0, none; 1, classes were balanced."""
        if self.statement.link != "softmax" or not bool((self.counts[self.counts > 0] > 0).all()):
            return None
        return self.power_of(1 / self.counts.clamp(min=1e-300))

    def power_of(self, weights: Tensor | None) -> AppliedPower | None:
        if weights is None:
            return None
        try:
            return self.implied.power_of(weights)
        except ValueError:  # they do not differ within any group
            return None

    def implied_pos_weight(self) -> Tensor | None:
        """Weight of each output's positives that would make the one-vs-all law hold, push over pull."""
        if self.statement.link != "logistic" or self.statement.beta is not None:
            return None
        law = self.law("logistic", self.statement.total)(self.P, None)
        return (law.push_down / law.pull_up).masked_fill(self.counts == 0, torch.nan)

    def refit(self, hypotheses: tuple[Hypothesis, ...]) -> Refit:
        """What new scale and shifts would gain, under the weights that the model fits best."""
        s = self.statement
        own = [h for h in hypotheses if h.link == s.link and h.name in ("as stated", "no weights", "other order")]
        best = min(own, key=lambda h: h.misfit).name
        total, u = (None, None) if best == "no weights" else (s.total, s.pos_weight)
        if best == "other order" and total is not None:
            total = total[self.order]
        logits, target = self.evidence.sample
        share = self.counts / self.evidence.metric.class_counts.clamp(min=1)
        weights = share if total is None else share * total
        before, after, scale = refit_scale(logits, target, weights[target], link=s.link, pos_weight=u)
        mass = weights * self.evidence.metric.class_counts
        mass = mass[mass > 0] / mass.sum()
        if s.link == "softmax":
            chance = -(mass * mass.log()).sum()
        else:
            chance = -(torch.xlogy(mass, mass) + torch.xlogy(1 - mass, 1 - mass)).sum()
        return Refit(before, after, scale, float(chance))

    def spread(self) -> float:
        """How far the rows of P are from one another: largest total variation from their mean, in [0, 1]."""
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


def refit_scale(
    logits: Tensor,
    target: Tensor,
    sample_weights: Tensor,
    *,
    link: Link,
    pos_weight: Tensor | None = None,
) -> tuple[float, float, float]:
    r"""How much the loss falls when one scale of all logits and one shift of each are fitted anew.

    .. math:: \min_{s, b} \; \sum_i a_i \, \ell(e^s z_i + b, y_i) \Big/ \sum_i a_i

    Args:
        logits: (N, K) float64.
        target: (N,) labels.
        sample_weights: (N,) :math:`a_i`.
        link: ``"softmax"``: cross-entropy; ``"logistic"``: binary cross-entropies summed over outputs.
        pos_weight: (K,) weight of the positives of each output; for ``"logistic"``.

    Returns:
        The loss as it is, at its minimum, and the scale there (1: the logits are as large as they should be).
    """
    a = sample_weights / sample_weights.sum()
    own = F.one_hot(target, logits.shape[1]).double()
    log_scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    shift = torch.zeros(logits.shape[1], dtype=torch.float64, requires_grad=True)
    # The scale stays below e^8: separable samples have no minimum, and it is far enough to see where it goes.
    optimizer = torch.optim.LBFGS([log_scale, shift], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        z = logits * (8 * torch.tanh(log_scale / 8)).exp() + shift
        if link == "softmax":
            each = F.cross_entropy(z, target, reduction="none")
        else:
            each = F.binary_cross_entropy_with_logits(z, own, reduction="none", pos_weight=pos_weight).sum(1)
        return (a * each).sum()

    def closure() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    with torch.no_grad():
        before = float(loss())
    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        after = float(loss())
    best = after if after < before else before  # NaN is not less
    scale = float((8 * torch.tanh(log_scale.detach() / 8)).exp()) if after < before else 1.0
    return before, best, scale
