"""Losses as the command line names them: `softmax:inverse`, `lgl-inr:beta=5`, `softmax:power@0.5:from=10`."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from steelyard._common.checks import check_beta, check_number
from steelyard._common.files import read_json
from steelyard._common.labelled import by_class
from steelyard._common.text import NUMBER, nearest
from steelyard.balance.setup import TrainingSetup
from steelyard.deciding import Objective, cost_objective, create_objective
from steelyard.deciding.cost_files import load_costs
from steelyard.losses import Loss, create_loss
from steelyard.losses.create import find_named
from steelyard.losses.options import Link
from steelyard.losses.presets import PRESETS
from steelyard.weights.adjustments import logit_adjustment
from steelyard.weights.class_weights import Scheme, class_weights, parse_scheme
from steelyard.weights.schedules import DeferredReweighting

_WEIGHTS = ("pos_weight", "output_weights")  # beside class weights, which need no name
_NOT_TEXT = ("process_group", "mean_confusion", "validate", "class_dim", "ignore_index")
_LONGEST = 200  # characters of a loss, whose slug names a folder


@dataclass(frozen=True)
class LossSpec:
    """A loss, its options, and how class weights are made from counts.

    Attributes:
        label: as written, which is its name in every table.
        name: in the registry.
        options: of the loss's module.
        scheme: of the class weights, or None for no weights.
        scheme_options: of the scheme.
        vectors: schemes of ``pos_weight`` and ``output_weights``, as text.
        from_epoch: first epoch (from 0) with weights; before it all weigh 1.
        tau: strength of the logit adjustment in training by class frequencies; 0 for none.
        presence: strength of the adjustment by how many batches have each class, for LGL-INR; 0 for none.
    """

    label: str
    name: str
    options: dict[str, object] = field(default_factory=dict)
    scheme: Scheme | None = None
    scheme_options: dict[str, float] = field(default_factory=dict)
    vectors: dict[str, str] = field(default_factory=dict)
    from_epoch: int = 0
    tau: float = 0.0
    presence: float = 0.0

    @property
    def slug(self) -> str:
        """Return the label as a folder name."""
        return re.sub(r"[^a-z0-9.]+", "-", self.label.lower().replace("=-", "=minus")).strip("-")

    @property
    def weights_text(self) -> str:
        """Return the weight scheme as :func:`parse_scheme` takes it; ``none`` without one."""
        if self.scheme is None:
            return "none"
        return self.scheme + "".join(f"@{value:g}" for value in self.scheme_options.values())

    @property
    def constant_weights(self) -> bool:
        """Return whether LGL-INR's weights carry no gradient."""
        return bool(self.options.get("detach_weights", False)) or self.options.get("statistics") == "running"

    @property
    def running(self) -> bool:
        """Return whether the loss depends on the batches that it has seen."""
        counted = (
            bool(self.entry.needs) and "class_counts" not in self.entry.needs and "num_classes" in self.entry.needs
        )
        return counted or "num_classes" in self.options or self.options.get("statistics") == "running"

    @property
    def entry(self) -> type[Loss]:
        return loss_class(self.name)

    @property
    def link(self) -> Link:
        """Return ``"softmax"`` or ``"logistic"``, under these options."""
        preset = PRESETS.get(self.name)
        fixed = {} if preset is None else preset.options
        return cast(Link, (dict(fixed) | self.options).get("link", self.entry.link))

    def weights(self, class_counts: Tensor) -> Tensor | None:
        """Return the (K,) class weights, or None."""
        if self.scheme is None:
            return None
        return class_weights(class_counts, self.scheme, **self.scheme_options)  # type: ignore[arg-type]

    def beta(self, num_classes: int) -> float:
        """Return LGL-INR's beta as a number, of ``"auto"`` too."""
        return check_beta(self.options.get("beta", 1.0), num_classes)  # type: ignore[arg-type]

    def adjustment(self, class_counts: Tensor, batch_size: int) -> Tensor | None:
        """Return what training adds to the logits, (K,), or None."""
        if self.presence:
            return logit_adjustment(class_counts, tau=self.presence, batch_size=batch_size)
        return logit_adjustment(class_counts, tau=self.tau) if self.tau else None

    def first_bias(self, class_counts: Tensor, batch_size: int) -> Tensor | None:
        """Return the (K,) bias with which a head starts at the class counts, or None where trainings start at 0.

        That is the constant solution of the loss without class weights. Under `tau` or `presence` trainings start
        at 0: it is the constant solution of softmax with `tau` 1, and our tables of one-vs-all losses were
        measured so.
        """
        loss = self.loss(class_counts, batch_size)
        if self.tau or self.presence or loss.separable_over == "columns":
            return None
        return loss.first_bias(class_counts)

    def loss(self, class_counts: Tensor, batch_size: int) -> Loss:
        """Return the loss for batches of data of these counts, with its final weights."""
        made: Loss = create_loss(self.name, class_counts=class_counts, **self.made(class_counts, batch_size))
        return made

    def made(self, class_counts: Tensor, batch_size: int) -> dict[str, Any]:
        """Return the options of the loss for such data, its final weights among them."""
        options: dict[str, Any] = dict(self.options)
        if options.get("statistics") == "running":
            options.setdefault("num_classes", len(class_counts))
        weights = self.weights(class_counts)
        if weights is not None:
            options["class_weights"] = weights
        for option, text in self.vectors.items():
            options[option] = parse_weights(text, class_counts, option=option)
        adjustment = self.adjustment(class_counts, batch_size)
        if adjustment is not None:
            options["logit_adjustment"] = adjustment
        return options

    @property
    def late(self) -> bool:
        """Return whether class weights start after the first epoch."""
        return bool(self.from_epoch or (self.name in PRESETS and PRESETS[self.name].start))

    def build(
        self, class_counts: Tensor, batch_size: int, epochs: int
    ) -> tuple[Loss, tuple[str, DeferredReweighting] | None]:
        """Return the loss, and the schedule of its class weights if they start later in so many epochs."""
        loss = self.loss(class_counts, batch_size)
        if not self.late or loss.class_weights is None:
            return loss, None
        start = self.from_epoch or round(PRESETS[self.name].start * epochs)
        return loss, ("class_weights", DeferredReweighting(loss.class_weights, start_epoch=start))


