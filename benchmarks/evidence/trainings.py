"""The trainings of the evidence, each in a file of a cache; those that are there are not trained again."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evidence import data as d
from evidence import frozen
from evidence.models import MODELS, Plan
from steelyard._common.files import write_atomically

EPOCHS = 40
MULTI = ("plain", "inverse", "sqrt", "twice", "reversed", "rolled", "forgotten")
PAIR = ("plain", "inverse")
TWO = ("plain", "inverse", "twice", "ten", "wrong class")
_BOOSTED = [name for name, model in MODELS.items() if model.family == "boosting"]

# (models, data, kinds of training)
GRID: list[tuple[list[str], str, tuple[str, ...]]] = [
    (["logistic C=100", "logistic C=0.01", *_BOOSTED], d.OVERLAPS, MULTI),
    (["MLP"], d.OVERLAPS, MULTI),  # an epoch teaches it most of what there is to learn
    (["CNN", "MLP"], d.DIGITS, (*MULTI, "one epoch")),
    (["logistic C=100", "logistic C=0.01"], d.DIGITS, PAIR),
    (["logistic C=1"], d.TEXT, MULTI),
    (["logistic C=1"], d.FROZEN_IMAGES, MULTI),
    (["logistic C=1"], d.FROZEN_SENTENCES, MULTI),
    (["logistic C=100", "MLP"], d.CLOUDS[0], (*PAIR, "reversed", "rolled")),
    (["logistic C=1"], d.CLOUDS[1], (*PAIR, "rolled")),
    (["logistic C=100", "logistic C=0.01", "HistGradientBoosting 100", "XGBoost 100", "LightGBM 100",
      "MLP, one output"], d.BINARY, TWO),
    # Not LightGBM: at 1:500 its default diverges, and the model is worse than one that knows only the frequencies.
    (["logistic C=100", "XGBoost 20"], d.FRAUD, ("plain", "hundred", "ten")),
    (["focal head", "one-vs-all head", "smoothed head", "adjusted head", "random forest", "MLP, one-vs-all",
      "MLP, smoothed", "MLP, mixup"], d.OVERLAPS, PAIR),
    (["CNN, mixup", "CNN, one-vs-all"], d.DIGITS, PAIR),
    (["CNN, LGL-INR"], d.DIGITS, ("plain",)),
    (["logistic C=100", "HistGradientBoosting 20", "XGBoost 100", "MLP"], d.SEPARABLE, PAIR),
]  # fmt: skip
TABLE_MODELS = (["logistic C=100", "logistic C=0.01", *_BOOSTED, "MLP"], MULTI)


class Job(NamedTuple):
    """One training."""

    model: str
    data: str
    kind: str
    seed: int

    @property
    def name(self) -> str:
        words = f"{self.data} {self.model} {self.kind} {self.seed}"
        return "".join(c if c.isalnum() or c in ".-=" else "_" for c in words)


def jobs(seeds: list[int], tables: list[str]) -> list[Job]:
    """Return all trainings that can be done here, seed by seed."""
    missing = [] if frozen.images_here() else [d.FROZEN_IMAGES]
    missing += [] if frozen.sentences_here() else [d.FROZEN_SENTENCES]
    grid = [entry for entry in GRID if entry[1] not in missing] + [
        (TABLE_MODELS[0], name, TABLE_MODELS[1]) for name in tables
    ]
    return [
        Job(m, data, kind, seed)
        for seed in seeds
        for models, data, kinds in grid
        for m in models
        for kind in kinds
    ]


def train(job: Job, cache: Path, tables: Path | None = None) -> Path:
    """Train and write logits, labels and what was done, unless that file exists."""
    path = cache / f"{job.name}.npz"
    if path.exists():
        return path
    data = d.make_data(job.data, job.seed, tables)
    counts = np.bincount(data.y)
    base, weights, sampler = plan_weights(job.kind, counts, binary=len(counts) == 2)
    plan = Plan(weights, sampler, 1 if job.kind == "one epoch" else EPOCHS, job.seed)
    logits, held = MODELS[job.model].train(data, plan)
    arrays = {
        "logits": np.asarray(logits, np.float32),
        "target": data.y.astype(np.int64),
        "held_logits": np.asarray(held, np.float32),
        "held_target": data.held_y.astype(np.int64),
        "counts": counts,
        "weights": base,
        "applied": weights if sampler is None else weights * sampler,
    }
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise ArithmeticError(f"{job.name}: {name} is not finite")
    about = json.dumps(job._asdict() | {"family": MODELS[job.model].family, "loss": MODELS[job.model].loss})
    write_atomically(path, lambda file: np.savez_compressed(file, about=np.array(about), **arrays))
    return path


def load(path: Path) -> dict[str, Any]:
    """Return what was trained.

    Keys: logits (N, K), or (N,) of one binary output, and target; held_logits and held_target; counts; weights,
    those that a training of this kind is said to have; applied, those that acted (loss times sampler); training,
    its name; model, data, kind, seed, family, loss.
    """
    with np.load(path) as file:
        found = {name: file[name] for name in file.files}
    return found | json.loads(str(found.pop("about"))) | {"training": path.stem}


def plan_weights(
    kind: str, counts: np.ndarray, *, binary: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the weights that are stated, those in the loss, and those of the sampler, of a kind of training.

    All are inverse to the class counts with mean 1 over samples, but for two classes: there negatives weigh 1.
    The weights reversed by size are 1 over the weights; rolled are those of the next class; the forgotten class is
    the rarest, which weighs what the most frequent weighs.
    """
    if binary:
        base = np.array([1.0, {"ten": 100.0, "hundred": 100.0}.get(kind, counts[0] / counts[1])])
    else:
        base = _mean_one(1 / counts, counts)
    ones = np.ones(len(counts))
    forgotten = np.where(counts == counts.min(), base[counts.argmax()], base)
    forgotten = np.where(np.arange(len(counts)) == counts.argmin(), forgotten, base)
    loss = {
        "plain": ones,
        "sqrt": np.sqrt(base),
        "reversed": 1 / base,
        "rolled": np.roll(base, 1),
        "forgotten": forgotten,
        "ten": np.array([1.0, 10.0]),
        "wrong class": 1 / base,
    }.get(kind, base)
    loss = loss if binary else _mean_one(loss, counts)
    return base, loss, base if kind == "twice" else None


def _mean_one(weights: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return weights * counts.sum() / (weights * counts).sum()
