"""What losses share whose gradient is made in closed form together with them, before backward asks for it."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from steelyard._common.private_torch import is_batched, keeps_graph


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


def _has_tangent(x: Tensor) -> bool:
    return forward_ad.unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]


def _captured(x: Tensor) -> bool:
    """Whether this becomes part of a CUDA graph, which may be replayed as often as one likes."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


class DifferentiableOnce(torch.autograd.Function):
    """The identity in its first argument, whose backward raises; the others tie it to the inputs' graph."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *anchors: Tensor | None) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError("the loss cannot be differentiated twice: its backward is a closed form")
