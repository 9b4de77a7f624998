"""All the laws for one model: is it where its loss should have left it, and if not, where is it?"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from steelyard._validation import check_finite, check_number
from steelyard.balance.confusion import Link
from steelyard.balance.evidence import Evidence, Values, refit_scale
from steelyard.balance.flows import HardClasses, hard_classes, ledger, trades
from steelyard.balance.implied import AppliedPower, ImpliedWeights, implied_weights
from steelyard.balance.laws import Balance, lgl_inr_law, one_vs_all_law, softmax_law
from steelyard.balance.verdicts import Hypothesis, Numbers, Refit, Statement, Verdict, judge
from steelyard.priors import batch_presence

Law = Callable[[Tensor], Balance]


@dataclass(frozen=True)
class AuditReport:
    """What the balance laws say of one model; made by :func:`audit`.

    Attributes:
        verdicts: the answers in words, each with its number and interval.
        numbers: all that they were judged by.
        mean_confusion: (K, K) float64; NaN rows for classes without samples.
        ledger: (K, K) pull and push by source class, under the stated weights.
    """

    verdicts: tuple[Verdict, ...]
    numbers: Numbers
    mean_confusion: Tensor
    ledger: Tensor

    @property
    def residual(self) -> Balance:
        """Both sides of the stated loss's law, per output, and their difference with its standard error."""
        return self.numbers.balance

    @property
    def implied_weights(self) -> ImpliedWeights | None:
        """The class weights that a softmax model behaves as if trained with; None under ``"logistic"``."""
        return self.numbers.implied

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Classes between which weights have an effect; empty under ``"logistic"``."""
        return () if self.numbers.implied is None else self.numbers.implied.groups

    @property
    def faults(self) -> tuple[str, ...]:
        """Names of what was found wrong: of the verdicts that name a fault."""
        return tuple(verdict.fault for verdict in self.verdicts if verdict.fault is not None)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists for JSON, None for what is not known; without the K x K arrays."""
        return {"verdicts": [v.to_dict() for v in self.verdicts], "faults": list(self.faults)} | (
            self.numbers.to_dict()
        )


def audit(
    logits: Tensor,
    target: Tensor,
    *,
    link: Link,
    class_weights: Tensor | None = None,
    pos_weight: Tensor | None = None,
    sampler_weights: Tensor | None = None,
    logit_shift: Tensor | None = None,
    beta: float | None = None,
    detach_weights: bool = False,
    batch_size: int | None = None,
    class_counts: Tensor | None = None,
    class_names: Sequence[str] | None = None,
    values: Values = "logits",
    drop_invalid: bool = False,
    tolerance: float = 1e-9,
) -> AuditReport:
    r"""Weigh what is said of a model's training against what the model does.

    The law of the stated loss is one hypothesis; that the weights were never applied, applied twice, applied in
    another order, or that the loss was another, are others. Each has a misfit,
    :math:`\sum_j |\text{pull}_j - \text{push}_j| / \sum_j (\text{pull}_j + \text{push}_j)`, and the model tells
    which it fits. What is used of the weights is their total effect
    :math:`w_k s_k e^{t_k}`: class weights, sampler, and a shift of the logits after training.

    Args:
        logits: (N, K) of the samples that the model was trained on; (N, 1) or (N,) for one binary output.
        target: (N,) labels from 0 to K - 1; -1 is left out.
        link: ``"softmax"``, or ``"logistic"`` for one-vs-all outputs. One binary output is audited as the softmax
            of (0, z), which it is.
        class_weights: (K,) said to be in the loss, per sample of each class. Default: none.
        pos_weight: (K,) said to weigh each output's positives; for ``"logistic"``. Default: none.
        sampler_weights: (K,) how often the sampler draws a sample of each class, up to a factor. Default: as often
            as any.
        logit_shift: (K,) added to the logits after training, such as a correction. Default: none.
        beta: says that the loss was LGL-INR; then class weights play no part in the law.
        detach_weights: of LGL-INR.
        batch_size: of LGL-INR's mini-batches, which balance only the classes that they have. Default: all samples.
        class_counts: (K,) training samples of each class. Default: those of ``target``, which is right for the
            training set; needed for any other.
        class_names: K, for the words. Default: "class 0" and so on.
        values: ``"probabilities"`` where they are given in place of logits.
        drop_invalid: leave rows with NaN or infinite numbers out instead of refusing them.
        tolerance: mean probabilities up to this count as no confusion when groups of classes are formed.

    Returns:
        The report. Intervals are 95%, from the delete-a-group jackknife over samples (up to 1500 classes): how far
        another sample of the same network would lie, not another training.

    Raises:
        TypeError, ValueError: an argument that cannot be meant, or rows that cannot be audited.

    Source:
        Laws: Li, Li, Pan, Zhu, AAAI 2020. The audit is this project's; its thresholds were set on small networks
        trained on digits with planted faults.

    Example:
        >>> target = torch.arange(300) % 3
        >>> logits = torch.eye(3)[target] + torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
        >>> report = audit(logits, target, link="softmax")
        >>> report.verdicts[0].topic, report.residual.misfit < 0.05
        ('critical point', True)
    """
    rows = logits[:, None] if isinstance(logits, Tensor) and logits.dim() == 1 else logits
    if isinstance(rows, Tensor) and isinstance(target, Tensor) and len(rows) != len(target):
        raise ValueError(f"logits and target must be of the same length, got {len(rows)} and {len(target)}")
    columns = rows.shape[1] if isinstance(rows, Tensor) and rows.dim() == 2 else 2
    evidence = Evidence(columns, link=link, values=values, drop_invalid=drop_invalid)
    evidence.update(rows, target)
    return audit_evidence(
        evidence,
        class_weights=class_weights,
        pos_weight=pos_weight,
        sampler_weights=sampler_weights,
        logit_shift=logit_shift,
        beta=beta,
        detach_weights=detach_weights,
        batch_size=batch_size,
        class_counts=class_counts,
        class_names=class_names,
        tolerance=tolerance,
    )


