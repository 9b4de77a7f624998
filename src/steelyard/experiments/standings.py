"""Losses under one recipe: each at its own best learning rate, seed by seed, and how they stand."""

import re
from typing import Any

import torch

from steelyard.data import split_validation
from steelyard.experiments.metrics import recalls
from steelyard.experiments.statistics import differences, holm, mean_interval, p_value
from steelyard.experiments.trainings import dataset, draw, ranked_counts, settings, train
from steelyard.experiments.tuning import best_rate
from steelyard.notation import parse_loss
from steelyard.training import Diverged


def jobs_of(config: Any, groups: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every group (a data set, an imbalance) and loss: one job tunes the rate and trains all seeds with it."""
    return {
        f"{re.sub('[^a-z0-9.]+', '-', group.lower()).strip('-')}-{parse_loss(loss).slug}": settings(config)
        | {"loss": loss, "seeds": config.seeds, "learning_rates": config.learning_rates}
        | changes
        for group, changes in groups.items()
        for loss in config.losses
    }


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Tune by balanced accuracy on samples set aside from the training split, then train each seed."""
    data = dataset(job)
    size = len(data.class_names)
    rest, held_out = split_validation(data.train_target, 0.1, seed=0)
    labels = data.train_target[rest]
    counts = ranked_counts(labels, size, job)
    spec = parse_loss(job["loss"])

    def score(rate: float, seed: int, judged: str) -> dict[str, float]:
        chosen = rest[draw(labels, counts, seed=seed)]
        loss, schedule = spec.build(torch.tensor(counts), job["batch_size"])
        trained = train(
            data,
            chosen,
            loss,
            job | {"learning_rate": rate, "seed": seed},
            outputs=size,
            initial_bias=spec.first_bias(torch.tensor(counts), job["batch_size"])
            if job["initial_bias"] == "prior"
            else None,
            schedule=schedule,
            validation=held_out if judged == "validation" else None,
            limit_test=10_000,
        )
        recall = recalls(trained.test_logits, trained.test_target)
        few = recall[torch.tensor(counts).argsort()[: max(1, size // 3)]]
        right = (trained.test_logits.argmax(1) == trained.test_target).double().mean().item()
        return {
            "accuracy": right,
            "balanced_accuracy": recall.nanmean().item(),
            "rare_recall": few.nanmean().item(),
        }

    def tried(rate: float) -> float | None:
        try:
            return score(rate, 0, "validation")["balanced_accuracy"]
        except Diverged:
            return None

    best, rates = best_rate(job["learning_rates"], tried)
    runs = [_judged(score, best, seed) for seed in range(job["seeds"])]
    return job | {
        "learning_rate": best,
        "tried": [[rate, value] for rate, value in rates.items()],
        "fewest": min(counts),
        "most": max(counts),
        **{key: [run[key] for run in runs] for key in runs[0]},
    }


def _judged(score: Any, rate: float, seed: int) -> dict[str, float | None]:
    """A seed's numbers; none of a training that diverged, which is a result too."""
    try:
        found: dict[str, float | None] = score(rate, seed, "test")
    except Diverged:
        return dict.fromkeys(("accuracy", "balanced_accuracy", "rare_recall"))
    return found


def stand(records: list[dict[str, Any]], key: str, config: Any) -> dict[str, Any]:
    """A leaderboard of each group, the records alike in `key`, and every loss against the reference."""
    numbers, tables = [], []
    groups = list(dict.fromkeys(r[key] for r in records))
    for group in groups:
        part = {r["loss"]: r for r in records if r[key] == group}
        reference = part.get(config.reference)
        rows = []
        for loss, r in part.items():
            values = r["balanced_accuracy"]
            if all(value is None for value in values):
                continue  # the verdict names it
            p = None
            if reference is not None and loss != config.reference and len(values) > 1:
                p = p_value(differences(values, reference["balanced_accuracy"]))
            rows.append(
                {
                    "loss": loss,
                    "rate": r["learning_rate"],
                    "diverged": sum(value is None for value in values),
                    **{name: mean_interval(r[name]) for name in ("balanced_accuracy", "accuracy", "rare_recall")},
                    "p": p,
                }
            )
        holm(rows)
        rows.sort(key=lambda row: -row["balanced_accuracy"][0])
        tables.append(
            {"title": f"{key.capitalize()} {group}", "fewest": reference and reference["fewest"], "rows": rows}
        )
        numbers += [
            {
                "name": f"{group}, {row['loss']}: balanced accuracy",
                "value": row["balanced_accuracy"][0],
                "low": row["balanced_accuracy"][1],
                "high": row["balanced_accuracy"][2],
            }
            for row in rows
        ]
    series = [
        {
            "label": loss,
            "points": [
                [groups.index(r[key]), 100 * mean_interval(r["balanced_accuracy"])[0]]
                for r in records
                if r["loss"] == loss and any(value is not None for value in r["balanced_accuracy"])
            ],
        }
        for loss in config.losses
    ]
    return {
        "numbers": numbers,
        "tables": tables,
        "figures": [
            {
                "id": "leaderboard",
                "kind": "points",
                "title": f"Balanced accuracy of each loss under each {key}",
                "x": key,
                "names": groups,
                "y": "balanced accuracy, %",
                "log": False,
                "diagonal": False,
                "series": series,
                "caption": "Means over seeds; intervals are in the tables.",
            }
        ],
    }


def paired(
    records: list[dict[str, Any]], key: str, ours: str, other: str
) -> dict[str, tuple[float, float | None, float | None]]:
    """Points of balanced accuracy that `ours` is ahead in each group, over seeds: mean and 95% interval.

    Left out are groups in which in every seed one of them diverged.
    """
    of = {(r[key], r["loss"]): r["balanced_accuracy"] for r in records}
    pairs = {
        group: differences(of[group, ours], of[group, other]) for group in dict.fromkeys(r[key] for r in records)
    }
    return {group: mean_interval([100 * d for d in found]) for group, found in pairs.items() if found}


def divergence(records: list[dict[str, Any]], key: str) -> str:
    """A sentence on the trainings that diverged, which no mean holds; nothing if none did."""
    parts = [
        f"{r['loss']} in {lost} of {len(r['balanced_accuracy'])} seeds ({r[key]})"
        for r in records
        if (lost := sum(value is None for value in r["balanced_accuracy"]))
    ]
    return f" Diverged: {', '.join(parts)}." if parts else ""


def shown(ahead: dict[str, tuple[float, float | None, float | None]]) -> str:
    """Those points as text."""
    parts = []
    for group, (mean, low, high) in ahead.items():
        interval = "" if low is None or high is None else f" [{low:+.1f}, {high:+.1f}]"
        parts.append(f"{mean:+.1f}{interval} ({group})")
    return ", ".join(parts)
