"""The balance equations as pure maths on mean confusion, class counts and weights; no models.

At a critical point of a loss the gradient of each output's bias is zero: what pulls the output up equals what
pushes it down. All is float64; a law holds exactly for the bias, with the term that weight decay leaves, if any.
The weights of the head have one equation for each output and feature, :func:`feature_law`, which needs samples.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from steelyard._common.checks import Beta, check_beta, check_choice, check_number, check_vector
from steelyard.losses.lgl_inr import in_negative_weights
from steelyard.targets import check_logits, check_target


@dataclass(frozen=True)
class Balance:
    """Both sides of a balance law, per output, in units of the whole pull of a classifier that knows nothing.

    Attributes:
        pull_up: (K,) float64, what raises the output: the misses of its own class.
        push_down: (K,) float64, what lowers it: the false probability of the others. Of :func:`feature_law` both
            are (K, D).
        residual_error: (K,) float64 standard error of the residual, or None where none was asked for: how far
            the residual of another sample of the same size may lie.
    """

    pull_up: Tensor
    push_down: Tensor
    residual_error: Tensor | None = None

    @property
    def residual(self) -> Tensor:
        """Return pull minus push, (K,): positive where training would still raise the output."""
        return self.pull_up - self.push_down

    @property
    def relative_residual(self) -> Tensor:
        """Return the (K,) residual over the sizes of pull and push, in [-1, 1]; 0 where both are 0."""
        total = self.pull_up.abs() + self.push_down.abs()
        return torch.where(total == 0, 0.0, self.residual / torch.where(total == 0, 1.0, total))

    @property
    def misfit(self) -> float:
        """Return how far the law is from holding, over all outputs: sum of the residuals' sizes over that of both
        sides, from 0 (a critical point) to 1 (all pull or all push)."""
        total = (self.pull_up.abs() + self.push_down.abs()).sum()
        return float(self.residual.abs().sum() / total) if total > 0 else 0.0

    def to_dict(self) -> dict[str, list[float | None]]:
        """Return plain lists of floats, None for NaN, for JSON."""
        sides = {
            "pull_up": self.pull_up,
            "push_down": self.push_down,
            "relative_residual": self.relative_residual,
        }
        if self.residual_error is not None:
            sides["residual_error"] = self.residual_error
        return {k: [v if math.isfinite(v) else None for v in side.tolist()] for k, side in sides.items()}


def binary_law(
    mean_positive: float,
    mean_negative: float,
    class_counts: tuple[int, int],
    class_weights: tuple[float, float] = (1.0, 1.0),
) -> Balance:
    r"""Return the binary logistic loss's law, the only one that fixes probabilities by weights and counts alone.

    .. math:: w_1 N_1 (1 - P_1) = w_0 N_0 P_0

    Args:
        mean_positive: :math:`P_1`, mean probability of the positive class over the positives.
        mean_negative: :math:`P_0`, the same over the negatives.
        class_counts: :math:`(N_0, N_1)`.
        class_weights: :math:`(w_0, w_1)`.

    Returns:
        One output: pull up :math:`w_1 N_1 (1 - P_1)`, push down :math:`w_0 N_0 P_0`, over :math:`\sum w N`.

    Raises:
        ValueError: a mean probability outside [0, 1], a negative count or weight.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020 (deterministic).

    Example:
        >>> law = binary_law(0.75, 0.025, class_counts=(1000, 100))
        >>> law.residual.abs().item() < 1e-15
        True
    """
    P = torch.tensor(
        [
            check_number("mean_negative", mean_negative, low=0, high=1),
            check_number("mean_positive", mean_positive, low=0, high=1),
        ],
        dtype=torch.float64,
    )
    mass = _mass(torch.tensor(class_counts), torch.tensor(class_weights), 2)
    return Balance((mass[1] * (1 - P[1]))[None], (mass[0] * P[0])[None])


def softmax_law(
    mean_confusion: Tensor,
    class_counts: Tensor,
    class_weights: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    bias_decay: Tensor | None = None,
    standard_error: Tensor | None = None,
) -> Balance:
    r"""Return the softmax loss's law: the weighted counts are the stationary distribution of the mean confusion.

    .. math:: a_j (1 - P_{jj}) = \sum_{k \ne j} a_k P_{kj} \quad\Longleftrightarrow\quad a P = a,
        \qquad a_k = w_k N_k

    Under label smoothing :math:`\epsilon` the targets :math:`T = (1 - \epsilon) I + \epsilon / K` take the place
    of the identity: :math:`a P = a T`.

    Args:
        mean_confusion: (K, K), rows sum to 1; a row of a class without samples may be NaN.
        class_counts: (K,) :math:`N_k`.
        class_weights: (K,) :math:`w_k`. Default: all 1.
        label_smoothing: :math:`\epsilon` in [0, 1].
        bias_decay: (K,) :math:`\lambda b_j`, weight decay times bias: the law becomes pull less push equals it,
            for a loss that is divided by the sum of its weights. Default: no decay on the bias.
        standard_error: (K, K) standard errors of the mean confusion, such as :meth:`MeanConfusion.standard_error`
            gives; classes are independent samples. Default: no error of the residual.

    Returns:
        Both sides over :math:`\sum a`.

    Raises:
        ValueError: a shape that does not fit, a negative count or weight.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020 (indeterminate); the reading as a Markov chain is derived for this project.

    Example:
        >>> P = torch.tensor([[0.9, 0.1], [0.3, 0.7]])
        >>> softmax_law(P, torch.tensor([300, 100])).relative_residual.abs().max().item() < 1e-6
        True
    """
    P, mass = masses(mean_confusion, class_counts, class_weights)
    epsilon = check_number("label_smoothing", label_smoothing, low=0, high=1)
    T = (1 - epsilon) * torch.eye(len(P), dtype=P.dtype) + epsilon / len(P)
    # T (1 - P) against (1 - T) P: equal sides mean equal sums of T and P, and for T = 1 it is the law as written.
    coefficients = mass[:, None].expand_as(P)
    pull, push = _decayed(mass @ (T * (1 - P)), mass @ ((1 - T) * P), bias_decay)
    return Balance(pull, push, _error(coefficients, standard_error))


def one_vs_all_law(
    mean_confusion: Tensor,
    class_counts: Tensor,
    class_weights: Tensor | None = None,
    *,
    pos_weight: Tensor | None = None,
    bias_decay: Tensor | None = None,
    standard_error: Tensor | None = None,
) -> Balance:
    r"""Return the law of the one-vs-all logistic loss, which ties only the average over the non-target classes.

    .. math:: u_j a_j (1 - P_{jj}) = \sum_{k \ne j} a_k P_{kj}, \qquad a_k = c_k N_k

    A weight of the whole output cancels.

    Args:
        mean_confusion: (K, K) mean sigmoids; a row of a class without samples may be NaN.
        class_counts: (K,) :math:`N_k`.
        class_weights: (K,) :math:`c_k`, weight of the samples of a class in all outputs. Default: all 1.
        pos_weight: (K,) :math:`u_j`, weight of an output's positives. Default: all 1.
        bias_decay: (K,) :math:`\lambda b_j`, weight decay times bias: the law becomes pull less push equals it,
            for a loss that is divided by the sum of its weights. Default: no decay on the bias.
        standard_error: (K, K) standard errors of the mean confusion, such as :meth:`MeanConfusion.standard_error`
            gives; classes are independent samples. Default: no error of the residual.

    Returns:
        Both sides over :math:`\sum a`.

    Raises:
        ValueError: a shape that does not fit, a negative count or weight.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020 (averaging effect).

    Example:
        >>> P = torch.tensor([[0.75, 0.125], [0.25, 0.5]])
        >>> one_vs_all_law(P, torch.tensor([100, 50])).residual
        tensor([0.0833, 0.0833], dtype=torch.float64)
    """
    P, mass = masses(mean_confusion, class_counts, class_weights)
    u = (
        torch.ones_like(mass)
        if pos_weight is None
        else check_vector("pos_weight", pos_weight, len(P), low=0, device=P.device)
    )
    coefficients = mass[:, None] * torch.where(torch.eye(len(P), dtype=torch.bool), u, 1.0)
    pull, push = u * mass * (1 - P.diagonal()), mass @ P - mass * P.diagonal()
    return Balance(*_decayed(pull, push, bias_decay), _error(coefficients, standard_error))


def lgl_inr_law(
    mean_confusion: Tensor,
    *,
    beta: Beta = 1.0,
    pos_weight: Tensor | None = None,
    presence: Tensor | None = None,
    statistics: tuple[Tensor, Tensor] | None = None,
) -> Balance:
    r"""Return the law of LGL-INR: a miss rate equals a hardness-weighted mean of false probabilities.

    Class counts enter by ``presence`` alone.

    .. math:: u_j \rho_j (1 - P_{jj}) = \sum_{k \ne j} \omega_{kj} P_{kj}

    :math:`\rho` = ``presence`` is 1 for a loss of the whole set at once. In mini-batches a class counts only where
    it is: its pull comes in the share :math:`\rho_j` of the batches, while its column is pushed down in all of
    them. So a class that most batches lack has a miss rate of up to :math:`1 / \rho_j` times its false
    probability. The weights too are then means over batches, known to first order
    (:func:`~steelyard.losses.functional.in_negative_weights`); what that leaves is small
    where batches have several samples of a class, or beta is.

    With gradient through the weights, :math:`P_{kj} + \beta (A_{kj} - \bar A_j) V_{kj}` takes the place of
    :math:`P_{kj}` on the right, :math:`\bar A_j = \sum_k \omega_{kj} A_{kj}`; then the right side may be
    negative.

    Args:
        mean_confusion: (K, K) mean sigmoids; a row of NaN marks a class without samples.
        beta: as in the loss.
        pos_weight: (K,) :math:`u_j`. Default: all 1.
        presence: (K,) share of the mini-batches that have each class: :func:`~steelyard.batch_presence`. Default:
            all 1.
        statistics: :math:`(A, V)` from :func:`logistic_statistics`, for a loss trained with gradient through its
            weights. Default: the law of detached weights.

    Returns:
        Both sides, between 0 and 1 for detached weights.

    Raises:
        TypeError, ValueError: a shape that does not fit, a beta that is not finite.

    Source:
        Derived for this project from the authors' published loss.

    Example:
        >>> P = torch.tensor([[0.8, 0.2], [0.2, 0.8]], dtype=torch.float64)
        >>> lgl_inr_law(P).residual.abs().max().item() < 1e-15
        True
    """
    beta = check_beta(beta, len(mean_confusion))
    omega = in_negative_weights(mean_confusion.double(), beta=beta, presence=presence)
    absent = mean_confusion.isnan()
    P = mean_confusion.double().masked_fill(absent, 0.0)
    pull = (1 - P.diagonal()).masked_fill(absent.diagonal(), 0.0)
    if pos_weight is not None:
        pull = pull * check_vector("pos_weight", pos_weight, len(P), low=0, device=P.device)
    if presence is not None:
        pull = pull * presence.double()
    false = P
    if statistics is not None:
        A, V = (s.double().masked_fill(absent, 0.0) for s in statistics)
        false = P + beta * (A - (omega * A).sum(0)) * V
    return Balance(pull, (omega * false).sum(0))


def feature_law(
    logits: Tensor,
    target: Tensor,
    features: Tensor,
    *,
    link: Literal["softmax", "logistic"],
    class_weights: Tensor | None = None,
    pos_weight: Tensor | None = None,
    weight: Tensor | None = None,
    weight_decay: float = 0.0,
) -> Balance:
    r"""Return the law of the head's weights: for each output and feature, with each sample times its feature.

    .. math:: \sum_{i \in j} u_j w_j (1 - p_{ij}) h_{id} = \sum_{i \notin j} w_{y_i} p_{ij} h_{id}
        + \lambda W_{jd} \sum_i w_{y_i}

    Terms of negative features count on the other side, so both sides are not negative; a constant feature of 1
    gives the law of the bias. It is much the sharper test of the two: a network that has learned nothing but the
    class frequencies satisfies the law of the bias.

    Args:
        logits: (N, K), floating.
        target: (N,) labels.
        features: (N, D) :math:`h`, what the head's matrix multiplies.
        link: ``"softmax"``, or ``"logistic"`` for one-vs-all outputs.
        class_weights: (K,) :math:`w_k`. Default: all 1.
        pos_weight: (K,) :math:`u_j`; for ``"logistic"``. Default: all 1.
        weight: (K, D) the head's :math:`W`; needed with ``weight_decay``.
        weight_decay: :math:`\lambda`, for a loss that is divided by the sum of its weights.

    Returns:
        Both sides, (K, D), over :math:`\sum_i w_{y_i}`.

    Raises:
        TypeError, ValueError: shapes that do not fit, a weight decay without the weights.

    Source:
        Derived for this project.

    Example:
        >>> logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> law = feature_law(logits, torch.tensor([0, 1]), torch.ones(2, 3), link="softmax")
        >>> law.residual.abs().max().item() < 1e-15
        True
    """
    check_logits(logits)
    if logits.dim() != 2:
        raise ValueError(f"logits must have shape (N, K), got {tuple(logits.shape)}")
    rows, size = logits.shape
    check_target(logits, target, num_labels=size, ignore_index=-100, validate=True)
    check_choice("link", link, ("softmax", "logistic"))
    if features.dim() != 2 or len(features) != rows:
        raise ValueError(f"features must have shape ({rows}, D), got {tuple(features.shape)}")
    decay = check_number("weight_decay", weight_decay, low=0)
    if pos_weight is not None and link == "softmax":
        raise ValueError('pos_weight belongs to link "logistic", got it with "softmax"')
    counted = target != -100
    z, h, target = logits.detach()[counted].double(), features.detach()[counted].double(), target[counted]
    own = torch.nn.functional.one_hot(target.long(), size).bool()
    w = torch.ones(size) if class_weights is None else check_vector("class_weights", class_weights, size, low=0)
    a = w.to(z).gather(0, target.long())
    a = a / a.sum()
    u = torch.ones(size) if pos_weight is None else check_vector("pos_weight", pos_weight, size, low=0)
    if link == "softmax":
        p = torch.softmax(z, 1)
        miss = 1 - p
    else:
        p, miss = torch.sigmoid(z), torch.sigmoid(-z)
    up = (a[:, None] * u.to(z) * miss).masked_fill(~own, 0.0)
    down = (a[:, None] * p).masked_fill(own, 0.0)
    positive, negative = h.clamp(min=0), (-h).clamp(min=0)
    pull, push = up.T @ positive + down.T @ negative, down.T @ positive + up.T @ negative
    if decay == 0:
        return Balance(pull, push)
    if weight is None or weight.shape != pull.shape:
        came = None if weight is None else tuple(weight.shape)
        raise ValueError(f"weight must have shape {tuple(pull.shape)} where weight_decay is given, got {came}")
    return Balance(*_decayed(pull, push, decay * weight))


def _decayed(pull: Tensor, push: Tensor, decay: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return both sides with weight decay's part: it pushes what is positive down and pulls what is negative
    up."""
    if decay is None:
        return pull, push
    if decay.shape != pull.shape:
        raise ValueError(f"bias_decay must have shape {tuple(pull.shape)}, got {tuple(decay.shape)}")
    term = decay.detach().to(pull)
    return pull + (-term).clamp(min=0), push + term.clamp(min=0)


