"""Linear heads fused with their one-vs-all loss, as functions: the N x K logits never exist."""

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from steelyard._common.checks import (
    REDUCTIONS,
    Beta,
    Reduction,
    check_beta,
    check_choice,
    check_flag,
    check_integer,
    check_values,
    check_weights,
)
from steelyard._common.spread import refuse_spread
from steelyard._common.tracing import exports_to_onnx
from steelyard.kernels.autograd import refuse_transformed
from steelyard.kernels.heads.chunks import chunk_columns
from steelyard.kernels.heads.dispatch import fused_loss
from steelyard.kernels.lgl_inr.group import check_group
from steelyard.kernels.lgl_inr.plan import assert_labels
from steelyard.losses.lgl_inr import plain_columns
from steelyard.losses.logistic import logistic
from steelyard.losses.options import NORMALIZATIONS, Normalization
from steelyard.targets import Targets, check_target

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def lgl_inr_linear(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    beta: Beta = 1.0,
    detach_weights: bool = False,
    output_weights: Tensor | None = None,
    pos_weight: Tensor | None = None,
    logit_adjustment: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    num_sampled: int | None = None,
    generator: torch.Generator | None = None,
    column_group: "ProcessGroup | None" = None,
    num_classes: int | None = None,
    chunk_size: int | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""Return LGL-INR of a linear head: ``lgl_inr_loss(F.linear(input, linear_weight, linear_bias), target)``,
    exactly.

    The loss is a sum over output columns, so the head is taken a chunk of columns at a time: logits, loss and
    gradients of a chunk are made in one pass and the N x K logits never exist. Beyond inputs and gradients it
    takes at most some eight chunks of N x ``chunk_size`` numbers. The first backward pass gives the gradients
    away; a second one through the same graph (``retain_graph=True``) and ``reduction="none"`` compute them again.
    It cannot be differentiated twice.

    Args:
        input: (N, D) or (..., D), floating.
        linear_weight: (K, D), as of :class:`torch.nn.Linear`; under ``column_group`` this process's rows of it.
        target: (N,) or (...), integer labels from 0 to K - 1.
        linear_bias: (K,). Default: none.
        beta, detach_weights, output_weights, pos_weight, logit_adjustment: as in :class:`~steelyard.LGLINRLoss`.
            Weights get no gradient.
        ignore_index, reduction, validate: as in :class:`~steelyard.LGLINRLoss`.
        num_sampled: take, beside the columns of the classes in the batch, only so many columns, drawn at random
            from all K, and scale those of absent classes by K / ``num_sampled``: an unbiased estimate of loss and
            gradient for less work. Not with ``reduction="none"`` or ``column_group``. Default: all columns.
        generator: of the draw, on the device of the input.
        column_group: the K columns are split over the processes of this group, as :func:`torch.tensor_split`
            splits them; each calls with the same input and target. Nothing is communicated but the sum of the
            loss, and in the backward pass that of the input's gradient. With ``reduction="none"`` each gets the
            losses of its own columns.
        num_classes: K; needed with ``column_group``, where no process sees all columns.
        chunk_size: columns at a time. Default: 2^19 logits at a time on the CPU, 2^24 on a GPU, but
            from 4096 to 65,536 columns there.

    Returns:
        Scalar, or (K,) for ``"none"``; float32, or float64 if input or weight is.

    Raises:
        TypeError, ValueError: an argument that is not accepted.
        RuntimeError: on differentiating twice.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020 (the loss); chunks of label columns for binary cross-entropy are in Renee
        (MLSys 2023) and ELMO (ICML 2025).

    Example:
        >>> weight = torch.eye(3)
        >>> x = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0], [0.5, 0.0, 0.0]])
        >>> lgl_inr_linear(x, weight, torch.tensor([0, 1, 1]), reduction="none")
        tensor([0.9605, 1.1964, 0.5251])
    """
    head = _Checked(
        input,
        linear_weight,
        target,
        linear_bias,
        logit_adjustment,
        ignore_index,
        column_group,
        num_classes,
        validate,
    )
    output_weights = head.check("output_weights", output_weights)
    pos_weight = head.check("pos_weight", pos_weight)
    beta = check_beta(beta, head.num_classes)
    detach_weights = check_flag("detach_weights", detach_weights)
    check_choice("reduction", reduction, REDUCTIONS)
    share = 1.0 if reduction == "sum" else 1.0 / head.num_classes

    if num_sampled is not None:
        scale = head.sample(num_sampled, reduction, generator)
        output_weights = scale if output_weights is None else output_weights[head.columns] * scale
        pos_weight = None if pos_weight is None else pos_weight[head.columns]
    factor = head.ones() if output_weights is None else output_weights[head.first : head.first + head.held]
    rest = (
        pos_weight,
        beta,
        detach_weights,
        head.ignore_index,
        head.first,
        head.num_classes,
        head.chunk(chunk_size),
    )
    if reduction == "none":
        return head.loss("lgl-inr", None, *rest) * factor
    return head.summed(head.loss("lgl-inr", factor * share, *rest))


def logistic_linear(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    output_weights: Tensor | None = None,
    pos_weight: Tensor | None = None,
    class_weights: Tensor | None = None,
    logit_adjustment: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    normalization: Normalization = "count",
    num_sampled: int | None = None,
    generator: torch.Generator | None = None,
    column_group: "ProcessGroup | None" = None,
    num_classes: int | None = None,
    chunk_size: int | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""Return logistic loss of a linear head: ``logistic_loss(F.linear(input, linear_weight, linear_bias),
    target)``.

    One-vs-all. Exact, in chunks of columns, as :func:`lgl_inr_linear`; what is said there of memory, backward
    passes, sampling and groups holds here. It takes K >= 2 columns.

    Args:
        input, linear_weight, target, linear_bias: as in :func:`lgl_inr_linear`.
        output_weights, pos_weight, class_weights, logit_adjustment: as in :class:`~steelyard.LogisticLoss`.
            Weights get no gradient.
        ignore_index, reduction, normalization, validate: as in :class:`~steelyard.LogisticLoss`.
        num_sampled, generator, column_group, num_classes, chunk_size: as in :func:`lgl_inr_linear`.

    Returns:
        Scalar, or the shape of ``target`` for ``"none"``; float32, or float64 if input or weight is.

    Raises:
        TypeError, ValueError: an argument that is not accepted.
        RuntimeError: on differentiating twice.

    Source:
        As of :func:`lgl_inr_linear`.

    Example:
        >>> x = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
        >>> logistic_linear(x, torch.eye(2), torch.tensor([0, 1]))
        tensor(1.1032)
    """
    head = _Checked(
        input,
        linear_weight,
        target,
        linear_bias,
        logit_adjustment,
        ignore_index,
        column_group,
        num_classes,
        validate,
    )
    if head.num_classes < 2:
        raise ValueError(
            "linear_weight must have at least two rows, one for each class, got one; use logistic_loss"
        )
    output_weights, pos_weight, class_weights = (
        head.check(name, value)
        for name, value in (
            ("output_weights", output_weights),
            ("pos_weight", pos_weight),
            ("class_weights", class_weights),
        )
    )
    check_choice("reduction", reduction, REDUCTIONS)
    check_choice("normalization", normalization, NORMALIZATIONS)
    ignored = head.target == ignore_index
    factor = (~ignored).to(head.dtype)
    if class_weights is not None:
        factor = factor * class_weights[head.target.masked_fill(ignored, 0)]
    if reduction == "mean" and normalization != "none":
        denominator = factor.sum() if normalization == "weights" else (~ignored).sum().to(factor.dtype)
        factor = factor / torch.where(denominator > 0, denominator, 1)

    if num_sampled is not None:
        scale = head.sample(num_sampled, reduction, generator)
        output_weights = scale if output_weights is None else output_weights[head.columns] * scale
        pos_weight = None if pos_weight is None else pos_weight[head.columns]
    held = slice(head.first, head.first + head.held)
    output_weights, pos_weight = (None if w is None else w[held] for w in (output_weights, pos_weight))
    rest = (output_weights, pos_weight, head.ignore_index, head.first, head.num_classes, head.chunk(chunk_size))
    if reduction == "none":
        return (head.summed(head.loss("logistic", None, *rest)) * factor).reshape(target.shape)
    return head.summed(head.loss("logistic", factor, *rest))


