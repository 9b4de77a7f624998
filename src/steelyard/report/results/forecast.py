"""What forecast.json holds: what other weights would do."""

from dataclasses import dataclass
from typing import ClassVar

from steelyard.report.results.parts import Numbers
from steelyard.report.results.records import Record, Results, check_sizes


@dataclass(frozen=True)
class Forecasted(Record):
    """What one loss and weighting would do; see :class:`steelyard.forecasting.Forecast`."""

    loss: str
    name: str
    accuracy: float
    balanced_accuracy: float
    nll: float
    ece: float
    held_out: bool
    gradient: float
    class_weights: Numbers
    recall: Numbers
    precision: Numbers
    class_loss: Numbers
    misfit: float
    binary_ratio: float | None

    @property
    def label(self) -> str:
        """Return the loss and its weighting."""
        return f"{self.loss}:{self.name}"


@dataclass(frozen=True, kw_only=True)
class ForecastResults(Results):
    """What forecast.json holds."""

    FILE: ClassVar[str] = "forecast.json"
    KIND: ClassVar[str] = "a forecast"
    NONE: ClassVar[str] = "forecast"

    name: str
    judged_by: str | None
    command: str | None = None
    version: str
    class_names: list[str]
    class_counts: list[int]
    weight_decay: float
    guarantee: str
    forecasts: list[Forecasted]

    def __post_init__(self) -> None:
        if not self.forecasts:
            raise ValueError("forecasts must hold at least one forecast")
        size = len(self.class_names)
        check_sizes(size, {"class_counts": self.class_counts})
        for one in self.forecasts:
            vectors = ("class_weights", "recall", "precision", "class_loss")
            check_sizes(size, {f"forecasts: {one.label}: {key}": getattr(one, key) for key in vectors})
