"""Losses under one recipe: each at its own best learning rate, seed by seed, and how they stand."""

import functools
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steelyard.experiments.config import candidates
from steelyard.experiments.job import Job, Splits, Training, carry_out, in_turn, train_and_judge
from steelyard.experiments.metrics import recalls
from steelyard.experiments.sides import Sides
from steelyard.experiments.statistics import differences, holm, mean_interval, p_value, summary
from steelyard.experiments.trainings import dataset, draw, every_so_many, ranked_counts, setting, settings
from steelyard.notation import parse_loss
from steelyard.report.results import (
    Conclusion,
    Estimate,
    Held,
    Leaderboard,
    Number,
    Points,
    PointsFigure,
    Standing,
)
from steelyard.training.learners import Model


def jobs_of(config: Any, groups: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return a job for every group (a data set, an imbalance) and loss; it tunes the rate and trains all seeds.

    Raises:
        ValueError: names of groups that folders cannot tell apart.
    """
    jobs = {
        f"{re.sub('[^a-z0-9.]+', '-', group.lower()).strip('-')}-{parse_loss(loss).slug}": settings(config)
        | {"loss": loss, "seeds": config.seeds, "learning_rates": candidates(config)}
        | changes
        for group, changes in groups.items()
        for loss in config.losses
    }
    if len(jobs) < len(groups) * len(config.losses):
        raise ValueError(f"names must differ in letters and numbers, got {', '.join(groups)}")
    return jobs


@dataclass(frozen=True)
class Scores:
    """What a training is judged by, on test samples; `rare_recall` is of the rarest third of the classes."""

    accuracy: float
    balanced_accuracy: float
    rare_recall: float


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Tune the rate by balanced accuracy on samples set aside from the training split, then train each seed.

    A seed that diverges is a result: its numbers are None.
    """
    data, spec = dataset(job), parse_loss(job["loss"])
    size = len(data.class_names)
    rest, held_out = data.set_aside(0.1)
    labels = data.train_target[rest]
    counts = ranked_counts(labels, size, job)
    sides = Sides(data, held_out, every_so_many(data.test_target, 10_000))

    @functools.lru_cache(maxsize=1)
    def splits(seed: int) -> Splits:
        return sides.splits(rest[draw(labels, counts, seed=seed)])

    def train(_: str, training: Training) -> float | Scores:
        of_seed = splits(training.seed)
        with tempfile.TemporaryDirectory() as folder:
            return train_and_judge(
                spec,
                of_seed,
                setting(job),
                training,
                functools.partial(_scores, of_seed.test, counts),
                checkpoint=Path(folder) / "last.ckpt",
            )

    plan: Job[Scores] = Job(job["learning_rates"], job["seeds"], if_diverged="keep")
    found = carry_out({spec.label: plan}, in_turn(train))[spec.label]
    keys = list(Scores.__dataclass_fields__)
    runs = [dict.fromkeys(keys) if run is None else asdict(run) for run in found.runs]
    return job | {
        "learning_rate": found.rate,
        "tried": [[trial.lr, trial.balanced_accuracy] for trial in found.search],
        "fewest": min(counts),
        "most": max(counts),
        **{key: [run[key] for run in runs] for key in keys},
    }


def _scores(test: tuple[Tensor, Tensor], counts: list[int], model: Model) -> Scores:
    logits, target = model.logits(test[0]), test[1]
    recall = recalls(logits, target)
    rare = recall[torch.tensor(counts).argsort()[: max(1, len(counts) // 3)]]
    right = (logits.argmax(1) == target).double().mean().item()
    return Scores(right, recall.nanmean().item(), rare.nanmean().item())


def stand(records: list[dict[str, Any]], key: str, config: Any, *, held: Held, verdict: str) -> Conclusion:
    """Return a verdict with a leaderboard of each group, in which every loss stands against the reference.

    A group is the records with the same value of `key`.
    """
    groups = list(dict.fromkeys(r[key] for r in records))
    tables = [_table(key, group, [r for r in records if r[key] == group], config.reference) for group in groups]
    numbers = [
        Number(f"{group}, {row.loss}: balanced accuracy", *row.balanced_accuracy)
        for group, table in zip(groups, tables, strict=True)
        for row in table.rows
    ]
    series = [
        Points(
            loss,
            [
                (groups.index(r[key]), 100 * mean_interval(r["balanced_accuracy"])[0])
                for r in records
                if r["loss"] == loss and any(value is not None for value in r["balanced_accuracy"])
            ],
        )
        for loss in config.losses
    ]
    figure = PointsFigure(
        id="leaderboard",
        title=f"Balanced accuracy of each loss under each {key}",
        x=key,
        names=groups,
        y="balanced accuracy, %",
        series=series,
        caption="Means over seeds; intervals are in the tables.",
    )
    return Conclusion(held, verdict, numbers, [figure], tables)


def _table(key: str, group: str, records: list[dict[str, Any]], reference: str) -> Leaderboard:
    """Return the standings of one group, best first; a loss all of whose seeds diverged is named by the verdict
    alone."""
    of = {r["loss"]: r for r in records}
    shown = [r for r in records if any(value is not None for value in r["balanced_accuracy"])]
    tested = [
        p_value(differences(r["balanced_accuracy"], of[reference]["balanced_accuracy"]))
        if reference in of and r["loss"] != reference and len(r["balanced_accuracy"]) > 1
        else None
        for r in shown
    ]
    rows = [
        Standing(
            loss=r["loss"],
            rate=r["learning_rate"],
            balanced_accuracy=_share(r["balanced_accuracy"]),
            accuracy=_share(r["accuracy"]),
            rare_recall=_share(r["rare_recall"]),
            p=p,
            diverged=sum(value is None for value in r["balanced_accuracy"]),
        )
        for r, p in zip(shown, holm(tested), strict=True)
    ]
    rows.sort(key=lambda row: -row.balanced_accuracy[0])
    fewest = of[reference]["fewest"] if reference in of else None
    return Leaderboard(f"{key.capitalize()} {group}", fewest, rows)


def _share(values: list[float | None]) -> Estimate:
    found = summary(values, high=1)
    assert found is not None  # those shown have values
    return found.mean, found.low, found.high


def paired(records: list[dict[str, Any]], key: str, ours: str, other: str) -> dict[str, Estimate]:
    """Return the points of balanced accuracy that `ours` is ahead in each group, over seeds: mean and 95%
    interval.

    Left out are groups in which in every seed one of them diverged.
    """
    of = {(r[key], r["loss"]): r["balanced_accuracy"] for r in records}
    pairs = {
        group: differences(of[group, ours], of[group, other]) for group in dict.fromkeys(r[key] for r in records)
    }
    return {group: mean_interval([100 * d for d in found]) for group, found in pairs.items() if found}


def divergence(records: list[dict[str, Any]], key: str) -> str:
    """Return a sentence on the trainings that diverged, which no mean holds; nothing if none did."""
    parts = [
        f"{r['loss']} in {lost} of {len(r['balanced_accuracy'])} seeds ({r[key]})"
        for r in records
        if (lost := sum(value is None for value in r["balanced_accuracy"]))
    ]
    return f" Diverged: {', '.join(parts)}." if parts else ""


def shown(ahead: dict[str, Estimate]) -> str:
    """Return those points as text."""
    parts = []
    for group, (mean, low, high) in ahead.items():
        interval = "" if low is None or high is None else f" [{low:+.1f}, {high:+.1f}]"
        parts.append(f"{mean:+.1f}{interval} ({group})")
    return ", ".join(parts)
