"""Correct a file of predictions: its logits become probabilities without what training did to them."""

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import steelyard
from steelyard._common.checks import check_choice
from steelyard.auditing.gather import Values
from steelyard.auditing.probabilities import check_tell
from steelyard.balance import TrainingSetup
from steelyard.commands.stated import Stated, given_counts, label_counts, told_counts
from steelyard.commands.tables import class_table
from steelyard.commands.undone import Numbers, Undone, sampled
from steelyard.data import Predictions, open_predictions
from steelyard.data.predictions import check_out, corrected_columns, is_text_file
from steelyard.prior import PriorEstimate, estimate_prior

LABELS = "labels"
PRIORS = ("train", "uniform", "estimate")
_TARGETS = ("classes", "multi-hot")
FIT = "fit"


@dataclass(frozen=True)
class Correction:
    """What was done to a file.

    Attributes:
        rows: that were written.
        without: of them, those without a probability: numbers were missing or infinite, or no posterior exists.
        setup: what was taken out, in words.
        class_names: of the prior; numbers from 0 where nobody says.
        prior: (K,) class frequencies that the probabilities are for; None for those of training.
        estimate: of the prior, where it was estimated.
        temperature: that the corrected log-probabilities were divided by; 1 for none.
    """

    rows: int
    without: int
    setup: str
    class_names: tuple[str, ...]
    prior: Tensor | None
    estimate: PriorEstimate | None
    temperature: float = 1.0


