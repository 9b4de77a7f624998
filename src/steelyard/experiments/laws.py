"""The balance law of a loss as it was trained."""

from torch import Tensor

from steelyard.balance import (
    Balance,
    lgl_inr_law,
    logistic_statistics,
    mean_confusion,
    one_vs_all_law,
    softmax_law,
)
from steelyard.notation import LossSpec
from steelyard.weights.adjustments import batch_presence

_KNOWN = ("softmax", "logistic", "lgl-inr")


def law_text(spec: LossSpec) -> str:
    """The law of a loss is returned, for reading.

    Raises:
        ValueError: a loss whose law is not known here.
    """
    if spec.entry.name not in _KNOWN:
        raise ValueError(f"the law of loss {spec.label!r} is not known; known are those of {', '.join(_KNOWN)}")
    return spec.entry.law_text


def balance_of(spec: LossSpec, logits: Tensor, target: Tensor, class_counts: Tensor, batch_size: int) -> Balance:
    """Both sides of the law of a loss are returned, on the data that it was trained on, with its final weights.

    Raises:
        ValueError: a loss whose law is not known here.
    """
    law_text(spec)
    loss = spec.loss(class_counts, batch_size)
    given: dict[str, Tensor | None] = {
        key: getattr(loss, key, None) for key in ("class_weights", "pos_weight", "logit_adjustment")
    }
    if given["logit_adjustment"] is not None:
        logits = logits + given["logit_adjustment"]  # what the loss saw
    P, counts = mean_confusion(logits, target, link=spec.link)
    if loss.name == "softmax":
        smoothing = float(getattr(loss, "label_smoothing", 0.0))
        return softmax_law(P, counts, given["class_weights"], label_smoothing=smoothing)
    if getattr(loss, "label_smoothing", 0.0):
        raise ValueError(f"the law of loss {spec.label!r} is not known with label_smoothing")
    if loss.name == "logistic":
        return one_vs_all_law(P, counts, given["class_weights"], pos_weight=given["pos_weight"])
    return lgl_inr_law(
        P,
        beta=spec.beta(len(P)),
        pos_weight=given["pos_weight"],
        presence=batch_presence(class_counts, batch_size),
        statistics=None if spec.constant_weights else logistic_statistics(logits, target),
    )
