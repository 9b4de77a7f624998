"""Losses compared on one data set: each tuned by the same rules, trained over seeds, judged at the last epoch."""

import datetime
import functools
import json
import math
import time
from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from steelyard._common.files import write_csv, write_json
from steelyard._common.text import exact
from steelyard.experiments.bench import Bench, BenchJob, check_files, read_outcome
from steelyard.experiments.config import CompareConfig, candidates
from steelyard.experiments.grid import clear_locks, do_once, record_file, run_grid
from steelyard.experiments.job import Job, Judged, Training, carry_out, in_turn
from steelyard.experiments.metrics import METRICS
from steelyard.experiments.progress import Progress, Silent
from steelyard.experiments.runs import RunFolder, environment, read_finished
from steelyard.experiments.statistics import summary
from steelyard.notation import LossSpec, parse_losses
from steelyard.report import write_report
from steelyard.report.results import ComparedLearner, ComparedLoss, Comparison, Run
from steelyard.report.results.comparison import Compared
from steelyard.training import Diverged
from steelyard.training.learners import NAMES, learner_settings

Outcomes = Iterable[tuple[str, Training, float | Run | Diverged]]


def compare(
    config: CompareConfig,
    folder: str | PathLike[str],
    *,
    resume: bool = False,
    command: str | None = None,
    accelerator: str = "auto",
    devices: int = 1,
    workers: int = 1,
    rows: bool = True,
    progress: Progress | None = None,
) -> Comparison:
    """Run a comparison into `folder` and return what `results.json` holds.

    Finished trainings are kept as they come; a run killed at any moment goes on with ``resume=True`` and ends
    with the numbers of an uninterrupted one (on the same machine and thread count, to the last bit).

    Args:
        config: what to compare.
        folder: run folder; new, or of the same configuration and ``resume``.
        resume: go on with an unfinished run.
        command: the command line to show in the report.
        accelerator, devices: that a training runs on, as :func:`fit` takes them; a run may go on with others.
        workers: trainings at a time, each in a process of its own where there are several. The CPU's threads are
            divided among them; a run may go on with another number.
        rows: whether the page holds test logits of the first seed, to try weights on.
        progress: told what happens.

    Returns:
        The results; beside them the folder holds config.yaml, results.csv, report.html, and for each loss and
        seed predictions (test and train, parquet), mean confusions (npz), the features of a model with a linear
        head, and the model where it has a format that is data alone.

    Raises:
        FileExistsError, ValueError: the folder cannot be used, or the data cannot; several workers and devices.
        Diverged: every loss diverged, each with some seed at every rate that was tried. One that did beside others
            that did not is left out of the results, and named in them.
        JobsFailed: of several workers, whose trainings failed twice; finished ones are kept.
    """
    folder = Path(folder)
    if workers < 1 or (workers > 1 and devices > 1):
        wanted = "at least 1" if workers < 1 else f"1 where a training has several devices ({devices})"
        raise ValueError(f"workers must be {wanted}, got {workers}")
    specs = {spec.label: spec for spec in parse_losses(",".join(config.losses))}
    runs = RunFolder(folder)
    started = time.monotonic()
    make = functools.partial(Bench, config, folder, accelerator, devices)
    bench = make() if runs.new() else None  # data that cannot be used leaves no folder behind
    with runs.open(config, resume=resume):
        if runs.finished():
            found = read_finished(Comparison, folder, config.model_dump())
            for run in (run for loss in found.losses for run in loss.runs):
                remedy = f"remove {folder / Comparison.FILE} and {folder / run.folder} to train again"
                check_files(folder / run.folder, run, remedy)
            write_report(folder, rows=rows)
            return found
        bench = bench or make()
        progress = progress or Silent()
        progress.data(bench.reading)
        jobs: dict[str, Job[Run]] = {label: Job(candidates(config), config.seeds) for label in specs}
        trainings = _Trainings(bench, specs, jobs, progress)
        do = trainings.in_turn() if workers == 1 else functools.partial(trainings.side_by_side, workers)
        judged = carry_out(jobs, do, trainings.progress.plan)
        diverged = {label: found.diverged for label, found in judged.items() if found.diverged is not None}
        if len(diverged) == len(judged):
            raise Diverged(next(iter(diverged.values())))
        results = Comparison(
            name=folder.name,
            finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - started, 1),
            config=cast(Compared, config.model_dump() | ({} if command is None else {"command": command})),
            environment=environment(_how(workers)),
            data=bench.describe(),
            learner=ComparedLearner(
                bench.learner.words(bench.setting),
                bench.learner.tuned,
                candidates(config),
                [key for name in NAMES for key in learner_settings(name) if key not in bench.learner.settings],
            ),
            metrics=METRICS,
            losses=[
                _compared(spec, judged[label], bench) for label, spec in specs.items() if label not in diverged
            ],
            diverged=diverged,
        )
        _write_csv(folder / "results.csv", results)
        write_json(folder / "results.json", results.to_dict())
        write_report(folder, rows=rows)
        clear_locks(folder)
        return results


