"""Logits trained under weights or one prior, corrected to probabilities without them or under another."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from steelyard._common.checks import Beta, check_choice, check_logits, check_number, check_weights, compute_dtype
from steelyard.losses.lgl_inr import in_negative_weights

_MOST_STEPS = 100_000


def correct_logits(
    logits: Tensor,
    link: Literal["softmax", "logistic"],
    *,
    class_weights: Tensor | None = None,
    pos_weight: Tensor | None = None,
    train_prior: Tensor | None = None,
    test_prior: Tensor | None = None,
    mean_confusion: Tensor | None = None,
    beta: Beta = 1.0,
    presence: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    r"""Undo what training did to the probabilities: class weights, reweighting, another class prior.

    With :math:`z` the logits over ``temperature``, :math:`w` = ``class_weights``, :math:`u` = ``pos_weight``,
    :math:`\pi` = ``train_prior``, :math:`\pi'` = ``test_prior`` and :math:`\rho` = ``presence``, the corrected
    posterior :math:`q` is

    .. math::
        \text{softmax:}\quad & \log q_k = z_k - \log w_k + \log(\pi'_k / \pi_k) + \text{const} \\
        \text{one-vs-all:}\quad & \log q_k = \log \sigma(z_k - \log u_k) - \log w_k + \log(\pi'_k / \pi_k)
            + \text{const} \\
        \text{LGL-INR:}\quad & u_j \rho_j r_j = e^{z_j} \textstyle\sum_{k \ne j} \omega_{kj} r_k, \qquad
            \log q_k = \log r_k + \log \pi'_k + \text{const}

    For one output (binary logistic) the result is a logit again,
    :math:`z - \log u - \log(w_1 / w_0) + \log(\pi'_1 / \pi_1) - \log(\pi'_0 / \pi_0)`.

    It is exact where the model is flexible enough to reach the optimum of its loss; for any other it is an
    approximation. The sampler counts too: samples drawn with other frequencies than the data's have
    another ``train_prior``.

    Args:
        logits: (N, K), floating, as the model gives them.
        link: ``"softmax"``, or ``"logistic"`` for binary and one-vs-all outputs.
        class_weights: (K,), or (2,) for K = 1: weight of the samples of each class in the loss. Default: 1.
        pos_weight: (K,) weight of each output's positives; for ``"logistic"``. Default: 1.
        train_prior: (K,), or (2,) for K = 1: class frequencies that training saw. Needed with ``test_prior`` and
            for LGL-INR.
        test_prior: the same where the model is used. Default: ``train_prior``.
        mean_confusion: (K, K) mean sigmoids over the training classes: says that the loss was LGL-INR with
            detached weights.
        beta: of LGL-INR.
        presence: (K,) share of the mini-batches of LGL-INR that had each class: :func:`~steelyard.batch_presence`.
            Where it matters (rare classes, many classes, small batches) the correction is right to first order
            in it. Default: all 1, for batches that have every class.
        temperature: divides the logits first, > 0.

    Returns:
        (N, K) log-probabilities (log of q above, normalised), float32, or float64 for float64 logits; (N, 1)
        corrected logits for K = 1.

    Raises:
        TypeError, ValueError: an argument that cannot be meant, a weight of zero, a prior that does not sum to 1.
        ArithmeticError: the fixed point of LGL-INR was not reached.

    Source:
        Prior shift: Saerens, Latinne, Decaestecker, Neural Computation 2002. The rest derived for this project.

    Example:
        >>> z = torch.log(torch.tensor([[0.9, 0.1]]))          # trained with weight 9 on class 0
        >>> correct_logits(z, "softmax", class_weights=torch.tensor([9.0, 1.0])).exp()
        tensor([[0.5000, 0.5000]])
    """
    check_logits(logits)
    if logits.dim() != 2:
        raise ValueError(f"logits must have shape (N, K), got {tuple(logits.shape)}")
    check_choice("link", link, ("softmax", "logistic"))
    outputs = logits.shape[1]
    if link == "softmax" and outputs == 1:
        raise ValueError('logits must have at least two columns for link "softmax", got 1')
    classes = max(outputs, 2)
    log_w = _log_positive("class_weights", class_weights, classes, logits)
    log_u = _log_positive("pos_weight", pos_weight, outputs, logits)
    if pos_weight is not None and link == "softmax":
        raise ValueError('pos_weight belongs to link "logistic", got it with "softmax"')
    prior, shift = _priors(train_prior, test_prior, classes, logits)
    z = logits.to(compute_dtype(logits)) / check_number("temperature", temperature, low=1e-6)

    if outputs == 1:
        change = shift - log_w
        return z - log_u + (change[1] - change[0])
    if presence is not None and mean_confusion is None:
        raise ValueError("presence belongs to LGL-INR, got it without the mean_confusion that says so")
    if mean_confusion is not None:
        if link != "logistic" or prior is None or class_weights is not None:
            raise ValueError(
                "mean_confusion says that the loss was LGL-INR: "
                'it takes link "logistic", train_prior and no class_weights'
            )
        omega = in_negative_weights(mean_confusion.to(z.dtype), beta=beta, presence=presence)
        if len(omega) != outputs:
            raise ValueError(f"mean_confusion must have K = {outputs}, got {tuple(omega.shape)}")
        log_rho = _log_positive("presence", presence, outputs, logits)
        scores = _inr_ratios(z - log_u - log_rho, omega) + prior.log() + shift
    elif link == "softmax":
        scores = z - log_w + shift
    else:
        scores = F.logsigmoid(z - log_u) - log_w + shift
    return torch.log_softmax(scores, 1)


def _inr_ratios(z: Tensor, omega: Tensor) -> Tensor:
    """log r, (N, K), with odds_j = r_j / sum of omega[k, j] r_k: for each row the Perron vector of a matrix that
    is not negative, reached by r <- p (r + r omega), whose positive diagonal keeps it from swinging."""
    p = torch.sigmoid(z.double())
    omega = omega.double()
    r = p / p.sum(1, keepdim=True)
    for _ in range(_MOST_STEPS):
        step = p * (r + r @ omega)
        step = step / step.sum(1, keepdim=True)
        change = (step - r).abs().amax()
        r = step
        if bool(change <= 1e-14):
            return r.log().to(z.dtype)
    raise ArithmeticError(
        f"the correction of LGL-INR has not settled after {_MOST_STEPS} steps (last {change:.1g})"
    )


def _log_positive(name: str, values: Tensor | None, length: int, logits: Tensor) -> Tensor:
    weights = check_weights(name, values, length=length, logits=logits, validate=True)
    if weights is None:
        return torch.zeros(length, dtype=compute_dtype(logits), device=logits.device)
    if bool((weights == 0).any()):
        raise ValueError(f"{name} must be positive to be undone, got 0 at position {int(weights.argmin())}")
    return weights.log()


def _priors(
    train_prior: Tensor | None, test_prior: Tensor | None, classes: int, logits: Tensor
) -> tuple[Tensor | None, Tensor]:
    """The training prior, and log(test / train)."""
    priors = []
    for name, values in (("train_prior", train_prior), ("test_prior", test_prior)):
        prior = check_weights(name, values, length=classes, logits=logits, validate=True)
        if prior is not None and abs(float(prior.sum()) - 1) > 1e-4:
            raise ValueError(f"{name} must sum to 1, got {float(prior.sum()):.6g}")
        priors.append(prior)
    train, test = priors
    if train is not None and bool((train == 0).any()):
        raise ValueError(f"train_prior must be positive, got 0 at position {int(train.argmin())}")
    if test is None:
        return train, torch.zeros(classes, dtype=compute_dtype(logits), device=logits.device)
    if train is None:
        raise ValueError("test_prior needs train_prior, got None")
    return train, test.log() - train.log()
