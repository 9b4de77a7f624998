"""A checked head: flat input and target, the columns that a process holds, and the loss of all of them."""

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from steelyard._common.checks import (
    Reduction,
    check_integer,
    check_values,
    check_weights,
)
from steelyard._common.spread import refuse_spread
from steelyard._common.tracing import exports_to_onnx
from steelyard.kernels.autograd import refuse_transformed
from steelyard.kernels.heads.dispatch import fused_loss
from steelyard.kernels.lgl_inr.group import check_group
from steelyard.kernels.lgl_inr.plan import assert_labels
from steelyard.losses.lgl_inr import plain_columns
from steelyard.losses.logistic import logistic
from steelyard.targets import Targets, check_target

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return torch's linear layer of input, weight and bias; of mixed dtypes in the widest of them."""
    dtype = torch.promote_types(input.dtype, weight.dtype)
    return F.linear(input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))


class CheckedHead:
    """A checked head: flat input and target, and which columns of how many this process holds."""

    def __init__(
        self,
        input: Tensor,
        linear_weight: Tensor,
        target: Tensor | None,
        linear_bias: Tensor | None,
        logit_adjustment: Tensor | None,
        ignore_index: int,
        column_group: "ProcessGroup | None",
        num_classes: int | None,
        validate: bool | None,
    ) -> None:
        given = [("input", input, "(..., D)"), ("linear_weight", linear_weight, "(K, D)")]
        if linear_bias is not None:
            given.append(("linear_bias", linear_bias, "(K,)"))
        for name, value, shape in given:
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} must be a tensor of shape {shape}, got {type(value).__name__}")
            refuse_spread(name, value)
            if not value.is_floating_point():
                raise TypeError(f"{name} must be floating point, got {str(value.dtype).removeprefix('torch.')}")
            if value.device != input.device:
                raise ValueError(f"{name} must be on the device of input, {input.device}, got {value.device}")
        if linear_weight.dim() != 2 or linear_weight.numel() == 0:
            raise ValueError(
                f"linear_weight must have shape (K, D) with K, D >= 1, got {tuple(linear_weight.shape)}"
            )
        self.held, features = linear_weight.shape
        if input.dim() < 2 or input.shape[-1] != features:
            raise ValueError(
                f"input must have shape (..., {features}) for this linear_weight, got {tuple(input.shape)}"
            )
        if linear_bias is not None and linear_bias.shape != (self.held,):
            raise ValueError(f"linear_bias must have shape ({self.held},), got {tuple(linear_bias.shape)}")
        self.first, self.num_classes = 0, self.held
        if column_group is not None:
            check_group(column_group, "column_group")
            self.first, self.num_classes = _held_columns(self.held, column_group, num_classes)
        elif num_classes not in (None, self.held):
            raise ValueError(f"num_classes must be {self.held}, the rows of linear_weight, got {num_classes}")
        self.group, self.validate = column_group, validate
        self.dtype = torch.float64 if torch.float64 in (input.dtype, linear_weight.dtype) else torch.float32
        # what the checks take for the logits: their shape and device, one number of memory
        logits = torch.empty((), dtype=self.dtype, device=input.device).expand(*input.shape[:-1], self.num_classes)
        self._logits = logits.movedim(-1, 1)
        if target is None:  # for a prediction
            target = torch.zeros(input.shape[:-1], dtype=torch.long, device=input.device)
        check_target(
            self._logits, target, num_labels=self.num_classes, ignore_index=ignore_index, validate=validate
        )
        self.input, self.target = input.reshape(-1, features), target.reshape(-1).long()
        self.ignore_index, self.columns = ignore_index, torch.empty(0)
        if logit_adjustment is not None:
            added = check_values(
                "logit_adjustment",
                logit_adjustment,
                length=self.num_classes,
                logits=self._logits,
                validate=validate,
            )[self.first : self.first + self.held]
            linear_bias = added if linear_bias is None else linear_bias + added
        self.weight, self.bias = linear_weight, linear_bias

    def check(self, name: str, value: Tensor | None) -> Tensor | None:
        return check_weights(
            name, value, length=self.num_classes, logits=self._logits, validate=self.validate, constant=True
        )

    def ones(self) -> Tensor:
        return torch.ones(self.held, dtype=self.dtype, device=self.input.device)

    def chunk(self, chunk_size: int | None) -> int:
        """Return the columns of a chunk; 0 where the operator chooses, so that a graph fits any number of rows."""
        if chunk_size is None:
            return 0
        return min(check_integer("chunk_size", chunk_size, low=1), self.held)

    def loss(self, name: str, factor: Tensor | None, *rest: Any) -> Tensor:
        if self.group is not None:
            refuse_transformed("column_group", self.input, self.weight, self.bias)
        input = self.input if self.group is None else _Shared.apply(self.input, self.group)  # type: ignore[no-untyped-call]
        if input.shape[0] == 0:  # no sample: 0, with a graph
            nothing = input.sum() + self.weight[:0].sum() + (0 if self.bias is None else self.bias[:0].sum())
            losses = input.new_zeros(self.held if name == "lgl-inr" else 0, dtype=self.dtype) + nothing
            return losses if factor is None else losses.sum()
        if exports_to_onnx() and self.group is None:
            return self._unfused(name, factor, *rest)
        return fused_loss(name, input, self.weight, self.bias, self.target, factor, *rest)

    def _unfused(self, name: str, factor: Tensor | None, *rest: Any) -> Tensor:
        """Return the loss in standard operations, by way of the logits."""
        ignored = self.target == self.ignore_index
        labels = self.target.masked_fill(ignored, 0)
        x = self.input.masked_fill(ignored[:, None], 0.0).to(self.dtype)
        z = linear(x, self.weight, self.bias)
        if name == "lgl-inr":
            pos_weight, beta, *_ = rest
            losses = plain_columns(z, labels, ignored, beta, pos_weight)
        else:
            output_weights, pos_weight, *_ = rest
            targets = Targets(labels, None, ignored)
            losses = logistic(z, targets, pos_weight=pos_weight, output_weights=output_weights)
            losses = losses.masked_fill(ignored, 0.0)
        return losses if factor is None else (losses * factor).sum()

    def summed(self, loss: Tensor) -> Tensor:
        """Return the sum over the processes that hold columns."""
        if self.group is None:
            return loss
        result: Tensor = _Summed.apply(loss, self.group)  # type: ignore[no-untyped-call]
        return result

    def sample(self, num_sampled: int, reduction: Reduction, generator: torch.Generator | None) -> Tensor:
        """Keep a slot for the class of each row, and `num_sampled` columns drawn from all; return their scales.

        Labels become slots, so that this is a head like any other, whose columns weigh 1, K / num_sampled, or 0
        where a slot is empty or its column is there already.
        """
        num_sampled = check_num_sampled(num_sampled, self.num_classes)
        if reduction == "none":
            raise ValueError("num_sampled estimates a sum over columns: reduction must be mean or sum, got 'none'")
        if self.group is not None:
            raise ValueError("num_sampled cannot be used with column_group")
        assert_labels(self.target, self.num_classes, self.ignore_index)
        ignored = self.target == self.ignore_index
        ordered, order = torch.sort(self.target.masked_fill(ignored, self.num_classes), stable=True)
        new = F.pad((ordered[1:] != ordered[:-1]).long(), (1, 0)).cumsum(0)
        slots = torch.full_like(ordered, self.num_classes).scatter_(0, new, ordered)[: self.num_classes + 1]
        drawn = torch.randperm(self.num_classes, generator=generator, device=self.target.device)[:num_sampled]
        present = torch.zeros(self.num_classes + 1, dtype=torch.bool, device=drawn.device)
        present = present.scatter(0, slots, torch.ones_like(slots, dtype=torch.bool))
        scale = torch.cat(
            [(slots < self.num_classes).to(self.dtype), (~present[drawn]) * (self.num_classes / num_sampled)]
        ).to(self.dtype)
        self.columns = torch.cat([slots.clamp(max=self.num_classes - 1), drawn])
        self.weight = self.weight[self.columns]
        self.bias = None if self.bias is None else self.bias[self.columns]
        self.target = torch.empty_like(order).scatter_(0, order, new).masked_fill(ignored, -100)
        self.ignore_index = -100  # the caller's may be a slot now
        self.held = self.num_classes = len(self.columns)
        return scale


