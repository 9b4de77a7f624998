"""What an audit holds: verdicts, hypotheses and the numbers behind them, as plain data."""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from steelyard.balance.flows import HardClasses, Trade
from steelyard.balance.implied import AppliedPower, ImpliedWeights
from steelyard.balance.laws import Balance
from steelyard.balance.means import Link
from steelyard.balance.setup import Statement


@dataclass(frozen=True)
class Verdict:
    """One answer.

    Attributes:
        topic: what was asked: "critical point", "link", "weights", "stopping", "double counting", "groups",
            "trades", "hard classes" or "data".
        text: the answer, for reading.
        fault: what was found wrong, a fixed name, or None.
        value: the number that it rests on, or None.
        low, high: its 95% interval, or None.
    """

    topic: str
    text: str
    fault: str | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "text": self.text,
            "fault": self.fault,
            "value": _finite(self.value),
            "low": _finite(self.low),
            "high": _finite(self.high),
        }


@dataclass(frozen=True)
class Hypothesis:
    """Something that may have happened in training, and how badly the model fits it.

    Attributes:
        name, text: of it, short and as a clause.
        link: of the loss that it speaks of.
        misfit: from 0 (the law holds) to 1.
        error: standard error of the misfit over samples, or None.
    """

    name: str
    text: str
    link: Link
    misfit: float
    error: float | None


@dataclass(frozen=True)
class Refit:
    """The loss on the audited samples, with scale and shifts of the logits fitted anew, and of knowing nothing.

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
    """All that the verdicts rest on; see :func:`steelyard.auditing.audit`."""

    statement: Statement
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
    refit: Refit
    spread: float
    mean_row_sum: float | None
    trades: tuple[Trade, ...]
    hard: tuple[HardClasses, ...]
    standard_error: Tensor

    def label(self, index: int) -> str:
        """A class as a sentence names it: its name in quotes, or "class 3" where it has none."""
        name = self.names[index]
        return name if name == f"class {index}" else f'"{name}"'

    def hypothesis(self, name: str) -> Hypothesis | None:
        return next((h for h in self.hypotheses if h.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        s = self.statement
        ratio = None
        if self.implied is not None and s.total is not None:
            ratio = _plain(self.implied.ratio_to(s.total))
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
            "hypotheses": [
                {"name": h.name, "text": h.text, "link": h.link, "misfit": h.misfit, "error": _finite(h.error)}
                for h in self.hypotheses
            ],
            "implied_weights": None if self.implied is None else self.implied.to_dict(),
            "implied_over_stated": ratio,
            "implied_pos_weight": None if self.implied_pos_weight is None else _plain(self.implied_pos_weight),
            "power": _power_dict(self.power),
            "frequency_power": _power_dict(self.frequency_power),
            "refit": vars(self.refit),
            "spread": self.spread,
            "mean_row_sum": _finite(self.mean_row_sum),
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


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _plain(values: Tensor) -> list[float | None]:
    return [_finite(value) for value in values.tolist()]


def _power_dict(power: AppliedPower | None) -> dict[str, float | None] | None:
    if power is None:
        return None
    return {"power": _finite(power.power), "standard_error": _finite(power.standard_error)}


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
