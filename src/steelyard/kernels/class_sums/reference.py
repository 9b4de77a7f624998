"""Sums by class of what rows of logits give, in torch's operations: on any device, and in float64 too."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from steelyard._common.private_torch import softplus

Kind = Literal["softmax", "sigmoid", "softplus", "centred"]  # in the order of native.c


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
    r"""Add what each row gives, (u, v), to the sums of its fold and class, and to those of its class.

    .. math:: \text{softmax, sigmoid: } u = p(z),\ v = p^2; \qquad
        \text{softplus: } u = \log(1 + e^z),\ v = \sigma(z) \sigma(-z); \qquad
        \text{centred: } u = z - \bar z,\ v = u^2

    Args:
        kind: what a row gives.
        rows: (n, K) float32 or float64 logits.
        labels: (n,) int64, from 0 to R - 1 or `ignore_index`.
        first: (F, R, K) float64, or (R, K) without folds; u is added to it.
        second: (R, K) float64, or (K,) for all classes together; v is added to it.
        counts: (F, R) int64 rows so far, to which these are added. A class takes the folds in turn, from where the
            counts say that it stopped. None without folds.
        ignore_index: label of rows that count for nothing.
    """
    size, columns = first.shape[-2:]
    ignored = labels == ignore_index
    # Ignored rows add zeros to the first class. Their own values, which may be NaN, are not used.
    own = labels.masked_fill(ignored, 0)
    cells = own
    if counts is not None:
        if len(counts) > 1:
            cells = own + size * turns(labels.masked_fill(ignored, size), counts)
        counts.view(-1).index_add_(0, cells, (~ignored).long())
    u, v = (x.masked_fill_(ignored[:, None], 0.0) for x in _of_rows(kind, rows))
    first.view(-1, columns).index_add_(0, cells, u)
    if second.dim() == 2:
        second.index_add_(0, own, v)
    else:
        second += v.sum(0)


def turns(labels: Tensor, counts: Tensor) -> Tensor:
    """Return the fold of each row, (n,) int64: a class takes the folds in turn, from where it stopped.

    Args:
        labels: (n,) int64 from 0 to R, where R marks ignored rows.
        counts: (F, R) int64 rows so far, by fold and class.
    """
    folds, size = counts.shape
    if labels.is_cpu and size < 1 << 16:  # numpy sorts short integers by their digits
        order = torch.from_numpy(np.argsort(labels.numpy().astype(np.uint16), kind="stable"))
        ordered = labels[order]
    else:
        ordered, order = torch.sort(labels, stable=True)
    starts = torch.searchsorted(ordered, torch.arange(size + 1, device=labels.device))
    seen = torch.cat([counts.sum(0), counts.new_zeros(1)])
    turn = torch.arange(len(labels), device=labels.device) - starts[ordered] + seen[ordered] + ordered
    return torch.empty_like(labels).scatter_(0, order, turn % folds)


def _of_rows(kind: Kind, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return u and v, (n, K) float64, computed in the precision of the rows."""
    if kind == "softplus":
        variance = torch.sigmoid(rows).mul_(torch.sigmoid(-rows))  # 1 - p would be 0 near 1
        return softplus(rows).double(), variance.double()
    if kind == "centred":
        u = rows.double()
        u = u - u.mean(1, keepdim=True)
    else:
        u = (torch.softmax(rows, 1) if kind == "softmax" else torch.sigmoid(rows)).double()
    return u, u.square()
