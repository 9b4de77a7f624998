"""How often does the audit find a planted fault, and how often one that is not there?

    python benchmarks/audit_faults.py docs/results/audit-faults.csv

Small networks on imbalanced digits (exponential, 20), 40 epochs, by default ten seeds that its thresholds were not
set on (those were seeds 0 to 2, at imbalance 10 and 50). One row a training.
"""

import argparse
import csv
import tempfile
from collections import Counter
from pathlib import Path

import torch

from steelyard.auditing import audit
from steelyard.balance import TrainingSetup
from steelyard.data import exponential, load_dataset, subsample
from steelyard.losses import LogisticLoss, SoftmaxLoss
from steelyard.training import Recipe, SmallCNN, fit, predict
from steelyard.weights.class_weights import class_weights


def shuffled(weights, seed):
    return weights[torch.randperm(len(weights), generator=torch.Generator().manual_seed(seed))]


# name: (loss from inverse weights and seed, epochs, balanced sampler, link audited, weights stated, fault)
NOT_APPLIED, TWICE, MOVED = "weights_not_applied", "weights_applied_twice", "weights_permuted"
CASES = {
    "as stated": (lambda w, s: SoftmaxLoss(class_weights=w), 40, False, "softmax", True, None),
    "no weights, none stated": (lambda w, s: SoftmaxLoss(), 40, False, "softmax", False, None),
    "one-vs-all as stated": (lambda w, s: LogisticLoss(), 40, False, "logistic", False, None),
    "weights never applied": (lambda w, s: SoftmaxLoss(), 40, False, "softmax", True, NOT_APPLIED),
    "in sampler and loss": (lambda w, s: SoftmaxLoss(class_weights=w), 40, True, "softmax", True, TWICE),
    "classes reversed": (lambda w, s: SoftmaxLoss(class_weights=w.flip(0)), 40, False, "softmax", True, MOVED),
    "classes shuffled": (
        lambda w, s: SoftmaxLoss(class_weights=shuffled(w, s)), 40, False, "softmax", True, MOVED,
    ),
    "one epoch": (lambda w, s: SoftmaxLoss(class_weights=w), 1, False, "softmax", True, "stopped_early"),
    "softmax audited as logistic": (
        lambda w, s: SoftmaxLoss(class_weights=w), 40, False, "logistic", True, "wrong_link"
    ),
    "logistic audited as softmax": (lambda w, s: LogisticLoss(), 40, False, "softmax", False, "wrong_link"),
}  # fmt: skip


def train(loss, epochs, balanced_sampler, seed):
    """Logits and labels of the training samples."""
    data = load_dataset("digits")
    chosen = subsample(data.train_target, exponential(20), seed=seed)
    images, target = data.images("train", chosen), data.train_target[chosen]
    counts = torch.bincount(target)
    drawn = torch.arange(len(target))
    if balanced_sampler:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.multinomial(1 / counts[target].double(), len(target), replacement=True, generator=generator)
    torch.manual_seed(seed)
    network = SmallCNN(images, len(counts))
    part = images[drawn], target[drawn]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "last.ckpt"
        made = loss(class_weights(counts), seed)
        fit(network, made, part, part, Recipe(epochs, 32, 0.03), seed=seed, checkpoint=checkpoint)
    return predict(network, images), target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(3, 13)))
    arguments = parser.parse_args()
    rows = []
    for name, (loss, epochs, sampler, link, stated, expected) in CASES.items():
        outcome: Counter[str] = Counter()
        for seed in arguments.seeds:
            logits, target = train(loss, epochs, sampler, seed)
            weights = class_weights(torch.bincount(target)) if stated else None
            report = audit(logits, target, TrainingSetup(link, class_weights=weights))
            faults = set(report.faults)
            right = faults == (set() if expected is None else {expected})
            verdict = "right" if right else "other fault" if faults - {expected} else "not found"
            outcome[verdict] += 1
            power = report.numbers.power
            rows.append(
                {
                    "case": name,
                    "seed": seed,
                    "expected": expected or "",
                    "found": " ".join(report.faults),
                    "verdict": verdict,
                    "misfit": f"{report.residual.misfit:.4f}",
                    "power": "" if power is None else f"{power.power:.3f}",
                    "power_error": "" if power is None else f"{power.standard_error:.3f}",
                }
            )
        print(f"{name:28s} {dict(outcome)}", flush=True)
    with arguments.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
