"""Advice for a file: what to do for an objective, with the vectors and the code that apply it."""

import datetime
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

import steelyard
from steelyard._common.checks import check_choice
from steelyard._common.files import check_folder, filled_folder, write_csv, write_json
from steelyard._common.memory import check_memory
from steelyard.auditing.probabilities import Probabilities
from steelyard.commands.forecast import read_whole, size_of
from steelyard.commands.weights import code as code_of_weights
from steelyard.data import Dataset, Predictions, grouped_folds, load_dataset, open_predictions
from steelyard.deciding import Advice, Model, Train, advise, train_heads
from steelyard.notation import LossSpec, parse_loss, parse_objective, parse_weights, setup_from_text
from steelyard.posterior import log_posterior
from steelyard.report import write_advise_page
from steelyard.report.explorer import Model as Shown
from steelyard.report.explorer import pack_rows
from steelyard.report.results import AdviceResults
from steelyard.training import Recipe
from steelyard.training.learners import Setting, Task, find_learner

From = Literal["features", "logits", "probabilities"]
_FROM = ("features", "logits", "probabilities")
_WEIGHT_DECAY = 5e-4
_RATE = 0.1
_PENALTY = 0.01
_HEADER = (
    "way", "chosen", "scheme", "rule", "value", "gain", "low", "high", "class", "samples", "recall",
    "class_weight", "offset",
)  # fmt: skip
_OWN_FEATURES = (
    "The network was trained on these rows, so its features tell their classes apart better than those of new "
    "rows. Features of held-out rows give surer advice."
)
_OWN_LOGITS = "The file holds training samples, as it says itself. Advice needs logits of held-out ones."


