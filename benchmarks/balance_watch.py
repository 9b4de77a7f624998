"""How often, and how early, does BalanceWatch name a planted fault, and how often one that is not there?

    python benchmarks/balance_watch.py --out docs/results/balance-watch.csv
    python benchmarks/balance_watch.py --cost

A small CNN with batch norm and dropout (SGD, 0.03, momentum 0.9) and an MLP (Adam, 0.001) on digits with an
exponential imbalance of 20, in batches of 32, under torch's cross-entropy. Each seed has five trainings a network:
without weights, with inverse ones, with inverse ones in sampler and loss, with the rarest class forgotten and with
a class in the middle forgotten (both weigh 1 where the largest class weighs 1). A training without weights is
watched twice: as one without, and as one with weights that were never applied. The thresholds were set on seeds 0
to 39; published are seeds from 100 on. One row a watched training.

With --cost: what one update adds to a training step of the CNN, in turns, medians, on this machine.
"""

import argparse
import csv
import math
import statistics
import time
import warnings
from pathlib import Path

import torch
from torch import nn

from steelyard import BalanceWatch, TrainingSetup
from steelyard._common.files import write_csv
from steelyard.data import exponential, load_dataset, subsample

CLASSES, BATCH = 10, 32
NOT, TWICE, OFF = "weights_not_applied", "weights_applied_twice", "class_weight_off"
# name of what is watched: (training, whether inverse weights are stated, fault, epoch by which it should be named)
WATCHED = {
    "healthy, no weights": ("plain", False, None, None),
    "healthy, inverse weights": ("weighted", True, None, None),
    "never applied": ("plain", True, NOT, 2),
    "in sampler and loss": ("both", True, TWICE, 2),
    "rarest class forgotten": ("rarest", True, OFF, None),
    "middle class forgotten": ("middle", True, OFF, None),
}
COLUMNS = [
    "network", "watched", "seed", "expected", "found", "named_after_epoch", "power_epoch_2", "low", "high",
    "true_power", "power_last", "low_last", "high_last",
]  # fmt: skip


def cnn(side: int = 8) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * (side // 4) ** 2, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, CLASSES),
    )  # fmt: skip


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, CLASSES))


def train(network: str, training: str, seed: int, epochs: int, stated: list[bool]):
    """Return what each watch read after each epoch."""
    data = load_dataset("digits")
    chosen = subsample(data.train_target, exponential(20), seed=seed)
    images, target = data.inputs("train", chosen).float(), data.train_target[chosen]
    images = (images - images.mean()) / images.std()
    counts = torch.bincount(target).double()
    inverse = counts.max() / counts
    acting = torch.ones_like(inverse) if training == "plain" else inverse.clone()
    if training == "rarest":
        acting[counts.argmin()] = 1.0
    if training == "middle":
        acting[counts.argsort()[3]] = 1.0
    torch.manual_seed(seed)
    if network == "cnn":
        model = cnn()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    else:
        model = mlp()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss = nn.CrossEntropyLoss(weight=acting.float())
    said = [nn.CrossEntropyLoss(weight=inverse.float() if weighted else None) for weighted in stated]
    watches = [BalanceWatch(TrainingSetup(one, class_counts=counts)) for one in said]
    readings = []
    for _ in range(epochs):
        order = torch.randperm(len(target))
        if training == "both":
            order = torch.multinomial(inverse[target], len(target), replacement=True)
        for rows in order.split(BATCH):
            logits = model(images[rows])
            value = loss(logits, target[rows])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            for watch in watches:
                watch.update(logits, target[rows])
        readings.append([watch.epoch_end() for watch in watches])
    return list(zip(*readings, strict=True))


