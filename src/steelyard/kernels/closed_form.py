"""What losses share whose gradient is made in closed form together with them, before backward asks for it."""

from typing import Any

import torch
from torch import Tensor


def scaled(made: Tensor, upstream: Tensor) -> Tensor:
    """`made * upstream` in the dtype of `made`; in its memory if this backward pass is the last that needs it."""
    last = not torch.compiler.is_compiling() and not torch._C._autograd._get_current_graph_task_keep_graph()
    if not last or _batched(upstream) or _batched(made):
        return (made * upstream).to(made.dtype)
    with torch.no_grad():
        made.mul_(upstream)
    return made.detach()  # a tensor of its own, which a leaf takes for its gradient as it is


def _batched(x: Tensor) -> bool:
    """Whether x stands for several tensors: under `torch.vmap` or `is_grads_batched=True`."""
    functorch = torch._C._functorch
    return functorch.is_functorch_wrapped_tensor(x) or functorch.is_legacy_batchedtensor(x)


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
