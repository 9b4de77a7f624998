"""What advise.json holds: what to do for an objective, and what everything that was tried is worth."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from steelyard.report.results.parts import Numbers
from steelyard.report.results.records import Record, Results, check_sizes

Rule = Literal["argmax", "shift", "costs", "thresholds"]


@dataclass(frozen=True, kw_only=True)
class AdvisedWay(Record):
    """One way to train and to decide; see :class:`steelyard.deciding.Way`."""

    name: str
    scheme: str | None
    class_weights: list[float] | None
    rule: Rule
    offsets: list[float] | None
    value: float
    gain: float
    interval: tuple[float, float]
    recall: Numbers
    simplicity: int
    allowed: bool


@dataclass(frozen=True)
class Minimum(Record):
    """The least recall that a class must have."""

    position: int
    recall: float


@dataclass(frozen=True)
class OverRival(Record):
    """The gain of the chosen way over the best of the other kind."""

    gain: float
    interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class AdviceResults(Results):
    """What advise.json holds; see :class:`steelyard.deciding.Advice`.

    Attributes:
        name: of the file.
        model: what was trained, or where the numbers come from.
        value: what the objective is called.
        code: to paste, by library.
        class_counts: (K,) of training; of an older file those of the rows.
    """

    FILE: ClassVar[str] = "advise.json"
    KIND: ClassVar[str] = "advice"
    NONE: ClassVar[str] = "advice"

    name: str
    model: str
    version: str
    command: str | None = None
    sentence: str
    notes: list[str]
    objective: str
    value: str
    minimum: Minimum | None
    class_names: list[str]
    samples: list[int]
    folds: int
    chosen: str
    rival: str | None
    over_rival: OverRival | None
    ways: list[AdvisedWay]
    code: dict[str, str]
    class_counts: list[float] | None = None

    def __post_init__(self) -> None:
        size = len(self.class_names)
        check_sizes(size, {"samples": self.samples, "class_counts": self.class_counts})
        for way in self.ways:
            parts = {"recall": way.recall, "class_weights": way.class_weights, "offsets": way.offsets}
            check_sizes(size, {f"ways: {way.name}: {key}": part for key, part in parts.items()})
        for key, name in (("chosen", self.chosen), ("rival", self.rival)):
            if name is not None and name not in {way.name for way in self.ways}:
                raise ValueError(f"{key} must be the name of one of the ways, got {name!r}")
        if self.minimum is not None and not 0 <= self.minimum.position < size:
            raise ValueError(f"minimum.position must be from 0 to {size - 1}, got {self.minimum.position}")

    @property
    def way(self) -> AdvisedWay:
        """Return what is advised."""
        return next(way for way in self.ways if way.name == self.chosen)

    @property
    def plain(self) -> AdvisedWay:
        """Return the way without weights whose decision is the most probable class."""
        return self.ways[0]
