"""The explorer of a page: held-out rows packed small, and what a page's script needs besides."""

import datetime
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from steelyard.balance.setup import TrainingSetup
from steelyard.posterior import log_posterior
from steelyard.report.results.rows import HeldOutRows, PackedRows, Words, pack_words
from steelyard.report.style import Array, Indices, shown

MOST_ROWS = 4000
MOST_MODELS = 6
BUDGET = 450_000
"""Characters of packed rows in a page, of all models together."""
_MANY, _MANY_BUDGET = 300, 300_000  # classes, whose figures need room too
_FINE, _COARSE = 1 / 64, 1 / 16  # steps of the scores
_CHOICES = (64, 32)  # scores of a row that are kept where all are too many
_LEAST = 0.4  # characters that a number takes at least
_EXPONENTS = (-0.5, 0.0, 0.5, 1.0)  # of the weights under which the cost of packing is measured
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


def pack_rows(models: Sequence[Model], size: int, *, budget: int = BUDGET) -> HeldOutRows | None:
    """Return rows of at most six models for a page, at most 4,000 of each, packed into `budget` characters.

    Rows are drawn by class with a fixed seed. Rare classes are kept whole, frequent ones up to the same number
    each. Where that is too much, scores are rounded more, then only those of classes are kept that are likely in a
    row before or after inverse class weights, then fewer rows.

    Args:
        models: of the same rows.
        size: K.
        budget: characters of all models together.

    Returns:
        The rows; None where even one row of each class is too much.

    Raises:
        ValueError: scores that are NaN or plus infinity.
    """
    chosen = list(models)[:MOST_MODELS]
    budget = min(budget, _MANY_BUDGET) if size > _MANY else budget
    packed = [_pack(model, size, budget // len(chosen)) for model in chosen]
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
        "step": f"1/{round(1 / max(model.step for model in rows.models))}",
        "choices": least if (least := min(model.choices for model in rows.models)) < rows.size else None,
        "rounding": f"{100 * max(model.rounding for model in rows.models):.2f}",
        "sampling": f"{100 * max(model.sampling for model in rows.models):.1f}",
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


def _pack(model: Model, size: int, budget: int) -> PackedRows | None:
    if np.isnan(model.scores).any() or np.isposinf(model.scores).any():
        raise ValueError(f"scores of {model.label} must not be NaN or infinite")
    several = model.target.ndim == 2
    kinds = _kinds(model.target) if several else model.target
    held_out = np.bincount(kinds, minlength=size + several)
    log_w = _log_weights(held_out[:size])
    most = MOST_ROWS
    while True:
        rows, kept = _drawn(kinds, held_out, most)
        scores, drawn = np.asarray(model.scores[rows], dtype=np.float64), kinds[rows]
        ways = [(size, _FINE), (size, _COARSE), *((c, _COARSE) for c in _CHOICES if c < size and not several)]
        for choices, step in ways:
            if len(rows) * choices * (1 if choices == size else 2) * _LEAST > budget:
                continue
            parts: list[Array | Indices | Words] = [drawn]
            if several:
                parts += [np.clip(np.rint(scores / step) + 32768, 0, 65535), model.target[rows]]
            else:
                parts += _likely(scores, choices, step, log_w)
            if len(words := pack_words(parts)) <= budget:
                packed = PackedRows(
                    label=model.label,
                    held_out=held_out.tolist(),
                    kept=kept.tolist(),
                    choices=choices,
                    step=step,
                    rounding=0.0,
                    sampling=0.0,
                    undo=None if model.undo is None else [float(v) for v in model.undo],
                    words=words,
                )
                return _measured(packed, model, scores, size)
        if most <= int((held_out > 0).sum()):
            return None
        most //= 2


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


def _likely(scores: Array, choices: int, step: float, log_w: Array) -> list[Array | Indices | Words]:
    """Return steps below the largest score of each row; where not all are kept, of likely classes, and which.

    A class is as likely as it is near to the decision, without weights or under inverse ones.
    """
    below = np.clip(np.rint((scores.max(1, keepdims=True) - scores) / step), 0, 65535)
    if choices == scores.shape[1]:
        return [below]
    near = np.maximum(*(z - z.max(1, keepdims=True) for z in (scores, scores + log_w)))
    index = np.argpartition(-near, choices - 1, axis=1)[:, :choices]
    index = np.take_along_axis(index, np.argsort(np.take_along_axis(below, index, 1), axis=1, kind="stable"), 1)
    return [np.take_along_axis(below, index, 1), index]


def _log_weights(counts: Indices) -> Array:
    """Return the log of inverse class weights, (K,)."""
    return np.asarray(-np.log(np.maximum(counts, 1) / max(int(counts.sum()), 1) * len(counts)))


def _measured(packed: PackedRows, model: Model, scores: Array, size: int) -> PackedRows:
    """Return the rows with what their packing costs: decisions under some weights, against exact ones."""
    several = model.target.ndim == 2
    found = packed.unpack(size, outputs=several)
    held_out, kept = np.asarray(packed.held_out), np.asarray(packed.kept)
    factor = held_out / np.maximum(kept, 1)
    rounding = sampling = 0.0
    if several:
        own = (found.steps.astype(np.float64) - 32768) * packed.step
        truth, weight = np.asarray(found.truth), factor[found.target]
        page = _outputs(own > 0, truth, weight)
        same, all_rows = _outputs(scores > 0, truth, weight), _outputs(model.scores > 0, model.target, None)
        rounding, sampling = _apart(page, same), _apart(page, all_rows)
    else:
        classes = found.target.astype(np.int64)
        log_w = _log_weights(held_out)
        for exponent in _EXPONENTS:
            shift = exponent * log_w
            page = _classes(decide_packed(found, shift, packed.step), classes, size, factor)
            same = _classes(_decided(scores, shift), classes, size, factor)
            all_rows = _classes(_decided(model.scores, shift), model.target, size, None)
            rounding, sampling = max(rounding, _apart(page, same)), max(sampling, _apart(page, all_rows))
    return PackedRows(**vars(packed) | {"rounding": rounding, "sampling": sampling})


def decide_packed(rows: Any, shift: Array, step: float) -> Indices:
    """Return the decisions (n,) on unpacked rows under a shift (K,), as a page's script makes them."""
    index = np.arange(rows.steps.shape[1])[None] if rows.classes is None else rows.classes.astype(np.int64)
    scores = shift[index] - step * rows.steps
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
