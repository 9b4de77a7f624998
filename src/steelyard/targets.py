"""What a target can be, read once at the door: class labels, multi-hot rows, soft rows; and layouts of logits.

No loss lives here. A loss is handed rows of logits, (M, K), and one `Targets`, whatever its caller gave.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from steelyard._common.checks import (
    FLOATS,
    INTEGERS,
    check_integer,
    check_range,
    compute_dtype,
    dtype_name,
    values_readable,
)
from steelyard._common.private_torch import is_watched
from steelyard._common.spread import refuse_spread

TargetLike = Tensor | np.ndarray[Any, Any] | Sequence[Any]
Kind = Literal["labels", "multi-hot", "soft"]
_PLAIN = (Tensor, torch.nn.Parameter)
WORDS: dict[Kind, str] = {
    "labels": "class labels, one a sample, of an integer dtype",
    "multi-hot": "numbers from 0 to 1, one for each output",
    "soft": "rows of class probabilities that sum to 1",
}


class Layout(NamedTuple):
    """Where the samples and classes of logits lie."""

    samples: tuple[int, ...]  # their shape, without the classes
    class_dim: int  # from 0; -1: one output, and no dimension of classes

    def restore(self, values: Tensor) -> Tensor:
        """Return the (M,) values of samples in the samples' shape."""
        return values if len(self.samples) == 1 else values.reshape(self.samples)


