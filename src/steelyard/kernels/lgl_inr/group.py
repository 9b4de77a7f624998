"""LGL-INR of a batch that is spread over the processes of a group: class statistics are those of all of it.

The loss is a function of sums over the samples of each class. Each process adds up its own, one collective makes
them global, and the derivative in the global sums, which every process knows, goes back to its own samples.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from steelyard._common.private_torch import saves_elsewhere
from steelyard.kernels.autograd import once, refuse_transformed, scaled

# Mean confusion P (K, K) -> the weights omega (K, K)
Weigh = Callable[[Tensor], Tensor]


def check_group(group: Any, name: str = "process_group") -> None:
    """Refuse a process group that this process cannot use."""
    if not dist.is_available() or not dist.is_initialized():
        raise ValueError(f"{name} needs torch.distributed.init_process_group to have been called")
    if not isinstance(group, dist.ProcessGroup) or dist.get_rank(group) < 0:
        raise ValueError(f"{name} must be a group that this process is a member of, got {group!r}")


def group_class_sums(values: Tensor, target: Tensor, ignore_index: int, group: Any) -> tuple[Tensor, Tensor]:
    """Sums of (N, K) values over the samples of each class in all processes, (K, K), and the counts, (K,)."""
    sums, counts = _class_sums(values, target, ignore_index)
    whole = _over(group, sums, counts.to(sums.dtype))
    return whole[0], whole[1]


def lgl_inr_group_columns(
    logits: Tensor,
    target: Tensor,
    weigh: Weigh,
    pos_weight: Tensor | None,
    ignore_index: int,
    group: Any,
) -> Tensor:
    """Column losses (K,) of the whole batch, from this process's rows (N, K), float32 or float64, N >= 0.

    The gradient is that of the whole batch's loss in these rows times the number of processes, so that the mean
    over processes, which data parallelism takes, is the gradient of one process with the whole batch.

    Args:
        logits, target: of this process.
        weigh: from the whole batch's P, NaN rows for absent classes, to omega; differentiable, or constant.
        pos_weight: (K,) or None.
        ignore_index: label of rows that count for nothing.
        group: every process of it must call, with rows or without.
    """
    refuse_transformed("process_group", logits)
    anchor = logits[:1, :1].clone()  # a second derivative finds the way to its error by it
    loss: Tensor = _GroupColumns.apply(  # type: ignore[no-untyped-call]
        logits, anchor, target, weigh, pos_weight, ignore_index, group
    )
    return loss


class _GroupColumns(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        anchor: Tensor,
        target: Tensor,
        weigh: Weigh,
        pos_weight: Tensor | None,
        ignore_index: int,
        group: Any,
    ) -> Tensor:
        with torch.enable_grad():
            z = logits.detach().requires_grad_()
            ignored = (target == ignore_index)[:, None]
            label = target[:, None].masked_fill(ignored, 0)
            own = z.gather(1, label).masked_fill(ignored, torch.inf)
            others = z.masked_fill(ignored, -torch.inf).scatter(1, label, -torch.inf)
            sigmoids, _ = _class_sums(torch.sigmoid(others), target, ignore_index)
            softplus, counts = _class_sums(F.softplus(others, threshold=40.0), target, ignore_index)
            pull = z.new_zeros(z.shape[1]).index_add(0, label[:, 0], F.softplus(-own, threshold=40.0)[:, 0])
            mine = (sigmoids, softplus, pull)
        *whole, counts = _over(group, *(part.detach() for part in mine), counts.to(z.dtype))
        with torch.enable_grad():
            whole = [part.requires_grad_() for part in whole]
            loss = _columns(whole[0], whole[1], whole[2], counts, weigh, pos_weight)
            # Column j of the loss depends on column j of the sums only: one backward serves all columns.
            by_sums = torch.autograd.grad(loss.sum(), whole, allow_unused=True)
            parts = [(m * d).sum() for m, d in zip(mine, by_sums, strict=True) if d is not None]
            (gradient,) = torch.autograd.grad(torch.stack(parts).sum(), z)
        ctx.ours = not saves_elsewhere()
        ctx.save_for_backward(gradient * dist.get_world_size(group), anchor)
        return loss.detach()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        gradient, anchor = ctx.saved_tensors
        gradient = scaled(gradient, upstream[0], ctx.ours)
        if torch.is_grad_enabled():
            gradient = once(gradient, anchor)
        return gradient, None, None, None, None, None, None


def _columns(
    sigmoids: Tensor, softplus: Tensor, pull: Tensor, counts: Tensor, weigh: Weigh, pos_weight: Tensor | None
) -> Tensor:
    """Column losses from the sums of the whole batch; a column's own class is no negative of its."""
    scale = 1 / counts.clamp(min=1)
    P = (sigmoids * scale[:, None]).masked_fill((counts == 0)[:, None], torch.nan)
    positive = pull * scale
    if pos_weight is not None:
        positive = positive * pos_weight
    return positive + (weigh(P) * softplus * scale[:, None]).sum(0)


def _class_sums(values: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    ignored = target == ignore_index
    label = target.masked_fill(ignored, 0)
    size = values.shape[1]
    kept = values.masked_fill(ignored[:, None], 0.0)
    sums = values.new_zeros(size, size).index_add(0, label, kept)
    counts = torch.zeros(size, dtype=torch.long, device=values.device).index_add(0, label, (~ignored).long())
    return sums, counts


def _over(group: Any, *parts: Tensor) -> tuple[Tensor, ...]:
    """The parts summed over all processes, in one collective."""
    flat = torch.cat([part.reshape(-1) for part in parts])
    dist.all_reduce(flat, group=group)
    pieces = torch.split(flat, [part.numel() for part in parts])
    return tuple(piece.reshape(part.shape).clone() for piece, part in zip(pieces, parts, strict=True))
