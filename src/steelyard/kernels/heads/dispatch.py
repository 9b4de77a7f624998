"""Linear heads fused with their loss: logits, losses and gradients of a chunk of columns in one pass."""

import inspect
from typing import Any

import torch
from torch import Tensor

from steelyard._common.private_torch import saves_elsewhere
from steelyard.kernels.autograd import map_slices, may_have_tangent, once, refuse_tangents, scaled
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
    tensors = input, weight, bias
    forward = may_have_tangent(*tensors, factor, *(x for x in rest if isinstance(x, Tensor)))
    wanted = [
        x is not None and (forward or (x.requires_grad and torch.is_grad_enabled())) for x in tensors
    ]  # a tensor of torch.func does not tell
    half = [need and x is not None and x.dtype == torch.float16 for need, x in zip(wanted, tensors, strict=True)]
    early = factor is not None and not any(half[1:]) and not saves_elsewhere()
    function = _FusedLossForward if forward else _FusedLoss
    result: Tensor = function.apply(  # type: ignore[no-untyped-call]
        input, weight, bias, target, factor, name, early, *wanted, *rest
    )[0]
    return result


class _FusedLoss(torch.autograd.Function):
    """A weighted sum of losses, whose gradients are made with it; or the losses, with gradients made on demand.

    The gradients take as much memory as the head itself, so a backward pass that is the last through the graph
    scales them in place and gives them away. Those of a float16 head wait for the upstream gradient, before which
    they may be too small for that dtype. So do all where saved tensors go elsewhere, as under gradient
    checkpointing, which would have gradients made once for nothing.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        factor: Tensor | None,
        name: str,
        early: bool,
        *wanted_and_rest: Any,
    ) -> tuple[Tensor, ...]:
        wanted, rest = wanted_and_rest[:3], wanted_and_rest[3:]
        given = input.new_ones((weight if name == "lgl-inr" else input).shape[0]) if factor is None else factor
        losses, *grads = _OPERATORS[name](
            input, weight, bias, target, given, *rest, *(wanted if early else (False,) * 3)
        )
        return (losses if factor is None else (losses * factor.to(losses.dtype)).sum()), *grads

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.name, ctx.early, *ctx.wanted = inputs[5:10]
        ctx.numbers = [None if isinstance(x, Tensor) else x for x in inputs[10:]]
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # their gradients would be as many zeros
        ctx.save_for_backward(*_saved(ctx, inputs, output))

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> Any:
        nothing = [None] * (7 + len(ctx.numbers))
        if grad is None:
            return None, None, None, *nothing
        (input, weight, bias, target, factor), rest, grads = _unpacked(ctx)
        if grads:
            first, *others = [scaled(g, grad, ours=True) for g in grads]
        else:
            upstream = grad if factor is None else factor * grad
            _, first, *others = _OPERATORS[ctx.name](input, weight, bias, target, upstream, *rest, *ctx.wanted)
        grads = [first.to(input.dtype), *others]
        if torch.is_grad_enabled() or may_have_tangent(input, weight, bias):
            # create_graph=True: a second derivative must raise, not be taken as 0
            grads = [once(g, input, weight, bias) for g in grads]
        return *(g if need else None for g, need in zip(grads, ctx.wanted, strict=True)), *nothing


def _saved(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> list[Tensor | None]:
    weights = [x if isinstance(x, Tensor) else None for x in inputs[10:]]
    return [*inputs[:5], *weights, *(output[1:] if ctx.early else ())]


def _unpacked(ctx: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """The first five tensors, the further arguments of the operator, and the gradients if they were made.

    Gradient checkpointing lets saved tensors be asked for only once.
    """
    saved = list(ctx.saved_tensors)
    last = 5 + len(ctx.numbers)
    rest = [number if x is None else x for number, x in zip(ctx.numbers, saved[5:last], strict=True)]
    return saved[:5], rest, saved[last:]


class _FusedLossForward(_FusedLoss):
    """The same with a tangent. A compiler takes no function that has one."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _FusedLoss.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*_saved(ctx, inputs, output))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor | None, None, None, None]:
        refuse_tangents(tangents[3:])
        asked = [tangent is not None for tangent in tangents[:3]]
        if not any(asked):
            return None, None, None, None
        (input, weight, bias, target, factor), rest, grads = _unpacked(ctx)
        if factor is None:
            raise RuntimeError(
                "a head's losses have no forward-mode derivative each under reduction='none': take 'mean' or "
                "'sum', or the loss of its logits"
            )
        if not grads:
            _, *grads = _OPERATORS[ctx.name](input, weight, bias, target, factor, *rest, *asked)
        parts = [
            (g * tangent.to(g.dtype)).sum(dtype=factor.dtype)
            for g, tangent in zip(grads, tangents, strict=False)
            if tangent is not None
        ]
        return once(sum(parts[1:], parts[0]), input, weight, bias), None, None, None


for _operator in _OPERATORS.values():
    map_slices(_operator)

# torch asks for it at every call; made there, it takes an eighth of a small loss's time.
_FusedLoss.forward.__signature__ = inspect.signature(_FusedLoss.forward)  # type: ignore[attr-defined]
