"""Making a balanced data set imbalanced, deterministically by seed; and the usual groups of classes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
        """Return each class's size over the largest one's; classes in label order, the first the largest."""
        return [self.ratio**-depth for depth in self._depths(num_classes)]

    def counts(self, available: Sequence[int]) -> list[int]:
        """Return samples to keep of each class: the largest numbers of the profile's shape that are available.

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
        """Return powers of 1 / ratio: 0 for the largest classes, 1 for the smallest."""
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
    """Return a profile from its name on the command line.

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


def _ratio(ratio: float) -> float:
    if not (math.isfinite(ratio) and ratio >= 1):
        raise ValueError(
            f"imbalance ratio must be a finite number >= 1 (largest over smallest class), got {ratio:g}"
        )
    return float(ratio)
