"""The weights that a classifier behaves as if trained with, from its ledger or its mean confusion."""

import itertools
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

from steelyard._common.checks import check_number
from steelyard.balance.perron import communicating, gradient_weights, spectral_gap, stationary
from steelyard.balance.setup import link_of

if TYPE_CHECKING:
    from steelyard.balance.gradient_ledger import GradientLedger

_TOGETHER = 1 << 24  # numbers of replicates that are worked on together


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
    """Which class weights a model behaves as if trained with.

    Attributes:
        weights: (K,) float64; within each group their mean over samples is 1. NaN for classes without samples.
            Between groups they do not compare: classes that are never confused do not feel each other's weights.
        groups: classes that communicate through P, directly or through others, largest group first.
        gaps: spectral gap of each group, in (0, 1]: near 0 its weights are poorly determined. 1 for one class.
            NaN where push is negative somewhere, as smoothing can make it.
        leaks: of each group, the largest mean probability that a class of it gives to all other groups together.
        tolerance: mean probabilities up to this count as no confusion.
        degrees_of_freedom: (K - 1)^2, entries of P that the softmax law leaves free, of K (K - 1).
        replicates: (F, K) logarithms of the weights without a part of the samples each, or None where no errors
            were asked for.
        eigenvalues: of each group, the Perron eigenvalue of push over pull. It is 1 for the softmax family at any
            logits, and for one-vs-all losses at a critical point only: a measure of the distance from one.
    """

    weights: Tensor
    groups: tuple[tuple[int, ...], ...]
    gaps: tuple[float, ...]
    leaks: tuple[float, ...]
    tolerance: float
    degrees_of_freedom: int
    replicates: Tensor | None = None
    eigenvalues: tuple[float, ...] = ()

    @property
    def log_error(self) -> Tensor | None:
        """Return the (K,) standard errors of the logarithms of the weights. Not finite where the samples do not
        determine the weight, such as for a class of one sample."""
        return None if self.replicates is None else _jackknife(self.replicates)

    def ratio_to(self, class_weights: Tensor) -> Tensor:
        """Return the (K,) implied over nominal weights, with geometric mean 1 in each group: all 1 where they
        agree."""
        ratio = self.weights / class_weights.double()
        for group in self.groups:
            members = torch.tensor(group)
            ratio[members] = ratio[members] / ratio[members].log().mean().exp()
        return ratio

    def power_of(self, class_weights: Tensor) -> AppliedPower:
        r"""Return how strongly these weights acted, from a fit over all classes at once.

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
        """Return each group's values less their mean, one group after the other."""
        parts = [logs[list(group)] for group in self.groups]
        return torch.cat([part - part.mean() for part in parts])

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists, None for NaN, for JSON."""
        return {
            "weights": _plain(self.weights),
            "log_error": None if self.log_error is None else _plain(self.log_error),
            "groups": [list(group) for group in self.groups],
            "gaps": [gap if math.isfinite(gap) else None for gap in self.gaps],
            "eigenvalues": [value if math.isfinite(value) else None for value in self.eigenvalues],
            "leaks": list(self.leaks),
            "tolerance": self.tolerance,
            "degrees_of_freedom": self.degrees_of_freedom,
        }


def implied_weights(
    source: "Tensor | GradientLedger",
    class_counts: Tensor | None = None,
    *,
    tolerance: float = 1e-6,
    replicates: Iterable[tuple[Tensor, Tensor]] | None = None,
) -> ImpliedWeights:
    r"""Return the class weights that make the law hold for a model as it is.

    .. math:: w G = 0, \qquad \text{and for softmax } \pi P = \pi, \quad w_k \propto \pi_k / N_k

    At a critical point of a weighted loss the gradients of its classes cancel under its weights, so there the
    implied weights are the weights of the loss, up to a factor in each group of classes that communicate. From a
    ledger they are the left Perron vector of push over pull, :math:`G_{kj} / (-G_{jj})`, which is positive away
    from a critical point too; where smoothing makes push negative, the null vector of G. From the mean confusion
    of a softmax classifier they are its stationary distribution over the class counts.

    Args:
        source: the ledger of a loss of class labels; or the mean confusion (K, K) of a softmax classifier, whose
            rows sum to 1, NaN for classes without samples.
        class_counts: (K,) training samples of each class, for a mean confusion. Default: those of the ledger.
        tolerance: mean probabilities (of a ledger, mean gradients) up to this are taken as 0 when groups are
            formed.
        replicates: of a mean confusion, what :meth:`MeanConfusion.replicates` gives, for the errors of the weights
            by the jackknife, in the groups of the whole. Their counts are not used: a law about these samples may
            be asked of a network trained on others. A ledger with folds brings its own. Default: no errors.

    Returns:
        Weights, groups and how well determined they are. If the loss holds weights that nobody can read off it,
        the weights are the ratio of implied to held.

    Raises:
        TypeError: a ledger of independent outputs, which have implied positive weights instead.
        ValueError: a shape that does not fit, or rows that do not sum to 1 (one-vs-all sigmoids have no such
            chain).

    Source:
        Derived for this project from the softmax law of Li, Li, Pan, Zhu, AAAI 2020.

    Example:
        >>> P = torch.tensor([[0.9, 0.1], [0.3, 0.7]])
        >>> implied_weights(P, torch.tensor([300, 100])).weights  # counts alone explain P: no weights
        tensor([1.0000, 1.0000], dtype=torch.float64)
    """
    tolerance = check_number("tolerance", tolerance, low=0, high=1)
    if not isinstance(source, Tensor) and _is_ledger(source):
        if class_counts is not None or replicates is not None:
            raise TypeError("class_counts and replicates belong to a mean confusion, got them with a ledger")
        return _of_ledger(source, tolerance)
    if class_counts is None:
        raise TypeError("class_counts must be given with a mean confusion, got None")
    return _of_confusion(source, class_counts, tolerance, replicates)  # type: ignore[arg-type]  # a confusion


def implied_pos_weight(ledger: "GradientLedger") -> Tensor:
    r"""Return the positive weight of each output that makes its law hold, push over pull.

    .. math:: u_j^{\text{implied}} = u_j\, \text{push}_j / \text{pull}_j

    with :math:`u` the stated positive weight. Of class labels the stated class weights count as applied:
    one-vs-all losses have K equations, which determine either class weights or positive weights.

    Args:
        ledger: of multi-hot targets, one binary output, or one-vs-all class labels.

    Returns:
        (K,) float64; NaN for outputs without positives or negatives. Errors: ``ledger.law().residual_error``.

    Raises:
        TypeError: a ledger of a softmax loss.

    Source:
        Derived for this project from the binary law of Li, Li, Pan, Zhu, AAAI 2020.

    Example:
        >>> from steelyard import TrainingSetup
        >>> from steelyard.balance import GradientLedger
        >>> ledger = GradientLedger(TrainingSetup("logistic", targets="multi-hot"), 1)
        >>> ledger.update(torch.zeros(4, 1), torch.tensor([[1.0], [0.0], [0.0], [0.0]]))
        >>> implied_pos_weight(ledger)
        tensor([3.], dtype=torch.float64)
    """
    setup = ledger.setup
    if ledger.by_label and link_of(setup, ledger.num_classes) == "softmax":
        raise TypeError(f"ledger must be of outputs that stand for themselves, got one of the {setup.text}")
    balance = ledger.law()
    ratio = balance.push_down / balance.pull_up
    stated = torch.ones_like(ratio) if setup.pos_weight is None else setup.pos_weight.to(ratio)
    return torch.where((balance.pull_up > 0) & (balance.push_down > 0), ratio * stated, torch.nan)


def _is_ledger(source: object) -> "TypeGuard[GradientLedger]":
    from steelyard.balance.gradient_ledger import GradientLedger  # a metric of torchmetrics, which takes seconds

    return isinstance(source, GradientLedger)


def _of_ledger(ledger: "GradientLedger", tolerance: float) -> ImpliedWeights:
    if not ledger.by_label:
        raise TypeError("source must be a ledger of class labels; independent outputs have implied_pos_weight")
    G, counts, masses = ledger.compute().cpu(), ledger.class_counts.cpu().double(), ledger.masses.cpu()
    size, observed = len(G), ledger.masses.cpu() > 0
    rates = G.masked_fill(torch.eye(size, dtype=torch.bool), 0.0) / torch.where(observed, masses, 1.0)[:, None]
    groups = communicating(rates.abs(), observed, tolerance)
    weights, gaps, leaks, eigenvalues = torch.full_like(counts, torch.nan), [], [], []
    for members in groups:
        found = gradient_weights(G[members][:, members], masses[members])
        weights[members] = _mean_one(found.weights, counts[members])
        gaps.append(found.gap)
        eigenvalues.append(found.eigenvalue)
        outside = rates[members].abs().sum(1) - rates[members][:, members].abs().sum(1)
        leaks.append(float(outside.max().clamp(min=0)))
    if bool(weights[observed].isnan().any()):
        warnings.warn(
            f"{int(weights[observed].isnan().sum())} classes have no positive implied weights: their push is "
            "negative and no positive vector makes the law hold; they are NaN",
            stacklevel=3,
        )
    logs = None
    if ledger.folds > 1:
        logs = torch.stack([_logs_of(part.cpu(), counts, masses, groups) for part, _ in ledger.replicates()])
    names = tuple(tuple(members.tolist()) for members in groups)
    freedom = (size - 1) ** 2
    return ImpliedWeights(weights, names, tuple(gaps), tuple(leaks), tolerance, freedom, logs, tuple(eigenvalues))


def _logs_of(G: Tensor, counts: Tensor, masses: Tensor, groups: list[Tensor]) -> Tensor:
    weights = torch.full_like(counts, torch.nan)
    for members in groups:
        found = gradient_weights(G[members][:, members], masses[members]).weights
        weights[members] = _mean_one(found, counts[members])
    return weights.log()


def _mean_one(weights: Tensor, counts: Tensor) -> Tensor:
    """Return weights in the unit in which their mean over samples is 1."""
    return weights * counts.sum() / (weights * counts).sum(-1, keepdim=True)


def _of_confusion(
    mean_confusion: Tensor,
    class_counts: Tensor,
    tolerance: float,
    replicates: Iterable[tuple[Tensor, Tensor]] | None,
) -> ImpliedWeights:
    P, counts = mean_confusion.detach().double().cpu(), class_counts.double().cpu()
    size = len(P)
    if P.shape != (size, size) or counts.shape != (size,):
        shapes = f"{tuple(P.shape)} and {tuple(counts.shape)}"
        raise ValueError(f"mean_confusion must have shape (K, K) and class_counts (K,), got {shapes}")
    observed = ~P.isnan().any(1) & (counts > 0)
    sums = P[observed].sum(1)
    if bool(((sums - 1).abs() > 1e-4).any()):
        raise ValueError(
            f"mean_confusion must have rows that sum to 1, got {sums[(sums - 1).abs().argmax()].item():.6g}; "
            "one-vs-all sigmoids have no implied weights"
        )
    groups = communicating(P, observed, tolerance)
    gaps, leaks = [], []
    for members in groups:
        inside = P[members][:, members]
        kept = inside.sum(1, keepdim=True)
        gaps.append(spectral_gap(inside / kept))
        leaks.append(float((P[members].sum(1, keepdim=True) - kept).max().clamp(min=0)))
    logs = None
    if replicates is not None:
        parts, together = (part.double().cpu() for part, _ in replicates), max(1, _TOGETHER // size**2)
        found = []
        while some := list(itertools.islice(parts, together)):
            found.append(_weights_of(torch.stack(some), counts, groups))
        logs = torch.cat(found).log()
    return ImpliedWeights(
        _weights_of(P, counts, groups),
        tuple(tuple(members.tolist()) for members in groups),
        tuple(gaps),
        tuple(leaks),
        tolerance,
        (size - 1) ** 2,
        logs,
        (1.0,) * len(groups),
    )


def _weights_of(P: Tensor, counts: Tensor, groups: list[Tensor]) -> Tensor:
    """Return the (..., K) stationary distributions of (..., K, K) mean confusions over counts in each group, their
    mean over samples 1; NaN for the rest."""
    weights = P.new_full(P.shape[:-1], torch.nan)
    for members in groups:
        inside = P if len(members) == len(counts) else P[..., members[:, None], members]
        share = stationary(inside / inside.sum(-1, keepdim=True)) / counts[members]
        weights[..., members] = _mean_one(share, counts[members])
    return weights


def _jackknife(parts: Tensor) -> Tensor:
    """Return the standard error from delete-a-group replicates, along the first dimension."""
    return ((len(parts) - 1) * parts.var(0, correction=0)).sqrt()


def _plain(values: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]