def linear_topk(
    input: Tensor,
    linear_weight: Tensor,
    k: int,
    *,
    linear_bias: Tensor | None = None,
    column_group: "ProcessGroup | None" = None,
    num_classes: int | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the k largest logits of each sample and their classes, without the N x K logits; no gradient.

    Args:
        input: (..., D), floating.
        linear_weight, linear_bias: (K, D) and (K,); under ``column_group`` this process's part. Logits of mixed
            dtypes are made in the widest of them.
        k: how many, at most K.
        column_group, num_classes, chunk_size: as in :func:`lgl_inr_linear`; every process gets the result.

    Returns:
        Logits (..., k), in falling order, and classes (..., k), int64.

    Raises:
        TypeError, ValueError: an argument that is not accepted.

    Example:
        >>> linear_topk(torch.tensor([[3.0, 1.0, 2.0]]), torch.eye(3), 2)[1]
        tensor([[0, 2]])
    """
    head = _Checked(input, linear_weight, None, linear_bias, None, -100, column_group, num_classes, False)
    k = check_integer("k", k)
    if not 1 <= k <= head.num_classes:
        raise ValueError(f"k must be from 1 to {head.num_classes}, the number of classes, got {k}")
    with torch.no_grad():
        values = head.input.new_empty(len(head.input), 0)
        classes = torch.empty(len(head.input), 0, dtype=torch.long, device=input.device)
        width = head.chunk(chunk_size) or chunk_columns(len(head.input), head.held, input.device.type)
        for start in range(0, head.held, width):
            part = slice(start, start + width)
            z = linear(head.input, linear_weight[part], None if linear_bias is None else linear_bias[part])
            best = z.topk(min(k, z.shape[1]), 1)
            values, classes = _largest(k, (values, best.values), (classes, best.indices + (head.first + start)))
        if column_group is not None:
            most = min(k, -(-head.num_classes // dist.get_world_size(column_group)))
            room = most - values.shape[1]  # a process may hold a column less than another
            values = F.pad(values, (0, room), value=-math.inf)
            classes = F.pad(classes, (0, room))
            everyone = [
                [torch.empty_like(x) for _ in range(dist.get_world_size(column_group))] for x in (values, classes)
            ]
            dist.all_gather(everyone[0], values.contiguous(), group=column_group)
            dist.all_gather(everyone[1], classes.contiguous(), group=column_group)
            few, more = divmod(head.num_classes, dist.get_world_size(column_group))
            held = [min(k, few + (rank < more)) for rank in range(len(everyone[0]))]  # without the padding
            found = [[x[:, :size] for x, size in zip(part, held, strict=True)] for part in everyone]
            values, classes = _largest(k, *found)
    shape = (*input.shape[:-1], k)
    return values.reshape(shape), classes.reshape(shape)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return torch's linear layer of input, weight and bias; of mixed dtypes in the widest of them."""
    dtype = torch.promote_types(input.dtype, weight.dtype)
    return F.linear(input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))


def _largest(k: int, values: Any, classes: Any) -> tuple[Tensor, Tensor]:
    every = torch.cat(list(values), 1)
    best = every.topk(min(k, every.shape[1]), 1)
    return best.values, torch.cat(list(classes), 1).gather(1, best.indices)


class _Checked:
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
