"""Sums by class by the fastest code that takes them."""

from torch import Tensor

from steelyard.kernels.class_sums import native, reference
from steelyard.kernels.class_sums.reference import Kind


def add_by_class(
    kind: Kind,
    rows: Tensor,
    labels: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    counts: Tensor | None = None,
    ignore_index: int = -100,
) -> None:
    """Add what rows give to sums by class, as :func:`steelyard.kernels.class_sums.reference.add` does."""
    code = native if native.takes(rows, labels, first, second, counts) else reference
    code.add(kind, rows, labels, first, second, counts=counts, ignore_index=ignore_index)
