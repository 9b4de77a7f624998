"""The explorer of a page: held-out rows packed small, and what a page's script needs besides."""

import dataclasses
import datetime
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from steelyard.balance.setup import TrainingSetup
from steelyard.posterior import log_posterior
from steelyard.report.results.rows import HeldOutRows, PackedRows, Unpacked, Words, pack_words
from steelyard.report.style import Array, Indices, shown

MOST_ROWS = 4000
MOST_MODELS = 6
BUDGET = 450_000
"""Characters of packed rows in a page, of all models together."""
_MANY, _MANY_BUDGET = 300, 650_000  # classes, whose figures are smaller
_REACH = 64.0
"""A class is that far below its row's largest at most: no slider of the page goes half as far."""
_BITS = (16, 14, 12, 10)  # of a score, where there is room
_CHOICES = (64, 32, 16)  # scores of a row that are kept where all are too many, with the fewest bits
_LEAST = 0.4  # characters that a number takes at least
_EXPONENTS = (-1.0, 0.0, 0.5, 1.0, 2.0)  # of the page's slider, where the cost of packing is measured
_THRESHOLDS = range(-10, 11)  # of the page's sliders, of outputs that stand for themselves
_SAME = 1e-3  # relative, of weights that are a power of the counts
_TRIED = 64  # rows on which a posterior is looked at
_SAME_LOG = 1e-6
_CHUNK = 1 << 22  # numbers at a time


@dataclass(frozen=True)
class Model:
    """Scores of one model on held-out rows, before they are packed.

    Attributes:
        label: of the model.
        scores: (N, K) logits or log-probabilities; -inf is allowed.
        target: (N,) classes; (N, K) of 0 and 1 for outputs that stand for themselves.
        undo: see :class:`PackedRows`.
    """

    label: str
    scores: Array
    target: Indices
    undo: Sequence[float] | None = None


@dataclass(frozen=True)
class Mark:
    """A model that was really trained or refitted, on the curve over the exponent of the weights.

    Attributes:
        label: of the model.
        base: what else the training was; it stands on the curve of models of the same base.
        exponent: of its class weights; None where they are no power of the class counts.
        balanced_accuracy, accuracy: number and ends of its interval, None where not known.
    """

    label: str
    base: str
    exponent: float | None
    balanced_accuracy: tuple[float, float | None, float | None]
    accuracy: tuple[float, float | None, float | None] | None


