"""The vectors of a loss: one value for each class or output, held by its module and checked at every call.

A module holds them as plain tensors, not as buffers: what loads or converts a model may leave anything in a buffer
that is in no checkpoint (``to_empty``, Hugging Face's ``from_pretrained``), or round it (``half``).
"""

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from steelyard._common.checks import LARGEST, Vector, check_values, check_vector
from steelyard._common.tracing import beside_fake
from steelyard.losses.options import Link, Option


class Holder(Protocol):
    """What a loss module says of itself and its vectors."""

    name: ClassVar[str]
    options: ClassVar[dict[str, Option]]
    torch_weight: ClassVar[str]

    link: Link


def held(name: str, value: Vector | None, one: Option) -> Tensor | None:
    """Return a module's own copy of a vector, float32 or float64, after refusing what can be none."""
    if value is None:
        return None
    device = value.device if isinstance(value, Tensor) else "cpu"
    if isinstance(value, Tensor) and value.is_meta:
        device = "cpu"  # refused: it has no values
    return check_vector(name, value, low=one.low, high=min(one.high, LARGEST), dtype=None, device=device)


def on_device(loss: Holder, device: torch.device, beside: Tensor | None = None) -> dict[str, Tensor]:
    """Return the vectors that a module holds on the device of its logits, to which they move the first time."""
    found = {}
    for key, one in loss.options.items():
        value = vars(loss).get(key) if one.kind == "vector" else None
        if not isinstance(value, Tensor):
            continue
        if value.is_meta and device.type != "meta":
            raise ValueError(
                f"{key} of {loss.name} was loaded onto the meta device, without its values: assign it again"
            )
        if beside is not None:
            value = beside_fake(value, beside)
        if value.device != device:
            value = value.to(device)
            if device.type != "meta" and not torch.compiler.is_compiling() and not hasattr(value, "fake_mode"):
                vars(loss)[key] = value
        found[key] = value
    return found


def checked(
    declared: Mapping[str, Option], given: Mapping[str, Any], logits: Tensor, outputs: int, link: Link
) -> dict[str, Tensor | None]:
    """Return the options of one value per class or output, in the dtype that the loss computes in."""
    found: dict[str, Tensor | None] = {"class_weights": None, "logit_adjustment": None}
    for key, one in declared.items():
        if one.kind != "vector":
            continue
        value = given[key]
        one.check_link(key, value, link)
        if value is not None:
            two = one.per == "class" and outputs == 1 and link == "logistic"
            size = 2 if two else outputs
            value = check_values(
                key,
                value,
                length=size,
                logits=logits,
                validate=given["validate"],
                low=one.low,
                high=one.high,
            )
        found[key] = value
    return found


def check_columns(logits: Tensor, class_dim: int, num_classes: int) -> None:
    """Refuse logits of another number of classes than a module was made for; what else is wrong is said later."""
    if not isinstance(logits, Tensor) or not -logits.dim() <= class_dim < max(logits.dim(), 2):
        return
    columns = logits.shape[class_dim] if logits.dim() > 1 else 1
    if columns != num_classes:
        raise ValueError(f"logits must have num_classes = {num_classes} columns, got {columns}")


def take_from_torch(loss: Holder, state: Any, prefix: str) -> None:
    """Take the weights that a checkpoint holds of torch's loss in this place, where this one has none."""
    for theirs, ours in (("weight", loss.torch_weight), ("pos_weight", "pos_weight")):
        found = state.pop(prefix + theirs, None)
        if found is None:
            continue
        if ours not in loss.options:
            raise ValueError(f"a checkpoint's {prefix}{theirs} has no place in {loss.name}")
        loss.options[ours].check_link(ours, found, loss.link)
        mine = getattr(loss, ours)
        if mine is None:
            setattr(loss, ours, found)
        elif mine.shape != found.shape or not torch.equal(mine, found.to(mine)):
            warnings.warn(
                f"the checkpoint's {prefix}{theirs} differs from the {ours} of this loss, which stay", stacklevel=3
            )
