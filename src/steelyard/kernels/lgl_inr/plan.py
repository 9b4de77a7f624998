"""The labels of a batch as sorted segments, one a class, whatever computes on them."""

from typing import NamedTuple

import torch
from torch import Tensor

from steelyard._common.private_torch import assert_on_device

# P lies in [0, 1], so exp(beta P - max(beta, 0)) needs no maximum over classes while |beta| is small enough for
# its least value, times a small probability, to stay a normal float32.
FIXED_SHIFT_BETA = 30.0


class Segments(NamedTuple):
    """The batch sorted by label: S segments, one a class (the ignored rows form one of label K)."""

    order: Tensor  # (N,) rows sorted by label
    offsets: Tensor  # (S + 1,) where each segment starts in `order`
    labels: Tensor  # (S,) the segment's label; K where the segment is empty or ignored
    counts: Tensor  # (S,) rows in the segment
    of_row: Tensor  # (N,) each row's segment


def assert_labels(target: Tensor, num_classes: int, ignore_index: int) -> None:
    """Stop at a label that is neither in 0..K-1 nor `ignore_index`, without waiting for the device.

    In eager code on the CPU the losses have refused it already, and said where it is.
    """
    known = (target >= 0) & (target < num_classes) | (target == ignore_index)
    assert_on_device(known.all(), f"target must hold labels from 0 to {num_classes - 1} or {ignore_index}")


def make_segments(target: Tensor, num_classes: int, ignore_index: int) -> Segments:
    """Sort the labels into segments whose number is known from N and K alone: no host synchronisation."""
    assert_labels(target, num_classes, ignore_index)
    rows = target.shape[0]
    key = torch.where(target == ignore_index, num_classes, target)
    ordered, order = torch.sort(key, stable=True)
    if num_classes <= rows:
        size = num_classes + 1
        labels, of_row = torch.arange(size, device=target.device), key
    else:  # at most N classes are present: number them in order of their label
        size = rows
        new = torch.cat([ordered.new_zeros(1), (ordered[1:] != ordered[:-1]).long()])
        of_row = torch.empty_like(order).scatter_(0, order, new.cumsum(0))
        labels = torch.full_like(order, num_classes).scatter_(0, new.cumsum(0), ordered)
        ordered = new.cumsum(0)
    offsets = torch.searchsorted(ordered, torch.arange(size + 1, device=target.device))
    return Segments(order, offsets, labels, offsets.diff(), of_row)
