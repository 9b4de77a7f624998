"""Compare losses on one data set: tune each alike, train over seeds, judge after the last epoch, write it all."""

import csv
import datetime
import functools
import io
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from torch import Tensor

from steelyard._common.files import read_json, write_atomically, write_json
from steelyard.balance import (
    Balance,
    lgl_inr_law,
    logistic_statistics,
    mean_confusion,
    one_vs_all_law,
    softmax_law,
)
from steelyard.data import ImageDataset, load_dataset, parse_imbalance, shot_groups, split_validation, subsample
from steelyard.experiments.config import CompareConfig
from steelyard.experiments.metrics import METRICS, recalls, run_metrics
from steelyard.experiments.progress import Progress, Silent
from steelyard.experiments.runs import RunFolder, environment
from steelyard.experiments.statistics import summary
from steelyard.experiments.tuning import best_rate
from steelyard.notation import LossSpec, parse_losses
from steelyard.report import write_report
from steelyard.training import Diverged, Recipe, create_backbone, fit, predict, predict_features
from steelyard.weights.adjustments import batch_presence


def compare(
    config: CompareConfig,
    folder: Path,
    *,
    resume: bool = False,
    command: str | None = None,
    accelerator: str = "auto",
    devices: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a comparison into `folder` and return what `results.json` holds.

    Finished trainings are kept as they come; a run killed at any moment goes on with ``resume=True`` and ends
    with the numbers of an uninterrupted one (on the same machine and thread count, to the last bit).

    Args:
        config: what to compare.
        folder: run folder; new, or of the same configuration and ``resume``.
        resume: go on with an unfinished run.
        command: the command line to show in the report.
        accelerator, devices: that a training runs on, as :func:`fit` takes them; a run may go on with others.
        progress: told what happens.

    Returns:
        The results; beside them the folder holds config.yaml, results.csv, report.html, and for each loss and
        seed predictions and features (test and train, parquet), the model (safetensors), mean confusions (npz).

    Raises:
        FileExistsError, ValueError: the folder cannot be used, or the data cannot.
        Diverged: every loss diverged, each with some seed at every rate that was tried. One that did beside others
            that did not is left out of the results, and named in them.
    """
    runs = RunFolder(folder)
    started = time.monotonic()
    bench: _Bench | None = None
    if runs.new():  # data that cannot be used leaves no folder behind
        bench = _Bench(config, folder, accelerator, progress or Silent(), devices)
    with runs.open(config, resume=resume):
        if runs.finished():
            write_report(folder)
            results: dict[str, Any] = read_json(folder / "results.json")
            return results
        bench = bench or _Bench(config, folder, accelerator, progress or Silent(), devices)
        losses, diverged = [], {}
        for spec in parse_losses(",".join(config.losses)):
            try:
                losses.append(bench.run(spec))
            except Diverged as error:
                diverged[spec.label] = str(error)
        if not losses:
            raise Diverged(next(iter(diverged.values())))
        results = bench.describe() | {
            "name": folder.name,
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - started, 1),
            "metrics": METRICS,
            "losses": losses,
            "diverged": diverged,
        }
        if command is not None:
            results["config"]["command"] = command
        write_atomically(folder / "results.csv", lambda file: file.write(_csv(results).encode()))
        write_json(folder / "results.json", results)
        write_report(folder)
        return results


@dataclass(frozen=True)
class _Split:
    """What one seed trains and is judged on."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    class_counts: Tensor


class _Bench:
    """The data of a comparison, and the trainings on it."""

    def __init__(
        self, config: CompareConfig, folder: Path, accelerator: str, progress: Progress, devices: int = 1
    ) -> None:
        self.config, self.folder, self.progress = config, folder, progress
        self.accelerator, self.devices = accelerator, devices
        self.data: ImageDataset = load_dataset(
            config.dataset, image_mode=config.image_mode, image_size=config.image_size
        )
        self.profile = parse_imbalance(config.imbalance)
        self.rest, self.held_out = split_validation(self.data.train_target, config.validation_fraction, seed=0)
        self.test = (
            self.data.images("test", torch.arange(len(self.data.test_target))),
            self.data.test_target,
        )
        self.validation = (
            self.data.images("train", self.held_out),
            self.data.train_target[self.held_out],
        )
        self.splits: dict[int, _Split] = {}
        self.class_counts = self.split(0).class_counts
        self.groups = shot_groups(self.class_counts.tolist())
        self.recipe = Recipe(
            epochs=config.epochs,
            batch_size=config.batch_size,
            learning_rate=config.learning_rates[0],
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            augmentation=config.augmentation,
        )
        tuned = len(config.learning_rates) > 1
        progress.plan(len(config.losses) * (config.seeds + tuned * len(config.learning_rates)))

    def split(self, seed: int) -> _Split:
        """The seed's subset of the training data; counts are the same for every seed."""
        if seed not in self.splits:
            target = self.data.train_target[self.rest]
            chosen = self.rest[subsample(target, self.profile, seed=seed)]
            labels = self.data.train_target[chosen]
            counts = torch.bincount(labels, minlength=len(self.data.class_names))
            self.splits = {seed: _Split((self.data.images("train", chosen), labels), self.validation, counts)}
        return self.splits[seed]

    def describe(self) -> dict[str, Any]:
        size = len(self.data.class_names)
        return {
            "schema": 1,
            "config": self.config.model_dump(),
            "environment": environment(f"{torch.get_num_threads()} threads"),
            "data": {
                "class_names": list(self.data.class_names),
                "train_counts": self.class_counts.tolist(),
                "validation_counts": torch.bincount(self.validation[1], minlength=size).tolist(),
                "test_counts": torch.bincount(self.test[1], minlength=size).tolist(),
                "groups": self.groups,
            },
        }

    def run(self, spec: LossSpec) -> dict[str, Any]:
        """Tune a loss, train it with every seed, and gather what came of it."""
        rate, search, runs = self.tuned_runs(spec)
        weights = spec.weights(self.class_counts)
        return {
            "label": spec.label,
            "slug": spec.slug,
            "loss": spec.name,
            "link": spec.entry.link,
            "options": spec.options,
            "law": _LAW_TEXT[spec.name],
            "class_weights": None if weights is None else weights.double().tolist(),
            "lr": rate,
            "lr_search": search,
            "summary": {m["key"]: summary([run["metrics"][m["key"]] for run in runs]) for m in METRICS},
            "runs": runs,
        }

    def tuned_runs(self, spec: LossSpec) -> tuple[float, list[dict[str, Any]], list[dict[str, Any]]]:
        """Every seed at the best learning rate of those at which none diverges, and the search for it."""
        best, search = self.tune(spec)
        tried = sorted((t for t in search if t["balanced_accuracy"] is not None), key=_falling)
        rates = [best, *(t["lr"] for t in tried if t["lr"] != best)]
        for rate in rates:
            part = Path(spec.slug) if rate == best else Path(spec.slug, f"rate-{rate:g}")
            if rate != best:
                self.progress.plan(self.config.seeds)
            try:
                return rate, search, [self.final(spec, rate, seed, part) for seed in range(self.config.seeds)]
            except Diverged:
                if rate == rates[-1]:
                    raise
                next(t for t in search if t["lr"] == rate)["diverged_later"] = True
        raise AssertionError("unreachable")

    def tune(self, spec: LossSpec) -> tuple[float, list[dict[str, Any]]]:
        """The learning rate with the best balanced accuracy on the validation split, and all that were tried."""

        def score(rate: float) -> float | None:
            if rate not in self.config.learning_rates:
                self.progress.plan(1)
            return self.trial(spec, rate)

        best, scores = best_rate(self.config.learning_rates, score)
        return best, [{"lr": rate, "balanced_accuracy": value} for rate, value in scores.items()]

    def trial(self, spec: LossSpec, rate: float) -> float | None:
        """Validation balanced accuracy after the last epoch with seed 0; None where training diverged."""
        folder = self.folder / "tuning" / f"{spec.slug}-{rate:g}"
        title = f"{spec.label}, tuning, rate {rate:g}"

        def work() -> dict[str, Any]:
            try:
                history = self.train(spec, rate, 0, folder)[1]
            except Diverged as error:
                (folder / "last.ckpt").unlink(missing_ok=True)
                return {"balanced_accuracy": None, "diverged": str(error)}
            return {"balanced_accuracy": history[-1]["validation_balanced_accuracy"]}

        score: float | None = self.once(folder, title, work)["balanced_accuracy"]
        return score

    def final(self, spec: LossSpec, rate: float, seed: int, part: Path) -> dict[str, Any]:
        """One training that counts: predictions, model and mean confusions on disk, and its record."""
        folder = self.folder / part / f"seed-{seed}"

        def work() -> dict[str, Any]:
            began = time.monotonic()
            try:
                network, history = self.train(spec, rate, seed, folder)
            except Diverged as error:
                (folder / "last.ckpt").unlink(missing_ok=True)
                return {"diverged": f"{spec.label}, seed {seed}: {error}"}
            split = self.split(seed)
            logits, train_logits = predict(network, self.test[0]), predict(network, split.train[0])
            state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
            write_atomically(folder / "model.safetensors", lambda f: f.write(safetensors.torch.save(state)))
            names = self.data.class_names
            features, train_features = (predict_features(network, part[0]) for part in (self.test, split.train))
            for file, column, part, target in (
                ("predictions.parquet", "logits", logits, self.test[1]),
                ("train_predictions.parquet", "logits", train_logits, split.train[1]),
                ("features.parquet", "features", features, self.test[1]),
                ("train_features.parquet", "features", train_features, split.train[1]),
            ):
                table = _table(column, part, target, spec, names, self.config, split.class_counts)
                write_atomically(folder / file, functools.partial(pq.write_table, table))
            link = spec.entry.link
            P, _ = mean_confusion(train_logits, split.train[1], link=link)
            test_P, _ = mean_confusion(logits, self.test[1], link=link)
            write_atomically(
                folder / "mean_confusion.npz", lambda f: np.savez(f, train=P.numpy(), test=test_P.numpy())
            )
            law = balance_of(spec, train_logits, split.train[1], split.class_counts, self.config.batch_size)
            return {
                "seed": seed,
                "folder": folder.relative_to(self.folder).as_posix(),
                "metrics": run_metrics(logits, self.test[1], link, self.groups),
                "recall": [None if r != r else r for r in recalls(logits, self.test[1]).tolist()],
                "history": history,
                "law": law.to_dict(),
                "seconds": round(time.monotonic() - began, 2),
            }

        record = self.once(folder, f"{spec.label}, seed {seed}", work)
        if "diverged" in record:
            raise Diverged(record["diverged"])
        return record

    def train(
        self, spec: LossSpec, rate: float, seed: int, folder: Path
    ) -> tuple[torch.nn.Module, list[dict[str, float]]]:
        split = self.split(seed)
        torch.manual_seed(seed)
        bias = (
            spec.first_bias(split.class_counts, self.config.batch_size)
            if self.config.initial_bias == "prior"
            else None
        )
        network = create_backbone(self.config.backbone, split.train[0], len(split.class_counts), initial_bias=bias)
        loss, schedule = spec.build(split.class_counts, self.config.batch_size)
        folder.mkdir(parents=True, exist_ok=True)
        fitted = fit(
            network,
            loss,
            split.train,
            split.validation,
            replace(self.recipe, learning_rate=rate),
            seed=seed,
            checkpoint=folder / "last.ckpt",
            schedule=schedule,
            accelerator=self.accelerator,
            devices=self.devices,
            precision=self.config.precision,
            on_epoch=self.progress.epoch,
        )
        return fitted.network, fitted.history

    def once(self, folder: Path, title: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The record of a training: read if it is finished, else made, and written when all else is."""
        file = folder / "result.json"
        if file.exists():
            self.progress.end(title, "was finished")
        else:
            self.progress.start(title, self.config.epochs)
            made = work()
            write_json(file, made)
            self.progress.end(title, "diverged" if "diverged" in made else "done")
        record: dict[str, Any] = read_json(file)
        return record


def _falling(trial: dict[str, Any]) -> tuple[float, float]:
    """From the best score down; of equal ones the lowest rate first, as `best_rate` has it."""
    return -trial["balanced_accuracy"], trial["lr"]


_LAW_TEXT = {
    "softmax": "wⱼNⱼ (1 − P[j,j]) = Σₖ≠ⱼ wₖNₖ P[k,j]: the weighted counts are the stationary distribution of P",
    "logistic": "uⱼ wⱼNⱼ (1 − P[j,j]) = Σₖ≠ⱼ wₖNₖ P[k,j]: only the average over the other classes is tied",
    "lgl-inr": "uⱼ ρⱼ (1 − P[j,j]) = Σₖ≠ⱼ ω[k,j] P̃[k,j], ω summing to 1 in each column, ρ the share of batches "
    "that have the class: counts enter by it alone",
}


def balance_of(spec: LossSpec, logits: Tensor, target: Tensor, class_counts: Tensor, batch_size: int) -> Balance:
    """Both sides of the law of a loss, on the data that it was trained on, with its final weights."""
    weights = spec.weights(class_counts)
    adjustment = spec.adjustment(class_counts, batch_size)
    logits = logits if adjustment is None else logits + adjustment  # what the loss saw
    P, counts = mean_confusion(logits, target, link=spec.entry.link)
    if spec.name == "softmax":
        smoothing = spec.options.get("label_smoothing", 0.0)
        return softmax_law(P, counts, weights, label_smoothing=float(smoothing))  # type: ignore[arg-type]
    if spec.name == "logistic":
        return one_vs_all_law(P, counts, weights)
    return lgl_inr_law(
        P,
        beta=spec.beta(len(P)),
        presence=batch_presence(class_counts, batch_size),
        statistics=None if spec.constant_weights else logistic_statistics(logits, target),
    )


def _table(
    column: str,
    rows: Tensor,
    target: Tensor,
    spec: LossSpec,
    class_names: tuple[str, ...],
    config: CompareConfig,
    class_counts: Tensor,
) -> pa.Table:
    """Rows of numbers and their labels, with what was trained in the metadata."""
    columns = {
        "target": pa.array(target.numpy()),
        column: pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1).numpy()), rows.shape[1]),
    }
    metadata = {
        "steelyard.loss": spec.label,
        "steelyard.link": spec.entry.link,
        "steelyard.weight_decay": repr(config.weight_decay),
        "steelyard.batch_size": repr(config.batch_size),
        "steelyard.class_names": "\x1f".join(class_names),
    }
    adjustment = spec.adjustment(class_counts, config.batch_size)
    if adjustment is not None:
        metadata["steelyard.logit_adjustment"] = " ".join(map(repr, adjustment.tolist()))
    return pa.table(columns).replace_schema_metadata(metadata)


def _csv(results: dict[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = [m["key"] for m in results["metrics"]]
    writer.writerow(["loss", "seed", "learning_rate", *keys, "max_abs_relative_residual", "seconds"])
    for loss in results["losses"]:
        for run in loss["runs"]:
            residual = max(abs(r) for r in run["law"]["relative_residual"])
            values = ["" if run["metrics"][k] is None else repr(run["metrics"][k]) for k in keys]
            writer.writerow([loss["label"], run["seed"], loss["lr"], *values, residual, run["seconds"]])
    return text.getvalue()
