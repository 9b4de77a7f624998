"""Forecast from a file of features: read it, refit heads, write what they would do."""

import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import steelyard
from steelyard._common.files import check_folder, filled_folder, write_atomically, write_csv, write_json
from steelyard._common.memory import check_memory
from steelyard.data import Predictions, load_dataset, open_predictions
from steelyard.forecasting import CAUTION, GUARANTEE, Forecast, binary_ratio, forecast
from steelyard.forecasting.scores import paired_gain
from steelyard.notation import parse_loss, parse_weights, setup_from_text
from steelyard.report import write_forecast_page
from steelyard.report.explorer import Model, pack_rows, undo_of
from steelyard.report.results import ForecastResults
from steelyard.report.results.forecast import Row, best_of

_WEIGHT_DECAY = 5e-4
_NUMBERS = ("accuracy", "balanced_accuracy", "nll", "ece")
_OF_CLASS = ("recall", "precision")
_HEADER = (
    "loss",
    "weights",
    "how",
    *(key + end for key in _NUMBERS for end in ("", "_low", "_high")),
    "class",
    "training_samples",
    "class_weight",
    *(key + end for key in _OF_CLASS for end in ("", "_low", "_high")),
    "class_loss",
)


def forecast_file(
    path: str | PathLike[str],
    *,
    losses: Sequence[str],
    weights: Sequence[str],
    test: str | PathLike[str] | None = None,
    folds: int | None = None,
    weight_decay: float | None = None,
    target: str | None = None,
    features: str | None = None,
    class_names: Sequence[str] | None = None,
    inputs: bool = False,
    group: str | None = None,
    time: str | None = None,
    out: str | PathLike[str] | None = None,
    rows: bool = True,
    command: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Refit the head for each loss and weighting on the features of the training samples.

    Args:
        path: file of features and labels; see :func:`steelyard.data.open_predictions`. With `inputs` a data set;
            see :func:`steelyard.data.load_dataset`.
        losses: each as :func:`steelyard.notation.parse_loss` takes it, but for weights; sums over samples.
        weights: each as :func:`parse_weights` takes it.
        test: the same of held-out samples, to judge by. Default: for `train_NAME`, the file `NAME` beside it if
            there is one and no `folds` are given; else the training samples out of fold.
        folds: of the training samples, to judge by. Default: 5 where there are no held-out samples.
        weight_decay: of the head's matrix. Default: what the file says of its training, else 0.0005.
        target: name of the label column.
        features: names or patterns of the columns of features, with commas between. Default: by their names.
        class_names: K. Default: what the file says.
        inputs: whether the features are what `compare` would train on: numbers, categories and texts of a table,
            fitted on the training rows. The forecast is then that of a linear model of them, and it is judged by
            the test split.
        group: of a data set of inputs, a column of groups that its test split keeps whole.
        time: of a data set of inputs, a column of times; the latest rows are its test split.
        out: folder to write forecast.json, forecast.csv, mean_confusion.npz, explorer.json and report.html to;
            new, empty, or of a forecast that was stopped while it wrote.
        rows: whether explorer.json, and so the page, holds logits and labels of judged rows to try weights on.
        command: the command line to show in the report.
        say: told what was taken from the file.

    Returns:
        What forecast.json holds.

    Raises:
        FileExistsError: the folder holds something that no unfinished forecast left.
        ValueError, TypeError, FileNotFoundError: a file that cannot be read, or an option that is refused.
        ArithmeticError: a head that could not be fitted.
    """
    out = None if out is None else Path(out)
    if out is not None:
        check_folder(out)
    specs = [parse_loss(loss) for loss in losses]
    for spec in specs:
        if spec.entry.separable_over != "rows":
            raise ValueError(f"losses of a forecast must be sums over samples, got {spec.label!r}")
        if spec.scheme is not None:
            raise ValueError(f"losses of a forecast have their weights from --weights, got {spec.label!r}")
    if not losses or not weights:
        raise ValueError(f"losses and weights must name at least one each, got {list(losses)} and {list(weights)}")
    if inputs and class_names is not None:
        raise ValueError("class_names are those of a file of features, inputs have their own")
    for what, column in (("group", group), ("time", time)):
        if column is not None and not inputs:
            raise ValueError(f"{what} is of a data set of inputs, say --inputs too, got {column!r}")
    if folds is not None and (inputs or test is not None):
        held_out = "the test split of inputs" if inputs else f"a test file {test}"
        raise ValueError(f"folds are for a forecast without held-out samples, got {folds} beside {held_out}")
    if inputs:
        data = _of_inputs(path, test, target, features, group, time, say)
    else:
        data = _of_features(Path(path), test, folds is None, target, features, class_names, say)
    features_of, labels, names, size = data.rows, data.labels, data.names, data.size
    decay = data.weight_decay if weight_decay is None else weight_decay
    decay = _WEIGHT_DECAY if decay is None else decay
    check_memory("a forecast", size, 2 * len(specs) * len(weights) + 10)
    if data.test is None:
        say("judged by the training samples out of fold; --test names a file of held-out ones")
    counts = torch.bincount(labels, minlength=size)
    made = {text: parse_weights(text, counts, names) for text in weights}
    named = list(names) if names is not None else [f"class {k}" for k in range(size)]
    found: list[tuple[str, Forecast]] = []
    for spec in specs:
        for one in forecast(
            features_of,
            labels,
            class_weights={k: torch.ones(size, dtype=torch.float64) if w is None else w for k, w in made.items()},
            loss=spec.loss(counts, data.batch_size or len(labels)),
            test=data.test,
            folds=folds,
            weight_decay=decay,
        ):
            found.append((spec.label, one))
    first = found[0][1]
    result = {
        "schema": ForecastResults.SCHEMA,
        "name": Path(path).name,
        "judged_by": data.judged_by or f"{first.folds} folds of the training samples",
        "folds": first.folds,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "version": steelyard.__version__,
        "command": command,
        "class_names": named,
        "class_counts": counts.tolist(),
        "weight_decay": decay,
        "features": features_of.shape[1],
        "features_per_sample": first.features_per_sample,
        "features_per_rarest": first.features_per_rarest,
        "guarantee": GUARANTEE,
        "caution": CAUTION,
        "no_change": [{"loss": loss} | one.no_change.to_dict() for loss, one in dict(found).items()],
        "forecasts": [_entry(loss, one) | _law(loss, one, counts) for loss, one in found],
        "gains": [],
    }
    result["gains"] = _gains(found, ForecastResults.from_dict(result).tables, size)
    if out is not None:
        tables = ForecastResults.from_dict(result).tables
        P = {}
        for loss, one in found:
            P[f"{loss}: no change"] = one.no_change.mean_confusion.numpy()
            P[f"{loss}:{one.name}"] = one.mean_confusion.numpy()
            P[f"{loss}:{one.name}, shift"] = one.shift.mean_confusion.numpy()
        P = {row.label: P[row.label] for row in tables}
        with filled_folder(out):
            write_atomically(out / "mean_confusion.npz", lambda file: np.savez(file, **P))  # type: ignore[arg-type]
            write_csv(out / "forecast.csv", _HEADER, _rows(result, tables))
            write_json(out / "forecast.json", result)
            models = _models(found, counts, data.batch_size)
            packed = pack_rows(models, size, train_counts=counts.tolist()) if rows else None
            if packed is not None:
                write_json(out / packed.FILE, packed.to_dict())
            write_forecast_page(out)
    return result


def _gains(found: Sequence[tuple[str, Forecast]], tables: Sequence[Row], size: int) -> list[dict[str, object]]:
    """Return the paired gains in balanced accuracy of all rows over the best head without weights, and of refits
    over the best shift."""
    decided = {}
    for loss, one in found:
        assert one.class_weights is not None
        decided[f"{loss}: no change"] = one.held_out.no_change.argmax(1)
        decided[f"{loss}:{one.name}"] = one.held_out.refit.argmax(1)
        decided[f"{loss}:{one.name}, shift"] = (one.held_out.no_change + one.class_weights.log()).argmax(1)
    now, shift = (best_of(tables, how) for how in ("no change", "shift"))
    pairs = [(row, now) for row in tables if now is not None and row is not now]
    pairs += [(row, shift) for row in tables if shift is not None and row.how == "refit"]
    first = found[0][1]
    keys = ("gain", "low", "high")
    return [
        {"row": row.label, "over": other.label}
        | dict(
            zip(
                keys,
                paired_gain(
                    decided[row.label],
                    decided[other.label],
                    first.held_out.target,
                    size,
                    folds=first.folds is not None,
                    comparisons=len(pairs),
                ),
                strict=True,
            )
        )
        for row, other in pairs
    ]


def _models(found: Sequence[tuple[str, Forecast]], counts: Tensor, batch_size: int | None) -> list[Model]:
    """Return the head without weights of each loss."""
    models = []
    for loss, one in dict(found).items():
        logits, _, target = one.held_out
        undo = undo_of(logits, setup_from_text(loss, counts, batch_size=batch_size))
        models.append(Model(loss, logits.numpy(), target.numpy(), undo))
    return models


@dataclass(frozen=True)
class _Data:
    """What heads are fitted on and judged by, and what is known of the training."""

    rows: Tensor
    labels: Tensor
    names: Sequence[str] | None
    size: int
    test: tuple[Tensor, Tensor] | None
    judged_by: str | None
    weight_decay: float | None = None
    batch_size: int | None = None


def _of_inputs(
    name: str | PathLike[str],
    test: str | PathLike[str] | None,
    target: str | None,
    features: str | None,
    group: str | None,
    time: str | None,
    say: Callable[[str], None],
) -> _Data:
    """Return the inputs of a data set."""
    if test is not None:
        raise ValueError(f"inputs have their test split with them or set aside, got a test file {test}")
    opened = load_dataset(name, target=target, features=features, group=group, time=time)
    say(opened.reading)
    everything = torch.arange(len(opened.train_target))
    fitted = opened.prepare(everything)
    rows = fitted.inputs("train", everything)
    held_out = fitted.inputs("test", torch.arange(len(opened.test_target)))
    if rows.dim() != 2:
        raise ValueError(
            f"inputs must be features (N, D), got images {tuple(rows.shape)}; forecast from a network's"
        )
    names = opened.class_names
    test_split = held_out.double(), opened.test_target
    return _Data(rows.double(), opened.train_target, names, len(names), test_split, "the test split")


def _of_features(
    path: Path,
    test: str | PathLike[str] | None,
    beside_too: bool,
    target: str | None,
    features: str | None,
    class_names: Sequence[str] | None,
    say: Callable[[str], None],
) -> _Data:
    """Return the features of a file, and of the held-out file, named or, if that is wanted too, beside it."""
    _check_run(path)
    test = None if test is None else Path(test)
    opened = open_predictions(path, target=target, columns=features, values="features", class_names=class_names)
    if opened.split == "test":
        say(f"WARNING: {path} holds held-out samples, as it says itself; heads are refitted on training samples")
    say(opened.reading)
    beside = path.with_name(path.name.removeprefix("train_"))
    is_bare = path.suffix.lower() == ".npy"  # its labels are in another file
    if test is None and beside_too and beside != path and beside.is_file() and not is_bare:
        test = beside
        say(f"judged by the held-out samples in {test}")
    if test is not None and is_bare:
        raise ValueError(
            f"{path} has its labels in another file, of which there is one: save {test} and it as .npz"
        )
    rows, labels = read_whole(opened)
    names = opened.class_names
    size = size_of(opened, labels)
    held_out = None
    if test is not None:
        found_names = names or tuple(str(k) for k in range(size))
        columns = list(opened.columns)
        held_out = read_whole(
            open_predictions(test, target=target, columns=columns, values="features", class_names=found_names)
        )
    judged_by = None if test is None else test.name
    return _Data(rows, labels, names, size, held_out, judged_by, opened.weight_decay, opened.batch_size)


def _check_run(path: Path) -> None:
    """Refuse a folder of `compare`, and features that such a run has not."""
    folder = path if path.is_dir() else path.parent
    features = folder / "train_features.parquet"
    if path.is_dir() and (path / "results.json").is_file():
        raise ValueError(f"{path} is a run of compare: name the train_features.parquet of one of its seeds")
    if (path.is_dir() or path == features) and (folder / "train_predictions.parquet").is_file():
        if not features.is_file():
            raise ValueError(
                f"{folder} holds no train_features.parquet: its model has no linear head that could be refitted; "
                "margins of trees can be features in Python"
            )
        if path.is_dir():
            raise ValueError(f"{path} holds more than features: name {features}")


def read_whole(opened: Predictions) -> tuple[Tensor, Tensor]:
    """Return all numbers and labels of a file."""
    parts = list(opened.batches())
    return torch.cat([rows for rows, _ in parts]), torch.cat([labels for _, labels in parts])


def size_of(opened: Predictions, labels: Tensor) -> int:
    """Return how many classes there are: as many as names, or else labels that are all there from 0 on."""
    if opened.class_names is not None:
        return len(opened.class_names)
    seen = labels.unique()
    if len(seen) < 2 or int(seen[-1]) >= len(seen):
        absent = next((k for k, label in enumerate(seen.tolist()) if k != label), 1)
        row = int(labels.argmax())
        raise ValueError(
            f"{opened.path} must have samples of each class from 0 on, but has none with label {absent}: it has "
            f"{len(seen)} labels, the largest is {int(labels[row])} in row {row}; class_names allows empty classes"
        )
    return len(seen)


def _law(loss: str, one: Forecast, counts: Tensor) -> dict[str, float | None]:
    """Return, for two classes, the ratio that the weights fix, under the two losses in which they fix one."""
    if loss not in ("softmax", "logistic") or len(counts) != 2 or not bool((counts > 0).all()):
        return {"binary_ratio": None}
    assert one.class_weights is not None
    assert one.class_weights is not None
    n, w = counts.tolist(), one.class_weights.tolist()
    return {"binary_ratio": binary_ratio((n[0], n[1]), (w[0], w[1]))}


def _entry(loss: str, one: Forecast) -> dict[str, Any]:
    """Return a forecast as forecast.json has it: what is the same for all of a loss stands beside the list."""
    shared = ("no_change", "folds", "features_per_sample", "features_per_rarest", "pos_weight")
    return {"loss": loss} | {key: value for key, value in one.to_dict().items() if key not in shared}


def _rows(result: dict[str, Any], tables: Sequence[Row]) -> Iterator[list[object]]:
    """Return a row for each row of the page's table and class."""
    for one in tables:
        scores, of = one.scores, one.of
        numbers = [v for key in _NUMBERS for v in (getattr(scores, key), *(getattr(scores.intervals, key)))]
        for k, count in enumerate(result["class_counts"]):
            vectors = [
                v for key in _OF_CLASS for v in (getattr(scores, key)[k], *getattr(scores.intervals, key)[k])
            ]
            weight = None if of is None else of.class_weights[k]
            class_loss = None if of is None or one.how == "shift" else of.class_loss[k]
            yield [one.loss, one.weights, one.how, *numbers, k, count, weight, *vectors, class_loss]
