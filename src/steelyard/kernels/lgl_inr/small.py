"""LGL-INR of a small batch on a CPU: the compiled code without an operator of torch's around it.

Such an operator takes longer than a small batch. It is there for compilers and transformations; where none of them
looks on, nothing is lost.
"""

from typing import Any

import torch
from torch import Tensor

from steelyard.kernels.autograd import once
from steelyard.kernels.lgl_inr import native

_MOST = 1 << 16  # numbers; the gradient of more is scaled in place, where memory counts


def takes(logits: Tensor) -> bool:
    """Whether these logits, at least one, can go this way."""
    return logits.numel() <= _MOST and native.takes(logits)


def small_total(
    logits: Tensor, target: Tensor, beta: float, detach_weights: bool, ignore_index: int
) -> Tensor | None:
    """The sum of the column losses of (N, K) logits, differentiable once; None for a label out of range."""
    found = native.find_segments(target, logits.shape[1], ignore_index)
    if found is None:
        return None
    if logits.requires_grad and torch.is_grad_enabled():
        total: Tensor = _Total.apply(logits, found, beta, detach_weights)  # type: ignore[no-untyped-call]
        return total
    return _columns(logits, found, beta, detach_weights, None).sum()


def _columns(
    logits: Tensor, segments: native.Segments, beta: float, detach_weights: bool, out: Tensor | None
) -> Tensor:
    return native.columns(
        logits,
        0,
        *segments,
        num_classes=logits.shape[1],
        pos_weight=None,
        beta=beta,
        detach_weights=detach_weights,
        out=out,
    )


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, segments: native.Segments, beta: float, detach_weights: bool) -> Tensor:
        made = logits.new_empty(logits.shape)
        total = _columns(logits, segments, beta, detach_weights, made).sum()
        # The way to the logits' graph, for the error of a second derivative. Their values are not used: they may
        # change.
        ctx.logits = logits
        ctx.save_for_backward(made)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        (made,) = ctx.saved_tensors
        gradient = made * upstream[0]
        if torch.is_grad_enabled():
            gradient = once(gradient, ctx.logits)
        return gradient, None, None, None
