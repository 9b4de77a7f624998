"""One loss under one recipe: its learning rate is tuned, each seed is trained at that rate and judged.

Here stands which trainings a loss needs and how one is done. What data it is done on, and what is measured and
written, is the caller's.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, Literal, TypeVar

from torch import Tensor

from steelyard.experiments.metrics import recalls
from steelyard.experiments.tuning import LARGEST_DECAY, by_score, rates_to_try
from steelyard.notation import LossSpec
from steelyard.report.results import Trial
from steelyard.training import Diverged
from steelyard.training.learners import Model, Setting, Task, find_learner

Found = TypeVar("Found")
OnEpoch = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class Splits:
    """What one seed trains and is judged on: inputs and labels (N,) each.

    Inputs are images (N, C, H, W), uint8, or features (N, D): float32, or uint8 levels of a built-in task.

    Attributes:
        train: the samples that are trained on.
        validation: samples for the balanced accuracy after each epoch; the last one's chooses the learning rate.
        test: samples that the caller judges by.
        class_counts: (K,) of the training labels.
    """

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    class_counts: Tensor


@dataclass(frozen=True)
class Training:
    """One training of a job: at which rate, with which seed, and whether it only serves to choose the rate.

    The rate is a learning rate, or the penalty of a linear learner. The weight decay is the setting's, unless the
    job tries several.
    """

    rate: float
    seed: int
    tuning: bool = False
    decay: float | None = None


def train_and_judge(
    spec: LossSpec,
    splits: Splits,
    setting: Setting,
    training: Training,
    judge: Callable[[Model], Found],
    *,
    checkpoint: Path,
    of: Mapping[str, object] | None = None,
    on_epoch: OnEpoch = lambda row: None,
) -> float | Found:
    """Train and return what `judge` says; where training serves tuning, its balanced accuracy on validation.

    Raises:
        Diverged: the loss became NaN or infinite; the checkpoint is removed.
    """
    task = Task(
        spec=spec,
        train=splits.train,
        validation=splits.validation,
        class_counts=splits.class_counts,
        rate=training.rate,
        seed=training.seed,
        checkpoint=checkpoint,
        of=of or {},
        on_epoch=on_epoch,
    )
    if training.decay is not None:
        setting = replace(setting, recipe=replace(setting.recipe, weight_decay=training.decay))
    try:
        model = find_learner(setting.learner).fit(task, setting)
    except Diverged:
        checkpoint.unlink(missing_ok=True)
        raise
    if not training.tuning:
        return judge(model)
    if model.history:
        return model.history[-1]["validation_balanced_accuracy"]
    inputs, target = splits.validation
    return recalls(model.logits(inputs), target).nanmean().item()


@dataclass(frozen=True)
class Judged(Generic[Found]):
    """What came of a job.

    Attributes:
        rate: at which its seeds were trained.
        decay: the weight decay they had, where the job tries several; else None.
        search: the rates that were tried, rising; none where one was given.
        decays: the weight decays that were tried at that rate, rising, with the score of each.
        runs: of each seed, None where it diverged.
        diverged: why the first seed that diverged did, or None.
    """

    rate: float
    search: list[Trial]
    runs: list[Found | None]
    diverged: str | None
    decay: float | None = None
    decays: dict[float, float | None] = field(default_factory=dict)


@dataclass
class Job(Generic[Found]):
    """Which trainings a loss needs, and what came of those that were done.

    Attributes:
        rates: learning rates, rising; a single one is taken, several are tried with seed 0, see
            :func:`rates_to_try`.
        seeds: how many are trained at the best rate.
        if_diverged: what a seed that diverges means: ``"next rate"``, all seeds are trained at the next best of
            the rates tried; ``"keep"``, it is a result.
        decays: weight decays, rising. All rates are tried with the first. Then each is tried with seed 0 at the
            best rate, and larger ones beyond them as rates are. Default: the setting's own alone.
        tried: scores by rate and decay, None where it diverged.
        runs: of each rate and seed, what was found or why it diverged.
    """

    rates: list[float]
    seeds: int
    if_diverged: Literal["next rate", "keep"] = "next rate"
    decays: list[float] = field(default_factory=list)
    tried: dict[tuple[float, float | None], float | None] = field(default_factory=dict)
    runs: dict[tuple[float, int], Found | Diverged] = field(default_factory=dict)

    @property
    def scores(self) -> dict[float, float | None]:
        """Return the score of each rate tried."""
        return {rate: score for (rate, decay), score in self.tried.items() if decay == self._first_decay}

    @property
    def decay_scores(self) -> dict[float, float | None]:
        """Return the score of each weight decay tried at the best rate; nothing where there is no choice."""
        if len(self.decays) < 2:
            return {}
        best = self.best()
        return {d: score for (rate, d), score in self.tried.items() if rate == best and d is not None}

    def todo(self) -> list[Training]:
        """Return the trainings that the job needs next, which do not depend on one another."""
        if untried := rates_to_try(self.rates, self.scores):
            return [Training(rate, 0, tuning=True, decay=self._first_decay) for rate in untried]
        if len(self.decays) > 1:
            limits = self.decays[0], LARGEST_DECAY
            if untried := rates_to_try(self.decays, self.decay_scores, limits):
                return [Training(self.best(), 0, tuning=True, decay=decay) for decay in untried]
        rate, decay = self.rate(), self.decay()
        if self.if_diverged == "next rate" and self._diverged(rate):
            return []  # the last of the rates
        left = [seed for seed in range(self.seeds) if (rate, seed) not in self.runs]
        return [Training(rate, seed, decay=decay) for seed in left]

    def add(self, training: Training, outcome: float | Found | Diverged) -> None:
        """Add what came of a training."""
        if training.tuning:
            score = None if isinstance(outcome, Diverged) else outcome
            self.tried[training.rate, training.decay] = score  # type: ignore[assignment]
        else:
            self.runs[training.rate, training.seed] = outcome  # type: ignore[assignment]

    def expected(self) -> int:
        """Return how many trainings the job takes in all, as far as is known now."""
        todo = self.todo()
        seeds = self.seeds if any(training.tuning for training in todo) else 0
        return len(self.tried) + len(self.runs) + len(todo) + seeds

    def best(self) -> float:
        """Return the rate with the best score so far."""
        return by_score(self.scores)[0] if self.scores else self.rates[0]

    def rate(self) -> float:
        """Return the rate at which the seeds are trained: the best of those at which none diverged."""
        if self.if_diverged == "keep":
            return self.best()
        tried = [rate for rate in by_score(self.scores) if self.scores[rate] is not None] or [self.best()]
        return next((rate for rate in tried if not self._diverged(rate)), tried[-1])

    def decay(self) -> float | None:
        """Return the weight decay with the best score so far; None where it is the setting's."""
        return by_score(self.decay_scores)[0] if self.decay_scores else self._first_decay

    def judged(self) -> Judged[Found]:
        """Return what came of the job, when nothing is left to do."""
        rate = self.rate()
        runs = [self.runs[rate, seed] for seed in range(self.seeds) if (rate, seed) in self.runs]
        search = [
            Trial(lr, self.scores[lr], diverged_later=lr != rate and self._diverged(lr))
            for lr in sorted(self.scores)
        ]
        reasons = [str(run) for run in runs if isinstance(run, Diverged)]
        found = [None if isinstance(run, Diverged) else run for run in runs]
        decays = dict(sorted(self.decay_scores.items()))
        return Judged(rate, search, found, reasons[0] if reasons else None, self.decay(), decays)

    @property
    def _first_decay(self) -> float | None:
        return self.decays[0] if self.decays else None

    def _diverged(self, rate: float) -> bool:
        return any(isinstance(self.runs.get((rate, seed)), Diverged) for seed in range(self.seeds))


