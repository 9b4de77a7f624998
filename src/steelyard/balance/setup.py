"""What was done in training, in one object that law, ledger, posterior, audit and forecast take."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import get_args

import torch
from torch import Tensor, nn

from steelyard._common.checks import Vector, check_choice, check_integer, check_names, check_number, check_vector
from steelyard._common.text import listed
from steelyard.balance.means import Link
from steelyard.balance.readings import (
    InNegative,
    PerSample,
    Reading,
    Targets,
    eager_gradient,
    held_vector,
    one_value_each,
    read_loss,
)
from steelyard.losses import Loss
from steelyard.weights.adjustments import batch_presence

_LABELS = 64  # that are asked, of many


@dataclass(frozen=True, init=False, eq=False)
class TrainingSetup:
    r"""What was done in training: the loss, and what was done around it.

    The setup reads the weights off a loss object that holds them, so you need not state them again; if you do,
    they must agree.
    Vectors may be tensors, arrays or sequences and are kept as float64 tensors on the CPU.

    Args:
        loss: a name as :func:`~steelyard.create_loss` takes it, a loss module of this package,
            ``torch.nn.CrossEntropyLoss``, ``torch.nn.BCEWithLogitsLoss``, or any function of logits (N, K) and
            target that gives the loss of each sample, (N,). A function of one output is given logits (N,) and a
            target of 0 and 1 in their dtype, as torch's binary losses take it. Weights that a function holds
            inside are part of its gradient and cannot be read off.
        class_weights: (K,) weight of the samples of each class, not negative; (2,) for one binary output. Default:
            what the loss holds, else all 1.
        pos_weight: (K,) further weight of each output's positives. Default: what the loss holds, else all 1.
        sampler_weights: (K,) how often the sampler drew a sample of each class, up to a factor. Default: as often
            as any.
        logit_adjustment: (K,) added to the logits in training only. Default: what the loss holds, else none.
        logit_shift: (K,), or (1,) for one output: added to the logits after training, such as a correction, so the
            logits that are shown contain it. It acts like the class weights :math:`e^{t_k}` under the softmax
            loss, and is refused with any other. Default: none.
        label_smoothing: of a loss given by name, or as the loss object holds it. Default: what it holds, else 0.
        mixup: whether samples and their targets were mixed in training (mixup, CutMix). The law then holds for the
            mixed samples and not for those that they were made of, so an audit of these says nothing of weights.
        batch_size: samples of a mini-batch, which LGL-INR balances one by one. Default: all samples at once.
        class_counts: (K,) training samples of each class, before any sampler. Default: not known.
        class_names: K names. Default: not known.
        options: further options of a loss given by name, such as ``{"gamma": 2.0}``; keywords do the same:
            ``TrainingSetup("focal", gamma=2.0)``.
        targets: ``"labels"``, ``"multi-hot"`` for K independent outputs, ``"binary"`` for one output. Default:
            what the loss usually takes; one output is binary in any case.

    Attributes:
        link: ``"softmax"`` where all logits may shift together without a change, ``"logistic"`` where every output
            stands for itself.
        parts: what acts like a weight per class, by name; without those that are the same for all classes.
        class_effect: (K,) their product :math:`w_k s_k e^{t_k}`, or None for none.
        presence: (K,) share of LGL-INR's batches that have each class, where batch size and counts say it.
        zero: name of the first vector that holds a weight of 0, or None.
        empty: whether a class is said to have no samples.

    Raises:
        TypeError: an object that is no loss, or an option of the wrong type.
        ValueError: weights stated twice with different values, vectors of different lengths, a weight of zero.

    Example:
        >>> w = torch.tensor([1.0, 3.0])
        >>> TrainingSetup(torch.nn.CrossEntropyLoss(weight=w)).class_weights
        tensor([1., 3.], dtype=torch.float64)
        >>> TrainingSetup("softmax", class_weights=[1, 3], sampler_weights=[1, 2]).class_effect
        tensor([1., 6.], dtype=torch.float64)
    """

    loss: str | nn.Module | PerSample
    class_weights: Tensor | None
    pos_weight: Tensor | None
    sampler_weights: Tensor | None
    logit_adjustment: Tensor | None
    logit_shift: Tensor | None
    label_smoothing: float
    mixup: bool
    batch_size: int | None
    class_counts: Tensor | None
    class_names: tuple[str, ...] | None
    options: Mapping[str, object]
    targets: Targets
    reading: Reading = field(init=False, repr=False)
    parts: dict[str, Tensor] = field(init=False, repr=False)
    class_effect: Tensor | None = field(init=False, repr=False)
    presence: Tensor | None = field(init=False, repr=False)
    zero: str | None = field(init=False, repr=False)
    empty: bool = field(init=False, repr=False)
    _adjusted_outside: bool = field(init=False, repr=False)

    def __init__(
        self,
        loss: str | nn.Module | PerSample = "softmax",
        *,
        class_weights: Vector | None = None,
        pos_weight: Vector | None = None,
        sampler_weights: Vector | None = None,
        logit_adjustment: Vector | None = None,
        logit_shift: Vector | None = None,
        label_smoothing: float | None = None,
        mixup: bool = False,
        batch_size: int | None = None,
        class_counts: Vector | None = None,
        class_names: Sequence[str] | None = None,
        options: Mapping[str, object] | None = None,
        targets: Targets | None = None,
        **more: object,
    ) -> None:
        options = {**(options or {}), **more}
        names = None if class_names is None else check_names(class_names)

        def vector(name: str, values: Vector | None, low: float = -math.inf) -> Tensor | None:
            return None if values is None else check_vector(name, values, low=low, class_names=names)

        vectors = {
            "class_weights": vector("class_weights", class_weights, 0),
            "pos_weight": vector("pos_weight", pos_weight, 0),
            "sampler_weights": vector("sampler_weights", sampler_weights, 0),
            "logit_adjustment": vector("logit_adjustment", logit_adjustment),
            "logit_shift": vector("logit_shift", logit_shift),
            "class_counts": vector("class_counts", class_counts, 0),
        }
        if label_smoothing is not None:
            label_smoothing = check_number("label_smoothing", label_smoothing, low=0, high=1)
        if not isinstance(mixup, bool):
            raise TypeError(f"mixup must be True or False, got {mixup!r}")
        if batch_size is not None:
            batch_size = check_integer("batch_size", batch_size, low=1)
        stated: dict[str, object] = {}
        if isinstance(loss, str):
            stated |= {} if vectors["pos_weight"] is None else {"pos_weight": vectors["pos_weight"]}
            stated |= {"label_smoothing": label_smoothing} if label_smoothing else {}
            stated |= {} if vectors["class_counts"] is None else {"class_counts": vectors["class_counts"]}
        reading = read_loss(loss, options, stated)
        adjusted_outside = vectors["logit_adjustment"] is not None and "logit_adjustment" not in reading.held
        for name in ("class_weights", "pos_weight", "logit_adjustment"):
            vectors[name] = _agreed(name, vectors[name], held_vector(reading, name))
        size = getattr(loss, "num_classes", None) if isinstance(loss, Loss) else None
        stated_counts = vectors["class_counts"]
        if size is not None and stated_counts is not None and len(stated_counts) != size:
            raise ValueError(
                f"class_counts must have {size} values, as the loss has classes, got {len(stated_counts)}"
            )
        if vectors["pos_weight"] is not None and "pos_weight" not in reading.held:
            raise ValueError(
                f"pos_weight must be in the loss itself, got it beside {reading.name}, which holds none"
            )
        smoothing = float(reading.held.get("label_smoothing", 0.0))
        if label_smoothing is not None and label_smoothing != smoothing:
            raise ValueError(
                f"label_smoothing must be what the loss holds, {smoothing:g}, got {label_smoothing:g} beside it"
            )
        targets = reading.targets if targets is None else targets
        check_choice("targets", targets, get_args(Targets))
        if targets != "labels" and (reading.link == "softmax" or reading.in_negative is not None):
            raise ValueError(f"targets of {reading.name} must be labels, one a sample, got {targets!r}")
        if reading.in_negative is not None and vectors["class_weights"] is not None:
            raise ValueError(f"class_weights must be None for {reading.name}, which has none")
        shift = vectors["logit_shift"]
        if targets == "binary" and shift is not None and len(shift) == 1:  # of the only logit: class 1 against 0
            vectors["logit_shift"] = torch.cat([torch.zeros_like(shift), shift])
        for key, value in (
            *vectors.items(),
            ("loss", loss),
            ("label_smoothing", smoothing),
            ("mixup", mixup),
            ("batch_size", batch_size),
            ("class_names", names),
            ("options", options),
            ("targets", targets),
            ("reading", reading),
            ("parts", _parts(vectors)),
            ("_adjusted_outside", adjusted_outside),
        ):
            object.__setattr__(self, key, value)
        self._check_lengths()
        # What the posterior needs, made here: a graph cannot look at values.
        effect = list(self.parts.values())
        object.__setattr__(self, "class_effect", torch.stack(effect).prod(0) if effect else None)
        weights = {name: vectors[name] for name in ("class_weights", "pos_weight", "sampler_weights")}
        zero = [name for name, values in weights.items() if values is not None and bool((values == 0).any())]
        object.__setattr__(self, "zero", zero[0] if zero else None)
        counts = vectors["class_counts"]
        object.__setattr__(self, "empty", counts is not None and bool((counts == 0).any()))
        known = batch_size is not None and counts is not None and reading.in_negative is not None
        object.__setattr__(self, "presence", self.presence_of(counts) if known else None)  # type: ignore[arg-type]
        if vectors["logit_shift"] is not None and not self._shift_is_weight:
            raise ValueError(
                f"logit_shift acts like class weights under the softmax loss only, got it with {reading.name}: "
                "take it out of the logits first"
            )

    @property
    def size(self) -> int | None:
        """Return how many classes there are, K, or None where nothing that was given says so; 2 for one output."""
        for values in (self.class_weights, self.sampler_weights, self.class_counts, self.class_names):
            if values is not None:
                return len(values)
        if self.targets != "binary":
            for values in (self.logit_shift, self.logit_adjustment, self.pos_weight):
                if values is not None and len(values) > 1:
                    return len(values)
        return 2 if self.targets == "binary" else None

    @cached_property
    def link(self) -> Link:
        """Return ``"softmax"`` or ``"logistic"``; of a function it is read off its gradient.

        Raises:
            ValueError: a function whose number of classes nobody states, or whose gradient has neither structure.
        """
        if self.reading.link is not None:
            return self.reading.link
        if self.targets != "labels":
            return "logistic"
        if self.size is None:
            raise ValueError("class_counts must say how many classes a loss function is for, got None")
        return structure(self, torch.arange(1, self.size + 1, dtype=torch.float64).sin())

    @property
    def weighted(self) -> bool:
        """Return whether anything weighs classes or positives."""
        return bool(self.parts) or self.pos_weight is not None

    @property
    def in_negative(self) -> InNegative | None:
        """Return the options of an LGL-INR loss; None for every other."""
        return self.reading.in_negative

    @property
    def text(self) -> str:
        """Return a phrase for sentences, such as "softmax loss with class weights"."""
        inner = self.in_negative
        if inner is not None:
            batches = "" if self.batch_size is None else f" in batches of {self.batch_size}"
            strength = inner.beta if isinstance(inner.beta, str) else f"{inner.beta:g}"
            return f"LGL-INR loss of beta {strength}{batches}"
        known = {"logistic": "one-vs-all logistic", "cross-entropy": "softmax", "the function": "given"}
        name = known.get(self.reading.name)
        if self.reading.plain == "logistic" and self.targets == "binary":
            name = "binary logistic"
        used = list(self.parts) + ([] if self.pos_weight is None else ["positive weights"])
        used += [f"label smoothing {self.label_smoothing:g}"] if self.label_smoothing else []
        used += ["a logit adjustment"] if self.logit_adjustment is not None else []
        return f"{name or self.reading.name} loss" + (" with " + listed(used) if used else ", no weights")

    def kind(self, outputs: int) -> Targets:
        """Return the targets of logits with so many columns: one output is binary in any case."""
        return "binary" if outputs == 1 else self.targets

    def presence_of(self, class_counts: Tensor) -> Tensor | None:
        """Return the share of the mini-batches that have each class, (K,), or None for one batch of all samples.

        A sampler draws with replacement, in proportion to counts times its weights.
        """
        if self.batch_size is None:
            return None
        if self.sampler_weights is None:
            return batch_presence(class_counts, self.batch_size)
        drawn = class_counts.double() * self.sampler_weights.to(class_counts.device)
        return -torch.expm1(self.batch_size * torch.log1p(-drawn / drawn.sum()))

    def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each sample as trained, without class weights, sampler and shift.

        Args:
            logits: (N, K) rows, in the dtype to compute in.
            target: (N,) labels, or (N, K) multi-hot or soft targets; none of them ignored.

        Returns:
            (N,), with a graph to the logits.

        Raises:
            ValueError: a loss that is no sum over samples, or a function that gives something else than (N,).
        """
        reading = self.reading
        if reading.per_sample is None:
            raise ValueError(
                f"loss {reading.name} is a function of the whole batch, so it has no loss of a single sample"
            )
        if self._adjusted_outside and self.logit_adjustment is not None:
            logits = logits + self.logit_adjustment.to(logits)
        if not reading.foreign:
            return reading.per_sample(logits, target)
        binary = logits.shape[1] == 1
        if binary:
            values = reading.per_sample(logits[:, 0], target.to(logits).reshape(-1))
        else:
            values = reading.per_sample(logits, target)
        return one_value_each(values, len(logits), reading.name)

    @property
    def _shift_is_weight(self) -> bool:
        plain = self.reading.plain
        return (plain == "softmax" and not self.label_smoothing) or (
            plain == "logistic" and self.targets == "binary"
        )

    def _check_lengths(self) -> None:
        size = self.size
        for name in ("class_weights", "sampler_weights", "class_counts", "class_names"):
            values = getattr(self, name)
            if values is not None and len(values) != size:
                raise ValueError(f"{name} must have {size} values, as many as the others, got {len(values)}")
        outputs = (size, 1) if size == 2 else (size,)
        for name in ("pos_weight", "logit_adjustment", "logit_shift"):
            values = getattr(self, name)
            if values is not None and size is not None and len(values) not in outputs:
                raise ValueError(f"{name} must have {size} values, as many as the others, got {len(values)}")


