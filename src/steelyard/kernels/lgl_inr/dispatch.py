"""LGL-INR of logits by the fastest code that takes them."""

from torch import Tensor

from steelyard.kernels.lgl_inr import reference, triton


def lgl_inr_columns(
    logits: Tensor,
    target: Tensor,
    pos_weight: Tensor | None,
    beta: float,
    detach_weights: bool,
    ignore_index: int,
) -> Tensor:
    """Per-column losses (K,) of (N, K) logits, differentiable once in the logits."""
    columns = triton.lgl_inr_triton_columns if triton.takes(logits, beta) else reference.reference_columns
    return columns(logits, target, pos_weight, beta, detach_weights, ignore_index)
