"""Making losses by name, from options, and from class counts where those are needed."""

from typing import Any

from torch import Tensor

from steelyard._common.checks import Vector
from steelyard._common.text import nearest
from steelyard.losses.base import Loss
from steelyard.losses.presets import PRESETS, Preset
from steelyard.losses.registry import LOSSES, OTHER_NAMES, find_loss
from steelyard.weights.class_weights import class_weights as weights_of
from steelyard.weights.class_weights import parse_scheme
from steelyard.weights.counts import Counts, count_tensor


def list_losses() -> list[str]:
    """Return the names that :func:`create_loss` knows: losses, then presets, each in order.

    Example:
        >>> [name for name in list_losses() if name.startswith("ldam")]
        ['ldam', 'ldam-drw']
    """
    return sorted(LOSSES) + sorted(PRESETS)


def create_loss(
    name: str,
    *,
    class_counts: Counts | None = None,
    class_weights: Vector | str | None = None,
    **options: Any,
) -> Loss:
    """Return a loss module by its name.

    Args:
        name: one of :func:`list_losses`; an underscore is as good as a hyphen.
        class_counts: K training samples of each class, as :func:`~steelyard.class_weights` takes them. Needed
            for a scheme of weights and by losses such as ``balanced-softmax`` and ``seesaw``.
        class_weights: (K,) weight of the samples of each class, or a scheme of :func:`~steelyard.class_weights`
            that makes them from the counts, such as ``"inverse"`` or ``"effective_number@0.9999"``, which makes
            any loss with class weights class-balanced (Cui et al.). Default: none.
        **options: further options of the loss, and the parameters of a preset, such as ``gamma`` and ``tau`` of
            ``vs``.

    Returns:
        The module: ``loss(logits, target)``.

    Raises:
        ValueError: an unknown name or scheme (the nearest is named), a value that the loss refuses, no counts
            where they are needed, or counts of another length than ``num_classes``.
        TypeError: an option that the loss does not have (its options are listed).

    Example:
        >>> import torch
        >>> create_loss("lgl-inr", beta=5.0)(torch.zeros(4, 3), torch.tensor([0, 1, 1, 2]))
        tensor(1.3863)
        >>> create_loss("softmax", class_counts=[900, 90, 10], class_weights="inverse").class_weights
        tensor([0.0297, 0.2970, 2.6733])
        >>> create_loss("vs", class_counts=[900, 90, 10], gamma=0.15, tau=1.25).logit_factors
        tensor([1.0000, 0.7079, 0.5092])
    """
    loss, preset = find_named(name)
    made: dict[str, Any] = {}
    if preset is not None:
        made = dict(preset.options)
        if preset.of_counts is not None:
            if class_counts is None:
                raise ValueError(f"class_counts must be given for {name!r}, which is made from them")
            parameters = {key: options.pop(key, value) for key, value in preset.parameters.items()}
            made |= preset.of_counts(class_counts, **parameters)
    if class_counts is not None:
        _check_length(class_counts, options.get("num_classes"))
        made |= _needed(loss, class_counts, options)
    elif loss.needs and all(options.get(key) is None for key in loss.needs):
        raise ValueError(f"{' or '.join(loss.needs)} must be given for {name!r}, got none")
    if class_weights is not None:
        options["class_weights"] = _weights(class_weights, class_counts)
    options = {key: value for key, value in options.items() if value is not None or key not in made}
    both = sorted(set(made) & set(options))
    if both:
        raise TypeError(f"{name} chooses {both[0]} by itself; {loss.name} takes another one")
    if preset is not None:
        taken = [*preset.parameters, *(key for key in loss.options if key not in {*made, *preset.parameters})]
        unknown = next((key for key in options if key not in {*taken, *loss.refuses}), None)
        if unknown is not None:
            near = nearest(unknown, taken)
            raise TypeError(f"loss {name!r} has no option {unknown!r}{near}; it takes {', '.join(taken)}")
    return loss(**made, **options)


def find_named(name: str) -> tuple[type[Loss], Preset | None]:
    """Return the class of a loss by its name, and the preset if it is one.

    Raises:
        ValueError: an unknown name; the nearest is named.
    """
    plain = name.replace("_", "-") if isinstance(name, str) else None
    preset = None if plain is None else PRESETS.get(plain)
    if preset is not None:
        return find_loss(preset.loss), preset
    if plain is not None and plain not in LOSSES:
        names = list_losses()
        near = nearest(name, names, OTHER_NAMES)
        raise ValueError(f"unknown loss {name!r}{near}; choose from {', '.join(names)}")
    return find_loss(name), None


def _check_length(class_counts: Counts, num_classes: int | None) -> None:
    if num_classes is not None and (size := len(count_tensor(class_counts))) != num_classes:
        raise ValueError(f"num_classes must be {size}, the length of class_counts, got {num_classes}")


def _needed(loss: type[Loss], class_counts: Counts, options: dict[str, Any]) -> dict[str, Any]:
    """Return what a loss that cannot do without it is to have of the counts, unless it is given."""
    if not loss.needs or any(options.get(key) is not None for key in loss.needs):
        return {}
    counts = count_tensor(class_counts)
    return {"class_counts": counts} if "class_counts" in loss.options else {"num_classes": len(counts)}


def _weights(class_weights: Vector | str, class_counts: Counts | None) -> Vector | Tensor:
    if not isinstance(class_weights, str):
        return class_weights
    scheme, options = parse_scheme(class_weights)
    if class_counts is None:
        raise ValueError(f"class_counts must be given for class_weights {class_weights!r}, got None")
    return weights_of(class_counts, scheme, **options)  # type: ignore[arg-type]
