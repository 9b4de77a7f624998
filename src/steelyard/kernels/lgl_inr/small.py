"""LGL-INR of a small batch on a CPU: the compiled code without an operator of torch's around it.

Such an operator takes longer than a small batch. It is there for compilers and transformations; where none of them
looks on, nothing is lost.
"""

from typing import Any

import torch
from torch import Tensor

from steelyard._common.private_torch import saves_elsewhere
from steelyard.kernels.autograd import once, scaled
from steelyard.kernels.lgl_inr import native

_MOST = 1 << 20  # numbers that are taken
_IN_PLACE = 1 << 16  # numbers, above which a gradient is scaled in its own memory; for fewer that takes longer


def takes(logits: Tensor) -> bool:
    """Whether these logits, at least one, can go this way."""
    return logits.numel() <= _MOST and native.takes(logits)


def small_total(
    logits: Tensor, target: Tensor, beta: float, detach_weights: bool, ignore_index: int
) -> Tensor | None:
    """The sum of the column losses of (N, K) logits, differentiable once; None for a label out of range."""
    options = {"pos_weight": None, "beta": beta, "detach_weights": detach_weights, "ignore_index": ignore_index}
    if logits.requires_grad and torch.is_grad_enabled():
        total: Tensor | None = _Total.apply(logits, target, options)  # type: ignore[no-untyped-call]
        return total
    columns = native.whole(logits, target, out=None, **options)  # type: ignore[arg-type]
    return None if columns is None else columns.sum()


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, options: dict[str, Any]) -> Tensor | None:
        made = logits.new_empty(logits.shape)
        columns = native.whole(logits, target, out=made, **options)
        # The way to the logits' graph, for the error of a second derivative. Their values are not used: they may
        # change.
        ctx.logits = logits
        ctx.ours = made.numel() > _IN_PLACE and not saves_elsewhere()
        ctx.save_for_backward(made)
        return None if columns is None else columns.sum()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        (made,) = ctx.saved_tensors
        gradient = scaled(made, upstream[0], ctx.ours)
        if torch.is_grad_enabled():
            gradient = once(gradient, ctx.logits)
        return gradient, None, None
