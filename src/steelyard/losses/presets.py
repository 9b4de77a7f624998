"""Losses that are combinations of existing parts: a line each, and the source that named it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from steelyard.losses.registry import LOSSES
from steelyard.weights.adjustments import (
    class_margins,
    confidence_margins,
    kept_negatives,
    label_aware_smoothing,
    logit_adjustment,
    logit_factors,
)
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
        of_counts: makes further ones from the class counts and the parameters.
        parameters: keywords of ``of_counts`` that :func:`~steelyard.create_loss` takes, with their defaults.
        start: share of the epochs before class weights; until then all weigh 1.
    """

    loss: str
    source: str
    use: str
    options: Mapping[str, Any] = field(default_factory=dict)
    of_counts: Callable[..., dict[str, Any]] | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)
    start: float = 0.0


def _class_balanced(counts: Counts, *, beta: float) -> dict[str, Any]:
    return {"class_weights": class_weights(counts, "effective_number", beta=beta)}


def _label_aware(counts: Counts, *, head: float, tail: float) -> dict[str, Any]:
    return {"class_smoothing": label_aware_smoothing(counts, head=head, tail=tail)}


def _ldam(counts: Counts, *, max_margin: float, scale: float) -> dict[str, Any]:
    return {"margins": class_margins(counts, max_margin=max_margin), "scale": scale}


def _ldam_drw(counts: Counts, *, beta: float, **margins: float) -> dict[str, Any]:
    return _ldam(counts, **margins) | _class_balanced(counts, beta=beta)


def _cdt(counts: Counts, *, gamma: float) -> dict[str, Any]:
    return {"logit_factors": logit_factors(counts, gamma=gamma)}


def _vs(counts: Counts, *, gamma: float, tau: float) -> dict[str, Any]:
    factors = logit_factors(counts, gamma=gamma)
    return {"logit_factors": factors, "logit_adjustment": logit_adjustment(counts, tau=tau) / factors}


def _immax(counts: Counts, *, power: float) -> dict[str, Any]:
    return {"confidence_margins": confidence_margins(counts, power=power)}


def _eql(counts: Counts, *, gamma: float, threshold: float) -> dict[str, Any]:
    log_kept = kept_negatives(counts, gamma=gamma, threshold=threshold).log()
    return {"logit_adjustment": log_kept, "margins": log_kept}  # the own logit stays as it is


PRESETS: dict[str, Preset] = {
    "balanced-softmax": Preset(
        "softmax",
        "Ren et al., NeurIPS 2020; Menon et al., ICLR 2021 (logit adjustment, tau = 1)",
        "Most classes have few samples and all classes count the same. It leads our leaderboard.",
        of_counts=lambda counts: {"logit_adjustment": logit_adjustment(counts)},
    ),
    "class-balanced": Preset(
        "softmax",
        "Cui et al., CVPR 2019 (effective number)",
        "You compare with its paper. Every loss with class weights takes these, as "
        '`class_weights="effective_number"`.',
        of_counts=_class_balanced,
        parameters={"beta": 0.999},
    ),
    "class-balanced-focal": Preset(
        "focal",
        "Cui et al., CVPR 2019 (effective number, on the sigmoid focal loss)",
        "You compare with its paper.",
        {"link": "logistic"},
        of_counts=_class_balanced,
        parameters={"beta": 0.999},
    ),
    "cdt": Preset(
        "margin-softmax",
        "Ye et al., 2020, arXiv 2001.01385; the default gamma is that of Kini et al., NeurIPS 2021",
        "You compare with its paper. The logit of a rare class counts for less in training, so it becomes larger.",
        of_counts=_cdt,
        parameters={"gamma": 0.3},
    ),
    "eql": Preset(
        "margin-softmax",
        "Tan et al., CVPR 2020 (EQL, softmax form), with the defaults of BagofTricks-LT's code; what they draw at "
        "random is here its mean",
        "You compare with its paper. Most samples of other classes do not push a rare class down.",
        {"scale": 1.0, "logit_factors": None, "confidence_margins": None},  # others would change how many are kept
        of_counts=_eql,
        parameters={"gamma": 0.9, "threshold": 0.005},
    ),
    "immax": Preset(
        "margin-softmax",
        "Cortes, Mao, Mohri, Zhong, ICML 2025 (IMMAX), with the margins around which the authors search, times K",
        "You compare with its paper, which is after plain accuracy. Choose `power` on validation data.",
        of_counts=_immax,
        parameters={"power": 1 / 3},
    ),
    "ldam": Preset(
        "margin-softmax",
        "Cao et al., NeurIPS 2019, with the authors' margins and scale",
        "You compare with its paper. Its scale is for a head whose logits are cosines. For others take `scale=1`.",
        of_counts=_ldam,
        parameters={"max_margin": 0.5, "scale": 30.0},
    ),
    "ldam-drw": Preset(
        "margin-softmax",
        "Cao et al., NeurIPS 2019 (deferred re-weighting: 160 of 200 epochs without weights)",
        "You compare with its paper. Its class weights start after four fifths of the epochs. In your own loop a "
        "`DeferredReweighting` starts them.",
        of_counts=_ldam_drw,
        parameters={"max_margin": 0.5, "scale": 30.0, "beta": 0.9999},
        start=0.8,
    ),
    "vs": Preset(
        "margin-softmax",
        "Kini et al., NeurIPS 2021, with the defaults of the authors' code",
        "Most classes have few samples, and training goes on beyond zero errors.",
        of_counts=_vs,
        parameters={"gamma": 0.3, "tau": 1.0},
    ),
    "label-aware-smoothing": Preset(
        "class-smoothing",
        "Zhong, Cui, Liu, Jia, CVPR 2021 (MiSLAS; `head` smooths the most frequent class, `tail` the rarest)",
        "The model is too sure of frequent classes.",
        of_counts=_label_aware,
        parameters={"head": 0.3, "tail": 0.0},
    ),
    "sigmoid-focal": Preset(
        "focal", "Lin et al., ICCV 2017", "Outputs are binary, and nearly all are negative.", {"link": "logistic"}
    ),
}


def made_of_counts(name: str) -> bool:
    """Return whether :func:`~steelyard.create_loss` makes options of this loss from class counts."""
    name = name.replace("_", "-") if isinstance(name, str) else name
    preset = PRESETS.get(name)
    return preset.of_counts is not None if preset is not None else name in LOSSES and bool(LOSSES[name].needs)
