"""What forecast.json holds: what other weights would do, beside what costs nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from steelyard.report.results.parts import Numbers
from steelyard.report.results.records import Record, Results, check_sizes

Ends = tuple[float | None, float | None]


@dataclass(frozen=True, kw_only=True)
class Intervals(Record):
    """The ends of 95% intervals; see :class:`steelyard.forecasting.Scores`."""

    accuracy: Ends
    balanced_accuracy: Ends
    nll: Ends
    ece: Ends
    recall: list[Ends]
    precision: list[Ends]


@dataclass(frozen=True, kw_only=True)
class Scored(Record):
    """Scores of logits; see :class:`steelyard.forecasting.Scores`."""

    accuracy: float
    balanced_accuracy: float
    nll: float | None
    ece: float
    recall: Numbers
    precision: Numbers
    intervals: Intervals


@dataclass(frozen=True, kw_only=True)
class Unchanged(Scored):
    """The head of one loss without weights."""

    loss: str


@dataclass(frozen=True, kw_only=True)
class Forecasted(Scored):
    """What one loss and weighting would do; see :class:`steelyard.forecasting.Forecast`."""

    loss: str
    name: str
    shift: Scored
    gradient: float
    class_weights: Numbers
    class_loss: Numbers
    misfit: float
    binary_ratio: float | None

    @property
    def weighs(self) -> bool:
        """Return whether the weights differ: where they do not, nothing changes."""
        return any(weight != self.class_weights[0] for weight in self.class_weights)


@dataclass(frozen=True)
class Row:
    """A row of the tables: no change, a refitted head, or the shift of the logits in its place."""

    loss: str
    weights: str
    how: Literal["no change", "refit", "shift"]
    scores: Scored
    of: Forecasted | None

    @property
    def label(self) -> str:
        """Return the loss, its weighting and which of the two ways."""
        if self.how == "no change":
            return f"{self.loss}: no change"
        return f"{self.loss}:{self.weights}" + (", shift" if self.how == "shift" else "")


def best_of(rows: Sequence[Row], how: str) -> Row | None:
    """Return the row of a kind with the best balanced accuracy; None where there is none."""
    return max((row for row in rows if row.how == how), key=lambda row: row.scores.balanced_accuracy, default=None)


@dataclass(frozen=True)
class Gain(Record):
    """By how much the balanced accuracy of one row is above that of another on the same samples, with the ends of
    its interval; the intervals of all gains hold together with probability 0.95."""

    row: str
    over: str
    gain: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class ForecastResults(Results):
    """What forecast.json holds.

    Schema 2 has the rivals, intervals and features per sample; schema 3 the paired gains.
    """

    FILE: ClassVar[str] = "forecast.json"
    KIND: ClassVar[str] = "a forecast"
    NONE: ClassVar[str] = "forecast"
    SCHEMA: ClassVar[int] = 3

    name: str
    judged_by: str
    folds: int | None
    command: str | None = None
    version: str
    class_names: list[str]
    class_counts: list[int]
    weight_decay: float
    features: int
    features_per_sample: float
    features_per_rarest: float
    guarantee: str
    caution: str
    no_change: list[Unchanged]
    forecasts: list[Forecasted]
    gains: list[Gain]

    def __post_init__(self) -> None:
        if not self.forecasts:
            raise ValueError("forecasts must hold at least one forecast")
        size = len(self.class_names)
        check_sizes(size, {"class_counts": self.class_counts})
        absent = [one.loss for one in self.forecasts if one.loss not in {same.loss for same in self.no_change}]
        if absent:
            raise ValueError(f"no_change must hold each loss of forecasts, and lacks {absent[0]}")
        for row in self.tables:
            for part, where in ((row.scores, row.label), (row.scores.intervals, f"{row.label}: intervals")):
                vectors = {f"{where}: recall": part.recall, f"{where}: precision": part.precision}
                check_sizes(size, vectors)
        for one in self.forecasts:
            where = f"forecasts: {one.loss}:{one.name}"
            check_sizes(
                size, {f"{where}: class_weights": one.class_weights, f"{where}: class_loss": one.class_loss}
            )

    @property
    def tables(self) -> list[Row]:
        """Return the rows of every table: of each loss no change, then refit and shift of each weighting."""
        rows = []
        for same in self.no_change:
            own = [one for one in self.forecasts if one.loss == same.loss]
            plain = next((one for one in own if not one.weighs), None)
            rows.append(Row(same.loss, "none", "no change", same, plain))
            for one in own:
                if one.weighs:
                    rows.append(Row(one.loss, one.name, "refit", one, one))
                    rows.append(Row(one.loss, one.name, "shift", one.shift, one))
        return rows

    @property
    def size_of_head(self) -> str:
        """Return two sentences on how many features the head has for its samples."""
        samples, rarest = sum(self.class_counts), min(count for count in self.class_counts if count)
        return (
            f"The head has {self.features} features for {samples} training samples, which is "
            f"{self.features_per_sample:.3g} a sample. The rarest class has {rarest} samples, "
            f"which is {self.features_per_rarest:.3g} features a sample."
        )
