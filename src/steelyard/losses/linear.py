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
)
from steelyard.kernels.heads.chunks import chunk_columns
from steelyard.losses.checked_head import CheckedHead, linear
from steelyard.losses.options import NORMALIZATIONS, Normalization

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
    head = CheckedHead(
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
    head = CheckedHead(
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
    head = CheckedHead(input, linear_weight, None, linear_bias, None, -100, column_group, num_classes, False)
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


def _largest(k: int, values: Any, classes: Any) -> tuple[Tensor, Tensor]:
    every = torch.cat(list(values), 1)
    best = every.topk(min(k, every.shape[1]), 1)
    return best.values, torch.cat(list(classes), 1).gather(1, best.indices)
