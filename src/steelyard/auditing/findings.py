"""What an audit finds, as plain data: codes, numbers, intervals, class indices; its words are in `words`."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

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
        code: what was found, a fixed name; `words.TOPICS` lists all.
        fault: whether it is something wrong with the training or with what is said of it.
        measure: the number that it rests on, or None.
        numbers: further numbers, by name.
        items: the classes that it speaks of.
        hypothesis: name of the hypothesis that it speaks of, or None.
    """

    code: str
    fault: bool = False
    measure: Measure | None = None
    numbers: dict[str, Measure] = field(default_factory=dict)
    items: tuple[Item, ...] = ()
    hypothesis: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists for JSON."""
        return {
            "code": self.code,
            "fault": self.fault,
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
        best_loss: with the best scale and shifts.
        scale: by which the logits would have to grow.
        chance: loss of a model that gives every sample the class frequencies.
    """

    loss: float
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
    power: AppliedPower | None
    frequency_power: AppliedPower | None
    order: Tensor | None
    refit: Refit | None
    spread: float
    mean_row_sum: float | None
    trades: tuple[Trade, ...]
    hard: tuple[HardClasses, ...]
    standard_error: Tensor
    notes: tuple[str, ...] = ()

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