def carry_out(
    jobs: Mapping[str, Job[Found]],
    do: Callable[[list[tuple[str, Training]]], Iterable[tuple[str, Training, float | Found | Diverged]]],
    on_plan: Callable[[int], None] = lambda more: None,
) -> dict[str, Judged[Found]]:
    """Carry out jobs together and return what came of each under its name.

    Args:
        jobs: by name.
        do: does at least one of the trainings that it is given by job and training, and says what came of it.
        on_plan: told by how many the number of trainings that are known to be needed changes.
    """
    planned = 0
    while True:
        expected = sum(job.expected() for job in jobs.values())
        if expected != planned:
            on_plan(expected - planned)
            planned = expected
        todo = [(name, training) for name, job in jobs.items() for training in job.todo()]
        if not todo:
            return {name: job.judged() for name, job in jobs.items()}
        for name, training, outcome in do(todo):
            jobs[name].add(training, outcome)


def in_turn(
    train: Callable[[str, Training], float | Found],
) -> Callable[[list[tuple[str, Training]]], list[tuple[str, Training, float | Found | Diverged]]]:
    """Return a function that does the first of the trainings that are to do, in this process."""

    def do(todo: list[tuple[str, Training]]) -> list[tuple[str, Training, float | Found | Diverged]]:
        name, training = todo[0]
        try:
            return [(name, training, train(name, training))]
        except Diverged as error:
            return [(name, training, error)]

    return do