def setup_from_text(text: str, class_counts: Tensor, *, batch_size: int | None = None) -> TrainingSetup:
    """Return what was done in training, from a loss as :func:`parse_loss` takes it.

    Args:
        text: such as ``softmax:inverse``; weights that start late count as in the last epoch.
        class_counts: (K,) training samples of each class.
        batch_size: of the mini-batches. Default: all samples at once.

    Returns:
        The setup, with the class counts.

    Raises:
        ValueError: as :func:`parse_loss` does.

    Example:
        >>> setup_from_text("softmax:inverse", torch.tensor([30, 10])).class_weights
        tensor([0.5000, 1.5000], dtype=torch.float64)
    """
    size = int(class_counts.sum()) if batch_size is None else batch_size
    loss = parse_loss(text).loss(class_counts, size)
    return TrainingSetup(loss, class_counts=class_counts, batch_size=batch_size)


def loss_class(name: str) -> type[Loss]:
    """Return the class of a loss or preset by its name."""
    return find_named(name)[0]


def parse_losses(text: str) -> list[LossSpec]:
    """Return the losses that a comma-separated list names; see :func:`parse_loss`.

    Raises:
        ValueError: none, or the same one twice.
    """
    specs = [parse_loss(part) for part in text.split(",") if part.strip()]
    if not specs:
        raise ValueError(f"losses must name at least one loss, got {text!r}")
    slugs = [spec.slug for spec in specs]
    for spec in specs:
        if slugs.count(spec.slug) > 1:
            raise ValueError(f"losses must differ, got {spec.label!r} twice")
    return specs


def check_comparable(specs: Sequence[LossSpec], epochs: int) -> None:
    """Refuse weights that would start after the last epoch, and losses that only the trained module knows."""
    for spec in specs:
        if spec.running and spec.entry.separable_over == "rows":
            raise ValueError(
                f"losses of a comparison must be known from their text, got {spec.label!r}, which weighs by what "
                "it saw in training: no file of a comparison holds that"
            )
        if spec.from_epoch >= epochs:
            raise ValueError(
                f"from must be an epoch below {epochs}, the epochs of training, got loss {spec.label!r}"
            )


