"""The log partition function of scaled and shifted logits by compiled C, if the installation built it."""

import ctypes
from functools import cache

import torch
from torch import Tensor

from steelyard.kernels.compiled import load

_ABI = 1  # as in the source: a library of another is left alone
_LEAST = 1 << 16  # numbers that a thread takes at least


def takes(*tensors: Tensor) -> bool:
    """Return whether the compiled code takes these tensors."""
    return all(x.is_cpu and x.dtype == torch.float64 for x in tensors) and library() is not None


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled code, or None if the installation has none."""
    found = load(__file__, "log_partition", _ABI)
    if found is None:
        return None
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    found.log_partition_sums.argtypes = [
        *(pointer, pointer, integer, integer),
        *(ctypes.c_double, pointer, pointer, ctypes.c_int),
    ]
    return found


def log_partition(logits: Tensor, weights: Tensor, scale: float, shift: Tensor) -> tuple[float, float, Tensor]:
    """Return what :func:`steelyard.kernels.log_partition.reference.log_partition` does."""
    compiled = library()
    assert compiled is not None
    logits, weights, shift = logits.contiguous(), weights.contiguous(), shift.contiguous()
    out = torch.empty(2 + logits.shape[1], dtype=torch.float64)
    failed = compiled.log_partition_sums(
        *(logits.data_ptr(), weights.data_ptr(), *logits.shape, scale, shift.data_ptr(), out.data_ptr()),
        max(1, min(torch.get_num_threads(), logits.numel() // _LEAST)),
    )
    if failed:
        raise MemoryError("no memory for the sums over rows")
    return float(out[0]), float(out[1]), out[2:]
