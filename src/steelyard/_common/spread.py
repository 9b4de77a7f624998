"""DTensors: what lies on several processes and stands for one tensor."""

from typing import Any

import torch


def whole(x: Any) -> Any:
    """Return a DTensor as the plain tensor that it stands for, gathered; anything else as it is.

    A gradient in the result goes back to each process's part, if all compute the same from it.
    """
    if type(x) is torch.Tensor:
        return x
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def refuse_spread(name: str, x: Any) -> None:
    """Refuse a DTensor in one sentence."""
    if hasattr(x, "full_tensor"):
        raise TypeError(f"{name} must be a plain tensor, got a DTensor: give its full_tensor()")
