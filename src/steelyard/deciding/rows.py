"""What decisions are made from, read once at the door: log-probabilities as `log_posterior` returns them."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from steelyard._common.checks import FLOATS, check_choice, dtype_name
from steelyard._common.spread import refuse_spread

Targets = Literal["classes", "multi-hot"]
Kind = Literal["classes", "one output", "multi-hot"]
TARGETS: tuple[Targets, ...] = ("classes", "multi-hot")
_OFF = 1e-3  # of the sum of a row's probabilities


class Rows(NamedTuple):
    """Log-probabilities of T decisions on each of N rows, each among C choices.

    Attributes:
        values: (T, N, C) float64 on the CPU, normalised: (1, N, K) for classes, (1, N, 2) for one output,
            (K, N, 2) for K outputs that stand for themselves.
        kind: ``"classes"``, ``"one output"`` or ``"multi-hot"``.
    """

    values: Tensor
    kind: Kind

    def restore(self, decided: Tensor, like: Tensor) -> Tensor:
        """Return what was decided, (T, N), as (N,), or (N, K) for multi-hot, on the device of the input."""
        return (decided.T if self.kind == "multi-hot" else decided[0]).to(like.device)


def read_rows(log_posterior: Tensor, targets: Targets) -> Rows:
    """Return the rows of log-probabilities, after refusing what are none."""
    check_choice("targets", targets, TARGETS)
    if not isinstance(log_posterior, Tensor):
        raise TypeError(f"log_posterior must be a tensor, got {type(log_posterior).__name__}")
    refuse_spread("log_posterior", log_posterior)
    if log_posterior.dtype not in FLOATS:
        raise TypeError(f"log_posterior must be floating point, got {dtype_name(log_posterior.dtype)}")
    shape = tuple(log_posterior.shape)
    if len(shape) not in (1, 2) or 0 in shape[1:]:
        raise ValueError(f"log_posterior must have shape (N, K), or (N,) for one output, got {shape}")
    rows = log_posterior.detach().cpu().double()
    bad = rows.isnan() if rows.dim() == 1 else rows.isnan().any(1)
    if bool(bad.any()):
        i = int(bad.nonzero()[0])
        raise ValueError(f"log_posterior must hold no NaN, got one in row {i}: {int(bad.sum())} rows have one")
    if len(shape) == 1 or shape[1] == 1:
        logit = rows.reshape(-1)
        both = torch.stack([torch.nn.functional.logsigmoid(-logit), torch.nn.functional.logsigmoid(logit)], 1)
        return Rows(both[None], "one output")
    if targets == "multi-hot":
        if bool((rows > _OFF).any()):
            i = int((rows > _OFF).any(1).nonzero()[0])
            raise ValueError(
                f"log_posterior must hold log-probabilities, at most 0, got {float(rows[i].max()):g} in row {i}"
            )
        own = rows.clamp(max=0.0)
        rest = torch.where(own > -0.6931, torch.log(-torch.expm1(own)), torch.log1p(-torch.exp(own)))
        return Rows(torch.stack([rest, own], 2).transpose(0, 1).contiguous(), "multi-hot")
    total = torch.logsumexp(rows, 1)
    bad = ~(total.abs() < _OFF)
    if bool(bad.any()):
        i = int(bad.nonzero()[0])
        raise ValueError(
            f"log_posterior must hold log-probabilities, whose rows sum to 1, got {float(total[i].exp()):.6g} in "
            f"row {i}: see log_posterior; outputs that stand for themselves need targets='multi-hot'"
        )
    return Rows((rows - total[:, None])[None], "classes")