def row_of(network, name, seed, readings):
    training, stated, fault, _ = WATCHED[name]
    faults = {}
    for reading in readings:
        if reading.finding not in (None, "weights_acted"):
            faults.setdefault(reading.finding, reading.epoch)
    true = {"plain": 0.0, "weighted": 1.0, "both": 2.0}.get(training) if stated else None

    def numbers(reading):
        if reading.power is None:
            return "", "", ""
        return f"{reading.power:.3f}", f"{reading.interval[0]:.3f}", f"{reading.interval[1]:.3f}"

    values = [
        network, name, seed, fault or "", " ".join(faults), faults.get(fault, ""), *numbers(readings[1]),
        "" if true is None else true, *numbers(readings[-1]),
    ]  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def wilson(k: int, n: int) -> str:
    z, p = 1.96, k / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return f"{k} of {n} [{low:.0%}, {high:.0%}]"


def table(rows) -> None:
    print("| network | watched | named in time | another fault | 95% interval holds, epoch 2, last |")
    print("|---|---|---|---|---|")
    for network in dict.fromkeys(row["network"] for row in rows):
        for name, (_, _, fault, by) in WATCHED.items():
            mine = [row for row in rows if row["network"] == network and row["watched"] == name]
            if not mine:
                continue
            named = sum(
                row["named_after_epoch"] != "" and int(row["named_after_epoch"]) <= (by or 999) for row in mine
            )
            other = sum(bool(set(row["found"].split()) - {fault}) for row in mine)
            known = [row for row in mine if row["true_power"] != ""]
            held = [
                sum(float(r[low]) <= float(r["true_power"]) <= float(r[high]) for r in known)
                for low, high in (("low", "high"), ("low_last", "high_last"))
            ]
            cover = f"{held[0]}, {held[1]} of {len(known)}" if known else ""
            print(f"| {network} | {name} | {wilson(named, len(mine)) if fault else ''} | {other} | {cover} |")


def cost() -> None:
    """Print what updates add to steps, in turns: every 32nd update adds up the small batches before it, so the
    times are means of 32, and of those the medians."""
    for side, batch in ((8, 32), (28, 32), (28, 128), (32, 128)):
        torch.manual_seed(0)
        model, weight = cnn(side), torch.linspace(1, 20, CLASSES)
        loss, optimizer = nn.CrossEntropyLoss(weight=weight), torch.optim.SGD(model.parameters(), lr=0.01)
        images, target = torch.randn(batch, 1, side, side), torch.arange(batch) % CLASSES
        watch, steps, updates = BalanceWatch(loss), [], []
        for turn in range(32 * 14):
            start = time.perf_counter()
            logits = model(images)
            value = loss(logits, target)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            middle = time.perf_counter()
            watch.update(logits, target)
            stop = time.perf_counter()
            if turn >= 32:
                steps.append(middle - start)
                updates.append(stop - middle)
        start = time.perf_counter()
        watch.epoch_end()
        end = time.perf_counter() - start
        step, update = (
            statistics.median(statistics.fmean(part[i : i + 32]) for i in range(0, len(part), 32))
            for part in (steps, updates)
        )
        print(
            f"batch ({batch}, 1, {side}, {side}): step {step * 1e3:.2f} ms, update {update * 1e6:.0f} us, "
            f"{update / step:.1%}; end of an epoch {end * 1e3:.0f} ms"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(100, 140)))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--cost", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.cost:
        cost()
    if arguments.out is None:
        return
    warnings.simplefilter("ignore")
    rows = []
    for seed in arguments.seeds:
        for network in ("cnn", "mlp"):
            for training in dict.fromkeys(one[0] for one in WATCHED.values()):
                names = [name for name, one in WATCHED.items() if one[0] == training]
                found = train(network, training, seed, arguments.epochs, [WATCHED[name][1] for name in names])
                rows += [row_of(network, name, seed, one) for name, one in zip(names, found, strict=True)]
        print(f"seed {seed}", flush=True)
        write_csv(arguments.out, COLUMNS, [[row[column] for column in COLUMNS] for row in rows])
    with arguments.out.open(newline="") as file:
        table(list(csv.DictReader(file)))


if __name__ == "__main__":
    main()
