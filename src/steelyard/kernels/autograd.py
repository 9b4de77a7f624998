"""What losses share whose gradient is made in closed form together with them, before backward asks for it."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from steelyard._common.private_torch import is_batched, is_transformed, keeps_graph


def scaled(made: Tensor, upstream: Tensor, ours: bool) -> Tensor:
    """`made * upstream` in the dtype of `made`; in its memory if this backward pass is the last that needs it.

    `ours` says that nobody but the graph may hold `made`: not so where `saves_elsewhere` when it was saved.
    """
    if not ours or torch.compiler.is_compiling() or keeps_graph():
        return (made * upstream).to(made.dtype)
    if is_batched(upstream) or is_batched(made) or _has_tangent(upstream) or _captured(made):
        return (made * upstream).to(made.dtype)
    with torch.no_grad():
        made.mul_(upstream)
    return made.detach()  # a tensor of its own, which a leaf takes for its gradient as it is


def may_have_tangent(*inputs: Tensor | None) -> bool:
    """Whether a tangent may ask for a derivative in one of these inputs: in forward mode or under `torch.func`."""
    if torch.compiler.is_compiling():
        return False
    return any(x is not None and (is_transformed(x) or _has_tangent(x)) for x in inputs)


def once(x: Tensor, *anchors: Tensor | None) -> Tensor:
    """x, whose derivative in the anchors raises an error: it depends on them in a way that has no formula here."""
    function = _OnceForward if may_have_tangent(x, *anchors) else _Once
    result: Tensor = function.apply(x, *anchors)  # type: ignore[no-untyped-call]
    return result


def refuse_tangents(tangents: tuple[Any, ...]) -> None:
    """Refuse tangents of inputs, such as weights, in which a loss has no derivative."""
    if any(tangent is not None for tangent in tangents):
        raise RuntimeError("the loss has no derivative in its weights: pass them without a tangent")


def refuse_transformed(name: str, *inputs: Tensor | None) -> None:
    """Refuse a group of processes, named by its argument, where inputs are held by a transformation."""
    if may_have_tangent(*inputs):
        raise RuntimeError(
            f"{name} cannot be used under torch.func, in forward mode or by a tracer: what processes tell each "
            "other has no derivative there"
        )


def map_slices(operator: Any) -> None:
    """Give an operator a rule for `torch.vmap`: it is called for each of the batches in turn."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        results = [
            operator(*(a if d is None else a.select(d, i) for a, d in zip(args, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        stacked = tuple(torch.stack(r) for r in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)

    operator.register_vmap(rule)


def _has_tangent(x: Tensor) -> bool:
    return forward_ad.unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]


def _captured(x: Tensor) -> bool:
    """Whether this becomes part of a CUDA graph, which may be replayed as often as one likes."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


_TWICE = "the loss cannot be differentiated twice: its backward is a closed form"


class _Once(torch.autograd.Function):
    """The identity in its first argument, whose derivative in the others raises."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *anchors: Tensor | None) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(_TWICE)


class _OnceForward(_Once):
    """The same with a tangent. A compiler takes no function that has one."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor | None, *anchors: Tensor | None) -> Tensor | None:
        if any(anchor is not None for anchor in anchors):
            raise RuntimeError(_TWICE)
        return tangent
