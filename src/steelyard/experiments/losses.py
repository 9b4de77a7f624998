"""Losses as the command line names them: `softmax:inverse`, `lgl-inr:beta=5`, `softmax:power@0.5:from=10`."""

import ast
import difflib
import inspect
import re
from dataclasses import dataclass, field
from typing import get_args

import torch
from torch import Tensor, nn

from steelyard.losses.registry import LossEntry, create_loss, find_loss
from steelyard.priors import DeferredReweighting, Scheme, class_weights

_SCHEMES = get_args(Scheme)
_SCHEME_OPTION = {"effective_number": "beta", "power": "exponent"}


@dataclass(frozen=True)
class LossSpec:
    """A loss, its options, and how class weights are made from counts.

    Attributes:
        label: as written, which is its name in every table.
        name: in the registry.
        options: of the loss's module.
        scheme: of the class weights, or None for no weights.
        scheme_options: of the scheme.
        from_epoch: first epoch (from 0) with weights; before it all weigh 1.
    """

    label: str
    name: str
    options: dict[str, object] = field(default_factory=dict)
    scheme: Scheme | None = None
    scheme_options: dict[str, float] = field(default_factory=dict)
    from_epoch: int = 0

    @property
    def slug(self) -> str:
        """The label as a folder name."""
        return re.sub(r"[^a-z0-9.]+", "-", self.label.lower()).strip("-")

    @property
    def entry(self) -> LossEntry:
        return find_loss(self.name)

    def weights(self, class_counts: Tensor) -> Tensor | None:
        """(K,) class weights, or None."""
        if self.scheme is None:
            return None
        return class_weights(class_counts, self.scheme, **self.scheme_options)  # type: ignore[arg-type]

    def build(self, class_counts: Tensor) -> tuple[nn.Module, tuple[str, DeferredReweighting] | None]:
        """The loss for data of these counts, and the schedule of its weights if they start later."""
        options = dict(self.options)
        if options.get("statistics") == "running":
            options.setdefault("num_classes", len(class_counts))
        weights = self.weights(class_counts)
        argument = self.entry.class_weights_argument
        if weights is not None:
            options[argument] = weights
        loss = create_loss(self.name, **options)
        if weights is None or self.from_epoch == 0:
            return loss, None
        return loss, (argument, DeferredReweighting(weights, start_epoch=self.from_epoch))


def parse_losses(text: str) -> list[LossSpec]:
    """Comma-separated losses; see :func:`parse_loss`.

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


def parse_loss(text: str) -> LossSpec:
    """A loss as `name[:scheme[@value]][:option=value ...][:from=EPOCH]`.

    Args:
        text: for instance ``softmax``, ``softmax:inverse``, ``logistic:effective_number@0.999``,
            ``lgl-inr:beta=5:detach_weights=true``, ``softmax:inverse:from=10`` (weights from epoch 10 on).

    Returns:
        The specification; the loss has been made once, so its options are known to be good.

    Raises:
        ValueError: an unknown loss, scheme or option, or a value that the loss refuses.

    Example:
        >>> parse_loss("softmax:power@0.5").scheme_options
        {'exponent': 0.5}
    """
    label = text.strip()
    name, *parts = label.split(":")
    entry = find_loss(name)
    options: dict[str, object] = {}
    scheme: Scheme | None = None
    scheme_options: dict[str, float] = {}
    from_epoch = 0
    accepted = [
        p for p in inspect.signature(entry.module).parameters if p not in ("weight", "pos_weight", "class_weights")
    ]
    for part in parts:
        key, equals, value = part.partition("=")
        if equals and key == "from":
            if not value.isdecimal():
                raise ValueError(f"from must be an epoch, a whole number >= 0, got {value!r} in loss {label!r}")
            from_epoch = int(value)
        elif equals and key in accepted:
            options[key] = _value(value)
        elif equals:
            near = _nearest(key, [*accepted, "from"])
            raise ValueError(
                f"loss {label!r} has an unknown option {key!r}{near}; choose from {', '.join(accepted)}, from"
            )
        else:
            scheme_name, at, number = part.partition("@")
            if scheme_name not in _SCHEMES:
                near = _nearest(scheme_name, _SCHEMES)
                raise ValueError(
                    f"loss {label!r} has an unknown weight scheme {scheme_name!r}{near}; "
                    f"choose from {', '.join(_SCHEMES)}"
                )
            scheme = scheme_name  # type: ignore[assignment]
            if at:
                if scheme_name not in _SCHEME_OPTION:
                    raise ValueError(f"scheme {scheme_name!r} takes no value, got {part!r} in loss {label!r}")
                try:
                    scheme_options[_SCHEME_OPTION[scheme_name]] = float(number)
                except ValueError:
                    raise ValueError(f"{part!r} in loss {label!r} must end in a number") from None
    if from_epoch and scheme is None:
        raise ValueError(f"from needs a weight scheme that it starts, got loss {label!r}")
    spec = LossSpec(label, name, options, scheme, scheme_options, from_epoch)
    try:
        spec.build(torch.tensor([3, 2]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"loss {label!r}: {error}") from error
    return spec


def _value(text: str) -> object:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value: object = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value


def _nearest(word: str, choices: list[str] | tuple[str, ...]) -> str:
    match = difflib.get_close_matches(word, choices, n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""