def pack_rows(
    models: Sequence[Model], size: int, *, train_counts: Sequence[int] | None = None, budget: int = BUDGET
) -> HeldOutRows | None:
    """Return rows of at most six models for a page, at most 4,000 of each, packed into `budget` characters.

    Rows are drawn by class with a fixed seed. Rare classes are kept whole, frequent ones up to the same number
    each. Where that is too much, scores are rounded more, then only those of classes are kept that are likely in a
    row under class weights that the page's slider offers, then fewer rows.

    What is kept of a score is how far it is below the largest of its row, as scale * sinh(unit * steps): near the
    decision a step is small, far from it large, and one row of huge scores makes no other row coarser. A class
    that is not the largest is at least a step below it, so that decisions without a shift are exact.

    Args:
        models: of the same rows.
        size: K.
        train_counts: (K,), for the class weights under which the packing is measured. Default: held-out counts.
        budget: characters of all models together.

    Returns:
        The rows; None where even one row of each class is too much.

    Raises:
        ValueError: scores that are NaN or plus infinity.
    """
    chosen = list(models)[:MOST_MODELS]
    budget = _MANY_BUDGET if size > _MANY and budget == BUDGET else budget
    counts = None if train_counts is None else np.asarray(train_counts, dtype=np.int64)
    packed = [_pack(model, size, budget // len(chosen), counts) for model in chosen]
    whole = [one for one in packed if one is not None]
    if len(whole) < len(chosen):
        return None
    finished = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    kind = "outputs" if chosen[0].target.ndim == 2 else "classes"
    return HeldOutRows(finished=finished, kind=kind, size=size, models=whole)  # type: ignore[arg-type]


def read_rows(folder: Path, size: int) -> HeldOutRows | None:
    """Return the rows of a folder's explorer.json, or None where there is none.

    Raises:
        ValueError: the file is not one of ours, was cut off or edited, or is of another number of classes.
    """
    if not (folder / HeldOutRows.FILE).is_file():
        return None
    found = HeldOutRows.read(folder)
    if found.size != size:
        raise ValueError(f"{folder / HeldOutRows.FILE} must be of {size} classes, got {found.size}")
    return found


def explorer_of(
    rows: HeldOutRows | None,
    names: Sequence[str],
    train_counts: Sequence[int],
    marks: Sequence[Mark] = (),
    *,
    bases: Sequence[tuple[str, float | None]] = (),
    marks_are: str = "trained again",
) -> dict[str, Any] | None:
    """Return what `explorer.html.j2` and its script take; None without rows.

    Args:
        rows: of :func:`pack_rows`.
        names: K.
        train_counts: (K,).
        marks: on the curve.
        bases: base and exponent of each model of `rows`, as :class:`Mark` has them.
        marks_are: what was done to the models of the marks.
    """
    if rows is None:
        return None
    one = rows.models[0]
    kept, whole = sum(one.kept), sum(one.held_out)
    several = rows.kind == "outputs"
    places = [bases[i] if i < len(bases) else ("", 0.0) for i in range(len(rows.models))]
    return {
        "several": several,
        "labels": [shown(model.label, 60) for model in rows.models],
        "size": rows.size,
        "kept": f"{kept:,}",
        "whole": f"{whole:,}",
        "bits": min(model.bits for model in rows.models),
        "reach": f"{_REACH:g}",
        "choices": least if (least := min(model.choices for model in rows.models)) < rows.size else None,
        "decisions": f"{max(sum(model.kept) for model in rows.models) * (rows.size if several else 1):,}",
        "differ": max(model.differ for model in rows.models),
        "rounding": _points(max(model.rounding for model in rows.models)),
        "sampling": _points(max(model.sampling for model in rows.models)),
        "marked": bool(marks),
        "marks_are": marks_are,
        "data": {
            "kind": rows.kind,
            "names": [shown(name, 40) for name in names],
            "keys": [None if name in (f"class {k}", str(k)) else str(name) for k, name in enumerate(names)],
            "train": list(train_counts),
            "models": [
                model.to_dict() | {"label": shown(model.label, 60), "base": base, "exponent": exponent}
                for model, (base, exponent) in zip(rows.models, places, strict=True)
            ],
            "advised": None,
            "marks": [vars(mark) | {"label": shown(mark.label, 60)} for mark in marks],
        },
    }


def exponent_of(weights: Sequence[float | None] | None, counts: Sequence[int]) -> float | None:
    """Return a of weights that are proportional to counts to the power of -a; None where there is no such a."""
    if weights is None:
        return 0.0
    used = [(n, w) for n, w in zip(counts, weights, strict=True) if n > 0]
    if any(w is None or w <= 0 for _, w in used):
        return None
    x = -np.log([n for n, _ in used])
    y = np.log([float(w or 0) for _, w in used])
    x, y = x - x.mean(), y - y.mean()
    slope = float(x @ y / (x @ x)) if x @ x > 0 else 0.0
    return round(slope, 6) if float(np.abs(y - slope * x).max()) <= _SAME else None


def undo_of(logits: Tensor, setup: TrainingSetup) -> list[float] | None:
    """Return the (K,) vector that makes log-probabilities of logits (N, K), up to a number for each row.

    Under softmax loss it is minus the log of the class weights. None where the posterior is no such sum, as under
    one-vs-all losses, or where the loss has none.
    """
    some = logits[:_TRIED].double()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # rows without a posterior are NaN, which is looked at here
            apart = log_posterior(some, setup) - some
    except (ValueError, TypeError, ArithmeticError):
        return None
    apart = apart - apart.mean(1, keepdim=True)
    first: Tensor = apart[0]
    return first.tolist() if bool(((apart - first).abs() <= _SAME_LOG).all()) else None


def _points(share: float) -> str:
    """Return a bound in points of percent, rounded up."""
    return f"{math.ceil(1e4 * share) / 100:g}"


def _pack(model: Model, size: int, budget: int, train_counts: Indices | None) -> PackedRows | None:
    several = model.target.ndim == 2
    if np.isnan(model.scores).any() or np.isposinf(model.scores).any():
        raise ValueError(f"scores of {model.label} must not be NaN or infinite")
    if not several and np.isneginf(model.scores.max(1)).any():
        raise ValueError(f"scores of {model.label} must not be minus infinity for every class of a row")
    kinds = _kinds(model.target) if several else model.target
    held_out = np.bincount(kinds, minlength=size + several)
    log_w = _log_weights(held_out[:size] if train_counts is None else train_counts)
    most, there = MOST_ROWS, int((held_out > 0).sum())
    while True:
        least = math.inf
        rows, kept = _drawn(kinds, held_out, most)
        scores, drawn = np.asarray(model.scores[rows], dtype=np.float64), kinds[rows]
        ways = [(size, bits) for bits in _BITS]
        ways += [(choices, _BITS[-1]) for choices in _CHOICES if choices < size and not several]
        for choices, bits in ways:
            guessed = len(rows) * choices * (1 if choices == size else 2) * _LEAST
            if guessed > budget:
                least = min(least, guessed)
                continue
            scale, unit, steps = _steps(scores if several else _below(scores), bits - several, several)
            parts: list[Array | Indices | Words] = [drawn]
            if several:
                parts += [steps + 32768, model.target[rows]]
            else:
                parts += _likely(scores, choices, steps, log_w)
            if len(words := pack_words(parts)) <= budget:
                packed = PackedRows(
                    label=model.label,
                    held_out=held_out.tolist(),
                    kept=kept.tolist(),
                    choices=choices,
                    scale=scale,
                    unit=unit,
                    bits=bits,
                    differ=0,
                    rounding=0.0,
                    sampling=0.0,
                    undo=None if model.undo is None else [round(float(v), 6) for v in model.undo],
                    words=words,
                )
                return _measured(packed, model, scores, size, log_w)
            least = min(least, len(words))
        if most <= there:
            return None
        most = max(there, min(most - 1, int(0.98 * len(rows) * budget / least)))


def _below(scores: Array) -> Array:
    """Return how far each score is below the largest of its row, at most _REACH."""
    with np.errstate(over="ignore"):  # what overflows is out of reach
        return np.asarray(np.minimum(scores.max(1, keepdims=True) - scores, _REACH))


def _steps(values: Array, bits: int, signed: bool) -> tuple[float, float, Indices]:
    """Return scale, unit and whole steps such that values are about scale * sinh(unit * steps).

    Half of the values, or those below 1 where that is less, lie where all steps have about the same size. Beyond,
    a step is a share of the value. Only 0 has no step.
    """
    size = np.abs(values)
    some = size[(size > 0) & np.isfinite(size)]
    reach, scale = (float(some.max()), min(1.0, float(np.median(some)))) if len(some) else (1.0, 1.0)
    unit = math.asinh(reach / scale) / (2**bits - 1)
    steps = np.rint(np.arcsinh(np.minimum(size, reach) / scale) / unit)
    steps = np.where(size > 0, np.maximum(steps, 1), 0).astype(np.int64)
    return scale, unit, np.sign(values).astype(np.int64) * steps if signed else steps


def _kinds(target: Indices) -> Indices:
    """Return the rarest output that each row has, or K for none: the kind that rows are drawn by."""
    positives = target.sum(0)
    rarest = np.where(target > 0, positives, np.inf).argmin(1)
    return np.where(target.any(1), rarest, target.shape[1])


def _drawn(kinds: Indices, held_out: Indices, most: int) -> tuple[Indices, Indices]:
    """Return rows, sorted by kind, and how many of each: all of a rare kind, of others the same number each."""
    fits = (number for number in range(most, 1, -1) if np.minimum(held_out, number).sum() <= most)
    most_of_kind = next(fits, 1)
    order = np.random.default_rng(0).permutation(len(kinds))
    order = order[np.argsort(kinds[order], kind="stable")]
    starts = np.cumsum(held_out) - held_out
    place = np.arange(len(kinds)) - starts[kinds[order]]
    return order[place < most_of_kind], np.minimum(held_out, most_of_kind)


def _likely(scores: Array, choices: int, steps: Indices, log_w: Array) -> list[Array | Indices | Words]:
    """Return the steps; where not all are kept, those of likely classes from the largest score on, and which.

    A class is as likely as it is near to the decision under class weights that the page's slider offers.
    """
    if choices == scores.shape[1]:
        return [steps]
    near = np.full(scores.shape, -np.inf)
    for exponent in _EXPONENTS:
        moved = scores + exponent * log_w
        np.maximum(near, moved - moved.max(1, keepdims=True), out=near)
    index = np.argpartition(-near, choices - 1, axis=1)[:, :choices]
    index = np.take_along_axis(index, np.argsort(np.take_along_axis(steps, index, 1), axis=1, kind="stable"), 1)
    return [np.take_along_axis(steps, index, 1), index]


def _log_weights(counts: Indices) -> Array:
    """Return the log of inverse class weights, (K,)."""
    return np.asarray(-np.log(np.maximum(counts, 1) / max(int(counts.sum()), 1) * len(counts)))


def _measured(packed: PackedRows, model: Model, scores: Array, size: int, log_w: Array) -> PackedRows:
    """Return the rows with what their packing costs: decisions over the page's slider, against exact ones."""
    several = model.target.ndim == 2
    found = packed.unpack(size, outputs=several)
    factor = np.asarray(packed.held_out) / np.maximum(packed.kept, 1)
    differ, rounding, sampling = 0, 0.0, 0.0
    if several:
        own = packed.values(found.steps.astype(np.int64) - 32768)
        truth, weight = np.asarray(found.truth), factor[found.target]
        for cut in _THRESHOLDS:
            above, exactly = own > cut, scores > cut
            differ = max(differ, int((above != exactly).sum()))
            page, same = _outputs(above, truth, weight), _outputs(exactly, truth, weight)
            all_rows = _outputs(model.scores > cut, model.target, None)
            rounding, sampling = max(rounding, _apart(page, same)), max(sampling, _apart(page, all_rows))
    else:
        classes = found.target.astype(np.int64)
        for exponent in _EXPONENTS:
            shift = exponent * log_w
            told, exact = decide_packed(packed, found, shift), _decided(scores, shift)
            differ = max(differ, int((told != exact).sum()))
            page, same = _classes(told, classes, size, factor), _classes(exact, classes, size, factor)
            all_rows = _classes(_decided(model.scores, shift), model.target, size, None)
            rounding, sampling = max(rounding, _apart(page, same)), max(sampling, _apart(page, all_rows))
    return dataclasses.replace(packed, differ=differ, rounding=rounding, sampling=sampling)


def decide_packed(packed: PackedRows, rows: Unpacked, shift: Array) -> Indices:
    """Return the decisions (n,) on unpacked rows under a shift (K,), as a page's script makes them."""
    index = np.arange(rows.steps.shape[1])[None] if rows.classes is None else rows.classes.astype(np.int64)
    scores = shift[index] - packed.values(rows.steps)
    best = scores.max(1, keepdims=True)
    return np.asarray(np.where(scores == best, index, 65536).min(1), dtype=np.int64)


def _decided(scores: Array, shift: Array) -> Indices:
    at_a_time = max(1, _CHUNK // scores.shape[1])
    parts = [(scores[i : i + at_a_time] + shift).argmax(1) for i in range(0, len(scores), at_a_time)]
    return np.concatenate(parts)


def _classes(decided: Indices, target: Indices, size: int, factor: Array | None) -> Array:
    """Return accuracy, balanced accuracy and macro-F1."""
    weight = np.ones(len(target)) if factor is None else factor[target]
    rows = np.bincount(target, weight, minlength=size)
    told = np.bincount(decided, weight, minlength=size)
    right = np.bincount(target, weight * (decided == target), minlength=size)
    there = rows > 0
    f1 = 2 * right / np.maximum(rows + told, 1e-300)
    return np.asarray([right.sum() / rows.sum(), (right[there] / rows[there]).mean(), f1[there].mean()])


def _outputs(told: Any, truth: Indices, weight: Array | None) -> Array:
    """Return accuracy, balanced accuracy and macro-F1 over outputs that stand for themselves."""
    w = np.ones(len(truth)) if weight is None else weight
    own = truth > 0
    right = w @ (told & own)
    positives, taken, total = w @ own, w @ told, w.sum()
    false = w @ (told & ~own)
    with np.errstate(invalid="ignore", divide="ignore"):
        recalls = np.stack([right / positives, 1 - false / (total - positives)])
        f1 = 2 * right / (positives + taken)
    accuracy = 1 - float((w @ (told ^ own)).mean() / total)
    return np.asarray([accuracy, np.nanmean(recalls), np.nanmean(np.where(positives > 0, f1, np.nan))])


def _apart(one: Array, other: Array) -> float:
    return float(np.nanmax(np.abs(one - other)))
