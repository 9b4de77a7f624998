"""The table of losses: `create_loss`, `list_losses`. A new loss is one function, one module, one line here."""

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from steelyard.losses import functional
from steelyard.losses.modules import LGLINRLoss, LogisticLoss, SoftmaxLoss

Link = Literal["softmax", "logistic"]


@dataclass(frozen=True)
class LossEntry:
    """One registered loss."""

    function: Callable[..., Tensor]
    module: Callable[..., nn.Module]
    link: Link
    class_weights_argument: str
    """The option that takes one weight per class."""
    separable_over: Literal["rows", "columns"]
    """Whether the loss is a sum over samples, or a sum over output columns of a function of the whole batch."""


LOSSES: dict[str, LossEntry] = {
    "softmax": LossEntry(functional.softmax_loss, SoftmaxLoss, "softmax", "weight", "rows"),
    "logistic": LossEntry(functional.logistic_loss, LogisticLoss, "logistic", "class_weights", "rows"),
    "lgl-inr": LossEntry(functional.lgl_inr_loss, LGLINRLoss, "logistic", "weight", "columns"),
}


def list_losses() -> list[str]:
    """Names that :func:`create_loss` knows.

    Example:
        >>> list_losses()
        ['lgl-inr', 'logistic', 'softmax']
    """
    return sorted(LOSSES)


def create_loss(name: str, **options: object) -> nn.Module:
    """Make a loss module by its name; an underscore is as good as a hyphen.

    Args:
        name: one of :func:`list_losses`.
        **options: keyword arguments of the loss's module.

    Returns:
        The module: ``loss(logits, target)``.

    Raises:
        ValueError: an unknown name (the nearest is named), or a value that the module refuses.
        TypeError: an option that the loss does not have (its options are listed).

    Example:
        >>> import torch
        >>> create_loss("lgl-inr", beta=5.0)(torch.zeros(4, 3), torch.tensor([0, 1, 1, 2]))
        tensor(1.3863)
    """
    entry = find_loss(name)
    accepted = list(inspect.signature(entry.module).parameters)
    for option in options:
        if option not in accepted:
            raise TypeError(
                f"loss {name!r} has no option {option!r}{_nearest(option, accepted)}; "
                f"it takes {', '.join(accepted)}"
            )
    return entry.module(**options)


def find_loss(name: str) -> LossEntry:
    """The table's line for `name`."""
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {type(name).__name__}")
    entry = LOSSES.get(name.replace("_", "-"))
    if entry is None:
        raise ValueError(
            f"unknown loss {name!r}{_nearest(name, list(LOSSES))}; choose from {', '.join(list_losses())}"
        )
    return entry


def _nearest(word: str, choices: list[str]) -> str:
    match = difflib.get_close_matches(word, choices, n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""
