"""C1: with two classes weights and counts determine what weights do, whatever the data and the network."""

import math
from typing import Any

import torch

from steelyard._common.text import exact
from steelyard.balance import mean_confusion
from steelyard.experiments.trainings import dataset, draw, settings, train
from steelyard.forecasting import binary_ratio, fit_head
from steelyard.losses import LogisticLoss
from steelyard.report.results import Conclusion, Number, Points, PointsFigure

TITLE = "Binary logistic: the effect of weights is deterministic"
STATEMENT = (
    "At a critical point of the weighted binary logistic loss, P₀ / (1 − P₁) = w₁N₁ / (w₀N₀). Here P₁ and P₀ are "
    "the mean probabilities of the positive class over positives and over negatives. So weights and counts alone "
    "fix the ratio."
)


def jobs(config: Any) -> dict[str, dict[str, Any]]:
    """Return a job for every weight, imbalance, weight decay and seed."""
    return {
        f"w{exact(weight)}-i{exact(ratio)}-d{exact(decay)}-s{seed}": settings(config)
        | {"weight": weight, "ratio": ratio, "weight_decay": decay, "seed": seed}
        for weight in config.weights
        for ratio in config.ratios
        for decay in config.weight_decays
        for seed in range(config.seeds)
    }


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Train a network to tell classes of odd number from the others; measure, polish its head, measure again."""
    data = dataset(job)
    target, test_target = data.train_target % 2, data.test_target % 2
    available = torch.bincount(target).tolist()
    most = min(available) if job["limit_train"] is None else min(min(available), job["limit_train"] // 2)
    counts = (most, max(2, round(most / job["ratio"])))
    chosen = draw(target, counts, seed=job["seed"])
    w = torch.tensor([1.0, job["weight"]])
    w *= sum(counts) / (
        w[0] * counts[0] + w[1] * counts[1]
    )  # mean 1 over samples: the same steps for every weight
    trained = train(data, chosen, LogisticLoss(class_weights=w), job, outputs=1, labels=(target, test_target))
    law = binary_ratio(counts, (1.0, job["weight"]))
    p = torch.sigmoid(trained.logits[:, 0].double())
    p1, p0 = p[trained.target == 1].mean().item(), p[trained.target == 0].mean().item()
    miss = torch.sigmoid(-trained.logits[:, 0].double())[trained.target == 1].mean().item()
    head = fit_head(trained.features, trained.target, class_weights=w, weight_decay=max(job["weight_decay"], 1e-4))
    P, _ = mean_confusion(head.logits(trained.features), trained.target, link="softmax")
    return job | {
        "counts": list(counts),
        "law": law,
        "p1": p1,
        "p0": p0,
        "measured": p0 / miss,
        "polished": float(P[0, 1] / P[1, 0]),
    }


def conclude(records: list[dict[str, Any]], config: Any) -> Conclusion:
    """Return the verdict with its numbers and figures."""
    known = [r for r in records if r["measured"] > 0 and math.isfinite(r["measured"])]
    x = [math.log(r["law"]) for r in known]
    y = [math.log(r["measured"]) for r in known]
    varied = len(set(x)) > 1 and len(x) > 2  # or there is no line through them
    slope, half = 0.0, math.inf
    if varied:
        from scipy import stats

        line = stats.linregress(x, y)
        slope, half = float(line.slope), float(stats.t.ppf(0.975, len(x) - 2) * line.stderr)
    off = sorted(abs(b - a) for a, b in zip(x, y, strict=True))
    factor = math.exp(off[len(off) // 2])
    polished = max(abs(r["polished"] / r["law"] - 1) for r in records)
    held = polished <= 1e-6
    law_range = (min(r["law"] for r in records), max(r["law"] for r in records))
    by_decay = []
    for decay in config.weight_decays:
        part = sorted(abs(math.log(r["measured"] / r["law"])) for r in known if r["weight_decay"] == decay)
        by_decay.append(f"{math.exp(part[len(part) // 2]):.2f} at weight decay {decay:g}")
    low, high = slope - half, slope + half
    measured = (slope, low, high) if varied else (None, None, None)
    power = f" Their ratio follows the law to the power {slope:.2f} [{low:.2f}, {high:.2f}]." if varied else ""
    return Conclusion(
        held="yes" if held and low >= 0.9 and high <= 1.1 else "partly" if held else "no",
        verdict=(
            f"With its head at the optimum every network satisfies the law, to {polished:.1e} relative, for "
            f"ratios from {law_range[0]:.2g} to {law_range[1]:.2g}. As stochastic gradient descent leaves them, "
            f"half of the networks are within a factor of {factor:.2f} of the law ({', '.join(by_decay)}).{power}"
            if held
            else f"With its head at the optimum a network misses the law by up to {polished:.1e} relative.{power}"
        ),
        numbers=[
            Number("largest relative error, head polished", polished),
            Number("power of the law in the measured ratio, as trained", *measured),
            Number("median factor off the law, as trained", factor),
            Number("trainings", len(records)),
        ],
        figures=[
            PointsFigure(
                id="ratio",
                title="Measured ratio against the law",
                x="w₁N₁ / (w₀N₀)",
                y="P₀ / (1 − P₁), measured",
                log=True,
                diagonal=True,
                series=[
                    Points(
                        f"as trained, imbalance {ratio:g}",
                        [(r["law"], r["measured"]) for r in known if r["ratio"] == ratio],
                    )
                    for ratio in config.ratios
                ]
                + [Points("head polished", [(r["law"], r["polished"]) for r in records])],
                caption="Each point is a training. On the diagonal the law holds.",
            )
        ],
    )
