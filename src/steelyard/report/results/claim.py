"""What claim.json holds: whether a claim of the paper held."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from steelyard.report.results.comparison import ComparedLearner
from steelyard.report.results.parts import Environment, Estimate
from steelyard.report.results.records import Record, Results

Held = Literal["yes", "no", "partly", "undecided"]


@dataclass(frozen=True)
class Number(Record):
    """A number that a claim found, and its 95% interval where there is one."""

    name: str
    value: int | float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Points(Record):
    """Points of a figure that belong together."""

    label: str
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class PointsFigure(Record):
    """A figure of points; `names` are the places on its x axis."""

    id: str
    title: str
    x: str
    y: str
    series: list[Points]
    caption: str
    log: bool = False
    diagonal: bool = False
    names: list[str] | None = None
    kind: Literal["points"] = "points"


@dataclass(frozen=True)
class Standing(Record):
    """A row of a leaderboard.

    Attributes:
        loss, rate: the loss and its learning rate.
        balanced_accuracy, accuracy: over seeds, as fractions.
        p: against the reference, corrected for the number of tests; None where there was no test.
        diverged: how many seeds did.
        decay: the weight decay, where it was chosen.
        ahead: balanced accuracy less the reference's, over paired seeds, as a fraction; its interval is corrected
            for the number of comparisons. None of the reference, and of one seed.
        rare_recall: of the rarest third of the classes; None where no test sample is of them.
        worst_recall, uniform_accuracy, ece, chosen_epoch: over seeds, as fractions, and nll in nats; None where
            there are none, as in a file of an earlier version.
    """

    loss: str
    rate: float
    balanced_accuracy: Estimate
    accuracy: Estimate
    p: float | None
    diverged: int = 0
    decay: float | None = None
    ahead: Estimate | None = None
    rare_recall: Estimate | None = None
    worst_recall: Estimate | None = None
    uniform_accuracy: Estimate | None = None
    nll: Estimate | None = None
    ece: Estimate | None = None
    chosen_epoch: Estimate | None = None


@dataclass(frozen=True)
class Leaderboard(Record):
    """How losses stand on one task, best first."""

    title: str
    fewest: int | None
    rows: list[Standing]


@dataclass(frozen=True)
class Conclusion(Record):
    """What the records of a claim's jobs say: whether it held, in words, numbers, tables and figures."""

    held: Held
    verdict: str
    numbers: list[Number]
    figures: list[PointsFigure]
    tables: list[Leaderboard] = field(default_factory=list)


@with_config(ConfigDict(extra="allow"))
class Claimed(TypedDict):
    """The part of a claim's configuration that its page speaks of; the rest goes along."""

    seeds: int
    reference: str
    backbone: str


@dataclass(frozen=True, kw_only=True)
class Claim(Results):
    """What claim.json holds: which claim, how it was run, and the fields of its :class:`Conclusion`.

    Attributes:
        learner: what was trained; None in a file of an earlier version, which is of networks.
    """

    FILE: ClassVar[str] = "claim.json"
    KIND: ClassVar[str] = "a claim"
    NONE: ClassVar[str] = "finished claim"

    claim: str
    title: str
    statement: str
    config: Claimed
    environment: Environment
    seconds: float
    command: str | None = None
    held: Held
    verdict: str
    numbers: list[Number]
    figures: list[PointsFigure]
    tables: list[Leaderboard] = field(default_factory=list)
    learner: ComparedLearner | None = None
