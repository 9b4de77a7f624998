"""What is said of a training, and what an audit should find in it."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from evidence.models import BATCH, GAMMA, SMOOTHING
from steelyard.balance import TrainingSetup

HELD, DRAWN = "held-out rows", "rows drawn again"


class Case(NamedTuple):
    """An audit: what was planted, what is audited, and the name of the finding to expect ("" for no fault)."""

    plant: str
    logits: np.ndarray
    target: np.ndarray
    setup: TrainingSetup
    expected: str


def cases(training: dict[str, Any]) -> list[Case]:
    """Return all audits of a training, as :func:`evidence.trainings.load` returns it."""
    kind, z, y, w = (training[name] for name in ("kind", "logits", "target", "weights"))
    binary, loss = z.ndim == 1, training["loss"]
    made: list[Case] = []

    def add(plant: str, weights: np.ndarray | None, expected: str, z: Any = z, y: Any = y, **more: Any) -> None:
        made.append(Case(plant, z, y, setup(more.pop("loss", loss), weights, training, **more), expected))

    if loss == "lgl-inr":
        add("healthy: LGL-INR", None, "")
        return made
    simple = training["data"] == "separable" or training["family"] == "forest"
    if kind in ("plain", "inverse", "hundred"):
        stated = None if kind == "plain" else w
        targets = " mixup," if "mixup" in training["model"] else " smoothing," if loss == "smoothed" else ""
        add(f"healthy:{targets} {'no weights' if stated is None else 'weighted'}", stated, "")
        if simple or "mixup" in training["model"]:
            return made
        if kind == "plain":
            add("weights never applied", w, "weights_not_applied")
        elif loss != "adjusted":
            add("weights unstated", None, "weights_unstated")
        if binary:
            add("score negated", stated, "score_flipped", z=-z)
        else:
            add("columns rolled", stated, "wrong_class_order", z=np.roll(z, 1, 1))
            add("labels off by one", stated, "wrong_class_order", y=(y + 1) % z.shape[1])
        held = training["held_logits"], training["held_target"]
        add(HELD, stated, "not_training_rows", z=held[0], y=held[1], counts=True)
        made += _other_losses(training, stated)
    elif kind == "sqrt":
        add("healthy: weighted", training["applied"], "")
        add("half the strength", w, "weights_at_other_strength")
    elif kind == "twice":
        add("applied twice", w, "weights_applied_twice")
        if not binary:
            add("stated twice", w, "counted_twice", sampler=w)
    else:
        plant, expected = {
            "reversed": ("weights reversed", "weights_permuted"),
            "rolled": ("weights rolled by one class", "weights_permuted"),
            "forgotten": ("rarest class forgotten", "class_weight_off"),
            "one epoch": ("one epoch of forty", "undertrained"),
            "ten": ("10 for 100", "weights_at_other_strength"),
            "wrong class": ("weight on the wrong class", "weights_permuted"),
        }[kind]
        add(plant, w, expected)
    return made


def _other_losses(training: dict[str, Any], stated: np.ndarray | None) -> list[Case]:
    """Return the audits of a right training as one of another loss."""
    z, y = training["logits"], training["target"]
    if z.ndim == 1 or z.shape[1] > 10 or training["loss"] == "smoothed" or "mixup" in training["model"]:
        return []
    adjusted = "weights_unstated" if stated is None else "weights_applied_twice"  # it acts like inverse weights
    plant, other, expected = {
        "softmax": ("softmax audited as one-vs-all", "one-vs-all", "wrong_loss"),
        "one-vs-all": ("one-vs-all audited as softmax", "softmax", "wrong_loss"),
        "focal": ("focal audited as softmax", "softmax", "wrong_loss"),
        "adjusted": ("adjustment unstated", "softmax", adjusted),
    }[training["loss"]]
    return [Case(plant, z, y, setup(other, stated, training), expected)]


def setup(
    loss: str,
    weights: np.ndarray | None,
    training: dict[str, Any],
    *,
    counts: bool = False,
    sampler: np.ndarray | None = None,
) -> TrainingSetup:
    """Return what is stated of a training: its loss, its weights, and for rows held out its class counts."""
    more: dict[str, Any] = {"class_counts": training["counts"]} if counts else {}
    if sampler is not None:
        more["sampler_weights"] = sampler
    if "mixup" in training["model"]:
        more["mixup"] = True
    if training["logits"].ndim == 1:
        ratio = None if weights is None else [weights[1] / weights[0]]
        return TrainingSetup("logistic", targets="binary", pos_weight=ratio, **more)
    if loss == "focal":
        return TrainingSetup("focal", gamma=GAMMA, class_weights=weights, **more)
    if loss == "smoothed":
        w = None if weights is None else torch.tensor(weights)
        return TrainingSetup(nn.CrossEntropyLoss(weight=w, label_smoothing=SMOOTHING), **more)
    if loss == "lgl-inr":
        return TrainingSetup("lgl-inr", batch_size=BATCH, class_counts=training["counts"])
    if loss == "adjusted":
        more["logit_adjustment"] = np.log(training["counts"])
    return TrainingSetup("logistic" if loss == "one-vs-all" else "softmax", class_weights=weights, **more)
