"""The data of a comparison, and one training on it: what is measured, and what is left on disk."""

import functools
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steelyard._common.files import file_digest, write_atomically
from steelyard.balance import TrainingSetup, law, mean_confusion
from steelyard.data import load_dataset, parse_imbalance, shot_groups, subsample
from steelyard.experiments.config import CompareConfig, make_config
from steelyard.experiments.files import write_rows
from steelyard.experiments.job import OnEpoch, Splits, Training, train_and_judge
from steelyard.experiments.metrics import recalls, run_metrics
from steelyard.experiments.records import read_record
from steelyard.experiments.sides import Sides
from steelyard.notation import LossSpec, parse_loss, parse_losses
from steelyard.report.results import ComparedData, Run
from steelyard.training import Diverged, Recipe
from steelyard.training.learners import Model, Setting, find_learner


class Bench:
    """The data of a comparison and the setting of its trainings.

    Args:
        config: of the comparison.
        folder: its run folder.
        accelerator, devices: that a training runs on, as :func:`steelyard.training.fit` takes them.

    Raises:
        ValueError, OSError: as loading, splitting and imbalance do.
    """

    def __init__(self, config: CompareConfig, folder: Path, accelerator: str = "auto", devices: int = 1) -> None:
        self.config, self.folder = config, folder
        self._data = load_dataset(
            config.dataset,
            target=config.target,
            features=config.features,
            group=config.group,
            time=config.time,
            image_mode=config.image_mode,
            image_size=config.image_size,
        )
        self.reading = self._data.reading
        self._profile = parse_imbalance(config.imbalance)
        self._rest, held_out = self._data.set_aside(config.validation_fraction)
        self._sides = Sides(self._data, held_out, torch.arange(len(self._data.test_target)))
        self._drawn: dict[int, Splits] = {}
        splits = self.splits(0)
        self.class_counts = splits.class_counts
        self.groups = shot_groups(self.class_counts.tolist())
        self.setting = Setting(
            backbone=config.backbone,
            recipe=Recipe(
                epochs=config.epochs,
                batch_size=config.batch_size,
                learning_rate=config.learning_rates[0],
                momentum=config.momentum,
                weight_decay=config.weight_decay,
                augmentation=config.augmentation,
            ),
            initial_bias=config.initial_bias,
            precision=config.precision,
            accelerator=accelerator,
            devices=devices,
            rounds=config.rounds,
            learner=config.learner,
        )
        self.learner = find_learner(config.learner)
        self.learner.check_inputs(splits.train[0], len(self.class_counts), self.setting)
        for spec in parse_losses(",".join(config.losses)):
            self.learner.check(spec)
        in_batches = self.learner.in_batches
        self.batch_size = config.batch_size if in_batches else int(self.class_counts.sum())

    def splits(self, seed: int) -> Splits:
        """Return what a seed trains and is judged on; class counts are the same for every seed."""
        if seed not in self._drawn:
            target = self._data.train_target[self._rest]
            chosen = self._rest[subsample(target, self._profile, seed=seed)]
            self._drawn = {seed: self._sides.splits(chosen)}  # one is enough in memory
        return self._drawn[seed]

    def settings(self, loss: str, training: Training) -> dict[str, object]:
        """Return what a training is known by: two that have it in common have the same outcome."""
        kept = self.config.model_dump(exclude={"losses", "seeds", "learning_rates", "penalties"})
        samples = int(self.class_counts.sum())
        data = {} if self._data.digest is None else {"data": self._data.digest}
        told = {key: value for key, value in asdict(training).items() if value is not None}
        return kept | {"loss": loss, "training_samples": samples} | data | told

    def describe(self) -> ComparedData:
        """Return the classes and how many samples each has."""
        size = len(self._data.class_names)
        return ComparedData(
            class_names=list(self._data.class_names),
            train_counts=self.class_counts.tolist(),
            validation_counts=torch.bincount(self._sides.validation_target, minlength=size).tolist(),
            test_counts=torch.bincount(self._data.test_target, minlength=size).tolist(),
            groups=self.groups,
            reading=self.reading,
        )

    def record(self, spec: LossSpec, training: Training, part: str, on_epoch: OnEpoch) -> dict[str, object]:
        """Train, write the files of a training that counts into a part of the run folder, and return
        its record; that of a training that diverged says why."""
        folder = self.folder / part
        folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        splits = self.splits(training.seed)
        try:
            found = train_and_judge(
                spec,
                splits,
                self.setting,
                training,
                functools.partial(self._judge, spec, training, part),
                checkpoint=folder / "last.ckpt",
                of=self.settings(spec.label, training),
                on_epoch=on_epoch,
            )
        except Diverged as error:
            if training.tuning:
                return {"balanced_accuracy": None, "diverged": str(error)}
            return {"diverged": f"{spec.label}, seed {training.seed}: {error}"}
        if isinstance(found, float):
            return {"balanced_accuracy": found}
        return found.to_dict() | {"seconds": round(time.monotonic() - began, 2)}

    def _judge(self, spec: LossSpec, training: Training, part: str, model: Model) -> Run:
        """Write predictions, model, mean confusions, and the features of a model that has a head, to disk and
        return the metrics."""
        folder, splits = self.folder / part, self.splits(training.seed)
        logits, train_logits = model.logits(splits.test[0]), model.logits(splits.train[0])
        files = [*model.save(folder), "predictions.parquet", "train_predictions.parquet", "mean_confusion.npz"]
        metadata = self._metadata(spec, training)
        parts = (("test", splits.test, "", logits), ("train", splits.train, "train_", train_logits))
        for name, split, prefix, rows in parts:
            told = metadata | {"steelyard.split": name}
            write_rows(folder / f"{prefix}predictions.parquet", "logits", rows, split[1], told)
            features = model.features(split[0])
            if features is not None:
                files.append(f"{prefix}features.parquet")
                write_rows(folder / files[-1], "features", features, split[1], told)
        link = spec.link
        P, _ = mean_confusion(train_logits, splits.train[1], link=link)
        test_P, _ = mean_confusion(logits, splits.test[1], link=link)
        file = folder / "mean_confusion.npz"
        write_atomically(file, lambda f: np.savez(f, train=P.numpy(), test=test_P.numpy()))
        balance = law(train_logits, splits.train[1], setup_of(spec, splits.class_counts, self.batch_size))
        return Run.from_dict(
            {
                "seed": training.seed,
                "folder": part,
                "metrics": run_metrics(logits, splits.test[1], link, self.groups),
                "recall": [None if r != r else r for r in recalls(logits, splits.test[1]).tolist()],
                "history": model.history,
                "law": balance.to_dict(),
                "seconds": 0.0,
                "files": {name: file_digest(folder / name) for name in files},
            }
        )

    def _metadata(self, spec: LossSpec, training: Training) -> dict[str, str]:
        """Return what was trained, for whoever reads a file alone."""
        loss = spec.loss(self.class_counts, self.batch_size)
        adjustment: Tensor | None = getattr(loss, "logit_adjustment", None)
        known = {
            "loss": spec.label,
            "link": spec.link,
            "learner": self.config.learner,
            "batch_size": repr(self.batch_size),
            "class_names": "\x1f".join(self._data.class_names),
            "class_counts": " ".join(map(str, self.class_counts.tolist())),
        }
        decay = training.rate if self.learner.tuned == "penalty" else self.config.weight_decay
        if self.learner.has_decay:
            known["weight_decay"] = repr(decay)
        if adjustment is not None:
            known["logit_adjustment"] = " ".join(map(repr, adjustment.tolist()))
        return {f"steelyard.{key}": value for key, value in known.items()}


