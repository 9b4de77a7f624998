"""Losses that are combinations of existing parts: a line each, and the source that named it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from steelyard.weights.adjustments import label_aware_smoothing, logit_adjustment
from steelyard.weights.class_weights import class_weights
from steelyard.weights.counts import Counts


@dataclass(frozen=True)
class Preset:
    """A loss of the registry with some of its options chosen.

    Attributes:
        loss: its name.
        source: who proposed the combination.
        use: when to use it, in a sentence.
        options: fixed ones.
        of_counts: those that are made from the class counts.
    """

    loss: str
    source: str
    use: str
    options: Mapping[str, Any] = field(default_factory=dict)
    of_counts: Callable[[Counts], dict[str, Any]] | None = None


PRESETS: dict[str, Preset] = {
    "balanced-softmax": Preset(
        "softmax",
        "Ren et al., NeurIPS 2020; Menon et al., ICLR 2021 (logit adjustment, tau = 1)",
        "Most classes have few samples and all classes count the same. It leads our leaderboard.",
        of_counts=lambda counts: {"logit_adjustment": logit_adjustment(counts)},
    ),
    "class-balanced": Preset(
        "softmax",
        "Cui et al., CVPR 2019 (effective number, beta = 0.999)",
        "To compare with its paper. It is not on our leaderboard.",
        of_counts=lambda counts: {"class_weights": class_weights(counts, "effective_number", beta=0.999)},
    ),
    "class-balanced-focal": Preset(
        "focal",
        "Cui et al., CVPR 2019 (effective number, beta = 0.999, on the sigmoid focal loss)",
        "To compare with its paper. It is not on our leaderboard.",
        {"link": "logistic"},
        of_counts=lambda counts: {"class_weights": class_weights(counts, "effective_number", beta=0.999)},
    ),
    "label-aware-smoothing": Preset(
        "class-smoothing",
        "Zhong, Cui, Liu, Jia, CVPR 2021 (MiSLAS; 0.3 for the most frequent class, 0 for the rarest)",
        "Models that are too sure of frequent classes.",
        of_counts=lambda counts: {"class_smoothing": label_aware_smoothing(counts)},
    ),
    "sigmoid-focal": Preset(
        "focal", "Lin et al., ICCV 2017", "Binary outputs that are nearly all negative.", {"link": "logistic"}
    ),
}


def made_of_counts(name: str) -> bool:
    """Return whether a name is that of a preset with options that are made from class counts."""
    preset = PRESETS.get(name.replace("_", "-")) if isinstance(name, str) else None
    return preset is not None and preset.of_counts is not None