def correct_file(
    path: str | PathLike[str],
    out: str | PathLike[str],
    *,
    loss: str | None = None,
    weights: str | None = None,
    pos_weights: str | None = None,
    sampler: str | None = None,
    corrected: str | None = None,
    batch_size: int | None = None,
    class_counts: str | None = None,
    class_names: Sequence[str] | None = None,
    target: str | None = None,
    logits: str | None = None,
    values: Values | None = None,
    targets: str | None = None,
    prior: str = "train",
    temperature: str = "1",
    training_rows: str | PathLike[str] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Correction:
    """Write a file's rows once more, with corrected probabilities in place of its logits.

    All other columns stay as they are, and so do the rows and their order. Rows are never all in memory. The new
    columns are called ``corrected_probability_CLASS``, or ``corrected_probabilities`` where the logits are a list
    or an array; for one output ``corrected_probability``, of class 1; for outputs that stand for themselves
    ``corrected_output_probability_NAME``. By these names, and by what the metadata say, a second correction is
    refused. A row whose numbers are missing or infinite, or whose logits no posterior has, has empty cells.

    Args:
        path, loss, weights, pos_weights, sampler, corrected, batch_size, class_names, target, logits: as for
            :func:`steelyard.commands.audit.audit_file`. Labels are not needed.
        out: the new file, of a kind that holds rows of `path`: a table for tables (``.parquet``, ``.arrow``,
            ``.csv`` and so on), ``.npz`` for arrays.
        class_counts: K comma-separated training counts, a JSON file, or ``"labels"``: the rows are those of the
            training, and their labels are counted. Default: what the file says; its labels, where it says that it
            holds the rows of the training.
        values: ``"logits"`` or ``"probabilities"``. Default: logits, unless all of them look like probabilities,
            which is refused.
        targets: ``"classes"`` where one class is right in a row, ``"multi-hot"`` for outputs that stand for
            themselves. Default: as the labels tell; classes for softmax.
        prior: ``"train"``, ``"uniform"``, ``"estimate"`` (the class frequencies under which the rows are
            likeliest, from at most 2^24 of their numbers), or a CSV file of class and share.
        temperature: a number > 0 that divides the corrected log-probabilities (logits, of outputs that stand for
            themselves), before the prior of use is put in; ``"fit"``: the one under which the labels of `path` are
            likeliest, from at most 2^24 numbers; or a file of held-out rows as `path`, whose labels tell it.
        training_rows: file of the rows that the model was trained on, as `path`, with labels. LGL-INR's mean
            confusion is computed from them, and they are counted where nobody says the counts. Default: `path`,
            where it says that it holds them or `class_counts` are ``"labels"``.
        say: told what was taken from the file.

    Returns:
        What was done.

    Raises:
        FileExistsError: there is a file at `out`.
        ValueError, TypeError, FileNotFoundError: a file that cannot be read, an option that is refused, weights or
            a prior that need training counts which nobody says, LGL-INR without training rows, a temperature
            from rows of the training.
    """
    out = Path(out)
    check_out(out, Path(path))
    if values is not None:
        check_choice("values", values, ("logits", "probabilities"))
    if targets is not None:
        check_choice("targets", targets, _TARGETS)
    factor = _number(temperature)
    opened = open_predictions(
        path,
        target=target,
        columns=logits,
        values=values or "logits",
        class_names=class_names,
        missing_labels="ignore",
        missing_values="nan",
        label="optional",
    )
    say(opened.reading)
    stated = Stated(opened, loss, say, targets == "multi-hot")
    independent = _independent(opened, stated, targets)
    texts = {"weights": weights, "pos-weights": pos_weights, "sampler": sampler, "corrected": corrected}
    known = opened.class_names or tuple(str(k) for k in range(max(opened.num_classes, 2)))
    table = None if prior in PRIORS else class_table(Path(prior), "share", known)

    def further(name: str | PathLike[str], role: str, not_of: str) -> Predictions:
        return _further(opened, name, role, not_of, target, logits, values)

    training = None if training_rows is None else further(training_rows, "training rows", "test")
    if training is None and opened.has_labels and (opened.split == "train" or class_counts == LABELS):
        training = opened
    in_negative = stated.spec.name == "lgl-inr"
    for_weights = stated.needs(texts) or in_negative
    samples = _counts(opened, training, independent, class_counts, for_weights, prior != "train")
    counts = None if independent else samples
    shape = (2, opened.num_classes) if independent else (max(opened.num_classes, 2),)
    setup = stated.setup(torch.ones(shape).double() if samples is None else samples, texts, batch_size, counts)
    whole = stated.link == "softmax" and opened.num_classes > 1
    if whole and values == "probabilities":
        check_tell(setup, opened.num_classes)
    numbers = Numbers(opened, whole, values, say)

    def numbers_of(other: Predictions) -> Numbers:
        return numbers if other is opened else Numbers(other, whole, values, say)

    confusion = None
    if setup.in_negative is not None:
        if not setup.in_negative.detached:
            raise ValueError("loss lgl-inr has a posterior for detached weights only, got detach_weights=False")
        if training is None:
            raise ValueError(_NEEDED)
        confusion = numbers_of(training).mean_confusion()
    undone = Undone(setup, independent, confusion)
    fitted = None
    if factor is None:
        held_out = _held_out(opened) if temperature == FIT else further(temperature, "temperature", "train")
        factor, rows = undone.fit_temperature(numbers_of(held_out))
        fitted = {"file": held_out.path.name, "rows": rows}
        say(f"temperature {factor:.4g}, under which the labels of {rows} rows of {held_out.path} are likeliest")
    undone.temperature = factor
    estimate, use = None, table
    if prior == "uniform":
        use = torch.full((shape[-1],), 1 / shape[-1], dtype=torch.float64)
    elif prior == "estimate":
        assert counts is not None
        estimate = _estimate(numbers, undone, counts, say)
        use = estimate.prior
    names = opened.class_names
    as_list = opened.as_list and not is_text_file(out)

    total = without = 0

    def change(rows: Tensor) -> Mapping[str, Any]:
        nonlocal total, without
        q = undone.log_posterior(numbers, rows, use)
        total, without = total + len(q), without + int(q.isnan().any(1).sum())
        p = torch.sigmoid(q) if q.shape[1] == 1 else q.exp()
        return corrected_columns(p.numpy(), names, independent=independent, as_list=as_list)

    done = {
        "setup": setup.text,
        "vectors": _vectors(setup),
        "from": "probabilities" if values == "probabilities" else "logits",
        "mean_confusion": None if confusion is None else confusion.tolist(),
        "temperature": factor,
        "temperature_from": fitted,
        "prior": "train" if use is None else use.tolist(),
        "estimate": None if estimate is None else estimate.to_dict(),
        "file": opened.path.name,
        "version": steelyard.__version__,
    }
    metadata = {"correction": json.dumps(done)} | ({} if names is None else {"class_names": "\x1f".join(names)})
    opened.rewrite(out, change, replace=True, metadata=metadata)
    return Correction(total, without, setup.text, known, use, estimate, factor)


_NEEDED = (
    "LGL-INR is undone by the mean confusion of its training: give --training-rows, a file of the training rows "
    "with their logits and labels, or say --counts labels if the rows are those of the training"
)


def _number(temperature: str) -> float | None:
    """Return the temperature where it is a number; None where it is to be found."""
    try:
        factor = float(temperature)
    except (TypeError, ValueError):
        return None
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(
            f"temperature must be a number > 0, {FIT!r} or a file of held-out rows, got {temperature}"
        )
    return factor


def _further(
    opened: Predictions,
    path: str | PathLike[str],
    role: str,
    not_of: str,
    target: str | None,
    logits: str | None,
    values: Values | None,
) -> Predictions:
    """Open another file of rows of the same model, with labels.

    Raises:
        ValueError: a file of other outputs, or one that says that it holds rows of the split `not_of`.
    """
    other = open_predictions(
        path,
        target=None if opened.path.suffix == ".npy" else target,
        columns=logits,
        values=values or "logits",
        class_names=opened.class_names,
        missing_labels="ignore",
        missing_values="nan",
    )
    if other.num_classes != opened.num_classes or (opened.has_labels and other.multi_hot != opened.multi_hot):
        raise ValueError(
            f"{role} must be of the same model as {opened.path}, with {opened.num_classes} numbers a row, got "
            f"{other.num_classes} in {other.path}"
        )
    if other.split == not_of:
        held = "rows of the training" if not_of == "train" else "held-out rows"
        raise ValueError(f"{role} must not be {held}, as {other.path} says that it holds")
    return other


def _held_out(opened: Predictions) -> Predictions:
    if not opened.has_labels:
        raise ValueError(
            f"temperature {FIT!r} needs labels, and {opened.path} has none: name a file that has some"
        )
    if opened.split == "train":
        raise ValueError(
            f"temperature {FIT!r} needs held-out rows, and {opened.path} says that it holds those of the "
            "training: name a file of held-out ones"
        )
    return opened


def _independent(opened: Predictions, stated: Stated, targets: str | None) -> bool:
    """Return whether the outputs stand for themselves."""
    if opened.has_labels and targets is not None and opened.num_classes > 1:
        told = "multi-hot" if opened.multi_hot else "classes"
        if targets != told:
            raise ValueError(f"targets must be {told}, as the labels of {opened.path} are, got {targets}")
    if opened.num_classes == 1:
        return False
    if not opened.has_labels and targets is None and stated.link == "logistic":
        raise ValueError(
            f"{opened.path} has {opened.num_classes} outputs of a loss that is one-vs-all, and no labels: say "
            "--targets classes, where one class is right in a row, or --targets multi-hot"
        )
    return stated.independent


def _counts(
    opened: Predictions,
    training: Predictions | None,
    independent: bool,
    given: str | None,
    for_weights: bool,
    for_prior: bool,
) -> Tensor | None:
    """Return the training samples of each class, (K,), or (2, K) negatives and positives of independent outputs;
    None where nobody says, and nothing needs them."""
    if independent and for_prior:
        raise ValueError("prior must be train for outputs that stand for themselves, which have no common prior")
    if given == LABELS:
        if not opened.has_labels:
            raise ValueError(f"counts 'labels' need labels, and {opened.path} has none")
        if opened.split == "test":
            raise ValueError(
                f"counts must be those of the training, got 'labels' for {opened.path}, which says that it holds "
                "held-out samples"
            )
        return label_counts(opened)
    if given is not None:
        if independent:
            raise ValueError("counts of outputs that stand for themselves must be 'labels', which are counted")
        return given_counts(opened, given)
    if not independent and (told := told_counts(opened)) is not None:
        return told
    if not (for_weights or for_prior):
        return None
    if training is not None:
        return label_counts(training)
    what = "the weights are made from" if for_weights else "a prior needs"
    raise ValueError(
        f"{what} the counts of the training, which {opened.path} does not say: give --counts, K numbers or a JSON "
        "file, or --counts labels if its rows are those of the training, or --training-rows"
    )


def _estimate(numbers: Numbers, undone: Undone, counts: Tensor, say: Callable[[str], None]) -> PriorEstimate:
    """Return the class frequencies of the rows; of many rows a random sample tells."""
    rows, seen = sampled(numbers, lambda part: undone.log_posterior(numbers, part, None))
    if not seen:
        raise ValueError(
            f"{numbers.opened.path} has no row with finite numbers, from which a prior could be estimated"
        )
    if seen > len(rows):
        say(f"the prior is estimated from {len(rows)} of {seen} rows, drawn at random")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = estimate_prior(rows, counts)
    for doubt in found.doubts:
        say(f"WARNING: {doubt}")
    return found


def _vectors(setup: TrainingSetup) -> dict[str, Any]:
    names = ("class_weights", "pos_weight", "sampler_weights", "logit_adjustment", "logit_shift", "class_counts")
    return {name: values.tolist() for name in names if (values := getattr(setup, name)) is not None}