def advise_file(
    path: str | PathLike[str],
    *,
    objective: str = "balanced-accuracy",
    values: From = "features",
    columns: str | None = None,
    target: str | None = None,
    class_names: Sequence[str] | None = None,
    loss: str | None = None,
    learner: str | None = None,
    rate: float | None = None,
    rounds: int = 100,
    epochs: int = 30,
    schemes: Sequence[str] = (),
    folds: int = 5,
    group: str | None = None,
    seed: int = 0,
    weight_decay: float | None = None,
    out: str | PathLike[str] | None = None,
    rows: bool = True,
    command: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Try class weights, shifts and thresholds on out-of-fold rows and return what to do for an objective.

    Args:
        path: file of features and labels, or of logits or probabilities of held-out rows; see
            :func:`steelyard.data.open_predictions`. With `learner` a data set, of which the training split is
            used; see :func:`steelyard.data.load_dataset`.
        objective: as :func:`steelyard.notation.parse_objective` takes it.
        values: what the numbers of the file are. With logits or probabilities no weights can be tried.
        columns: names or patterns of the columns of numbers, with commas between. Default: by their names.
        target: name of the label column.
        class_names: K. Default: what the file says.
        loss: that the logits come from, as :func:`steelyard.notation.parse_loss` takes it; what its weights did
            is taken out first. Default: what the file says, else ``softmax``.
        learner: to train on the data set, as :func:`steelyard.training.learners.find_learner` takes it.
        rate: learning rate of the learner, or penalty of ``linear``. Default: 0.1, or 0.01.
        rounds: of boosting.
        epochs: of a network.
        schemes: of weights, each as :func:`steelyard.notation.parse_weights` takes it. Default: every scheme.
        folds: how many.
        group: name of a column; rows with the same value stay in one fold.
        seed: of folds, draws and trainings.
        weight_decay: of the heads on features. Default: what the file says of its training, else 0.0005.
        out: folder to write advise.json, advise.csv, explorer.json and report.html to; new or empty.
        rows: whether explorer.json, and so the page, holds log-probabilities and labels of rows out of fold.
        command: the command line, to write down.
        say: told what was read as what.

    Returns:
        What advise.json holds.

    Raises:
        FileExistsError: the folder holds something already.
        ValueError, TypeError, FileNotFoundError: a file that cannot be read, labels of outputs that stand for
            themselves, or an option that is refused.
        ArithmeticError: a head or a model that could not be fitted.
    """
    check_choice("from", values, _FROM)
    out = None if out is None else Path(out)
    if out is not None:
        check_folder(out)
    if learner is not None:
        if values != "features" or class_names is not None or loss is not None or weight_decay is not None:
            raise ValueError(
                "a learner is given a data set: from, class_names, loss and weight_decay are of files"
            )
        tried = (_PENALTY if learner == "linear" else _RATE) if rate is None else rate
        setting = Setting("small-cnn", Recipe(epochs, 64, tried), rounds=rounds, learner=learner)
        data = _of_learner(path, target, columns, group, learner, setting, seed, say)
    elif rate is not None:
        raise ValueError(f"rate is of a learner, and there is none, got {rate:g}")
    elif values == "features":
        data = _of_features(path, target, columns, class_names, loss, weight_decay, group, say)
    else:
        if schemes:
            raise ValueError(f"{values} cannot be weighted again: schemes need features or a learner")
        data = _of_logits(path, values, target, columns, class_names, loss, group, say)
    size = len(data.names)
    check_memory("advice", size, 12)
    counts = torch.bincount(data.target, minlength=size) if data.counts is None else data.counts
    made = {text: parse_weights(text, counts, data.names) for text in schemes}
    found = advise(
        data.inputs,
        data.target,
        objective=parse_objective(objective, data.names),
        schemes={name: weights for name, weights in made.items() if weights is not None} if made else None,
        class_counts=data.counts,
        class_names=data.names,
        train="none" if data.train is None else data.train,
        folds=folds if data.groups is None else grouped_folds(data.target, data.groups, folds, seed=seed),
        groups=data.groups,
        seed=seed,
    )
    result = {
        "schema": AdviceResults.SCHEMA,
        "name": Path(path).name,
        "model": data.model,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "version": steelyard.__version__,
        "command": command,
    }
    result |= found.to_dict() | {"code": code(found), "class_counts": counts.tolist()}
    result["notes"] = [*data.notes, *found.notes]
    if out is not None:
        with filled_folder(out):
            write_csv(out / "advise.csv", _HEADER, _rows(found))
            write_json(out / "advise.json", result)
            values_out, labels_out = (part.numpy() for part in found.held_out)
            model = Shown("no weights", values_out, labels_out, [0.0] * size)
            packed = pack_rows([model], size, train_counts=counts.tolist()) if rows else None
            if packed is not None:
                write_json(out / packed.FILE, packed.to_dict())
            write_advise_page(out)
    return result


@dataclass(frozen=True)
class _Data:
    """What advice is made of: inputs and how models of them are trained, or log-posteriors and no training."""

    inputs: Tensor
    target: Tensor
    names: Sequence[str]
    train: Train | None
    model: str
    counts: Tensor | None = None
    groups: Tensor | None = None
    notes: tuple[str, ...] = ()  # what makes the advice less sure


def _of_features(
    path: str | PathLike[str],
    target: str | None,
    columns: str | None,
    class_names: Sequence[str] | None,
    loss: str | None,
    weight_decay: float | None,
    group: str | None,
    say: Callable[[str], None],
) -> _Data:
    if loss is not None:
        raise ValueError(f"loss is that of logits; heads on features are trained with softmax, got {loss!r}")
    opened = open_predictions(path, target=target, columns=columns, values="features", class_names=class_names)
    say(opened.reading)
    notes = (_OWN_FEATURES,) if opened.split == "train" else ()
    rows, labels = read_whole(opened)
    size = size_of(opened, labels)
    decay = opened.weight_decay if weight_decay is None else weight_decay
    names = opened.class_names or [f"class {k}" for k in range(size)]
    train = train_heads(size, weight_decay=_WEIGHT_DECAY if decay is None else decay)
    return _Data(
        rows.double(), labels, names, train, "linear heads on the features", None, _groups(opened, group), notes
    )


def _of_logits(
    path: str | PathLike[str],
    values: From,
    target: str | None,
    columns: str | None,
    class_names: Sequence[str] | None,
    loss: str | None,
    group: str | None,
    say: Callable[[str], None],
) -> _Data:
    """Return log-posteriors of held-out rows, without what the loss did."""
    opened = open_predictions(path, target=target, columns=columns, values=values, class_names=class_names)
    say(opened.reading)
    if opened.multi_hot:
        raise ValueError(
            f"{path} must have one class a row, got 0 and 1 for each output: for outputs that stand for "
            "themselves ask thresholds(..., targets='multi-hot') in Python"
        )
    notes = (_OWN_LOGITS,) if opened.split == "train" else ()
    rows, labels = read_whole(opened)
    size = max(opened.num_classes, 2)
    if values == "probabilities":
        rows = Probabilities(opened.num_classes, whole=opened.num_classes > 1).logits(rows)
    counts = torch.bincount(labels, minlength=size)
    if opened.class_counts is not None:
        counts = torch.tensor(opened.class_counts)
    stated = opened.loss if loss is None else loss
    if stated is None:
        stated = opened.link or ("softmax" if opened.num_classes > 1 else "logistic")
        say(f"loss: {stated}, as nobody says which it was; --loss states another")
    setup = setup_from_text(stated, counts, batch_size=opened.batch_size)
    log_p = log_posterior(rows.double(), setup)
    if opened.num_classes == 1:
        log_p = torch.cat([F.logsigmoid(-log_p), F.logsigmoid(log_p)], 1)
    names = opened.class_names or [f"class {k}" for k in range(size)]
    return _Data(log_p, labels, names, None, f"{values} of {stated}", counts, _groups(opened, group), notes)


def _groups(opened: Predictions, group: str | None) -> Tensor | None:
    return None if group is None else opened.groups(group)


def _of_learner(
    path: str | PathLike[str],
    target: str | None,
    columns: str | None,
    group: str | None,
    name: str,
    setting: Setting,
    seed: int,
    say: Callable[[str], None],
) -> _Data:
    """Return the training rows of a data set, by their numbers, and the training of a learner on them."""
    data = load_dataset(path, target=target, features=columns, group=group)
    say(data.reading)
    size, learner = len(data.class_names), find_learner(name)
    plain = parse_loss("softmax")
    learner.check(plain)
    ready: tuple[Tensor, Dataset] | None = None

    def prepared(rows: Tensor) -> Dataset:
        """Return the data set with what is fitted to make inputs fitted on these rows; the last one is kept."""
        nonlocal ready
        if ready is None or not torch.equal(ready[0], rows):
            ready = rows, data.prepare(rows)
        return ready[1]

    def train(rows: Tensor, labels: Tensor, weights: Tensor | None) -> Model:
        fitted = prepared(rows)
        inputs = fitted.inputs("train", rows)
        learner.check_inputs(inputs, size, setting)
        spec = plain if weights is None else _Weighted(plain.label, plain.name, given=weights)
        with tempfile.TemporaryDirectory() as folder:
            model = learner.fit(
                Task(
                    spec,
                    (inputs, labels),
                    (inputs[:64], labels[:64]),  # the history needs some; nothing is decided by them
                    torch.bincount(labels, minlength=size),
                    setting.recipe.learning_rate,
                    seed,
                    Path(folder) / "last.ckpt",
                ),
                setting,
            )
        return lambda asked: model.logits(fitted.inputs("train", asked))

    words = learner.words(setting)
    numbers = torch.arange(len(data.train_target))
    return _Data(numbers, data.train_target, data.class_names, train, words, groups=data.groups)


@dataclass(frozen=True)
class _Weighted(LossSpec):
    """The softmax loss with class weights that are given as numbers."""

    given: Tensor | None = None

    def weights(self, class_counts: Tensor) -> Tensor | None:
        """Return the given weights; for the two classes of a check of the loss, that there are some."""
        if self.given is None or len(class_counts) == len(self.given):
            return self.given
        return torch.ones(len(class_counts), dtype=torch.float64)


def code(found: Advice) -> dict[str, str]:
    """Return code to paste, by library: the weights in training, then the line that decides."""
    way = found.chosen
    trained = {} if way.class_weights is None else code_of_weights(found.class_names, way.class_weights.tolist())
    decided = _deciding(way.offsets, found.costs if way.rule == "costs" else None)
    return {
        library: "\n".join([trained[library], line] if library in trained else [line])
        for library, line in decided.items()
    }


def _deciding(offsets: Tensor | None, costs: Tensor | None) -> dict[str, str]:
    """Return the line that decides, by library; probabilities times exp(offsets) need not sum to 1 for that."""
    logits, probabilities = "logits", "model.predict_proba(X)"
    if offsets is not None:
        numbers = _numbers(offsets)
        logits, probabilities = f"(logits + torch.tensor({numbers}))", f"({probabilities} * np.exp({numbers}))"
    if costs is None:
        torch_line, position = f"{logits}.argmax(1)", f"{probabilities}.argmax(1)"
    else:
        table = "[" + ", ".join(_numbers(row) for row in costs) + "]"
        torch_line = f"({logits}.softmax(1) @ torch.tensor({table})).argmin(1)"
        position = f"({probabilities} @ np.array({table})).argmin(1)"
    return {
        "torch": f"decided = {torch_line}",
        "scikit-learn": f"decided = model.classes_[{position}]",
        "xgboost": f"decided = {position}",
    }


def _numbers(values: Tensor) -> str:
    return "[" + ", ".join(f"{v:.6g}" for v in values.tolist()) + "]"


def _rows(found: Advice) -> Iterator[list[object]]:
    """Return a row for each way and class."""
    for way in found.table:
        for k, (name, samples) in enumerate(zip(found.class_names, found.samples, strict=True)):
            weight = None if way.class_weights is None else float(way.class_weights[k])
            offset = None if way.offsets is None else float(way.offsets[k])
            recall = float(way.recall[k])
            yield [
                way.name, way is found.chosen, way.scheme, way.rule, way.value, way.gain, *way.interval, name,
                samples, None if recall != recall else recall, weight, offset,
            ]  # fmt: skip