def parse_loss(text: str) -> LossSpec:
    """Return a loss as `name[:scheme[@value]][:option=value ...][:from=EPOCH]`.

    Args:
        text: for instance ``softmax``, ``softmax:inverse``, ``logistic:effective_number@0.999``,
            ``focal:gamma=1``, ``balanced-softmax``, ``logistic:pos_weight=sqrt_inverse``,
            ``lgl-inr:beta=5:detach_weights=true``, ``softmax:inverse:from=10`` (weights from epoch 10 on),
            ``softmax:tau=1`` (logits adjusted by the log of the class frequencies), ``lgl-inr:presence=1`` (by the
            log of the share of batches that have the class).

    Returns:
        The specification; the loss has been made once, so its options are known to be good.

    Raises:
        ValueError: an unknown loss, scheme or option, or a value that the loss refuses.

    Example:
        >>> parse_loss("softmax:power@0.5").scheme_options
        {'exponent': 0.5}
    """
    label = text.strip()
    if len(label) > _LONGEST:
        raise ValueError(
            f"a loss must be told in at most {_LONGEST} characters, got {len(label)}: {label[:40]}..."
        )
    name, *parts = label.split(":")
    name = name.replace("_", "-")
    entry = loss_class(name)
    options: dict[str, object] = {}
    scheme: Scheme | None = None
    scheme_options: dict[str, float] = {}
    from_epoch, strengths = 0, {"tau": 0.0, "presence": 0.0}
    weights = [key for key, one in entry.options.items() if one.kind == "vector" and key in _WEIGHTS]
    preset = PRESETS.get(name)
    parameters = list(preset.parameters) if preset is not None else []
    accepted = [key for key, one in entry.options.items() if one.kind != "vector" and key not in _NOT_TEXT]
    accepted += [key for key in parameters if key not in accepted]
    vectors: dict[str, str] = {}
    stated = [part.partition("=")[0] if "=" in part else "scheme of weights" for part in parts]
    for part in parts:
        key, equals, value = part.partition("=")
        if equals and key == "from":
            if not value.isdecimal():
                raise ValueError(f"from must be an epoch, a whole number >= 0, got {value!r} in loss {label!r}")
            from_epoch = int(value)
        elif equals and key in strengths and key not in parameters:
            try:
                strengths[key] = check_number(key, _number(value))
            except ValueError:
                raise ValueError(f"{key} must be a finite number, got {value!r} in loss {label!r}") from None
        elif equals and key in accepted:
            options[key] = _value(value)
        elif equals and key in weights:
            try:
                parse_scheme(value)
            except ValueError as error:
                raise ValueError(f"loss {label!r}: {key}: {error}") from None
            vectors[key] = value
        elif equals:
            choices = [*accepted, *weights, "from", *strengths]
            near = nearest(key, choices)
            raise ValueError(
                f"loss {label!r} has an unknown option {key!r}{near}; choose from {', '.join(choices)}"
            )
        else:
            try:
                scheme, scheme_options = parse_scheme(part)
            except ValueError as error:
                if part in (*accepted, *weights, "from", *strengths):
                    raise ValueError(
                        f"loss {label!r}: {part} is an option and needs a value: {name}:{part}=VALUE"
                    ) from None
                raise ValueError(f"loss {label!r}: {error}") from None
    twice = next((key for key in stated if stated.count(key) > 1), None)
    if twice is not None:
        raise ValueError(f"loss {label!r} must state its {twice} once, got it {stated.count(twice)} times")
    if from_epoch and scheme is None and not (preset is not None and preset.start):
        raise ValueError(f"from needs a weight scheme that it starts, got loss {label!r}")
    if strengths["presence"] and entry.separable_over != "columns":
        raise ValueError(f"presence is for losses that balance the classes of a batch, got loss {label!r}")
    if all(strengths.values()):
        raise ValueError(f"tau and presence adjust the same logits, got both in loss {label!r}")
    if options.get("reduction") == "none":
        raise ValueError(f"reduction must be mean or sum, one number to train on, got 'none' in loss {label!r}")
    spec = LossSpec(label, name, options, scheme, scheme_options, vectors, from_epoch, **strengths)
    try:
        spec.build(torch.tensor([3, 2]), batch_size=1, epochs=1)
    except (TypeError, ValueError) as error:
        raise ValueError(f"loss {label!r}: {error}") from error
    return spec


def is_scheme(text: str) -> bool:
    """Return whether weights as :func:`parse_weights` takes them are made from the class counts."""
    is_numbers = all(NUMBER.fullmatch(part.strip()) for part in text.split(","))
    return text != "none" and not text.endswith(".json") and not is_numbers


