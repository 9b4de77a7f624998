"""Sums by class of float32 logits on a CPU by compiled C, if the installation built it (native.c)."""

import ctypes
from functools import cache
from typing import get_args

import torch
from torch import Tensor

from steelyard._common.private_torch import is_watched
from steelyard.kernels.class_sums.reference import Kind
from steelyard.kernels.compiled import load

_ABI = 1  # as in the source: a library of another is left alone


def takes(rows: Tensor, labels: Tensor, first: Tensor, second: Tensor, counts: Tensor | None) -> bool:
    """Return whether the compiled code takes these rows and sums."""
    sums = (first, second) if counts is None else (first, second, counts)
    return (
        rows.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and first.dtype == second.dtype == torch.float64
        and (counts is None or counts.dtype == torch.long)
        and all(x.is_cpu and type(x) is Tensor for x in (rows, labels, *sums))
        and all(x.is_contiguous() for x in sums)
        and not is_watched()
        and library() is not None
    )


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled code, or None if the installation has none."""
    found = load(__file__, "class_sums", _ABI)
    if found is None:
        return None
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    found.class_sums_add.argtypes = [
        *(ctypes.c_int, pointer, integer, integer, integer),
        *(pointer, integer, integer, integer, pointer),
        *(pointer, pointer, integer),
    ]
    found.class_sums_add.restype = integer
    return found


def add(
    kind: Kind,
    rows: Tensor,
    labels: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    counts: Tensor | None = None,
    ignore_index: int = -100,
) -> None:
    """Add to the sums as :func:`steelyard.kernels.class_sums.reference.add` does."""
    compiled = library()
    assert compiled is not None
    rows = rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()
    labels = labels.long().contiguous()
    classes = first.shape[-2]
    failed = compiled.class_sums_add(
        *(get_args(Kind).index(kind), rows.data_ptr(), rows.stride(0), *rows.shape),
        *(labels.data_ptr(), classes, ignore_index, 1 if counts is None else len(counts)),
        *(None if counts is None else counts.data_ptr(), first.data_ptr(), second.data_ptr()),
        second.shape[1] if second.dim() == 2 else 0,
    )
    if failed > 0:
        raise MemoryError("no memory for the sums of the classes of this batch")
    if failed < 0:
        position = -1 - failed
        raise RuntimeError(
            f"target must hold labels from 0 to {classes - 1} or {ignore_index}, "
            f"got {int(labels[position])} at position {position}"
        )
