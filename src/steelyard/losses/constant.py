"""The constant solution of a loss: what a model does that knows the class counts alone."""

from collections.abc import Callable

import torch
from torch import Tensor


def constant_solution(
    per_sample: Callable[[Tensor, Tensor], Tensor], start: Tensor, counts: Tensor, num_samples: int | None
) -> Tensor:
    """Return the logits (K,) float64 that minimise a sum over samples if all samples have the same.

    Args:
        per_sample: of (N, K) float64 logits and targets, (N,).
        start: (K,) float64, where the search begins.
        counts: (K,) samples of each class; positives of each output where `num_samples` is given.
        num_samples: N of multi-label targets, or None for class labels.

    Raises:
        ValueError: one class of several has all samples, as far as float64 can tell.
    """
    size = len(counts)
    labels = torch.arange(size)
    rows = torch.cat([torch.eye(size), torch.zeros(1, size)]).double()  # one positive each, then none
    total = counts.sum() if num_samples is None else num_samples
    share = counts / total
    if size > 1 and bool((share == 1).any()):
        raise ValueError(
            f"class_counts must leave the others of class {int(share.argmax())} a share that float64 tells from "
            f"0, got {counts.max():g} of {float(total):g} samples"
        )
    # An output curves as its class is frequent and the others are: in this unit all curve about the same.
    unit = (share * (1 - share)).clamp(min=1e-300).rsqrt()
    moved = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [moved], max_iter=1000, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        bias = start + moved * unit
        if num_samples is None:
            return share @ per_sample(bias.expand(size, size), labels)
        each = per_sample(bias.expand(size + 1, size), rows)
        return each[-1] + share @ (each[:-1] - each[-1])

    def closure() -> float:
        optimizer.zero_grad()
        value = objective()
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return start + moved.detach() * unit
