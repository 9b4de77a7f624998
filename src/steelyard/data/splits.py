"""Which samples are drawn: subsets of an imbalance profile, validation splits, groups of classes by count."""

from collections.abc import Sequence

import torch
from torch import Tensor

from steelyard.data.imbalance import ImbalanceProfile


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


def split_validation(target: Tensor, fraction: float, *, seed: int) -> tuple[Tensor, Tensor]:
    """Set the same share of every class aside, at least one sample of each and not all.

    Args:
        target: (N,) labels.
        fraction: share to set aside, in (0, 1).
        seed: which.

    Returns:
        Indices of the rest and of the samples set aside, each in rising order.

    Raises:
        ValueError: a class with a single sample, a fraction outside (0, 1).

    Example:
        >>> rest, validation = split_validation(torch.arange(20) % 2, 0.2, seed=0)
        >>> len(rest), len(validation)
        (16, 4)
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1, got {fraction:g}")
    counts = class_sizes(target)
    for k, count in enumerate(counts):
        if count == 1:
            raise ValueError(f"class {k} has a single sample in the training split, which cannot be split")
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
