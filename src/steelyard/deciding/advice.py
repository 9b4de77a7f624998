"""Advice: what to do for an objective, what it buys, and what everything that was tried is worth."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from steelyard._common.notebook import table_html
from steelyard.deciding.costs import cheapest
from steelyard.deciding.objectives import Objective

Rule = Literal["argmax", "shift", "costs", "thresholds"]


@dataclass(frozen=True)
class Way:
    """One way to train and to decide, judged on out-of-fold rows.

    Attributes:
        name: such as ``"plain"``, ``"shift by inverse"``, ``"thresholds"``, ``"weights inverse"``.
        scheme: name of the class weights in training, or None.
        class_weights: (K,) float64, mean 1 over the classes; None where training has none.
        rule: ``"argmax"`` of the logits; ``"shift"``: with `offsets` that need no search; ``"thresholds"``: with
            `offsets` that were searched; ``"costs"``: the least expected cost.
        offsets: (K,) float64 with mean 0, to be added to the logits of the model as it was trained, before the
            rule; those of thresholds are found on all rows. None for none.
        value: of the objective on out-of-fold rows; thresholds are judged on folds on which they were not found.
        gain: of `value`, over that of ``"plain"``.
        interval: of the gain; those of all ways hold together with probability 0.95.
        recall: (K,) of each class.
        simplicity: 0 for plain, 1 for a shift or costs, 2 for thresholds, 3 for weights, 4 for both.
        allowed: whether the objective's minimum is kept, where there is one.
    """

    name: str
    scheme: str | None
    class_weights: Tensor | None
    rule: Rule
    offsets: Tensor | None
    value: float
    gain: float
    interval: tuple[float, float]
    recall: Tensor
    simplicity: int
    allowed: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists for JSON, None for NaN."""
        return {
            key: [None if v != v else v for v in value.tolist()] if isinstance(value, Tensor) else value
            for key, value in vars(self).items()
        }