def parse_weights(
    text: str, class_counts: Tensor, class_names: Sequence[str] | None = None, *, option: str = "weights"
) -> Tensor | None:
    """Return class weights as the command line gives them.

    Args:
        text: a scheme (see :func:`parse_scheme`), K comma-separated numbers, or a JSON file that holds a list of K
            numbers or an object from class name to number. ``none`` is no weights.
        class_counts: (K,) that a scheme is made from; classes without samples weigh 1.
        class_names: names that an object may use.
        option: what to call it in an error.

    Returns:
        (K,) float64, or None.

    Raises:
        ValueError: what is none of these, or not K positive numbers.
        FileNotFoundError: a name that ends in .json and is no file.
    """
    size = len(class_counts)
    if text == "none":
        return None
    values: Any
    if text.endswith(".json"):
        values = read_json(Path(text))
        names = class_names if class_names is not None else [str(k) for k in range(size)]
        labelled = by_class(f"{option} {text}", values, names)
        values = values if labelled is None else labelled.values
    elif all(NUMBER.fullmatch(part.strip()) for part in text.split(",")):
        values = [float(part) for part in text.split(",")]
    else:
        try:
            scheme, options = parse_scheme(text)
        except ValueError as error:
            raise ValueError(f"{option}: {error}; or {size} numbers, or a JSON file") from None
        return class_weights(class_counts, scheme, on_empty="one", dtype=torch.float64, **options)  # type: ignore[arg-type]
    if not isinstance(values, list) or len(values) != size:
        came = f"{len(values)} numbers" if isinstance(values, list) else type(values).__name__
        raise ValueError(f"{option} must be {size} numbers, one for each class, got {came}")
    if not all(
        isinstance(v, int | float) and not isinstance(v, bool) and 0 < v <= sys.float_info.max for v in values
    ):
        raise ValueError(f"{option} must be positive numbers, got {text[:100]}")
    return torch.tensor(values, dtype=torch.float64)


def parse_pos_weights(text: str, samples: Tensor, names: Sequence[str] | None = None) -> Tensor | None:
    """Return the weights of positives as the command line gives them, for outputs that stand for themselves.

    Args:
        text: K comma-separated numbers, how many times a positive of each output weighs a negative; a JSON file
            that holds them, or an object from name to number; or a scheme, which gives each output the ratio of
            the weights that it makes of its two classes. ``none`` is none.
        samples: (K, 2) negatives and positives of each output, that a scheme is made from.
        names: of the outputs, that an object may use.

    Returns:
        (K,) float64, or None.

    Raises:
        ValueError: what is none of these, or not K positive numbers.
        FileNotFoundError: a name that ends in .json and is no file.

    Example:
        >>> parse_pos_weights("inverse", torch.tensor([[900, 100]]))
        tensor([9.], dtype=torch.float64)
    """
    parts = text.split(",")
    numbers = all(NUMBER.fullmatch(part.strip()) for part in parts)
    if len(samples) == 1 and numbers and len(parts) > 1:
        raise ValueError(
            "pos-weights must be one number for one output, how many times a positive weighs a negative, "
            f"got {text[:100]!r}; weights of both classes are --weights {text[:100]}"
        )
    if text == "none" or numbers or text.endswith(".json"):
        return parse_weights(text, torch.ones(len(samples)), names, option="pos-weights")
    found = [parse_weights(text, row, option="pos-weights") for row in samples]
    return torch.stack([weights[1] / weights[0] for weights in found if weights is not None])


def parse_objective(text: str, class_names: Sequence[str]) -> Objective:
    """Return what thresholds are to make best, as the command line gives it.

    Args:
        text: ``accuracy``, ``balanced-accuracy``, ``macro-f1``, ``f1`` (of the second of two classes),
            ``min-recall:CLASS=0.9`` (a recall of CLASS of at least 0.9 at the best precision of CLASS), or
            ``cost:FILE.csv`` (see :func:`steelyard.deciding.cost_files.load_costs`).
        class_names: in the order of the classes.

    Raises:
        ValueError: what is none of these, with the nearest word.
        FileNotFoundError: a file of costs that is not there.

    Example:
        >>> parse_objective("min-recall:fraud=0.9", ["honest", "fraud"]).minimum
        (1, 0.9)
    """
    if text.startswith("cost:"):
        return cost_objective(load_costs(Path(text.removeprefix("cost:")), class_names), text)
    return create_objective(text, class_names)


def _value(text: str) -> object:
    """Return a flag, a number, or the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if re.fullmatch("[-+]?[0-9]+", text):
        return int(text)
    return _number(text) if NUMBER.fullmatch(text) else text


def _number(text: str) -> float:
    """Return the number that a text is, and nothing that would be computed."""
    if not NUMBER.fullmatch(text.strip()):
        raise ValueError(f"{text!r} is no number")
    return float(text)
