"""C4: LGL-INR improves the one-vs-all logistic loss and is competitive with softmax."""

from typing import Any

import torch
from scipy import stats

from steelyard.data import split_validation
from steelyard.experiments.claims.trainings import dataset, draw, mean_interval, ranked_counts, settings, train
from steelyard.experiments.losses import parse_loss
from steelyard.experiments.metrics import recalls
from steelyard.training import Diverged

TITLE = "LGL-INR against logistic and softmax losses"
STATEMENT = (
    "LGL-INR improves the one-vs-all logistic loss and is competitive with softmax, under balanced and imbalanced "
    "training data; which of its parts (balanced classes, balanced positives and negatives, hardness) does it?"
)
_RATE_LIMITS = (1e-4, 10.0)


def jobs(config: Any) -> dict[str, dict[str, Any]]:
    """Every imbalance and loss: one job tunes the rate and trains all seeds with it."""
    return {
        f"{imbalance.replace(':', '-')}-{parse_loss(loss).slug}": settings(config)
        | {
            "imbalance": imbalance,
            "loss": loss,
            "seeds": config.seeds,
            "learning_rates": config.learning_rates,
        }
        for imbalance in config.imbalances
        for loss in config.losses
    }


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Tune by balanced accuracy on samples set aside from the training split, then train each seed."""
    data = dataset(job["dataset"])
    size = len(data.class_names)
    rest, held_out = split_validation(data.train_target, 0.1, seed=0)
    labels = data.train_target[rest]
    counts = ranked_counts(labels, size, job)
    spec = parse_loss(job["loss"])

    def score(rate: float, seed: int, judged: str) -> dict[str, float]:
        chosen = rest[draw(labels, counts, seed=seed)]
        loss, schedule = spec.build(torch.tensor(counts))
        trained = train(
            data,
            chosen,
            loss,
            job | {"learning_rate": rate, "seed": seed},
            outputs=size,
            schedule=schedule,
            validation=held_out if judged == "validation" else None,
        )
        recall = recalls(trained.test_logits, trained.test_target)
        few = recall[torch.tensor(counts).argsort()[: max(1, size // 3)]]
        right = (trained.test_logits.argmax(1) == trained.test_target).double().mean().item()
        return {
            "accuracy": right,
            "balanced_accuracy": recall.nanmean().item(),
            "rare_recall": few.nanmean().item(),
        }

    rates = {rate: _tried(score, rate) for rate in job["learning_rates"]}
    factor = job["learning_rates"][1] / job["learning_rates"][0] if len(rates) > 1 else None
    while factor is not None:
        best = max(rates, key=lambda r: (rates[r] if rates[r] is not None else -1.0, -r))
        beyond = min(rates) / factor if best == min(rates) else max(rates) * factor if best == max(rates) else None
        if beyond is None or not _RATE_LIMITS[0] <= beyond <= _RATE_LIMITS[1]:
            break
        rates[float(f"{beyond:.2g}")] = _tried(score, float(f"{beyond:.2g}"))
    best = max(rates, key=lambda r: (rates[r] if rates[r] is not None else -1.0, -r))
    runs = [score(best, seed, "test") for seed in range(job["seeds"])]
    return job | {
        "learning_rate": best,
        "tried": [[rate, rates[rate]] for rate in sorted(rates)],
        "fewest": min(counts),
        "most": max(counts),
        **{key: [run[key] for run in runs] for key in runs[0]},
    }


def _tried(score: Any, rate: float) -> float | None:
    try:
        value: float = score(rate, 0, "validation")["balanced_accuracy"]
    except Diverged:
        return None
    return value


def conclude(records: list[dict[str, Any]], config: Any) -> dict[str, Any]:
    """A leaderboard for each imbalance, and each loss against the reference, seed by seed."""
    numbers, series, tables = [], [], []
    for imbalance in config.imbalances:
        part = {r["loss"]: r for r in records if r["imbalance"] == imbalance}
        reference = part.get(config.reference)
        rows = []
        for loss, r in part.items():
            values = r["balanced_accuracy"]
            p = None
            if reference is not None and loss != config.reference and len(values) > 1:
                differences = [a - b for a, b in zip(values, reference["balanced_accuracy"], strict=True)]
                p = 1.0 if len(set(differences)) == 1 else float(stats.ttest_1samp(differences, 0).pvalue)
            rows.append(
                {
                    "loss": loss,
                    "rate": r["learning_rate"],
                    **{key: mean_interval(r[key]) for key in ("balanced_accuracy", "accuracy", "rare_recall")},
                    "p": p,
                }
            )
        _holm(rows)
        rows.sort(key=lambda row: -row["balanced_accuracy"][0])
        tables.append({"title": imbalance, "fewest": reference and reference["fewest"], "rows": rows})
        numbers += [
            {
                "name": f"{imbalance}, {row['loss']}: balanced accuracy",
                "value": row["balanced_accuracy"][0],
                "low": row["balanced_accuracy"][1],
                "high": row["balanced_accuracy"][2],
            }
            for row in rows
        ]
    for loss in config.losses:
        points = [
            [i, 100 * mean_interval(r["balanced_accuracy"])[0]]
            for i, imbalance in enumerate(config.imbalances)
            for r in records
            if r["loss"] == loss and r["imbalance"] == imbalance
        ]
        series.append({"label": loss, "points": points})
    held, verdict = _judge(records, config)
    return {
        "held": held,
        "verdict": verdict,
        "numbers": numbers,
        "tables": tables,
        "figures": [
            {
                "id": "leaderboard",
                "kind": "points",
                "title": "Balanced accuracy of each loss under each imbalance",
                "x": "imbalance",
                "names": config.imbalances,
                "y": "balanced accuracy, %",
                "log": False,
                "diagonal": False,
                "series": series,
                "caption": "Means over seeds; intervals are in the tables.",
            }
        ],
    }


def _judge(records: list[dict[str, Any]], config: Any) -> tuple[str, str]:
    """The paper's own loss, LGL-INR as it is by default, against logistic and the reference, seed by seed."""
    of = {(r["imbalance"], r["loss"]): r["balanced_accuracy"] for r in records}
    ours, others = "lgl-inr", [loss for loss in ("logistic", config.reference) if loss in config.losses]
    if ours not in config.losses or not others:
        return "partly", f"Neither can be judged without {ours}, logistic and {config.reference} among the losses."
    words, gained, lost = [], dict.fromkeys(others, 0), dict.fromkeys(others, 0)
    for other in others:
        parts = []
        for imbalance in config.imbalances:
            pairs = zip(of[imbalance, ours], of[imbalance, other], strict=True)
            mean, low, high = mean_interval([100 * (a - b) for a, b in pairs])
            if low is None or high is None:
                parts.append(f"{mean:+.1f} ({imbalance})")
                continue
            gained[other] += low > 0
            lost[other] += high < 0
            parts.append(f"{mean:+.1f} [{low:+.1f}, {high:+.1f}] ({imbalance})")
        words.append(f"against {other} {', '.join(parts)}")
    verdict = (
        f"Balanced accuracy of {ours}, in points with the 95% interval over paired seeds: {'; '.join(words)}."
    )
    if config.seeds < 2:
        return "partly", verdict + " One seed has no interval: nothing is decided."
    if any(lost.values()):
        return "no", verdict
    return ("yes" if gained[others[0]] else "partly"), verdict


def _holm(rows: list[dict[str, Any]]) -> None:
    """Correct the p-values of one table for their number."""
    tested = sorted((row for row in rows if row["p"] is not None), key=lambda row: row["p"])
    highest = 0.0
    for i, row in enumerate(tested):
        highest = max(highest, min(1.0, row["p"] * (len(tested) - i)))
        row["p"] = highest