@dataclass(frozen=True)
class Advice:
    """What to do for an objective, and what everything that was tried is worth.

    Attributes:
        objective: as it was asked for.
        class_names: K.
        samples: K rows of each class.
        folds: how many.
        table: every way, from simple to involved.
        chosen: the simplest way that nothing tried surely beats.
        rival: of the ways of the other kind the best: with class weights in training, where the chosen way has
            none; without, where it has some. None where there is none.
        over_rival: gain of the chosen way over it, and its interval.
        notes: what could not be tried, and why, a sentence each.
        costs: (K, K) float64, for a cost.
        held_out: log-posteriors of the rows out of fold without weights, (N, K) float64, and their labels, (N,).
    """

    objective: Objective
    class_names: tuple[str, ...]
    samples: tuple[int, ...]
    folds: int
    table: tuple[Way, ...]
    chosen: Way
    rival: Way | None
    over_rival: tuple[float, tuple[float, float]] | None
    notes: tuple[str, ...]
    held_out: tuple[Tensor, Tensor]

    @property
    def costs(self) -> Tensor | None:
        return self.objective.costs

    @property
    def class_weights(self) -> Tensor | None:
        """Return the weights to train with, (K,), or None for none."""
        return self.chosen.class_weights

    @property
    def offsets(self) -> Tensor | None:
        """Return what to add to the logits of the model that was trained as advised, (K,), or None."""
        return self.chosen.offsets

    def decide(self, logits: Tensor) -> Tensor:
        """Return the classes that the advice decides for, (N,) int64, from logits of the model as advised.

        Args:
            logits: (N, K), or log-probabilities.

        Raises:
            TypeError, ValueError: logits of another type or shape.
        """
        size = len(self.class_names)
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            raise TypeError(f"logits must be a floating tensor (N, {size}), got {type(logits).__name__}")
        if logits.dim() != 2 or logits.shape[1] != size:
            raise ValueError(f"logits must have shape (N, {size}), got {tuple(logits.shape)}")
        scores = logits.detach().cpu().double()
        if self.chosen.offsets is not None:
            scores = scores + self.chosen.offsets
        return decided(scores, self.costs if self.chosen.rule == "costs" else None).to(logits.device)

    @property
    def sentence(self) -> str:
        """Return what to do and what it buys."""
        return _sentence(self)

    def __str__(self) -> str:
        """Return what to do, and how it was judged."""
        rows, size = sum(self.samples), len(self.class_names)
        tried = (
            f"{len(self.table)} ways tried on {rows} rows of {size} classes, judged out of fold in {self.folds}."
        )
        return f"{self.sentence}\n{tried}"

    def _repr_html_(self) -> str:
        """Return what to do, and every way that was tried, as a table that notebooks show."""
        rows = [
            (way.name, f"{way.value:.4g}", f"{way.gain:+.3g}", f"{way.interval[0]:+.3g} to {way.interval[1]:+.3g}")
            for way in self.table
        ]
        return table_html(self.sentence, ("way", self.objective.text, "gain over plain", "95% interval"), rows)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, texts and lists for JSON, None for NaN."""
        over, minimum = self.over_rival, self.objective.minimum
        return {
            "sentence": self.sentence,
            "notes": list(self.notes),
            "objective": self.objective.text,
            "value": _value_of(self),
            "minimum": None
            if minimum is None
            else dict(zip(_MINIMUM, (self.class_names[minimum[0]], *minimum), strict=True)),
            "costs": None if self.costs is None else self.costs.tolist(),
            "class_names": list(self.class_names),
            "samples": list(self.samples),
            "folds": self.folds,
            "chosen": self.chosen.name,
            "class_weights": None if self.class_weights is None else self.class_weights.tolist(),
            "offsets": None if self.offsets is None else self.offsets.tolist(),
            "rival": None if self.rival is None else self.rival.name,
            "over_rival": None if over is None else {"gain": over[0], "interval": list(over[1])},
            "ways": [way.to_dict() for way in self.table],
        }


def decided(scores: Tensor, costs: Tensor | None = None) -> Tensor:
    """Return the largest score of each row, (N,), or with costs the decision of the least expected cost."""
    if costs is None:
        return scores.argmax(1)
    return cheapest(torch.log_softmax(scores, 1)[None], costs)[0]


_MINIMUM = ("class", "position", "recall")
_VALUES = {
    "accuracy": "accuracy",
    "balanced-accuracy": "balanced accuracy",
    "macro-f1": "macro-F1",
    "f1": "F1",
    "cost": "mean cost",
}


def _sentence(advice: Advice) -> str:
    """Return what to do, what it buys, and how that compares with the other kind."""
    chosen, plain = advice.chosen, advice.table[0]
    told = _to_do(chosen)
    sign = -1.0 if advice.costs is not None else 1.0
    if advice.objective.minimum is not None:
        told += f": {_at_recall(advice, chosen)}"
        if not chosen.allowed:
            return f"{told}, the nearest of all that was tried to the recall that is asked for."
        if chosen is not plain:
            told += f", where plain training and argmax have {_at_recall(advice, plain)}"
    else:
        what = _VALUES[advice.objective.name]
        told += f": {what} {sign * chosen.value:.4g}"
        if chosen is not plain:
            told += (
                f" instead of {sign * plain.value:.4g}, {_by(chosen.gain, chosen.interval)} better (95%, paired)"
            )
    if chosen is plain:
        others = [way for way in advice.table[1:] if way.allowed]
        best = max(others, key=lambda way: way.value)
        by = _by(best.gain, best.interval)
        return f"{told}; nothing that was tried is surely better (the best, {best.name}, by {by})."
    if advice.rival is None or advice.over_rival is None:
        return f"{told}."
    gain, (low, high) = advice.over_rival
    if chosen.class_weights is None:
        by = _by(-gain, (-high, -low))
        return f"{told}; no class weights surely beat that (the best, {advice.rival.name}, by {by})."
    if advice.rival is plain:
        return f"{told}; without class weights nothing that was tried beats plain training."
    return f"{told}; that is {_by(gain, (low, high))} above the best without class weights, {advice.rival.name}."


def _value_of(advice: Advice) -> str:
    """Return what the value of a way is, higher is better."""
    if advice.objective.minimum is not None:
        return f"precision of {advice.class_names[advice.objective.minimum[0]]}"
    return ("minus " if advice.costs is not None else "") + _VALUES[advice.objective.name]


def _to_do(way: Way) -> str:
    if way.class_weights is None:
        told = "Train without class weights and "
    else:
        told = f"Train with the class weights of {way.scheme} and "
    if way.rule == "argmax":
        return told + "take the class of the largest logit"
    if way.rule == "costs":
        undo = "" if way.class_weights is None else "take them out of the logits again and "
        return told + undo + "take the decision of the least expected cost"
    if way.rule == "thresholds":
        return told + "add the offsets to the logits that were searched for the objective"
    over = ", which is posterior over prior" if way.name == "shift by inverse" else ""
    return told + f"add the log of the weights of {way.name.removeprefix('shift by ')} to the logits{over}"


def _at_recall(advice: Advice, way: Way) -> str:
    assert advice.objective.minimum is not None
    k = advice.objective.minimum[0]
    name = advice.class_names[k]
    return f"precision of {name} {way.value:.3g} at a recall of {float(way.recall[k]):.3g}"


def _by(gain: float, interval: tuple[float, float]) -> str:
    return f"{gain:.3g} [{interval[0]:.3g}, {interval[1]:.3g}]"
