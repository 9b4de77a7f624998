"""The weights that a softmax classifier behaves as if trained with: its mean confusion as a Markov chain."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steelyard._common.checks import check_number


@dataclass(frozen=True)
class AppliedPower:
    """How strongly nominal weights acted: implied weights go like nominal weights to this power.

    Attributes:
        power: 1, they acted as stated; 0, they were never applied; 2, they were applied twice.
        standard_error: of the power: from the scatter of classes about the fit, which two classes do not have, and
            from the samples, where the implied weights have errors. NaN with neither.
    """

    power: float
    standard_error: float


@dataclass(frozen=True)
class ImpliedWeights:
    """What the stationary distribution of a mean confusion says about class weights.

    Attributes:
        weights: (K,) float64; within each group their mean over samples is 1. NaN for classes without samples.
            Between groups they do not compare: classes that are never confused do not feel each other's weights.
        groups: classes that communicate through P, directly or through others, largest group first.
        gaps: spectral gap of each group, in (0, 1]: near 0 its weights are poorly determined. 1 for one class.
        leaks: of each group, the largest mean probability that a class of it gives to all other groups together.
        tolerance: mean probabilities up to this count as no confusion.
        degrees_of_freedom: (K - 1)^2, entries of P that the softmax law leaves free, of K (K - 1).
        replicates: (F, K) logarithms of the weights without a part of the samples each, or None where no errors
            were asked for.
    """

    weights: Tensor
    groups: tuple[tuple[int, ...], ...]
    gaps: tuple[float, ...]
    leaks: tuple[float, ...]
    tolerance: float
    degrees_of_freedom: int
    replicates: Tensor | None = None

    @property
    def log_error(self) -> Tensor | None:
        """(K,) standard errors of the logarithms of the weights. Not finite where the samples do not determine the
        weight, such as for a class of one sample."""
        return None if self.replicates is None else _jackknife(self.replicates)

    def ratio_to(self, class_weights: Tensor) -> Tensor:
        """(K,) implied over nominal weights, with geometric mean 1 in each group: all 1 where they agree."""
        ratio = self.weights / class_weights.double()
        for group in self.groups:
            members = torch.tensor(group)
            ratio[members] = ratio[members] / ratio[members].log().mean().exp()
        return ratio

    def power_of(self, class_weights: Tensor) -> AppliedPower:
        r"""Whether these weights acted, from a fit over all classes at once.

        .. math:: \log w_k^{\text{implied}} = c_{\text{group}} + g \log w_k + \text{noise}

        by least squares, each group with its own constant. Single implied weights of a network as stochastic
        gradient descent leaves it are off by factors; the power is far better determined.

        Args:
            class_weights: (K,) nominal weights, positive, that differ within a group of classes.

        Returns:
            The power g and its standard error.

        Raises:
            ValueError: weights of another shape, not positive, or that do not tell anything.

        Example:
            >>> P = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.2, 0.1, 0.7]])
            >>> implied = implied_weights(P, torch.tensor([200, 100, 100]))
            >>> implied.power_of(torch.tensor([0.5, 1.0, 1.5])).power < 0.01
            True
        """
        if class_weights.shape != self.weights.shape or not bool((class_weights > 0).all()):
            raise ValueError(
                f"class_weights must be positive and of shape {tuple(self.weights.shape)}, "
                f"got {class_weights.tolist()}"
            )
        x = self._centred(class_weights.double().cpu().log())
        y = self._centred(self.weights.log())
        spread = x.square().sum()
        if spread < 1e-12:
            raise ValueError("class_weights must differ within a group of classes that communicate")
        power = (x @ y) / spread
        variances = []
        freedom = len(x) - len(self.groups) - 1
        if freedom >= 1:
            variances.append((y - power * x).square().sum() / freedom / spread)
        if self.replicates is not None:
            parts = torch.stack([x @ self._centred(logs) / spread for logs in self.replicates])
            variances.append(_jackknife(parts).square())
        error = math.sqrt(sum(float(v) for v in variances)) if variances else math.nan
        return AppliedPower(float(power), error)

    def _centred(self, logs: Tensor) -> Tensor:
        """Each group's values less their mean, one group after the other."""
        parts = [logs[list(group)] for group in self.groups]
        return torch.cat([part - part.mean() for part in parts])

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, None for NaN, for JSON."""
        return {
            "weights": _plain(self.weights),
            "log_error": None if self.log_error is None else _plain(self.log_error),
            "groups": [list(group) for group in self.groups],
            "gaps": list(self.gaps),
            "leaks": list(self.leaks),
            "tolerance": self.tolerance,
            "degrees_of_freedom": self.degrees_of_freedom,
        }


def implied_weights(
    mean_confusion: Tensor,
    class_counts: Tensor,
    *,
    tolerance: float = 1e-6,
    replicates: Iterable[tuple[Tensor, Tensor]] | None = None,
) -> ImpliedWeights:
    r"""Class weights that make the softmax law hold: stationary distribution of P over the class counts.

    .. math:: \pi P = \pi, \qquad w_k \propto \pi_k / N_k

    At a critical point of the weighted softmax loss :math:`a P = a` with :math:`a_k = w_k N_k`, so there the
    implied weights are the weights of the loss, up to a factor in each group of classes that communicate.

    Args:
        mean_confusion: (K, K), rows sum to 1; NaN rows for classes without samples.
        class_counts: (K,) training samples of each class.
        tolerance: mean probabilities up to this are taken as 0 when groups are formed.
        replicates: mean confusions without a part of the samples each, as :meth:`MeanConfusion.replicates` gives,
            for the errors of the weights by the jackknife, in the groups of the whole. Their counts are not used:
            a law about these samples may be asked of a network trained on others. Default: no errors.

    Returns:
        Weights, groups and how well determined they are.

    Raises:
        ValueError: a shape that does not fit, or rows that do not sum to 1 (one-vs-all sigmoids have no such
            chain).

    Source:
        Derived for this project from the softmax law of Li, Li, Pan, Zhu, AAAI 2020.

    Example:
        >>> P = torch.tensor([[0.9, 0.1], [0.3, 0.7]])
        >>> implied_weights(P, torch.tensor([300, 100])).weights  # counts alone explain P: no weights
        tensor([1.0000, 1.0000], dtype=torch.float64)
    """
    P, counts = mean_confusion.detach().double().cpu(), class_counts.double().cpu()
    size = len(P)
    if P.shape != (size, size) or counts.shape != (size,):
        shapes = f"{tuple(P.shape)} and {tuple(counts.shape)}"
        raise ValueError(f"mean_confusion must have shape (K, K) and class_counts (K,), got {shapes}")
    tolerance = check_number("tolerance", tolerance, low=0, high=1)
    observed = ~P.isnan().any(1) & (counts > 0)
    sums = P[observed].sum(1)
    if bool(((sums - 1).abs() > 1e-4).any()):
        raise ValueError(
            f"mean_confusion must have rows that sum to 1, got {sums[(sums - 1).abs().argmax()].item():.6g}; "
            "one-vs-all sigmoids have no implied weights"
        )
    groups = _communicating(P, observed, tolerance)
    gaps, leaks = [], []
    for members in groups:
        inside = P[members][:, members]
        kept = inside.sum(1, keepdim=True)
        gaps.append(_spectral_gap(inside / kept))
        leaks.append(float((P[members].sum(1, keepdim=True) - kept).max().clamp(min=0)))
    logs = None
    if replicates is not None:
        logs = torch.stack([_weights_of(part.double().cpu(), counts, groups).log() for part, _ in replicates])
    return ImpliedWeights(
        _weights_of(P, counts, groups),
        tuple(tuple(members.tolist()) for members in groups),
        tuple(gaps),
        tuple(leaks),
        tolerance,
        (size - 1) ** 2,
        logs,
    )


def _weights_of(P: Tensor, counts: Tensor, groups: list[Tensor]) -> Tensor:
    """(K,) stationary distribution over counts in each group, their mean over samples 1; NaN for the rest."""
    weights = torch.full_like(counts, torch.nan)
    for members in groups:
        inside = P[members][:, members]
        share = _stationary(inside / inside.sum(1, keepdim=True)) / counts[members]
        weights[members] = share * counts[members].sum() / (share * counts[members]).sum()
    return weights


def _jackknife(parts: Tensor) -> Tensor:
    """Standard error from delete-a-group replicates, along the first dimension."""
    return ((len(parts) - 1) * parts.var(0, correction=0)).sqrt()


def _plain(values: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _communicating(P: Tensor, observed: Tensor, tolerance: float) -> list[Tensor]:
    """Classes that reach each other through entries above the tolerance, largest group first."""
    confused = P.gt(tolerance) & observed[:, None] & observed
    reach = (confused | torch.eye(len(P), dtype=torch.bool)).float()
    for _ in range(max(1, math.ceil(math.log2(len(P))))):
        reach = ((reach @ reach) > 0).float()
    mutual = (reach * reach.T) > 0
    first = mutual.int().argmax(1)  # the lowest class of each class's group names the group
    groups = [(first == k).nonzero()[:, 0] for k in range(len(P)) if bool(observed[k]) and int(first[k]) == k]
    return sorted(groups, key=len, reverse=True)


def _stationary(chain: Tensor) -> Tensor:
    """Stationary distribution by the elimination of Grassmann, Taksar and Heyman: no subtraction, so every
    probability is right to relative precision, however small."""
    A = chain.clone()
    size = len(A)
    for k in range(size - 1, 0, -1):
        A[:k, k] /= A[k, :k].sum()
        A[:k, :k] += A[:k, k : k + 1] * A[k, :k]
    pi = torch.zeros(size, dtype=A.dtype)
    pi[0] = 1.0
    for k in range(1, size):
        pi[k] = pi[:k] @ A[:k, k]
    return pi / pi.sum()


def _spectral_gap(chain: Tensor) -> float:
    """1 less the second largest modulus of the eigenvalues."""
    if len(chain) == 1:
        return 1.0
    moduli = torch.linalg.eigvals(chain).abs().sort(descending=True).values
    return float((1 - moduli[1]).clamp(0, 1))
