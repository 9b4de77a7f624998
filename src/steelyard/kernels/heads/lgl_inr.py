"""LGL-INR of a linear head, chunk by chunk."""

from typing import Any

import torch
from torch import Tensor

from steelyard.kernels.heads.chunks import HeadChunks, fake_losses
from steelyard.kernels.lgl_inr import triton
from steelyard.kernels.lgl_inr.reference import Batch


@torch.library.custom_op("steelyard::lgl_inr_linear", mutates_args=())
def lgl_inr_linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    factor: Tensor,
    pos_weight: Tensor | None,
    beta: float,
    detach_weights: bool,
    ignore_index: int,
    first: int,
    num_classes: int,
    width: int,
    needs_input: bool,
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses of the columns, (K,), and the gradients of their sum weighted by `factor`, (K,)."""
    needs = needs_input, needs_weight, needs_bias
    with torch.autocast(input.device.type, enabled=False):
        head = HeadChunks(input, weight, bias, target == ignore_index, width, needs)
        factor = factor.to(head.dtype)
        losses = head.buffer.new_empty(len(weight))
        batch: Batch | triton.ColumnBatch
        if triton.takes(head.buffer, beta):
            dtype = head.gradient_dtype
            batch = triton.ColumnBatch(target, num_classes, ignore_index, pos_weight, beta, detach_weights)
        else:
            dtype = head.dtype
            batch = Batch(
                target,
                num_classes,
                ignore_index,
                pos_weight=pos_weight,
                beta=beta,
                detach_weights=detach_weights,
                width=head.width,
                dtype=dtype,
            )
        buffer = torch.empty_like(head.buffer, dtype=dtype) if any(needs) else None
        for start in head.starts():
            columns = slice(start, min(start + head.width, len(weight)))
            shape = len(input), columns.stop - start
            dz = None if buffer is None else buffer[: shape[0] * shape[1]].view(shape)
            if isinstance(batch, Batch):
                losses[columns] = batch.columns(head.logits(start), first + start, dz)
                if dz is not None:
                    dz.mul_(factor[columns])
            else:
                z, bias_of_chunk = head.products(start), head.bias_of(start)
                batch.columns(z, first + start, bias_of_chunk, factor[columns], losses[columns], dz)
            if dz is not None:
                head.backward(start, dz)
        return losses, *head.grads()


@lgl_inr_linear.register_fake
def _(input: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Any:
    return fake_losses(weight.shape[0], input, weight, bias, rest[-3:])
