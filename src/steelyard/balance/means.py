"""The mean confusion of a classifier from its logits; `confusion` has it in a stream, `laws` has its laws."""

from typing import Literal

import torch
from torch import Tensor

from steelyard._common.checks import check_choice
from steelyard.targets import check_logits, check_target, class_means

Link = Literal["softmax", "logistic"]


def mean_confusion(
    logits: Tensor, target: Tensor, *, link: Link, ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    r"""Return the mean probabilities by true class, and the classes' counts.

    .. math:: P_{kj} = \frac{1}{N_k} \sum_{i \in k} p_{ij}

    Args:
        logits: (N, K) or (N, K, d1, ...), floating; probabilities are taken in float64.
        target: (N,) or (N, d1, ...), labels from 0 to K - 1; 0 and 1 for one output.
        link: ``"softmax"`` (rows sum to 1) or ``"logistic"`` (one sigmoid an output).
        ignore_index: label of positions that count for nothing.

    Returns:
        (K, K) float64, row k over the samples of class k, NaN for a class without samples, and (K,) int64 counts;
        (2, 1) and (2,) for one output.

    Raises:
        TypeError, ValueError: as the losses do.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020 (mean predicted probabilities).

    Example:
        >>> mean_confusion(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]), link="softmax")[0]
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]], dtype=torch.float64)
    """
    check_logits(logits)
    one = logits.shape[1] == 1
    check_target(logits, target, num_labels=max(logits.shape[1], 2), ignore_index=ignore_index, validate=None)
    check_choice("link", link, ("softmax", "logistic"))
    if one and link == "softmax":
        raise ValueError('link must be "logistic" for one output, got "softmax"')
    logits = logits.double()
    probabilities = torch.softmax(logits, 1) if link == "softmax" else torch.sigmoid(logits)
    rows = torch.cat([probabilities, probabilities], 1) if one else probabilities
    means, counts = class_means(rows, target, ignore_index=ignore_index)
    means = means[:, :1] if one else means
    return means.masked_fill(counts[:, None] == 0, torch.nan), counts


def logistic_statistics(logits: Tensor, target: Tensor, *, ignore_index: int = -100) -> tuple[Tensor, Tensor]:
    r"""Return what the law of LGL-INR needs beside P when the gradient flows through its weights.

    .. math:: A_{kj} = \frac{1}{N_k} \sum_{i \in k} \log(1 + e^{z_{ij}}), \qquad
        V_{kj} = \frac{1}{N_k} \sum_{i \in k} p_{ij} (1 - p_{ij})

    Args:
        logits, target, ignore_index: as in :func:`mean_confusion`.

    Returns:
        A and V, (K, K) float64, NaN rows for classes without samples.

    Raises:
        TypeError, ValueError: as the losses do.

    Source:
        Derived for this project from the authors' published loss.

    Example:
        >>> logistic_statistics(torch.zeros(2, 2), torch.tensor([0, 1]))[1]
        tensor([[0.2500, 0.2500],
                [0.2500, 0.2500]], dtype=torch.float64)
    """
    check_logits(logits)
    check_target(logits, target, num_labels=logits.shape[1], ignore_index=ignore_index, validate=None)
    logits = logits.double()
    softplus, counts = class_means(
        torch.logaddexp(logits, torch.zeros_like(logits)), target, ignore_index=ignore_index
    )
    variance, _ = class_means(torch.sigmoid(logits) * torch.sigmoid(-logits), target, ignore_index=ignore_index)
    absent = counts[:, None] == 0
    return softplus.masked_fill(absent, torch.nan), variance.masked_fill(absent, torch.nan)
