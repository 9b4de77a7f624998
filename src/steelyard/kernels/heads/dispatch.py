"""Linear heads fused with their loss: logits, losses and gradients of a chunk of columns in one pass."""

from typing import Any

import torch
from torch import Tensor

from steelyard._common.private_torch import saves_elsewhere
from steelyard.kernels.autograd import DifferentiableOnce, scaled
from steelyard.kernels.heads.lgl_inr import lgl_inr_linear
from steelyard.kernels.heads.logistic import logistic_linear

_OPERATORS = {"lgl-inr": lgl_inr_linear, "logistic": logistic_linear}


def fused_loss(
    name: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    factor: Tensor | None,
    *rest: Any,
) -> Tensor:
    """The loss of a linear head, differentiable once in input, weight and bias.

    Args:
        name: of the loss.
        input, weight, bias: (N, D), (K, D) and (K,) or None.
        target: (N,).
        factor: of each of the losses (of columns or samples) in their sum, which is returned; None for the losses.
        rest: the further arguments of the operator, but for the last three.
    """
    wanted = [x is not None and x.requires_grad and torch.is_grad_enabled() for x in (input, weight, bias)]
    result: Tensor = _FusedLoss.apply(  # type: ignore[no-untyped-call]
        input, weight, bias, target, factor, name, wanted[0], wanted[1], wanted[2], *rest
    )
    return result


class _FusedLoss(torch.autograd.Function):
    """A weighted sum of losses, whose gradients are made with it; or the losses, with gradients made on demand.

    The gradients take as much memory as the head itself, so a backward pass that is the last through the graph
    scales them in place and gives them away. Those of a float16 head wait for the upstream gradient, before which
    they may be too small for that dtype. So do all where saved tensors go elsewhere, as under gradient
    checkpointing, which would have gradients made once for nothing.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        factor: Tensor | None,
        name: str,
        *wanted_and_rest: Any,
    ) -> Tensor:
        wanted, rest = wanted_and_rest[:3], wanted_and_rest[3:]
        half = [
            need and x is not None and x.dtype == torch.float16
            for need, x in zip(wanted[1:], (weight, bias), strict=True)
        ]
        early = factor is not None and not any(half) and not saves_elsewhere()
        needs = wanted if early else (False, False, False)
        given = input.new_ones(len(weight if name == "lgl-inr" else input)) if factor is None else factor
        losses, *grads = _OPERATORS[name](input, weight, bias, target, given, *rest, *needs)
        ctx.name, ctx.rest, ctx.wanted = name, rest, wanted
        ctx.save_for_backward(input, weight, bias, target, factor, *(grads if early else []))
        result: Tensor = losses if factor is None else (losses * factor.to(losses.dtype)).sum()
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        input, weight, bias, target, factor, *grads = ctx.saved_tensors
        if grads:
            grads = [scaled(g, grad, ours=True) for g in grads]
        else:
            upstream = grad if factor is None else factor * grad
            _, *grads = _OPERATORS[ctx.name](input, weight, bias, target, upstream, *ctx.rest, *ctx.wanted)
        grads[0] = grads[0].to(input.dtype)
        if torch.is_grad_enabled():  # create_graph=True: a second derivative must raise, not be taken as 0
            grads = [DifferentiableOnce.apply(g, input, weight, bias) for g in grads]  # type: ignore[no-untyped-call]
        return *(g if need else None for g, need in zip(grads, ctx.wanted, strict=True)), *[None] * (
            6 + len(ctx.rest)
        )
