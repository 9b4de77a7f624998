"""What an audit finds, as plain data: codes, numbers, intervals, class indices; its words are in `words`."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from steelyard._common.intervals import QUANTILE
from steelyard.auditing.catalogue import KINDS, Severity
from steelyard.auditing.explanations import Explained
from steelyard.auditing.sanity import Columns
from steelyard.auditing.stated import Stated
from steelyard.balance.flows import HardClasses, Trade
from steelyard.balance.implied import AppliedPower, ImpliedWeights
from steelyard.balance.laws import Balance
from steelyard.balance.means import Link


@dataclass(frozen=True)
class Measure:
    """A number with its 95% interval.

    Attributes:
        value: the number.
        low, high: ends of the interval, or None where there is none.
    """

    value: float
    low: float | None = None
    high: float | None = None


def measured(value: float, error: float | None, least: float = -math.inf, most: float = math.inf) -> Measure:
    """Return the value with the 95% interval of its standard error, within what it can be."""
    if error is None or not math.isfinite(error):
        return Measure(value)
    return Measure(value, max(least, value - QUANTILE * error), min(most, value + QUANTILE * error))


@dataclass(frozen=True)
class Item:
    """Some classes and the numbers that a finding holds of them.

    Attributes:
        classes: indices; a pair for what one class gives another, a whole group for groups.
        measures: what the finding's code says they are.
    """

    classes: tuple[int, ...]
    measures: tuple[Measure, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One answer of an audit, without words.

    Attributes:
        name: what was found; `catalogue.KINDS` lists all.
        measure: the number that it rests on, or None.
        numbers: further numbers, by name.
        items: the classes that it speaks of.
        hypothesis: name of the hypothesis that it speaks of, or None.
    """

    name: str
    measure: Measure | None = None
    numbers: dict[str, Measure] = field(default_factory=dict)
    items: tuple[Item, ...] = ()
    hypothesis: str | None = None

    @property
    def code(self) -> str:
        """Return the code of its kind, such as "SY011"."""
        return KINDS[self.name].code

    @property
    def severity(self) -> Severity:
        """Return "fault", "warning" or "note"."""
        return KINDS[self.name].severity

    @property
    def topic(self) -> str:
        """Return what was asked."""
        return KINDS[self.name].topic

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists for JSON."""
        return {
            "code": self.code,
            "name": self.name,
            "severity": self.severity,
            "measure": None if self.measure is None else _measure(self.measure),
            "numbers": {name: _measure(measure) for name, measure in self.numbers.items()},
            "items": [
                {"classes": list(item.classes), "measures": [_measure(m) for m in item.measures]}
                for item in self.items
            ],
            "hypothesis": self.hypothesis,
        }


@dataclass(frozen=True)
class Hypothesis:
    """Something that may have happened in training, and how badly the model fits it.

    Attributes:
        name: a fixed name; `words` has the clause for it.
        link: of the loss that it speaks of.
        misfit: from 0 (the law holds) to 1.
        error: standard error of the misfit over samples, or None.
    """

    name: str
    link: Link
    misfit: float
    error: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"name": self.name, "link": self.link, "misfit": self.misfit, "error": finite(self.error)}


@dataclass(frozen=True)
class Refit:
    """The loss on the audited samples: as it is, with the best scale and shifts, and of knowing nothing.

    Attributes:
        loss: as the model is, nats.
        shifted_loss: with the best shifts alone, which weights account for.
        best_loss: with the best scale and shifts.
        scale: by which the logits would have to grow.
        chance: loss of a model that gives every sample the class frequencies.
    """

    loss: float
    shifted_loss: float
    best_loss: float
    scale: float
    chance: float


@dataclass(frozen=True)
class Numbers:
    """All that the findings rest on; see :func:`steelyard.auditing.audit`."""

    statement: Stated
    names: tuple[str, ...]
    rows: int
    dropped: int
    samples: tuple[int, ...]
    class_counts: Tensor
    balance: Balance
    hypotheses: tuple[Hypothesis, ...]
    implied: ImpliedWeights | None
    implied_pos_weight: Tensor | None
    explained: Explained | None
    columns: Columns
    refit: Refit | None
    learned: float
    spread: float
    mean_row_sum: float | None
    trades: tuple[Trade, ...]
    hard: tuple[HardClasses, ...]
    standard_error: Tensor
    training_counts: Tensor | None = None
    notes: tuple[str, ...] = ()
    implied_pos_log_error: Tensor | None = None

    @property
    def power(self) -> AppliedPower | None:
        """Return the power of the stated weights with which they acted, or None where it cannot be told."""
        return None if self.explained is None or self.explained.power is None else self.explained.power.applied

    @property
    def implied_log_error(self) -> Tensor | None:
        """Return (K,) standard errors of the log implied weights, over samples and over trainings.

        They join what samples leave open and the scatter about what explains the weights best.
        """
        if self.implied is None or self.implied.log_error is None or self.explained is None:
            return None if self.implied is None else self.implied.log_error
        return torch.hypot(self.implied.log_error, torch.tensor(self.explained.scatter, dtype=torch.float64))

    @property
    def frequency_power(self) -> AppliedPower | None:
        """Return the exponent g of N^-g in the implied weights: 0, none; 1, classes were balanced."""
        if self.explained is None or self.explained.frequency is None:
            return None
        return self.explained.frequency.applied

    @property
    def order(self) -> Tensor | None:
        """Return (K,) the class whose weight each class seems to have, or None where that is its own."""
        return None if self.explained is None else self.explained.order

    @property
    def uniform(self) -> bool:
        """Return whether nothing weighs classes or positives, or all the same."""
        s = self.statement
        return all(w is None or bool(((w / w[0] - 1).abs() < 1e-6).all()) for w in (s.total, s.pos_weight))

    @property
    def implied_shown(self) -> list[float]:
        """Return the (K,) implied weights that are explained, those of classes in units of that of the most
        frequent one."""
        assert self.explained is not None
        w = self.explained.weights
        if not self.explained.of_classes:
            return w.tolist()
        first = self.class_counts.masked_fill(w.isnan(), -1.0).argmax()
        return (w / w[first]).tolist()

    def hypothesis(self, name: str) -> Hypothesis | None:
        return next((h for h in self.hypotheses if h.name == name), None)

    @property
    def implied_over_stated(self) -> Tensor | None:
        """Return the (K,) implied over stated weights; see :attr:`AuditReport.implied_over_stated`."""
        s = self.statement
        if self.implied is not None:
            return self.implied.ratio_to(torch.ones_like(self.class_counts) if s.total is None else s.total)
        if self.implied_pos_weight is None:
            return None
        return self.implied_pos_weight if s.pos_weight is None else self.implied_pos_weight / s.pos_weight

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists for JSON, None for what is not known."""
        s, ratio = self.statement, self.implied_over_stated
        return {
            "statement": s.text,
            "link": s.link,
            "class_names": list(self.names),
            "rows": self.rows,
            "dropped": self.dropped,
            "samples": list(self.samples),
            "class_counts": _plain(self.class_counts),
            "stated_weights": None if s.total is None else _plain(s.total),
            "stated_pos_weight": None if s.pos_weight is None else _plain(s.pos_weight),
            "residual": self.balance.to_dict() | {"misfit": self.balance.misfit},
            "implied_weights": None if self.implied is None else self.implied.to_dict(),
            "implied_over_stated": None if ratio is None else _plain(ratio),
            "implied_pos_weight": None if self.implied_pos_weight is None else _plain(self.implied_pos_weight),
            "power": _power_dict(self.power),
            "frequency_power": _power_dict(self.frequency_power),
            "refit": None if self.refit is None else vars(self.refit),
            "spread": self.spread,
            "mean_row_sum": finite(self.mean_row_sum),
            "trades": [{"classes": list(t.classes), "there": t.there, "back": t.back} for t in self.trades],
            "hard_classes": [
                {
                    "output": h.output,
                    "average": h.average,
                    "hard": list(h.hard),
                    "averaged_away": list(h.averaged_away),
                }
                for h in self.hard
                if h.hard
            ],
        }


def _measure(measure: Measure) -> dict[str, float | None]:
    return {name: finite(value) for name, value in vars(measure).items()}


def finite(value: float | None) -> float | None:
    """Return the value, or None where JSON has no such number."""
    return None if value is None or not math.isfinite(value) else value


def _plain(values: Tensor) -> list[float | None]:
    return [finite(value) for value in values.tolist()]


def _power_dict(power: AppliedPower | None) -> dict[str, float | None] | None:
    if power is None:
        return None
    return {"power": finite(power.power), "standard_error": finite(power.standard_error)}
