"""What audit.json holds: what the weights did to one model."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from steelyard.report.results.parts import Numbers, Sides
from steelyard.report.results.records import Record, Results, check_sizes


@dataclass(frozen=True)
class VerdictResult(Record):
    """A verdict of an audit as :class:`steelyard.auditing.report.Verdict` has it."""

    name: str
    code: str
    severity: Literal["fault", "warning", "note"]
    topic: str
    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class HypothesisResult(Record):
    """A hypothesis of an audit as :class:`steelyard.auditing.report.Hypothesis` has it."""

    name: str
    text: str
    link: str
    misfit: float
    error: float | None


@dataclass(frozen=True)
class ImpliedResult(Record):
    """Implied weights, their errors (of the logarithm), and the groups of classes within which they compare."""

    weights: Numbers
    groups: list[list[int]]
    log_error: Numbers | None = None


@dataclass(frozen=True)
class TradeResult(Record):
    """Two classes that give each other probability."""

    classes: tuple[int, int]
    there: float
    back: float


@dataclass(frozen=True)
class ClassResult(Record):
    """What is said of one class, as :class:`steelyard.auditing.ClassRow` has it."""

    index: int
    name: str
    samples: int
    class_count: float
    stated: float | None
    implied: float | None
    implied_low: float | None
    implied_high: float | None
    pull_up: float | None
    push_down: float | None
    relative_residual: float | None


@dataclass(frozen=True)
class IgnoredResult(Record):
    """A finding that was set aside."""

    code: str
    name: str


@dataclass(frozen=True)
class MeasureResult(Record):
    """A number with its 95% interval."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class RatioResult(Record):
    """How many times a sample of class 1 weighs one of class 0, as :class:`steelyard.auditing.Ratio` has it."""

    stated: float
    found: MeasureResult
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Audit(Results):
    """What audit.json holds, as far as pages and tables read it; see :class:`steelyard.auditing.AuditReport`."""

    FILE: ClassVar[str] = "audit.json"
    KIND: ClassVar[str] = "an audit"
    NONE: ClassVar[str] = "audit"

    name: str
    command: str | None = None
    version: str
    headline: str
    verdicts: list[VerdictResult]
    faults: list[str]
    statement: str
    class_names: list[str]
    rows: int
    samples: list[int]
    class_counts: list[float]
    stated_weights: Numbers | None
    stated_pos_weight: Numbers | None
    residual: Sides
    hypotheses: list[HypothesisResult]
    implied_weights: ImpliedResult | None
    implied_over_stated: Numbers | None
    implied_pos_weight: Numbers | None
    trades: list[TradeResult]
    classes: list[ClassResult]
    ignored: list[IgnoredResult] = field(default_factory=list)
    ratio: RatioResult | None = None

    def __post_init__(self) -> None:
        size = len(self.class_names)
        keys = ("samples", "class_counts", "stated_weights", "stated_pos_weight", "implied_over_stated")
        check_sizes(size, {key: getattr(self, key) for key in (*keys, "implied_pos_weight")})
        check_sizes(size, {"classes": self.classes})
        sides = ("pull_up", "push_down", "relative_residual")
        check_sizes(size, {f"residual.{key}": getattr(self.residual, key) for key in sides})
        if self.implied_weights is not None:
            implied = {"weights": self.implied_weights.weights, "log_error": self.implied_weights.log_error}
            check_sizes(size, {f"implied_weights.{key}": part for key, part in implied.items()})
            if self.stated_weights is not None and self.implied_over_stated is None:
                raise ValueError("implied_over_stated is missing beside stated_weights")
        for k in (k for trade in self.trades for k in trade.classes):
            if not 0 <= k < size:
                raise ValueError(f"trades must name classes from 0 to {size - 1}, got {k}")
        if not any(count >= 1 for count in self.class_counts):
            raise ValueError("class_counts must be at least 1 for some class")
        if not self.hypotheses:
            raise ValueError("hypotheses must hold at least one")
