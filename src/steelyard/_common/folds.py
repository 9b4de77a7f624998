"""Folds of rows: every row is in one, and every fold has its share of each class."""

import torch
from torch import Tensor


def stratified_folds(labels: Tensor, folds: int, *, seed: int) -> Tensor:
    """Return the fold of each row, (N,) int64 from 0 to folds - 1, drawn at random within each class.

    Folds differ by at most one in their rows, and in their rows of each class. So a class of two rows or more is
    never in one fold alone.

    Args:
        labels: (N,) int64, what folds have equal shares of.
        folds: how many, from 2 to N.
        seed: of the draw.

    Raises:
        ValueError: more folds than rows, or fewer than 2.

    Example:
        >>> stratified_folds(torch.tensor([0, 0, 1, 1]), 2, seed=0).reshape(2, 2).sum(1)
        tensor([1, 1])
    """
    if not 2 <= folds <= len(labels):
        raise ValueError(f"folds must lie between 2 and the number of rows, {len(labels)}, got {folds}")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order)) % folds)
