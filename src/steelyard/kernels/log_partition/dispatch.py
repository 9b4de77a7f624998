"""The log partition function of scaled and shifted logits, by the fastest code that takes them."""

from torch import Tensor

from steelyard.kernels.log_partition import native, reference


def log_partition(logits: Tensor, weights: Tensor, scale: float, shift: Tensor) -> tuple[float, float, Tensor]:
    """Return the value and derivatives of :func:`steelyard.kernels.log_partition.reference.log_partition`."""
    if native.takes(logits, weights, shift):
        return native.log_partition(logits, weights, scale, shift)
    return reference.log_partition(logits, weights, scale, shift)
