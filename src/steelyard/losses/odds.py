"""Odds against a class under softmax, for losses that change the logit of the label or those of other classes."""

import math

import torch
from torch import Tensor


def below_the_top(z: Tensor) -> Tensor:
    """Return (M, K) logits less the largest of each row, a constant in the gradient.

    Logits near the largest keep their exact differences. What is then added to them, or multiplies them, is not
    rounded to the size of the logits.
    """
    most = torch.finfo(z.dtype).max
    return z - z.detach().amax(1, keepdim=True).clamp(-most, most)


def log_odds_against(z: Tensor, label: Tensor, own: Tensor | None = None) -> Tensor:
    r"""Return the log of :math:`\sum_{j \ne y} e^{z_j} / e^{z_y}`, (M,) of (M, K) logits.

    It is log((1 - p) / p), without the cancellation of 1 - p. Its softplus is -log p.

    Args:
        z: (M, K) logits; minus infinity leaves a class out.
        label: (M,) int64.
        own: (M,) in place of the logits at the labels.
    """
    at = label[:, None]
    info = torch.finfo(z.dtype)
    others = z.scatter(1, at, info.min)  # of a single class: odds of about 0
    top = others.amax(1, keepdim=True).detach().clamp(max=info.max)
    mine = z.gather(1, at) if own is None else own[:, None]
    return torch.logsumexp(others - top, 1) + (top - mine)[:, 0]


def log_odds_against_each(z: Tensor) -> Tensor:
    """Return what :func:`log_odds_against` gives for each class as the label, (M, K) of (M, K) logits."""
    log_p = torch.log_softmax(z, 1)
    top = log_p.detach().argmax(1)  # of all others p is at most 1/2, and 1 - p keeps its digits
    below = log_p.scatter(1, top[:, None], -math.log(2))
    odds = torch.log1p(-below.exp()) - below
    return odds.scatter(1, top[:, None], log_odds_against(z, top)[:, None])