def link_of(setup: TrainingSetup, size: int) -> Link:
    """The link of a loss of this many classes; of a function it is read off its gradient."""
    known = setup.reading.link
    return structure(setup, torch.linspace(-1, 1, size, dtype=torch.float64)) if known is None else known


def shifts_together(setup: TrainingSetup, size: int) -> bool:
    """Return whether a number that is added to all logits of a row leaves its loss as it is.

    Then the softmax of the logits tells all that the loss sees of them. It is not so where logits are multiplied
    by factors that differ, as in CDT and the VS loss.
    """
    if setup.reading.plain == "softmax":
        return True
    label = torch.linspace(0, size - 1, min(size, _LABELS)).long()
    z = torch.linspace(-1, 1, size, dtype=torch.float64).repeat(len(label), 1).requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(setup.per_sample(z, label).sum(), z)
    return bool((gradient.sum(1).abs() <= 1e-6 * gradient.abs().amax()).all())


def structure(setup: TrainingSetup, logits: Tensor) -> Link:
    """Return which structure the gradient of a loss of class labels has at logits (K,).

    Returns:
        ``"softmax"``: the gradients of the K classes are linearly dependent at any logits; ``"logistic"``: what a
        sample does to another class's output does not depend on its own class.

    Raises:
        ValueError: neither.
    """
    G = gradient_of_classes(setup, logits[None])[0]
    values = torch.linalg.svdvals(G)
    if bool(values[-1] <= 1e-9 * values[0]):
        return "softmax"
    others = G.masked_fill(torch.eye(len(G), dtype=torch.bool), torch.nan)
    if bool(((others - others.nanmean(0)).abs().nan_to_num(0.0) <= 1e-9 * values[0]).all()):
        return "logistic"
    raise ValueError(
        f"loss {setup.reading.name} has no posterior: the gradients of its classes are independent, and its "
        "outputs do not stand for themselves"
    )


