"""Folds of rows: every row is in one, and every fold has its share of each class."""

import warnings

import numpy as np
import torch
from torch import Tensor

_TRIES = 20


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


def grouped_folds(labels: Tensor, groups: Tensor, folds: int, *, seed: int) -> Tensor:
    """Return the fold of each row, (N,) int64, where rows of one group are in one fold, and no class in one alone.

    Classes are spread as evenly as the groups allow; there are no more folds than groups.

    Args:
        labels: (N,) int64.
        groups: (N,) int64.
        folds: how many, at least 2.
        seed: of the draw.

    Raises:
        ValueError: a class that every draw leaves in one fold alone, such as one of a single group.
        ImportError: scikit-learn is not installed.

    Example:
        >>> grouped_folds(torch.tensor([0, 0, 1, 1, 0, 1]), torch.tensor([7, 7, 7, 7, 9, 9]), 2, seed=0)
        tensor([1, 1, 1, 1, 0, 0])
    """
    try:
        from sklearn.model_selection import StratifiedGroupKFold
    except ImportError:
        raise ImportError("groups need scikit-learn: pip install 'steelyard[sklearn]'") from None
    y, g = labels.numpy(), groups.numpy()
    classes = np.unique(y).tolist()
    number, alone = min(folds, len(np.unique(g))), classes[0]
    for k in range(_TRIES if number > 1 else 0):
        splitter = StratifiedGroupKFold(number, shuffle=True, random_state=seed + k)
        fold = np.empty_like(y)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of classes with fewer rows than folds
            for f, (_, rows) in enumerate(splitter.split(y, y, g)):
                fold[rows] = f
        of_class = [len(np.unique(fold[y == one])) for one in classes]
        if min(of_class) > 1:
            return torch.from_numpy(fold)
        alone = classes[of_class.index(min(of_class))]
    raise ValueError(
        f"groups must leave rows of each class in two folds at least, to learn from and to judge by, and no draw "
        f"of groups does for class {alone}, which stands in {len(np.unique(g[y == alone]))} of them"
    )