def audit_evidence(
    evidence: Evidence,
    *,
    class_weights: Tensor | None = None,
    pos_weight: Tensor | None = None,
    sampler_weights: Tensor | None = None,
    logit_shift: Tensor | None = None,
    beta: float | None = None,
    detach_weights: bool = False,
    batch_size: int | None = None,
    class_counts: Tensor | None = None,
    class_names: Sequence[str] | None = None,
    tolerance: float = 1e-9,
) -> AuditReport:
    """:func:`audit` of samples that were gathered in a stream; the arguments and errors are the same."""
    evidence.check()
    size = evidence.num_classes
    if evidence.binary and pos_weight is not None:  # the positives' weight is that of class 1
        one = torch.cat([torch.ones(1), _weights("pos_weight", pos_weight, 1).float()])
        class_weights = one if class_weights is None else class_weights * one
        pos_weight = None
    if evidence.link == "softmax" and (pos_weight is not None or beta is not None):
        name = "beta" if pos_weight is None else "pos_weight"
        raise ValueError(f'{name} belongs to link "logistic", got it with "softmax"')
    if batch_size is not None and beta is None:
        raise ValueError("batch_size belongs to LGL-INR, got it without beta")
    names = tuple(class_names) if class_names is not None else tuple(f"class {k}" for k in range(size))
    if len(names) != size:
        raise ValueError(f"class_names must be {size} names, got {len(names)}")
    statement = Statement(
        link=evidence.link,
        class_weights=_positive("class_weights", class_weights, size),
        sampler_weights=_positive("sampler_weights", sampler_weights, size),
        logit_shift=None if logit_shift is None else _weights("logit_shift", logit_shift, size, negative=True),
        pos_weight=_positive("pos_weight", pos_weight, size),
        beta=None if beta is None else check_number("beta", beta),
        batch_size=batch_size,
        binary=evidence.binary,
    )
    seen = evidence.metric.class_counts
    counts = seen.double()
    if class_counts is not None:  # classes without samples here are not observed, whatever training had
        counts = _weights("class_counts", class_counts, size).masked_fill(seen == 0, 0.0)
        if float(counts.sum()) == 0:
            raise ValueError("class_counts must have samples of the classes that target has, got none")
    return _Scales(evidence, statement, counts, names, detach_weights, tolerance).report()


class _Scales:
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
        result.append(self.weigh("as stated", s.text, s.link, self.stated))
        total, u = s.total, s.pos_weight
        if s.beta is None and s.weighted:
            result.append(self.weigh("no weights", "no weights had any effect", s.link, self.law(s.link, None)))
            twice = self.law(s.link, _power(total, 2), _power(u, 2))
            result.append(self.weigh("twice", "the weights were applied twice", s.link, twice))
            if len(s.parts) > 1:
                for part, weights in s.parts.items():
                    text = f"of all that is stated only the {part} had an effect"
                    result.append(self.weigh(f"only the {part}", text, s.link, self.law(s.link, weights)))
            if self.order is not None:
                text = "the same weights were given to other classes"
                result.append(self.weigh("other order", text, s.link, self.law(s.link, total[self.order])))  # type: ignore[index]
        others: list[tuple[str, str, Link, Any]] = []
        if s.link == "softmax":
            others.append(
                ("one-vs-all", "the loss was one-vs-all logistic", "logistic", self.law("logistic", None))
            )
        else:
            others.append(("softmax", "the loss was softmax", "softmax", self.law("softmax", None)))
            if total is not None:
                text = "the loss was softmax with these weights"
                others.append(("softmax, weighted", text, "softmax", self.law("softmax", total)))
            if s.beta is not None:
                others.append(
                    ("one-vs-all", "the loss was one-vs-all logistic", "logistic", self.law("logistic", None))
                )
        if s.beta is None and not s.binary:
            others.append(("LGL-INR", "the loss was LGL-INR", "logistic", lambda P, error=None: lgl_inr_law(P)))
        if not s.binary:
            result += [self.weigh(*other) for other in others if other[2] in self.evidence.metrics]
        return tuple(result)

    def weigh(self, name: str, text: str, link: Link, law: Callable[..., Balance]) -> Hypothesis:
        metric = self.evidence.metrics[link]
        error = None
        if self.folded:
            error = float(metric.jackknife(lambda P, _: torch.tensor(law(P).misfit, dtype=torch.float64)))
        return Hypothesis(name, text, link, law(metric.compute()).misfit, error)

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


def _weights(name: str, values: Tensor, size: int, *, negative: bool = False) -> Tensor:
    if not isinstance(values, Tensor) or values.shape != (size,):
        came = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"{name} must be a tensor of shape ({size},), got {came}")
    result = values.detach().cpu().double()
    check_finite(name, result, low=-math.inf if negative else 0)
    return result


def _positive(name: str, values: Tensor | None, size: int) -> Tensor | None:
    if values is None:
        return None
    result = _weights(name, values, size)
    if bool((result == 0).any()):
        raise ValueError(f"{name} must be positive to be audited, got 0 at position {int(result.argmin())}")
    return result


def _power(weights: Tensor | None, exponent: float) -> Tensor | None:
    return None if weights is None else weights**exponent


def _varies(values: Tensor) -> bool:
    return bool((values / values[0] - 1).abs().max() > 1e-9)