def check_num_sampled(num_sampled: int, num_classes: int) -> int:
    """Return a number of sampled columns after refusing what is none."""
    num_sampled = check_integer("num_sampled", num_sampled)
    if not 1 <= num_sampled <= num_classes:
        raise ValueError(f"num_sampled must be from 1 to {num_classes}, the columns, got {num_sampled}")
    return num_sampled


def _held_columns(held: int, group: "ProcessGroup", num_classes: int | None) -> tuple[int, int]:
    """Return the first of this process's columns, and the number of all."""
    if num_classes is None:
        raise TypeError("num_classes must be an int with column_group, got None")
    num_classes = check_integer("num_classes", num_classes, low=1)
    first, last = held_range(num_classes, group)
    if held != last - first:
        raise ValueError(
            f"linear_weight must have {last - first} of the {num_classes} rows in process {dist.get_rank(group)} "
            f"of {dist.get_world_size(group)}, got {held}"
        )
    return first, num_classes


def held_range(num_classes: int, group: "ProcessGroup") -> tuple[int, int]:
    """Return this process's first column and the one after its last, as :func:`torch.tensor_split` splits them."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    if num_classes < size:
        raise ValueError(f"num_classes must be at least the {size} processes that hold columns, got {num_classes}")
    few, more = divmod(num_classes, size)
    first = rank * few + min(rank, more)
    return first, first + few + (rank < more)


class _Shared(torch.autograd.Function):
    """An input that every process has; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad, group=ctx.group)
        return grad, None


class _Summed(torch.autograd.Function):
    """The sum of what the processes have, whose gradient each of them gets as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        x = x.clone()
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad, None