def _error(coefficients: Tensor, standard_error: Tensor | None) -> Tensor | None:
    """Return the standard error of each column's sum of coefficients times means, where it has a coefficient."""
    if standard_error is None:
        return None
    if standard_error.shape != coefficients.shape:
        raise ValueError(
            f"standard_error must have shape {tuple(coefficients.shape)}, got {tuple(standard_error.shape)}"
        )
    terms = coefficients * standard_error.double()
    return terms.masked_fill(coefficients == 0, 0.0).square().sum(0).sqrt()


def masses(mean_confusion: Tensor, class_counts: Tensor, class_weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return P with the rows of classes without samples at 0, and the share of each class's weighted count; (K,
    K), (K,) float64. For the package's own modules."""
    if mean_confusion.dim() != 2 or mean_confusion.shape[0] != mean_confusion.shape[1]:
        raise ValueError(f"mean_confusion must have shape (K, K), got {tuple(mean_confusion.shape)}")
    mass = _mass(class_counts, class_weights, len(mean_confusion), mean_confusion.device)
    return mean_confusion.double().masked_fill((mass == 0)[:, None], 0.0), mass


def _mass(
    class_counts: Tensor, class_weights: Tensor | None, size: int, device: torch.device | str = "cpu"
) -> Tensor:
    mass = check_vector("class_counts", class_counts, size, low=0, device=device)
    if class_weights is not None:
        mass = mass * check_vector("class_weights", class_weights, size, low=0, device=device)
    if mass.sum() == 0:
        raise ValueError("class_counts times class_weights must not be all zero")
    return mass / mass.sum()
