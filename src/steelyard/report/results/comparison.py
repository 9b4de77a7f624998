"""What results.json holds: losses compared on one data set."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from steelyard._common.notebook import table_html
from steelyard.report.results.parts import Environment, Numbers, Sides
from steelyard.report.results.records import Record, Results, check_sizes


@dataclass(frozen=True)
class Metric(Record):
    """A column of a table of results: `better` is "higher" or "lower", `unit` "%" for a fraction."""

    key: str
    title: str
    unit: str
    better: Literal["higher", "lower"]


@dataclass(frozen=True)
class Summary(Record):
    """A mean over `n` seeds, and what stands beside it: its 95% interval, of two or three seeds the least and the
    largest value, None for one seed."""

    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Trial(Record):
    """A learning rate that was tried.

    Attributes:
        lr: the rate.
        balanced_accuracy: on the validation split after the last epoch; None where training diverged.
        diverged_later: whether another seed diverged at this rate, which was the best until then.
    """

    lr: float
    balanced_accuracy: float | None
    diverged_later: bool = False


@dataclass(frozen=True)
class Epoch(Record):
    """A row of a training's history; `epoch` counts from 1."""

    epoch: int
    train_loss: float
    validation_balanced_accuracy: float
    lr: float


@dataclass(frozen=True)
class Run(Record):
    """One training that counts.

    Attributes:
        seed: of the subset, the start and the order of the samples.
        folder: of its files, within the run folder.
        metrics: of the test split, by :class:`Metric` key; None for a group without classes.
        recall: (K,) of the test split.
        history: one row for each epoch; none where training has no epochs.
        law: of its loss on the samples that it was trained on.
        seconds: that it took.
        files: SHA-256 of each file in the folder, as it was written.
    """

    seed: int
    folder: str
    metrics: dict[str, float | None]
    recall: Numbers
    history: list[Epoch]
    law: Sides
    seconds: float
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ComparedLoss(Record):
    """A loss of a comparison: how it was tuned, and its training with each seed.

    Attributes:
        label, slug: as written, and as a folder name.
        loss, link, options: name in the registry, link and options of the loss.
        law: its balance law, for reading.
        class_weights: (K,) or None.
        lr, lr_search: the learning rate, and those that were tried.
        summary: of each metric over seeds; None where it has no value.
        runs: one for each seed.
    """

    label: str
    slug: str
    loss: str
    link: str
    options: dict[str, object]
    law: str
    class_weights: list[float] | None
    lr: float
    lr_search: list[Trial]
    summary: dict[str, Summary | None]
    runs: list[Run]


@dataclass(frozen=True)
class ComparedData(Record):
    """The classes of a comparison, their samples in each split, the groups by training samples, and what was read
    as what."""

    class_names: list[str]
    train_counts: list[int]
    validation_counts: list[int]
    test_counts: list[int]
    groups: dict[str, list[int]]
    reading: str = ""

    def __post_init__(self) -> None:
        size = len(self.class_names)
        if not size:
            raise ValueError("class_names must name at least one class")
        check_sizes(
            size, {key: getattr(self, key) for key in ("train_counts", "validation_counts", "test_counts")}
        )
        for group, classes in self.groups.items():
            if not all(0 <= k < size for k in classes):
                raise ValueError(f"groups.{group} must name classes from 0 to {size - 1}, got {classes}")


@dataclass(frozen=True)
class ComparedLearner(Record):
    """What was trained.

    Attributes:
        words: the learner and how it was trained.
        tuned: what was chosen for each loss: a learning rate or a penalty.
        candidates: that were tried at least; a single one was taken untried.
        without: settings of other learners, which say nothing here.
    """

    words: str
    tuned: Literal["learning rate", "penalty"]
    candidates: list[float]
    without: list[str]


@with_config(ConfigDict(extra="allow"))
class Compared(TypedDict):
    """The part of a comparison's configuration that its page and table speak of; the rest goes along."""

    dataset: str
    imbalance: str
    losses: list[str]
    seeds: int
    epochs: int
    learning_rates: list[float]
    command: NotRequired[str]


@dataclass(frozen=True, kw_only=True)
class Comparison(Results):
    """What results.json holds.

    Attributes:
        name: of the run folder.
        seconds: that the last call took.
        config: the configuration.
        environment, data, metrics: see there.
        losses: that did not diverge.
        diverged: label of each loss that did at every rate, and why.
        learner: what was trained; None of an older run, of networks.
    """

    FILE: ClassVar[str] = "results.json"
    KIND: ClassVar[str] = "a comparison's results"
    NONE: ClassVar[str] = "finished run"

    name: str
    seconds: float
    config: Compared
    environment: Environment
    data: ComparedData
    metrics: list[Metric]
    losses: list[ComparedLoss]
    diverged: dict[str, str] = field(default_factory=dict)
    learner: ComparedLearner | None = None

    def __post_init__(self) -> None:
        size = len(self.data.class_names)
        for key, part in (("losses", self.losses), ("config.learning_rates", self.config["learning_rates"])):
            if not part:
                raise ValueError(f"{key} must hold at least one")
        for loss in self.losses:
            if not loss.runs:
                raise ValueError(f"losses: {loss.label} must have at least one run")
            absent = [metric.key for metric in self.metrics if metric.key not in loss.summary]
            if absent:
                raise ValueError(f"losses: {loss.label}: summary.{absent[0]} is missing")
            check_sizes(size, {f"losses: {loss.label}: class_weights": loss.class_weights})
            for run in loss.runs:
                if Path(run.folder).is_absolute() or ".." in Path(run.folder).parts:
                    raise ValueError(f"losses: {loss.label}: folder must be in the run folder, got {run.folder!r}")
                where = f"losses: {loss.label}, seed {run.seed}"
                parts = {"recall": run.recall, "law.pull_up": run.law.pull_up, "law.push_down": run.law.push_down}
                check_sizes(size, {f"{where}: {key}": part for key, part in parts.items()})
                if len(run.history) != len(loss.runs[0].history) or (self.learner is None and not run.history):
                    raise ValueError(f"{where}: history must have a row for each epoch, got {len(run.history)}")

    @property
    def seeds_differ(self) -> bool:
        """Return whether some loss has other numbers with another seed; a single seed counts as different."""
        several = [loss.runs for loss in self.losses if len(loss.runs) > 1]
        return not several or any(run.metrics != runs[0].metrics for runs in several for run in runs)

    def _repr_html_(self) -> str:
        """Return the means over seeds as a table that notebooks show."""
        rows = []
        for loss in self.losses:
            found = [loss.summary[metric.key] for metric in self.metrics]
            rows.append((loss.label, *("–" if one is None else f"{one.mean:.3g}" for one in found)))
        data, made, seeds = self.config["dataset"], self.config["imbalance"], self.config["seeds"]
        sentence = f"{Path(data).name}, imbalance {made}: means over {seeds} seeds"
        return table_html(sentence, ("loss", *(metric.title for metric in self.metrics)), rows)

    def groups_of(self) -> Iterator[tuple[Metric, int | None]]:
        """Return each metric, and for the recall of a group how many classes the group has."""
        for metric in self.metrics:
            group = self.data.groups.get(metric.key.removeprefix("recall_"))
            yield metric, None if group is None else len(group)
