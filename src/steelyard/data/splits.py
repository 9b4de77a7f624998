"""Which samples are drawn: subsets of an imbalance profile, validation splits, groups of classes by count."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steelyard.data.imbalance import ImbalanceProfile

_TRIES = 20


def subsample(target: Tensor, profile: ImbalanceProfile, *, seed: int) -> Tensor:
    """Return the indices of the samples that a profile keeps, in rising order.

    Args:
        target: (N,) labels; every class from 0 to the largest label has a sample.
        profile: how many of each class.
        seed: which; the same seed keeps the same samples.

    Returns:
        (n,) int64 indices into `target`.

    Raises:
        ValueError: as :meth:`ImbalanceProfile.counts`.

    Example:
        >>> from steelyard.data import exponential
        >>> subsample(torch.tensor([0, 0, 0, 0, 1, 1]), exponential(2), seed=0).shape
        torch.Size([6])
    """
    kept = profile.counts(class_sizes(target))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(target), generator=generator)
    return torch.cat([order[target[order] == k][:count] for k, count in enumerate(kept)]).sort().values


def split_validation(
    target: Tensor,
    fraction: float,
    *,
    seed: int,
    groups: Tensor | None = None,
    times: Tensor | None = None,
    class_names: Sequence[str] | None = None,
) -> tuple[Tensor, Tensor]:
    """Set the same share of every class aside, at least one sample of each and not all; groups stay whole.

    With times the latest rows are set aside, whatever their classes are, and rows of one time stay together.

    Args:
        target: (N,) labels.
        fraction: share to set aside, in (0, 1). With groups or times as near to it as these allow.
        seed: which; with times it changes nothing.
        groups: (N,) int64; rows of one group stay on one side. Default: each row is free.
        times: (N,) numbers; every row that is set aside is later than all others. Default: there is no order.
        class_names: K, for errors. Default: numbers.

    Returns:
        Indices of the rest and of the samples set aside, each in rising order.

    Raises:
        ValueError: a class with a single sample or group, a fraction outside (0, 1), both groups and times, rows
            of a single time, or a class that has only late rows.
        ImportError: groups, and scikit-learn is not installed.

    Example:
        >>> rest, validation = split_validation(torch.arange(20) % 2, 0.2, seed=0)
        >>> len(rest), len(validation)
        (16, 4)
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1, got {fraction:g}")
    counts = class_sizes(target)
    if times is not None:
        if groups is not None:
            raise ValueError("groups and times cannot both be given: rows are split by one of them")
        return _later_aside(target, times, fraction, class_names)
    for k, count in enumerate(counts):
        if count == 1:
            name = k if class_names is None else repr(class_names[k])
            raise ValueError(f"class {name} has a single sample in the training split, which cannot be split")
    if groups is not None:
        validation = _groups_aside(target, fraction, seed, groups, class_names)
    else:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(target), generator=generator)
        aside = [
            order[target[order] == k][: min(count - 1, max(1, round(fraction * count)))]
            for k, count in enumerate(counts)
            if count
        ]
        validation = torch.cat(aside).sort().values
    keep = torch.ones(len(target), dtype=torch.bool)
    keep[validation] = False
    return keep.nonzero()[:, 0], validation


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
    splitter_of = _group_splitter()
    y, g = labels.numpy(), groups.numpy()
    classes = np.unique(y).tolist()
    number, alone = min(folds, len(np.unique(g))), classes[0]
    for k in range(_TRIES if number > 1 else 0):
        splitter = splitter_of(number, shuffle=True, random_state=seed + k)
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


def _later_aside(
    target: Tensor, times: Tensor, fraction: float, class_names: Sequence[str] | None
) -> tuple[Tensor, Tensor]:
    """Return the earlier rows, and the later ones, whose share is the nearest to the fraction."""
    moments, counts = torch.unique(times, return_counts=True)
    if len(moments) < 2:
        raise ValueError(f"times must differ for a split by time, got one time in all {len(times):,} rows")
    later = counts.flip(0).cumsum(0).flip(0)[1:]
    first = moments[1 + int((later - fraction * len(times)).abs().argmin())]
    early, late = (times < first).nonzero()[:, 0], (times >= first).nonzero()[:, 0]
    unseen = set(target[late].tolist()) - set(target[early].tolist())
    if unseen:
        k = min(unseen)
        raise ValueError(
            f"every class must have a row before the {len(late):,} latest of {len(target):,} rows, which are set "
            f"aside, and class {k if class_names is None else repr(class_names[k])} has none"
        )
    return early, late


def _groups_aside(
    target: Tensor, fraction: float, seed: int, groups: Tensor, class_names: Sequence[str] | None
) -> Tensor:
    """Return the fold, of those of whole groups in which every class stands on both sides, that is the nearest to
    the fraction of every class."""
    splitter_of = _group_splitter()
    counts = torch.tensor(class_sizes(target))
    present = counts.nonzero()[:, 0]
    of_class = [len(set(groups[target == k].tolist())) for k in present.tolist()]
    smaller = min(fraction, 1 - fraction)
    most = min(round(1 / smaller), len(set(groups.tolist())), int(counts.max()))
    best, nearest = None, math.inf
    for folds in range(most, 1, -1):
        splitter = splitter_of(folds, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of small classes, which are looked at below
            parts = list(splitter.split(target.numpy(), target.numpy(), groups.numpy()))
        for rest, fold in parts:
            aside = torch.from_numpy(fold if smaller == fraction else rest)
            shares = torch.bincount(target[aside], minlength=len(counts))[present] / counts[present]
            off = float((shares - fraction).abs().mean())
            if bool((shares > 0).all() and (shares < 1).all()) and off < nearest:
                best, nearest = aside, off
        if best is not None:
            return best.sort().values
    few = min(range(len(of_class)), key=of_class.__getitem__)
    k = int(present[few])
    raise ValueError(
        f"groups must leave rows of every class on both sides of a split, and no split of whole groups does; "
        f"class {k if class_names is None else repr(class_names[k])} stands in {of_class[few]}"
    )


def _group_splitter() -> Any:
    try:
        from sklearn.model_selection import StratifiedGroupKFold
    except ImportError:
        raise ImportError("groups need scikit-learn: pip install 'steelyard[sklearn]'") from None
    return StratifiedGroupKFold


def shot_groups(class_counts: Sequence[int], *, many: int = 100, few: int = 20) -> dict[str, list[int]]:
    """Return the classes with more than `many` training samples, with fewer than `few`, and the medium between.

    Args:
        class_counts: K counts.
        many, few: limits; the defaults are the literature's.

    Returns:
        Lists of class indices under ``"many"``, ``"medium"`` and ``"few"``.

    Source:
        Liu et al., CVPR 2019 (ImageNet-LT).

    Example:
        >>> shot_groups([500, 100, 20, 5])
        {'many': [0], 'medium': [1, 2], 'few': [3]}
    """
    group = ["many" if n > many else "few" if n < few else "medium" for n in class_counts]
    return {name: [k for k, g in enumerate(group) if g == name] for name in ("many", "medium", "few")}


def class_sizes(target: Tensor) -> list[int]:
    whole = not (target.is_floating_point() or target.is_complex() or target.dtype == torch.bool)
    if target.dim() != 1 or len(target) == 0 or not whole or int(target.min()) < 0:
        raise ValueError(
            f"target must be a tensor (N,) of labels >= 0, got shape {tuple(target.shape)} of "
            f"{str(target.dtype).removeprefix('torch.')}"
            + (f" with {target.min().item()}" if target.numel() and whole else "")
        )
    sizes: list[int] = torch.bincount(target).tolist()
    return sizes