class Targets(NamedTuple):
    """The targets of M rows; just one of `labels` and `dense` is there.

    Attributes:
        labels: (M,) int64 from 0 to K - 1, 0 where ignored.
        dense: (M, K) multi-hot or soft targets, 0 where ignored, in the dtype that losses compute in.
        ignored: (M,) bool, or (M, K) beside `dense`; None where nothing is ignored.
        smoothing: label smoothing epsilon of `labels`; that of `dense` is in it already.
        others: (M, K) what the negative side of each output weighs, beside multi-hot `dense`; None for 1 - dense.
    """

    labels: Tensor | None
    dense: Tensor | None
    ignored: Tensor | None
    smoothing: float = 0.0
    others: Tensor | None = None

    def sides(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the positive and the negative side of each output weigh, (M, K) each, for (M, K) rows."""
        if self.labels is None:
            assert self.dense is not None
            return self.dense, 1 - self.dense if self.others is None else self.others
        up = torch.full_like(rows, self.smoothing / rows.shape[1])
        up.scatter_(1, self.labels[:, None], 1 - self.smoothing + self.smoothing / rows.shape[1])
        return up, 1 - up

    def dot(self, values: Tensor) -> Tensor:
        r"""Return the (M,) sums over the classes of target times values, :math:`\sum_j T_{ij} v_{ij}`, of (M, K)
        values.

        A class of target 0 adds 0, whatever its value.
        """
        if self.labels is None:
            assert self.dense is not None
            return (self.dense * values.masked_fill(self.dense == 0, 0.0)).sum(1)
        own = values.gather(1, self.labels[:, None])[:, 0]
        return own if self.smoothing == 0 else (1 - self.smoothing) * own + self.smoothing * values.mean(1)

    def as_one_output(self, dtype: torch.dtype) -> "Targets":
        """Return labels 0 and 1 as the multi-hot target (M, 1) of one output."""
        assert self.labels is not None
        ignored = None if self.ignored is None else self.ignored[:, None]
        return Targets(None, self.labels[:, None].to(dtype), ignored)

    def is_ignored(self) -> Tensor | None:
        """Return whether all of a row is ignored, (M,); None where nothing is."""
        return None if self.ignored is None else self.ignored if self.ignored.dim() == 1 else self.ignored.all(1)


def layout_of(logits: Tensor, class_dim: int = 1, *, binary: bool = False) -> Layout:
    """Return where the samples and classes of these logits lie, after refusing what are no logits.

    Args:
        logits: (N, K) or (N, K, d1, ...), floating; (N,) where `binary` allows one output without a dimension.
        class_dim: dimension of the classes; 1, or -1 for libraries that keep them last.
        binary: whether one output is a binary problem.
    """
    if not isinstance(logits, Tensor):
        raise TypeError(f"logits must be a tensor, got {type(logits).__name__}")
    refuse_spread("logits", logits)
    if logits.dtype not in FLOATS:
        raise TypeError(f"logits must be floating point, got {dtype_name(logits.dtype)}")
    shape = tuple(logits.shape)
    if binary and len(shape) == 1:
        return Layout(shape, -1)
    class_dim = check_integer("class_dim", class_dim)
    if len(shape) < 2 or (-len(shape) <= class_dim < len(shape) and shape[class_dim] == 0):
        form = "(N, K) or (N, K, d1, ...)" if class_dim == 1 else f"(N, ..., K), classes in dimension {class_dim},"
        more = "(N,) for one output, " if binary else ""
        raise ValueError(f"logits must have shape {more}{form} with K >= 1, got {shape}")
    if not -len(shape) <= class_dim < len(shape) or class_dim % len(shape) == 0:
        raise ValueError(
            f"class_dim must be a dimension of logits after the first, got {class_dim} for shape {shape}"
        )
    dim = class_dim % len(shape)
    return Layout(shape[:dim] + shape[dim + 1 :], dim)


def rows_of(logits: Tensor, layout: Layout) -> Tensor:
    """Return logits, or anything of their shape, as rows of classes, (M, K)."""
    if layout.class_dim == -1:
        return logits[:, None]
    if logits.dim() == 2:
        return logits
    return logits.movedim(layout.class_dim, -1).reshape(-1, logits.shape[layout.class_dim])


def are_plain(logits: Tensor, target: Tensor) -> bool:
    """Return whether these are (N, K) logits and (N,) labels, N and K at least 1, on the CPU, and nothing looks on
    at what is done with them: what most calls have."""
    return (
        type(logits) in _PLAIN
        and type(target) in _PLAIN
        and not torch.compiler.is_compiling()  # first: what a compiler traces is asked nothing of its shape
        and logits.dim() == 2
        and target.dim() == 1
        and logits.shape[0] == target.shape[0] > 0
        and logits.shape[1] > 0
        and logits.dtype in FLOATS
        and target.dtype in INTEGERS
        and logits.is_cpu
        and target.is_cpu
        and not is_watched()
    )


def as_tensor(target: TargetLike, device: torch.device) -> Tensor:
    """Return the target as a tensor; arrays, sequences and pandas Series, by position, go to the logits' device,
    tensors stay where they are."""
    if isinstance(target, Tensor):
        refuse_spread("target", target)
        return target
    try:
        found = torch.as_tensor(np.asarray(target) if hasattr(target, "to_numpy") else target)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"target must be a tensor, an array or a sequence of numbers, got {type(target).__name__}"
        ) from None
    return found.to(device)


def check_logits(logits: Tensor) -> None:
    """Refuse logits that are not a floating tensor of shape (N, K) or (N, K, d1, ...)."""
    layout_of(logits)


def check_target(
    logits: Tensor, target: TargetLike, *, num_labels: int, ignore_index: int, validate: bool | None
) -> None:
    """Refuse targets that are not labels in 0..num_labels-1 (or `ignore_index`) of the shape of these logits."""
    read_labels(
        target,
        logits,
        layout_of(logits).samples,
        num_labels=num_labels,
        ignore_index=ignore_index,
        validate=validate,
    )


def read_labels(
    target: TargetLike,
    logits: Tensor,
    samples: tuple[int, ...],
    *,
    num_labels: int,
    ignore_index: int,
    validate: bool | None,
    smoothing: float = 0.0,
    takes: str = "class labels",
) -> Targets:
    """Return class labels of any integer dtype (bool too for two), in the samples' shape, as `Targets`.

    Raises:
        TypeError, ValueError: another dtype, shape or device; a label out of range, with its position.
    """
    target = as_tensor(target, logits.device)
    if target.dtype not in INTEGERS and not (target.dtype == torch.bool and num_labels == 2):
        accepted = "an integer dtype" + (" or bool" if num_labels == 2 else "")
        raise TypeError(f"target must hold {takes} as {accepted}, got {dtype_name(target.dtype)}")
    _check_place(target, logits, samples)
    ignore_index = check_integer("ignore_index", ignore_index)
    labels = target.long().reshape(-1)
    readable = values_readable(target, validate)
    if readable and len(labels) and not 0 <= ignore_index < num_labels:
        low, high = labels.aminmax()
        if low >= 0 and high < num_labels:  # one look at what most batches are
            return Targets(labels, None, None, smoothing)
    ignored: Tensor | None = labels == ignore_index
    if readable:
        bad = ~ignored & ((labels < 0) | (labels >= num_labels))  # type: ignore[operator]
        if bool(bad.any()):
            position = int(bad.nonzero()[0])
            raise ValueError(
                f"target must hold labels from 0 to {num_labels - 1} or ignore_index {ignore_index}, "
                f"got {int(labels[position])} at position {_position(position, target)}"
            )
        if not bool(ignored.any()):  # type: ignore[union-attr]
            ignored = None
    return Targets(labels if ignored is None else labels.masked_fill(ignored, 0), None, ignored, smoothing)


def read_dense(
    target: TargetLike,
    logits: Tensor,
    layout: Layout,
    *,
    soft: bool,
    ignore_index: int,
    validate: bool | None,
) -> Targets:
    """Return targets of the logits' own shape, from 0 to 1, as `Targets`.

    Args:
        target: of any real dtype, in the shape of the logits; for one output that of the samples will do.
        soft: rows are class probabilities, which sum to 1, and nothing is ignored; else each output stands for
            itself, and `ignore_index` marks outputs that count for nothing.

    Raises:
        TypeError, ValueError: another dtype, shape or device; a number outside [0, 1]; a soft row of another sum.
    """
    target = as_tensor(target, logits.device)
    if target.is_complex():
        raise TypeError(f"target must hold real numbers, got {dtype_name(target.dtype)}")
    if layout.class_dim != -1 and logits.shape[layout.class_dim] == 1 and target.dim() == logits.dim() - 1:
        target = target.unsqueeze(layout.class_dim)
    _check_place(target, logits, tuple(logits.shape))
    given = rows_of(target, layout)
    rows = given.to(compute_dtype(logits))
    ignored: Tensor | None = None if soft else given == ignore_index
    if values_readable(target, validate):
        # as far as the dtype of the target keeps a sum of two
        slack = max(1e-6, 4 * torch.finfo(given.dtype).eps) if given.is_floating_point() else 0.0
        bad = ~((rows >= -slack) & (rows <= 1 + slack))
        if ignored is not None:
            bad &= ~ignored
        if bool(bad.any()):
            row, column = (int(i) for i in bad.nonzero()[0])
            where = "" if soft else f" or ignore_index {ignore_index}"
            raise ValueError(
                f"target must hold numbers from 0 to 1{where}, "
                f"got {float(rows[row, column]):g} at row {row}, output {column}"
            )
        if soft:
            sums = rows.sum(1)
            off = (sums - 1).abs() > max(1e-3, slack)
            if bool(off.any()):
                row = int(off.nonzero()[0])
                raise ValueError(f"soft target rows must sum to 1, got {float(sums[row]):g} in row {row}")
        if ignored is not None and not bool(ignored.any()):
            ignored = None
    return Targets(None, rows if ignored is None else rows.masked_fill(ignored, 0.0), ignored)


def read_sample_weight(
    sample_weight: TargetLike, logits: Tensor, samples: tuple[int, ...], validate: bool | None
) -> Tensor:
    """Return one weight a sample, finite and not negative, as (M,) in the dtype that losses compute in."""
    weights = as_tensor(sample_weight, logits.device)
    if weights.dtype not in FLOATS + INTEGERS:
        raise TypeError(f"sample_weight must be of a floating or integer dtype, got {dtype_name(weights.dtype)}")
    if tuple(weights.shape) != samples:
        raise ValueError(f"sample_weight must have shape {samples}, one a sample, got {tuple(weights.shape)}")
    if weights.device != logits.device:
        raise ValueError(f"sample_weight must be on the device of logits, {logits.device}, got {weights.device}")
    weights = weights.reshape(-1)
    if values_readable(weights, validate):
        return check_range("sample_weight", weights, compute_dtype(logits), low=0)
    return weights.to(compute_dtype(logits))


def class_sums(rows: Tensor, labels: Tensor, ignored: Tensor | None, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return the sums of (M, J) rows over the samples of each class, (K, J), and the classes' counts, (K,)
    int64."""
    ones = torch.ones_like(labels)
    if ignored is not None:  # they may hold anything, NaN too
        rows, ones = rows.masked_fill(ignored[:, None], 0.0), ones.masked_fill(ignored, 0)
    sums = rows.new_zeros(num_classes, rows.shape[1]).index_add(0, labels, rows)
    return sums, torch.zeros(num_classes, dtype=torch.long, device=rows.device).index_add(0, labels, ones)


def class_means(values: Tensor, target: Tensor, *, ignore_index: int = -100) -> tuple[Tensor, Tensor]:
    """Return the means of `values` over the samples of each class, and the classes' counts.

    Args:
        values: (N, K) or (N, K, d1, ...), any floating values of one column per class, such as probabilities.
        target: (N,) or (N, d1, ...), labels from 0 to K - 1 or `ignore_index`.
        ignore_index: label of positions that count for nothing.

    Returns:
        (K, K) means, row k over the samples of class k (0 where there are none), and (K,) counts.

    Example:
        >>> class_means(torch.tensor([[0.9, 0.1], [0.7, 0.3]]), torch.tensor([0, 0]))[0]
        tensor([[0.8000, 0.2000],
                [0.0000, 0.0000]])
    """
    rows, labels = rows_of(values, layout_of(values)), target.long().reshape(-1)
    ignored = labels == ignore_index
    sums, counts = class_sums(rows, labels.masked_fill(ignored, 0), ignored, rows.shape[1])
    return sums / counts.clamp(min=1)[:, None], counts


def _check_place(target: Tensor, logits: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(target.shape) != tuple(expected):
        raise ValueError(
            f"target must have shape {tuple(expected)} for logits of shape {tuple(logits.shape)}, "
            f"got {tuple(target.shape)}"
        )
    if target.device != logits.device:
        raise ValueError(f"target must be on the device of logits, {logits.device}, got {target.device}")


def _position(flat: int, target: Tensor) -> int | tuple[int, ...]:
    index = tuple(int(i) for i in np.unravel_index(flat, target.shape))
    return index[0] if len(index) == 1 else index