def setup_of(spec: LossSpec, class_counts: Tensor, batch_size: int) -> TrainingSetup:
    """Return what was done in training: the loss with its final weights, on batches of such data."""
    return TrainingSetup(spec.loss(class_counts, batch_size), batch_size=batch_size, class_counts=class_counts)


def read_outcome(file: Path, of: Mapping[str, object], *, tuning: bool) -> float | Run | Diverged:
    """Return what came of a training with the settings `of`, from its record.

    Raises:
        ValueError: the record, or a file that it speaks of, was changed since it was written, or is of another
            training; the sentence names the file.
    """
    found = read_record(file, of)
    if "diverged" in found:
        return Diverged(found["diverged"])
    if tuning:
        return float(found["balanced_accuracy"])
    run = Run.from_dict(found, str(file))
    check_files(file.parent, run, f"remove {file} to train again")
    return run


def check_files(folder: Path, run: Run, remedy: str) -> None:
    """Refuse a training's folder in which a file is not what was written."""
    for name, digest in run.files.items():
        path = folder / name
        if not path.is_file() or file_digest(path) != digest:
            what = "was changed since it was written" if path.exists() else "is missing"
            raise ValueError(f"{path} {what}; {remedy}")


@dataclass(frozen=True)
class BenchJob:
    """A training of a comparison that another process is to do; it makes a bench of its own.

    Attributes:
        config: of the comparison, as JSON.
        folder: the run folder.
        accelerator: as :func:`steelyard.training.fit` takes it.
        threads: of the CPU, for this training.
        loss: as :func:`parse_loss` takes it.
        training: rate, seed and purpose.
        part: of the run folder, for its files.
    """

    config: str
    folder: str
    accelerator: str
    threads: int
    loss: str
    training: Training
    part: str

    def work(self) -> dict[str, object]:
        """Train in this process and return the record."""
        torch.set_num_threads(self.threads)
        bench = _bench(self.config, self.folder, self.accelerator)
        return bench.record(parse_loss(self.loss), self.training, self.part, lambda row: None)


@functools.lru_cache(maxsize=1)
def _bench(config: str, folder: str, accelerator: str) -> Bench:
    values: dict[str, Any] = json.loads(config)
    return Bench(make_config(**values), Path(folder), accelerator)
