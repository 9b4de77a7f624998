"""Losses under one recipe: each at its own best learning rate, seed by seed, and how they stand."""

import functools
import math
import re
import tempfile
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steelyard.balance import TrainingSetup, mean_confusion
from steelyard.experiments.config import candidates
from steelyard.experiments.job import Job, Splits, Training, carry_out, in_turn, train_and_judge
from steelyard.experiments.metrics import mean_recall, probability_metrics, recalls, uniform_accuracy
from steelyard.experiments.sides import Sides
from steelyard.experiments.statistics import differences, holm, mean_interval, p_value, summary
from steelyard.experiments.trainings import dataset, draw, every_so_many, ranked_counts, setting, settings
from steelyard.notation import LossSpec, parse_loss
from steelyard.posterior import log_posterior
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
from steelyard.training.learners import Model, NetworkLearner, find_learner


def jobs_of(config: Any, groups: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return a job for every group (a data set, an imbalance) and loss; it tunes the rate and trains all seeds.

    Raises:
        ValueError: names of groups that folders cannot tell apart.
    """
    jobs = {
        f"{re.sub('[^a-z0-9.]+', '-', group.lower()).strip('-')}-{parse_loss(loss).slug}": settings(config)
        | {"loss": loss, "seeds": config.seeds, "learning_rates": candidates(config)}
        | ({"weight_decays": config.weight_decays} if len(config.weight_decays) > 1 else {})
        | changes
        for group, changes in groups.items()
        for loss in config.losses
    }
    if len(jobs) < len(groups) * len(config.losses):
        raise ValueError(f"names must differ in letters and numbers, got {', '.join(groups)}")
    return jobs


_MOST_CELLS = 300_000  # logits that a posterior is computed of, which may take a matrix a row


@dataclass(frozen=True)
class Scores:
    """What a training is judged by, on test samples, as fractions.

    Attributes:
        accuracy, balanced_accuracy: after the last epoch.
        rare_recall: of the rarest third of the classes; None where the test samples have none of them.
        worst_recall: of the class with the least.
        uniform_accuracy: with one threshold for all, see :func:`~steelyard.experiments.metrics.uniform_accuracy`.
        nll, ece: of the probabilities after undoing what training did, for the class frequencies of the test
            samples, of which at most 300,000 / K are taken; None for a loss without a posterior.
        chosen_epoch: what balanced accuracy would have gained by choosing the epoch on the test samples; None
            where training has no epochs. It is no score: it says what others gain who choose so.
    """

    accuracy: float
    balanced_accuracy: float
    rare_recall: float | None
    worst_recall: float
    uniform_accuracy: float
    nll: float | None
    ece: float | None
    chosen_epoch: float | None


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Tune the rate, and the weight decay where several are given, by balanced accuracy on samples set aside from
    the training split, then train each seed.

    A seed that diverges is a result: its numbers are None.
    """
    data, spec = dataset(job), parse_loss(job["loss"])
    size = len(data.class_names)
    rest, held_out = data.set_aside(0.1)
    labels = data.train_target[rest]
    counts = ranked_counts(labels, size, job)
    sides = Sides(data, held_out, every_so_many(data.test_target, 10_000))
    how = setting(job)
    is_network = isinstance(find_learner(how.learner), NetworkLearner)

    @functools.lru_cache(maxsize=1)
    def splits(seed: int) -> Splits:
        return sides.splits(rest[draw(labels, counts, seed=seed)])

    def train(_: str, training: Training) -> float | Scores:
        of_seed = splits(training.seed)
        # A network's history is to be of the test samples where nothing is chosen by it any more.
        seen = replace(of_seed, validation=of_seed.test) if is_network and not training.tuning else of_seed
        with tempfile.TemporaryDirectory() as folder:
            return train_and_judge(
                spec,
                seen,
                how,
                training,
                functools.partial(_scores, spec, of_seed, job["batch_size"], is_network),
                checkpoint=Path(folder) / "last.ckpt",
            )

    decays = job.get("weight_decays", []) if is_network else []
    plan: Job[Scores] = Job(job["learning_rates"], job["seeds"], if_diverged="keep", decays=decays)
    found = carry_out({spec.label: plan}, in_turn(train))[spec.label]
    keys = list(Scores.__dataclass_fields__)
    runs = [dict.fromkeys(keys) if run is None else asdict(run) for run in found.runs]
    tried = {"decays_tried": [[decay, score] for decay, score in found.decays.items()]} if found.decays else {}
    return job | {
        "learning_rate": found.rate,
        "weight_decay": job["weight_decay"] if found.decay is None else found.decay,
        "tried": [[trial.lr, trial.balanced_accuracy] for trial in found.search],
        **tried,
        "fewest": min(counts),
        "most": max(counts),
        **{key: [run[key] for run in runs] for key in keys},
    }


def _scores(spec: LossSpec, splits: Splits, batch_size: int, has_history: bool, model: Model) -> Scores:
    logits, target = model.logits(splits.test[0]), splits.test[1]
    recall, counts = recalls(logits, target), splits.class_counts
    rare = recall[counts.argsort()[: max(1, len(counts) // 3)]]
    epochs = [row["validation_balanced_accuracy"] for row in model.history] if has_history else []
    some = every_so_many(target, _MOST_CELLS // len(counts))
    undone = _undone(spec, splits, batch_size, model, logits[some])
    return Scores(
        accuracy=(logits.argmax(1) == target).double().mean().item(),
        balanced_accuracy=recall.nanmean().item(),
        rare_recall=mean_recall(rare),
        worst_recall=recall[~recall.isnan()].min().item(),
        uniform_accuracy=uniform_accuracy(logits, target),
        **({"nll": None, "ece": None} if undone is None else probability_metrics(undone, target[some])),
        chosen_epoch=max(epochs) - recall.nanmean().item() if epochs else None,
    )


def _undone(spec: LossSpec, splits: Splits, batch_size: int, model: Model, logits: Tensor) -> Tensor | None:
    """Return the log-probabilities of test samples without what training did, or None where there are none."""
    counts, target = splits.class_counts, splits.test[1]
    setup = TrainingSetup(spec.loss(counts, batch_size), class_counts=counts, batch_size=batch_size)
    seen = torch.bincount(target, minlength=len(counts)).clamp(min=1).double()  # of no class is the prior 0
    confusion = None
    try:
        if setup.in_negative is not None:
            trained = model.logits(splits.train[0])
            confusion, _ = mean_confusion(trained, splits.train[1], link="logistic")
        with warnings.catch_warnings():  # of rows without a posterior, for which the loss then has none
            warnings.simplefilter("ignore", UserWarning)
            found = log_posterior(logits.double(), setup, seen / seen.sum(), mean_confusion=confusion)
    except (ValueError, ArithmeticError):  # a loss that has none, such as one with a weight of 0
        return None
    return found if bool(found.isfinite().all()) else None


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
    apart = [
        differences(r["balanced_accuracy"], of[reference]["balanced_accuracy"])
        if reference in of and r["loss"] != reference and len(r["balanced_accuracy"]) > 1
        else None
        for r in shown
    ]
    tested = [None if found is None or len(found) < 2 else p_value(found) for found in apart]  # of common seeds
    comparisons = sum(p is not None for p in tested)
    rows = [
        Standing(
            loss=r["loss"],
            rate=r["learning_rate"],
            decay=r["weight_decay"] if "decays_tried" in r else None,
            p=p,
            ahead=mean_interval(found, low=-1, high=1, comparisons=comparisons) if found else None,
            diverged=sum(value is None for value in r["balanced_accuracy"]),
            **{name: _share(r[name]) for name in ("balanced_accuracy", "accuracy")},
            **{
                name: _share(r[name], high=math.inf if name in ("nll", "chosen_epoch") else 1)
                for name in ("rare_recall", "worst_recall", "uniform_accuracy", "nll", "ece", "chosen_epoch")
                if any(value is not None for value in r.get(name, []))
            },
        )
        for r, found, p in zip(shown, apart, holm(tested), strict=True)
    ]
    rows.sort(key=lambda row: -row.balanced_accuracy[0])
    fewest = of[reference]["fewest"] if reference in of else None
    return Leaderboard(f"{key.capitalize()} {group}", fewest, rows)


def _share(values: list[float | None], *, high: float = 1) -> Estimate:
    found = summary(values, high=high)
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
    return {
        group: mean_interval([100 * d for d in found], low=-100, high=100)
        for group, found in pairs.items()
        if found
    }


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
