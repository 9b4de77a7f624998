"""How far can forecast and correction be trusted? Both against what really happened, in a run folder of `compare`.

    steelyard compare --dataset digits --imbalance exponential:50 --epochs 40 --learning-rates 0.03 --seeds 5 \\
        --losses softmax,softmax:sqrt_inverse,softmax:inverse,lgl-inr:detach_weights=true --out RUN
    python benchmarks/after_training.py RUN docs/results/digits

Writes PREFIX-forecast.csv: recall on the test split as heads refitted on features of the network trained without
weights forecast it, against that of networks trained with each weighting. And PREFIX-correction.csv: NLL and ECE
before and after `log_posterior`, for use where classes are as frequent as in training (test samples weighted
accordingly) and where they are equally frequent.
"""

import argparse
import csv
import json
import statistics
from pathlib import Path

import torch
from scipy.stats import spearmanr

from steelyard import log_posterior
from steelyard.balance import mean_confusion
from steelyard.data import open_predictions
from steelyard.experiments.metrics import log_probabilities, recalls
from steelyard.forecasting import forecast
from steelyard.notation import parse_loss, setup_from_text


def whole(file, values):
    parts = list(open_predictions(file, values=values).batches())
    return torch.cat([rows for rows, _ in parts]), torch.cat([labels for _, labels in parts])


def agreement(run, results):
    """One row for each weighting and seed."""
    counts = torch.tensor(results["data"]["train_counts"])
    specs = [spec for loss in results["losses"] if (spec := parse_loss(loss["label"])).name == "softmax"]
    decay, rows = results["config"]["weight_decay"], []
    for seed in range(results["config"]["seeds"]):
        plain = run / "softmax" / f"seed-{seed}"
        train, test = (whole(plain / name, "features") for name in ("train_features.parquet", "features.parquet"))
        weights = {spec.label: spec.weights(counts) for spec in specs}
        found = {one.name: one for one in forecast(*train, class_weights=weights, test=test, weight_decay=decay)}
        unweighted = recalls(*whole(plain / "predictions.parquet", "logits"))
        for spec in specs:
            truth = recalls(*whole(run / spec.slug / f"seed-{seed}" / "predictions.parquet", "logits"))
            guess = found[spec.label].recall
            rows.append(
                {
                    "weighting": spec.label,
                    "seed": seed,
                    "rank_correlation": spearmanr(guess, truth).statistic,
                    "mean_absolute_error": (guess - truth).abs().mean().item(),
                    "error_of_no_change": (unweighted - truth).abs().mean().item(),
                    "balanced_forecast": guess.mean().item(),
                    "balanced_truth": truth.mean().item(),
                }
            )
    return rows


def calibration(log_p, target, weights):
    """Weighted NLL and 15-bin ECE of the top class."""
    weights = weights / weights.sum()
    nll = -(weights * log_p.gather(1, target[:, None])[:, 0]).sum()
    confidence, taken = log_p.exp().max(1)
    bins = (confidence * 15).long().clamp(max=14)
    gap = torch.zeros(15, dtype=torch.float64).index_add(
        0, bins, weights * ((taken == target).double() - confidence)
    )
    return nll.item(), gap.abs().sum().item()


def correction(run, results):
    """One row for each loss, seed and use."""
    counts = torch.tensor(results["data"]["train_counts"]).double()
    prior = counts / counts.sum()
    uniform = torch.full_like(prior, 1 / len(prior))
    rows = []
    for loss in results["losses"]:
        spec = parse_loss(loss["label"])
        for seed in range(results["config"]["seeds"]):
            folder = run / spec.slug / f"seed-{seed}"
            logits, target = whole(folder / "predictions.parquet", "logits")
            logits = logits.double()
            setup = setup_from_text(spec.label, counts.long())
            P = None
            if spec.name == "lgl-inr":
                P, _ = mean_confusion(*whole(folder / "train_predictions.parquet", "logits"), link="logistic")
            for use, test_prior in (("as in training", prior), ("equal classes", uniform)):
                of_sample = (test_prior / torch.bincount(target))[target]
                corrected = log_posterior(logits, setup, test_prior, mean_confusion=P)
                before = calibration(log_probabilities(logits, spec.entry.link), target, of_sample)
                after = calibration(corrected, target, of_sample)
                rows.append(
                    {
                        "loss": spec.label,
                        "use": use,
                        "seed": seed,
                        "nll_before": before[0],
                        "nll_after": after[0],
                        "ece_before": before[1],
                        "ece_after": after[1],
                    }
                )
    return rows


def write(path, rows, by):
    """All rows to a file; their means to the terminal."""
    numbers = [key for key in rows[0] if key not in (*by, "seed")]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.5f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    print(path)
    for key in dict.fromkeys(tuple(row[k] for k in by) for row in rows):
        group = [row for row in rows if tuple(row[k] for k in by) == key]
        means = "  ".join(f"{n} {statistics.fmean(row[n] for row in group):.3f}" for n in numbers)
        print(f"  {', '.join(key):45s} {means}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("prefix", type=Path)
    arguments = parser.parse_args()
    results = json.loads((arguments.run / "results.json").read_text())
    stem = arguments.prefix
    write(stem.with_name(f"{stem.name}-forecast.csv"), agreement(arguments.run, results), ("weighting",))
    write(stem.with_name(f"{stem.name}-correction.csv"), correction(arguments.run, results), ("loss", "use"))


if __name__ == "__main__":
    main()
