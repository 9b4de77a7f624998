"""The one-vs-all logistic loss of a linear head, chunk by chunk."""

from typing import Any

import torch
from torch import Tensor

from steelyard._common.private_torch import softplus
from steelyard.kernels.heads.chunks import HeadChunks, fake_losses
from steelyard.kernels.lgl_inr.plan import assert_labels


def _set_own(dz: Tensor, column: Tensor, inside: Tensor, values: Tensor) -> None:
    """Write each row's value, (N, 1), at its own column, where the chunk has it."""
    dz.scatter_(1, column, torch.where(inside[:, None], values, dz.gather(1, column)))


@torch.library.custom_op("steelyard::logistic_linear", mutates_args=())
def logistic_linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    factor: Tensor,
    column_weight: Tensor | None,
    pos_weight: Tensor | None,
    ignore_index: int,
    first: int,
    num_classes: int,
    width: int,
    needs_input: bool,
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses of the samples, (N,), and the gradients of their sum weighted by `factor`, (N,)."""
    needs = needs_input, needs_weight, needs_bias
    with torch.autocast(input.device.type, enabled=False):
        assert_labels(target, num_classes, ignore_index)
        ignored = target == ignore_index
        head = HeadChunks(input, weight, bias, ignored, width, needs)
        label = target.masked_fill(ignored, 0) - first
        factor = factor.to(head.dtype).masked_fill(ignored, 0.0)[:, None]
        one = head.buffer.new_ones(len(weight))
        v = one if column_weight is None else column_weight.to(head.dtype)
        u = v if pos_weight is None else v * pos_weight.to(head.dtype)
        losses = head.x.new_zeros(len(input), dtype=torch.float64)  # many chunks may join
        buffer = torch.empty_like(head.buffer)
        for start in head.starts():
            z = head.logits(start)
            columns = slice(start, start + z.shape[1])
            column = (label - start).clamp(0, z.shape[1] - 1)[:, None]
            inside = (label >= start) & (label < start + z.shape[1])
            own, u_own = z.gather(1, column), u[columns][column]
            a = buffer[: z.numel()].view(z.shape)
            softplus(z, out=a)
            _set_own(a, column, inside, torch.zeros_like(own))
            losses += a.mul_(v[columns]).sum(1)
            losses += (softplus(-own) * u_own).masked_fill_(~inside[:, None], 0.0)[:, 0]
            if not any(needs):
                continue
            dz = torch.sigmoid(z, out=a).mul_(v[columns]).mul_(factor)
            _set_own(dz, column, inside, -torch.sigmoid(-own) * u_own * factor)
            head.backward(start, dz)
        return losses.to(head.dtype).masked_fill_(ignored, 0.0), *head.grads()


@logistic_linear.register_fake
def _(input: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Any:
    return fake_losses(input.shape[0], input, weight, bias, rest[-3:])
