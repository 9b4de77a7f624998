"""LGL-INR of float32 logits on a CPU by compiled C, where the installation could build it (native.c)."""

import ctypes
from functools import cache
from typing import NoReturn

import torch
from torch import Tensor

from steelyard.kernels.compiled import load

Segments = tuple[Tensor, Tensor, Tensor]
_ABI = 3  # as in the source: a library of another is left alone
_NARROWEST = 16  # columns that a thread takes at least, as in the source
_FEW = 32  # columns up to which rows are divided among threads, as in the source
_FEWEST_NUMBERS = 4096  # logits that a thread takes at least, of few columns


def takes(logits: Tensor) -> bool:
    """Whether these logits can go to the compiled code."""
    return (
        logits.device.type == "cpu"
        and logits.dtype == torch.float32
        and (logits.stride(1) == 1 or logits.shape[1] == 1)
        and library() is not None
    )


@cache
def library() -> ctypes.CDLL | None:
    """The compiled code; None where the installation has none."""
    found = load(__file__, "lgl_inr", _ABI)
    if found is None:
        return None
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    found.lgl_inr_segments.argtypes = [pointer, integer, integer, integer, pointer, pointer, pointer]
    found.lgl_inr_segments.restype = integer
    found.lgl_inr_columns.argtypes = [
        *(pointer, integer, integer, integer, integer),
        *(pointer, pointer, pointer, integer),
        *(pointer, ctypes.c_float, ctypes.c_int),
        *(pointer, pointer, integer, ctypes.c_int),
    ]
    found.lgl_inr_few.argtypes = [
        *(pointer, integer, integer, pointer, integer),
        *(pointer, ctypes.c_float, ctypes.c_int),
        *(pointer, pointer, ctypes.c_int),
    ]
    found.lgl_inr_few.restype = integer
    return found


def whole(
    logits: Tensor,
    target: Tensor,
    *,
    pos_weight: Tensor | None,
    beta: float,
    detach_weights: bool,
    ignore_index: int,
    out: Tensor | None,
) -> Tensor | None:
    """Return the losses (K,) of all columns of (N, K) logits, or None if a label is neither a class nor ignored.

    Their gradient goes to `out`, (N, K) without gaps.
    """
    rows, size = logits.shape
    if size <= _FEW and rows and logits.is_contiguous():
        return _few(logits, target, pos_weight, beta, detach_weights, ignore_index, out)
    found = find_segments(target, size, ignore_index)
    if found is None:
        return None
    return columns(
        *(logits, 0, *found),
        num_classes=size,
        pos_weight=pos_weight,
        beta=beta,
        detach_weights=detach_weights,
        out=out,
    )


def _few(
    logits: Tensor,
    target: Tensor,
    pos_weight: Tensor | None,
    beta: float,
    detach_weights: bool,
    ignore_index: int,
    out: Tensor | None,
) -> Tensor | None:
    compiled = library()
    assert compiled is not None
    (rows, size), target = logits.shape, target.long().contiguous()
    if rows != len(target):
        raise RuntimeError(f"logits must have a row for each of the {len(target)} labels, got {rows} rows")
    loss = logits.new_empty(size)
    pos_weight = None if pos_weight is None else pos_weight.to(torch.float32).contiguous()
    failed = compiled.lgl_inr_few(
        *(logits.data_ptr(), rows, size, target.data_ptr(), ignore_index),
        *(None if pos_weight is None else pos_weight.data_ptr(), beta, detach_weights),
        *(loss.data_ptr(), None if out is None else out.data_ptr()),
        max(1, min(torch.get_num_threads(), rows * size // _FEWEST_NUMBERS)),
    )
    if failed > 0:
        raise MemoryError("no memory for the statistics of the classes of this batch")
    return None if failed else loss


def refuse_label(target: Tensor, num_classes: int, ignore_index: int) -> NoReturn:
    """Raise the error that names the first label that is neither a class nor ignored."""
    wrong = int((((target < 0) | (target >= num_classes)) & (target != ignore_index)).nonzero()[0])
    raise RuntimeError(
        f"target must hold labels from 0 to {num_classes - 1} or {ignore_index}, "
        f"got {int(target[wrong])} at position {wrong}"
    )


def segments(target: Tensor, num_classes: int, ignore_index: int) -> Segments:
    """As :func:`find_segments`, for labels that are known to be in range."""
    found = find_segments(target, num_classes, ignore_index)
    if found is None:
        refuse_label(target, num_classes, ignore_index)
    return found


def find_segments(target: Tensor, num_classes: int, ignore_index: int) -> Segments | None:
    """Return the rows sorted by label, (N,), as S segments, one a class: their starts, (S + 1,), and labels, (S,).

    The ignored rows form the last segment, of label `num_classes`. Returns None if a label is neither a class nor
    ignored.
    """
    compiled = library()
    assert compiled is not None
    target, rows = target.long().contiguous(), len(target)
    room = target.new_empty(3 * rows + 1)
    start = room.data_ptr()
    size = compiled.lgl_inr_segments(
        *(target.data_ptr(), rows, num_classes, ignore_index),
        *(start, start + 16 * rows, start + 8 * rows),
    )
    if size < 0:
        return None
    return room[:rows], room[2 * rows : 2 * rows + size + 1], room[rows : rows + size]


def columns(
    logits: Tensor,
    first: int,
    order: Tensor,
    offsets: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    pos_weight: Tensor | None,
    beta: float,
    detach_weights: bool,
    out: Tensor | None,
) -> Tensor:
    """Losses (B,) of the columns of (N, B) logits, from class `first` on; their gradient goes to `out`, (N, B).

    The rows come sorted by label, as `segments` makes them.
    """
    compiled = library()
    assert compiled is not None
    if len(order) != len(logits):
        raise RuntimeError(f"logits must have a row for each of the {len(order)} labels, got {len(logits)} rows")
    loss = logits.new_empty(logits.shape[1])
    if pos_weight is not None:
        pos_weight = pos_weight.to(torch.float32).contiguous()
    failed = compiled.lgl_inr_columns(
        *(logits.data_ptr(), logits.stride(0), logits.shape[1], first, num_classes),
        *(order.data_ptr(), offsets.data_ptr(), labels.data_ptr(), len(labels)),
        *(None if pos_weight is None else pos_weight.data_ptr(), beta, detach_weights),
        *(loss.data_ptr(), None if out is None else out.data_ptr(), 0 if out is None else out.stride(0)),
        min(torch.get_num_threads(), -(-logits.shape[1] // _NARROWEST)),  # nothing is left for more
    )
    if failed:
        raise MemoryError("no memory for the statistics of the classes of this batch")
    return loss
