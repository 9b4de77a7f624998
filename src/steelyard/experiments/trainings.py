"""What the claims' jobs share: a small network trained on imbalanced data, and what came of it."""

import functools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steelyard.data import TASKS, Dataset, load_dataset, parse_imbalance
from steelyard.experiments.job import Splits
from steelyard.training import Recipe, create_backbone, predict, predict_features
from steelyard.training.learners import Setting, train_network
from steelyard.weights.schedules import DeferredReweighting


@dataclass(frozen=True)
class Trained:
    """A training's outputs on the samples that it was trained on, and on the test split."""

    logits: Tensor
    features: Tensor
    target: Tensor
    test_logits: Tensor
    test_features: Tensor
    test_target: Tensor


def dataset(job: dict[str, Any]) -> Dataset:
    """Return a job's data set, opened once in each process, and again where its file has changed."""
    return _opened(_state(job["dataset"]), job["dataset"], *(job[key] for key in _OF_DATA))


def forget_data() -> None:
    """Have every data set opened again: a run reads what is there when it begins."""
    _opened.cache_clear()
    _digest.cache_clear()


_OF_DATA = ("target", "features", "group", "time", "image_mode", "image_size")
_opened = functools.lru_cache(maxsize=2)(
    lambda state, name, *options: load_dataset(name, **dict(zip(_OF_DATA, options, strict=True)))
)


def _state(name: str) -> tuple[str, int, int]:
    """Return what tells a file or folder of a name from that of another time or place."""
    path = Path(name).absolute()
    try:
        found = path.stat()
    except (OSError, ValueError):  # a name on the hub, or a function
        return name, 0, 0
    return str(path), found.st_mtime_ns, found.st_size


@functools.lru_cache(maxsize=64)
def _digest(state: tuple[str, int, int], name: str, *options: Any) -> str | None:
    return None if name in TASKS else _opened(state, name, *options).digest


def known_by(job: dict[str, Any]) -> dict[str, Any]:
    """Return what a job's record is known by: its settings, and the digest of its data."""
    digest = _digest(_state(job["dataset"]), job["dataset"], *(job[key] for key in _OF_DATA))
    return job | ({} if digest is None else {"data": digest})


def settings(config: Any) -> dict[str, Any]:
    """Return what every training of a claim's configuration has in common, as a part of each job."""
    return {
        "dataset": config.dataset,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decays[0],
        "limit_train": config.limit_train,
        "backbone": config.backbone,
        "augmentation": config.augmentation,
        "initial_bias": config.initial_bias,
        "precision": config.precision,
        "learner": config.learner,
        "rounds": config.rounds,
        **{key: getattr(config, key) for key in _OF_DATA},
    }


def ranked_counts(target: Tensor, size: int, job: dict[str, Any]) -> list[int]:
    """Return how many samples of each class the job's imbalance and limit leave, of classes that are made equal
    first; of a job that has `keep_counts`, all."""
    available = torch.bincount(target, minlength=size)
    if job.get("keep_counts"):
        if job["limit_train"] is not None:
            raise ValueError("limit_train must not be given without an imbalance, under which classes keep all")
        return list(available.tolist())
    most = int(available.min())
    if job["limit_train"] is not None:
        most = min(most, max(2, job["limit_train"] // size))
    return parse_imbalance(job["imbalance"]).counts([most] * size)


def draw(target: Tensor, counts: Sequence[int], *, seed: int) -> Tensor:
    """Return the indices of so many samples of each class, in rising order; the same seed draws the same."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(target), generator=generator)
    return torch.cat([order[target[order] == k][:count] for k, count in enumerate(counts)]).sort().values


def setting(job: dict[str, Any]) -> Setting:
    """Return how a job's models are trained."""
    recipe = Recipe(
        job["epochs"],
        job["batch_size"],
        job["learning_rate"],
        weight_decay=job["weight_decay"],
        augmentation=job["augmentation"],
    )
    return Setting(
        job["backbone"],
        recipe,
        job["initial_bias"],
        job["precision"],
        rounds=job["rounds"],
        learner=job["learner"],
    )


def every_so_many(target: Tensor, most: int) -> Tensor:
    """Return the indices of every so many labels, at most so many."""
    return torch.arange(len(target))[:: max(1, -(-len(target) // most))]


def train(
    data: Dataset,
    chosen: Tensor,
    loss: nn.Module,
    job: dict[str, Any],
    *,
    outputs: int,
    labels: tuple[Tensor, Tensor] | None = None,
    schedule: tuple[str, DeferredReweighting] | None = None,
) -> Trained:
    """Train a network on the chosen training rows, as the job's settings and seed say, to the last epoch.

    It is judged on at most 2,000 test rows. `labels`, of the training and the test split, take the place of the
    data set's own.
    """
    target, test_target = labels or (data.train_target, data.test_target)
    fitted = data.prepare(chosen)
    inputs, target = fitted.inputs("train", chosen), target[chosen]
    index = every_so_many(test_target, 2000)
    judged = fitted.inputs("test", index)
    splits = Splits(
        train=(inputs, target),
        validation=(inputs[:64], target[:64]),  # the history needs some; nothing is decided by them
        test=(judged, test_target[index]),
        class_counts=torch.bincount(target),
    )
    with tempfile.TemporaryDirectory() as folder:
        network = train_network(
            lambda: create_backbone(job["backbone"], inputs, outputs),
            loss,
            splits.train,
            splits.validation,
            setting(job),
            rate=job["learning_rate"],
            seed=job["seed"],
            checkpoint=Path(folder) / "last.ckpt",
            schedule=schedule,
        ).network
    return Trained(
        predict(network, inputs),
        predict_features(network, inputs),
        target,
        predict(network, judged),
        predict_features(network, judged),
        splits.test[1],
    )
