"""Making a balanced data set imbalanced, deterministically by seed; and the usual groups of classes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_CHOICES = "none, exponential:RATIO or step:RATIO[:FRACTION], such as exponential:50 or step:100:0.5"


@dataclass(frozen=True)
class ImbalanceProfile:
    """How many samples of each class to keep; from :func:`exponential`, :func:`step` or :func:`parse_imbalance`.

    Attributes:
        kind: ``"none"``, ``"exponential"`` or ``"step"``.
        ratio: largest over smallest class.
        fraction: share of the classes that are small, for ``"step"``.
    """

    kind: str
    ratio: float = 1.0
    fraction: float = 0.5

    def shares(self, num_classes: int) -> list[float]:
        """Each class's size over the largest one's; classes in label order, the first the largest."""
        return [self.ratio**-depth for depth in self._depths(num_classes)]

    def counts(self, available: Sequence[int]) -> list[int]:
        """Samples to keep of each class: the largest numbers of the profile's shape that are available.

        ``"none"`` keeps everything.

        Raises:
            ValueError: the smallest class would have no sample, a class has none to begin with, or a step leaves
                no small or no large class.
        """
        if self.kind == "none":
            return list(available)
        if len(available) == 0 or min(available) < 1:
            raise ValueError(f"available must have at least one sample of each class, got {list(available)}")
        depths = self._depths(len(available))
        if self.kind == "step" and not 0 < sum(depths) < len(available):
            raise ValueError(
                f"imbalance fraction must leave small and large classes, got {self.fraction:g} of "
                f"{len(available)}, which makes {sum(depths):g} small"
            )
        shares = self.shares(len(available))
        # A hair above the quotient, so that 60 / 0.01 * 0.01 is 60 and not 59.
        largest = min(n / share for n, share in zip(available, shares, strict=True)) * (1 + 1e-9)
        counts = [min(n, int(largest * share)) for n, share in zip(available, shares, strict=True)]
        if min(counts) < 1:
            # The smallest keeps one if n_k >= ratio ** (1 - depth_k) for every class k.
            logs = [math.log(n) / (1 - d) for n, d in zip(available, depths, strict=True) if d < 1]
            raise ValueError(
                f"imbalance ratio must be at most {int(math.exp(min(logs)) * (1 + 1e-9))} for classes of these "
                f"sizes, so that every class keeps a sample, got {self.ratio:g}"
            )
        return counts

    def _depths(self, num_classes: int) -> list[float]:
        """Powers of 1 / ratio: 0 for the largest classes, 1 for the smallest."""
        if self.kind == "exponential":
            return [k / max(1, num_classes - 1) for k in range(num_classes)]
        small = round(self.fraction * num_classes) if self.kind == "step" else 0
        return [float(k >= num_classes - small) for k in range(num_classes)]


def exponential(ratio: float) -> ImbalanceProfile:
    r"""Exponential tail: :math:`n_k = n_0\, \rho^{-k / (K - 1)}`.

    Args:
        ratio: :math:`\rho`, largest over smallest class, >= 1.

    Raises:
        ValueError: a ratio below 1 or not finite.

    Source:
        Cui et al., CVPR 2019 (long-tailed CIFAR).

    Example:
        >>> exponential(100).counts([6000] * 3)
        [6000, 600, 60]
    """
    return ImbalanceProfile("exponential", _ratio(ratio))


def step(ratio: float, fraction: float = 0.5) -> ImbalanceProfile:
    r"""Step: the last `fraction` of the classes have :math:`1 / \rho` of the others' samples.

    Args:
        ratio: :math:`\rho`, largest over smallest class, >= 1.
        fraction: share of the small classes, in [0, 1]; the number of classes is rounded, and must leave at
            least one small and one large.

    Raises:
        ValueError: a ratio below 1 or not finite, a fraction outside [0, 1].

    Source:
        Buda, Maki, Mazurowski, Neural Networks 2018.

    Example:
        >>> step(10).counts([50] * 4)
        [50, 50, 5, 5]
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"imbalance fraction must be in [0, 1], got {fraction:g}")
    return ImbalanceProfile("step", _ratio(ratio), fraction)


def parse_imbalance(text: str) -> ImbalanceProfile:
    """A profile from its name on the command line.

    Args:
        text: ``none``, ``exponential:RATIO`` or ``step:RATIO[:FRACTION]``.

    Raises:
        ValueError: anything else, with the choices.

    Example:
        >>> parse_imbalance("step:100:0.25").fraction
        0.25
    """
    kind, *numbers = text.split(":")
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        raise ValueError(f"imbalance must be {_CHOICES}, got {text!r}") from None
    if kind == "none" and not values:
        return ImbalanceProfile("none")
    if kind == "exponential" and len(values) == 1:
        return exponential(values[0])
    if kind == "step" and len(values) in (1, 2):
        return step(*values)
    raise ValueError(f"imbalance must be {_CHOICES}, got {text!r}")


def subsample(target: Tensor, profile: ImbalanceProfile, *, seed: int) -> Tensor:
    """Indices of the samples that a profile keeps, in rising order.

    Args:
        target: (N,) labels; every class from 0 to the largest label has a sample.
        profile: how many of each class.
        seed: which; the same seed keeps the same samples.

    Returns:
        (n,) int64 indices into `target`.

    Raises:
        ValueError: as :meth:`ImbalanceProfile.counts`.

    Example:
        >>> subsample(torch.tensor([0, 0, 0, 0, 1, 1]), exponential(2), seed=0).shape
        torch.Size([6])
    """
    kept = profile.counts(_class_sizes(target))
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
    counts = _class_sizes(target)
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
    """Classes with more than `many` training samples, with fewer than `few`, and the medium between.

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


def _class_sizes(target: Tensor) -> list[int]:
    whole = not (target.is_floating_point() or target.is_complex() or target.dtype == torch.bool)
    if target.dim() != 1 or len(target) == 0 or not whole or int(target.min()) < 0:
        raise ValueError(
            f"target must be a tensor (N,) of labels >= 0, got shape {tuple(target.shape)} of "
            f"{str(target.dtype).removeprefix('torch.')}"
            + (f" with {target.min().item()}" if target.numel() and whole else "")
        )
    sizes: list[int] = torch.bincount(target).tolist()
    return sizes


def _ratio(ratio: float) -> float:
    if not (math.isfinite(ratio) and ratio >= 1):
        raise ValueError(
            f"imbalance ratio must be a finite number >= 1 (largest over smallest class), got {ratio:g}"
        )
    return float(ratio)
