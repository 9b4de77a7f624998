"""C3: one-vs-all logistic losses tie only the average over the other classes, and a hard class hides behind it."""

import statistics
from typing import Any

import torch
from scipy import stats

from steelyard.balance import hard_classes, mean_confusion
from steelyard.data import parse_imbalance
from steelyard.experiments.claims.trainings import dataset, draw, train
from steelyard.experiments.losses import parse_loss
from steelyard.training import Recipe

TITLE = "One-vs-all logistic: an average over the other classes"
STATEMENT = (
    "The law of a one-vs-all output ties only the count-weighted average of its false probabilities, so a hard "
    "class may hide behind many easy ones (multi-modality neglect); LGL-INR weighs them by how hard they are."
)


def jobs(config: Any) -> dict[str, dict[str, Any]]:
    """Every loss and seed."""
    return {
        f"{parse_loss(loss).slug}-s{seed}": {
            "dataset": config.dataset,
            "imbalance": config.imbalance,
            "loss": loss,
            "seed": seed,
            "epochs": config.epochs,
            "batch_size": config.batch_size,
            "learning_rate": config.learning_rate,
            "weight_decay": config.weight_decays[0],
            "limit_train": config.limit_train,
            "backbone": config.backbone,
            "augmentation": config.augmentation,
        }
        for loss in config.losses
        for seed in range(config.seeds)
    }


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Train, and measure how far the hardest of the other classes stands out in each column."""
    data = dataset(job["dataset"])
    size = len(data.class_names)
    available = torch.bincount(data.train_target, minlength=size)
    most = (
        int(available.min())
        if job["limit_train"] is None
        else min(int(available.min()), job["limit_train"] // size)
    )
    counts = parse_imbalance(job["imbalance"]).counts([max(2, most)] * size)
    chosen = draw(data.train_target, counts, seed=job["seed"])
    spec = parse_loss(job["loss"])
    loss, _ = spec.build(torch.tensor(counts))
    recipe = Recipe(
        job["epochs"],
        job["batch_size"],
        job["learning_rate"],
        weight_decay=job["weight_decay"],
        augmentation=job["augmentation"],
    )
    trained = train(
        data,
        chosen,
        data.train_target,
        loss,
        recipe,
        outputs=size,
        seed=job["seed"],
        backbone=job["backbone"],
        test_target=data.test_target,
    )
    link = spec.entry.link
    P, _ = mean_confusion(trained.test_logits, trained.test_target, link=link)
    train_P, seen = mean_confusion(trained.logits, trained.target, link=link)
    others = ~torch.eye(size, dtype=torch.bool)
    share = (torch.tensor(counts).double()[:, None] * others).T  # weights of the law's average, by column
    average = (share.T / share.sum(1) * P).sum(0)
    hardest = P.masked_fill(~others, 0.0).amax(0)
    columns = hard_classes(train_P, seen)
    return job | {
        "average": average.tolist(),
        "hardest": hardest.tolist(),
        "ratio": (hardest / average).median().item(),
        "averaged_away": sum(len(column.averaged_away) for column in columns),
        "balanced_accuracy": (
            torch.stack(
                [
                    (trained.test_logits.argmax(1) == k)[trained.test_target == k].double().mean()
                    for k in range(size)
                ]
            )
            .mean()
            .item()
        ),
    }


def conclude(records: list[dict[str, Any]], config: Any) -> dict[str, Any]:
    """Numbers, verdict and figures."""
    numbers, ratios = [], {}
    for loss in config.losses:
        part = [r for r in records if r["loss"] == loss]
        for key, text in (
            ("ratio", "hardest over average false probability, median column"),
            ("averaged_away", "pairs averaged away"),
            ("balanced_accuracy", "balanced accuracy"),
        ):
            values = [r[key] for r in part]
            mean = statistics.fmean(values)
            half = None
            if len(values) > 1:
                half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
            low, high = (None, None) if half is None else (mean - half, mean + half)
            numbers.append({"name": f"{loss}: {text}", "value": mean, "low": low, "high": high})
            if key == "ratio":
                ratios[loss] = {r["seed"]: r["ratio"] for r in part}
    plain, inr = ratios.get("logistic"), ratios.get("lgl-inr")
    held, words = "no", "Neither logistic nor lgl-inr was among the losses."
    if plain and inr:
        differences = [plain[seed] - inr[seed] for seed in plain if seed in inr]
        mean = statistics.fmean(differences)
        half = (
            float(stats.t.ppf(0.975, len(differences) - 1))
            * statistics.stdev(differences)
            / len(differences) ** 0.5
        )
        held = "yes" if mean - half > 0 else "partly" if mean > 0 else "no"
        words = (
            "Under one-vs-all logistic the hardest other class of a column gets "
            f"{statistics.fmean(plain.values()):.1f} times the average that its law ties, under LGL-INR "
            f"{statistics.fmean(inr.values()):.1f} times: a difference of {mean:.1f} [{mean - half:.1f}, "
            f"{mean + half:.1f}] over paired seeds."
        )
    return {
        "held": held,
        "verdict": words,
        "numbers": numbers,
        "figures": [
            {
                "id": "hardest",
                "kind": "points",
                "title": "The hardest other class of each column against the average that the law ties",
                "x": "average false probability of the column, as the law weighs it",
                "y": "largest mean false probability",
                "log": True,
                "diagonal": True,
                "series": [
                    {
                        "label": loss,
                        "points": [
                            [a, h]
                            for r in records
                            if r["loss"] == loss
                            for a, h in zip(r["average"], r["hardest"], strict=True)
                            if a > 0 and h > 0
                        ],
                    }
                    for loss in config.losses
                ],
                "caption": "A point is a column (a class's output) of one training, on test samples. "
                "On the line nothing hides.",
            }
        ],
    }