def check_alone(setup: TrainingSetup, logits: Tensor, target: Tensor) -> None:
    """Refuse a function whose value for a sample depends on the others."""
    if not setup.reading.foreign or len(logits) < 2:
        return
    with torch.no_grad():
        together = setup.per_sample(logits[:2], target[:2])[:1]
        alone = setup.per_sample(logits[:1], target[:1])
    if not torch.allclose(together, alone, rtol=1e-6, atol=1e-9, equal_nan=True):
        raise ValueError(
            f"loss {setup.reading.name} must be a sum over samples, "
            "but its value for a sample depends on the others"
        )


def gradient_of_classes(setup: TrainingSetup, logits: Tensor) -> Tensor:
    """Return (N, K, K): gradient in the logits of each row, if it were of class k, without class weights."""
    rows, size = logits.shape
    stacked = logits[:, None].expand(rows, size, size).reshape(-1, size)
    target = torch.arange(size, device=logits.device).repeat(rows)
    return eager_gradient(setup.per_sample, stacked, target).reshape(rows, size, size)


def _parts(vectors: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    shift = vectors["logit_shift"]
    parts = {
        "class weights": vectors["class_weights"],
        "sampler": vectors["sampler_weights"],
        "logit shift": None if shift is None else shift.exp(),
    }
    return {k: v for k, v in parts.items() if v is not None and float((v - v[0]).abs().max()) > 1e-9 * v.max()}


def _agreed(name: str, stated: Tensor | None, held: Tensor | None) -> Tensor | None:
    """Return what is stated and what the loss holds, which must be the same where there are both."""
    if stated is None or held is None:
        return held if stated is None else stated
    if stated.shape != held.shape or not torch.allclose(stated, held, rtol=1e-6, atol=1e-12):
        raise ValueError(
            f"{name} must be stated once: the loss holds {held.tolist()}, got {stated.tolist()} beside it"
        )
    return stated