class _Trainings:
    """The trainings of a comparison, done here or in other processes; a finished one is read from its record."""

    def __init__(
        self, bench: Bench, specs: dict[str, LossSpec], jobs: dict[str, Job[Run]], progress: Progress
    ) -> None:
        self.bench, self.specs, self.jobs, self.progress = bench, specs, jobs, progress
        self.tuned = "penalty" if bench.learner.tuned == "penalty" else "rate"

    def in_turn(self) -> Callable[[list[tuple[str, Training]]], Outcomes]:
        """Return a function that does the first training, here."""
        return in_turn(self._train)

    def side_by_side(self, workers: int, todo: list[tuple[str, Training]]) -> Outcomes:
        """Do all trainings, so many at a time, in other processes."""
        parts = {self._part(label, training): (label, training) for label, training in todo}
        jobs = {
            f"{part}/result": BenchJob(
                config=json.dumps(self.bench.config.model_dump()),
                folder=str(self.bench.folder.resolve()),
                accelerator=self.bench.setting.accelerator,
                threads=_threads(workers),
                loss=label,
                training=training,
                part=part,
            )
            for part, (label, training) in parts.items()
        }

        def tell(name: str, outcome: str) -> None:
            part = name.removesuffix("/result")
            if outcome == "done" and isinstance(self._outcome(part, *parts[part]), Diverged):
                outcome = "diverged"
            self.progress.end(self._title(*parts[part]), outcome)

        def of(job: BenchJob) -> dict[str, object]:
            return self.bench.settings(job.loss, job.training)

        run_grid(self.bench.folder, jobs, BenchJob.work, of=of, workers=workers, on_done=tell)
        for part, (label, training) in parts.items():
            yield label, training, self._outcome(part, label, training)

    def _train(self, label: str, training: Training) -> float | Run:
        """Do a training here, or find it finished."""
        part, title = self._part(label, training), self._title(label, training)
        began = False

        def work() -> dict[str, object]:
            nonlocal began
            began = True
            self.progress.start(title, self.bench.config.epochs if self.bench.learner.in_batches else None)
            return self.bench.record(self.specs[label], training, part, self.progress.epoch)

        if not record_file(self.bench.folder, f"{part}/result").exists():
            do_once(self.bench.folder, f"{part}/result", self.bench.settings(label, training), work)
        outcome = self._outcome(part, label, training)
        diverged = isinstance(outcome, Diverged)
        self.progress.end(title, "was finished" if not began else "diverged" if diverged else "done")
        if isinstance(outcome, Diverged):
            raise outcome
        return outcome

    def _outcome(self, part: str, label: str, training: Training) -> float | Run | Diverged:
        file = record_file(self.bench.folder, f"{part}/result")
        return read_outcome(file, self.bench.settings(label, training), tuning=training.tuning)

    def _part(self, label: str, training: Training) -> str:
        """Return the part of the run folder for the files of a training."""
        slug, job = self.specs[label].slug, self.jobs[label]
        if training.tuning:
            return f"tuning/{slug}-{exact(training.rate)}"
        rate = "" if training.rate == job.best() else f"/rate-{exact(training.rate)}"
        return f"{slug}{rate}/seed-{training.seed}"

    def _title(self, label: str, training: Training) -> str:
        purpose = f"tuning, {self.tuned} {training.rate:g}" if training.tuning else f"seed {training.seed}"
        return f"{label}, {purpose}"


def _threads(workers: int) -> int:
    """Return how many threads of the CPU each of so many trainings at a time has."""
    return max(1, torch.get_num_threads() // workers)


def _how(workers: int) -> str:
    threads = f"{_threads(workers)} threads"
    return threads if workers == 1 else f"{threads} each, {workers} workers"


def _compared(spec: LossSpec, judged: Judged[Run], bench: Bench) -> ComparedLoss:
    loss = spec.loss(bench.class_counts, bench.batch_size)
    weights: Tensor | None = getattr(loss, "class_weights", None)  # a preset's too; LGL-INR has none
    runs = [run for run in judged.runs if run is not None]
    return ComparedLoss(
        label=spec.label,
        slug=spec.slug,
        loss=spec.name,
        link=spec.link,
        options=spec.options,
        law=spec.entry.law_text,
        class_weights=None if weights is None else weights.double().tolist(),
        lr=judged.rate,
        lr_search=judged.search,
        summary={
            m.key: summary([run.metrics[m.key] for run in runs], high=1 if m.unit == "%" else math.inf)
            for m in METRICS
        },
        runs=runs,
    )


def _write_csv(file: Path, results: Comparison) -> None:
    keys = [metric.key for metric in results.metrics]
    rows = [
        [
            loss.label,
            run.seed,
            loss.lr,
            *(run.metrics[key] for key in keys),
            max(abs(r) for r in run.law.relative_residual if r is not None),
            run.seconds,
        ]
        for loss in results.losses
        for run in loss.runs
    ]
    write_csv(file, ["loss", "seed", "learning_rate", *keys, "max_abs_relative_residual", "seconds"], rows)
