"""From class counts to first biases, adjustments, margins and factors of logits, label smoothing, and the share of
batches that have a class."""

import math
from typing import Literal

import torch
from torch import Tensor

from steelyard._common.checks import check_choice, check_integer, check_number
from steelyard.weights.counts import Counts, count_tensor, some_classes

_MOST_NUMBERS = 1 << 20  # of an intermediate table


def initial_bias(
    class_counts: Counts, link: Literal["softmax", "logistic"], *, num_samples: int | None = None
) -> Tensor:
    r"""Return the bias of a classifier's head with which it starts at the class frequencies.

    .. math:: b_k = \log \frac{n_k}{N} \quad \text{(softmax)}, \qquad
        b_k = \log \frac{n_k}{N - n_k} \quad \text{(logistic)}

    One-vs-all outputs at zero bias start with a loss of K log 2, nearly all of it from negatives that a bias
    alone would settle. LGL-INR needs none: it weighs positives and negatives one to one, and its constant
    solution is a probability of 1/2.

    Args:
        class_counts: K counts, as in :func:`class_weights`.
        link: ``"softmax"`` or ``"logistic"``.
        num_samples: N of multi-label targets, in which a sample may have several classes or none; for
            ``"logistic"``. Default: the sum of the counts, which is right for class labels.

    Returns:
        (K,) float32.

    Raises:
        ValueError: a class without samples, or with all of them under ``"logistic"``: its bias is infinite.

    Source:
        Lin et al., ICCV 2017 (prior for rare positives); here from the counts.

    Example:
        >>> initial_bias([75, 25], "logistic")
        tensor([ 1.0986, -1.0986])
        >>> initial_bias([75, 75], "logistic", num_samples=100)   # labels that often come together
        tensor([1.0986, 1.0986])
    """
    check_choice("link", link, ("softmax", "logistic"))
    counts = count_tensor(class_counts).double()
    total = counts.sum()
    if num_samples is not None:
        if link == "softmax":
            raise ValueError("num_samples is for multi-label targets, of link 'logistic', got it with 'softmax'")
        num_samples = check_integer("num_samples", num_samples)
        if num_samples < int(counts.max()):
            raise ValueError(
                f"num_samples must be an int >= the largest count, {int(counts.max())}, got {num_samples}"
            )
        total = torch.full_like(total, num_samples)
    if bool((counts == 0).any()):
        raise ValueError(
            f"class_counts has no samples of {some_classes(counts == 0, class_counts, None)}: its bias is -inf"
        )
    if link == "softmax":
        return (counts / total).log().float()
    if len(counts) == 1 and num_samples is None:
        raise ValueError("class_counts must have at least two classes for link 'logistic', got one")
    if bool((counts == total).any()):
        raise ValueError(
            f"class_counts has all samples in {some_classes(counts == total, class_counts, None)}: its bias is inf"
        )
    return (counts / (total - counts)).log().float()


def batch_presence(class_counts: Counts, batch_size: int) -> Tensor:
    r"""Return the share of the mini-batches that have a sample of each class, of batches drawn without
    replacement.

    .. math:: \rho_k = 1 - \prod_{i=0}^{B-1} \Big(1 - \frac{n_k}{N - i}\Big) \approx 1 - (1 - n_k / N)^B

    LGL-INR balances the classes *of a batch*: over many batches a class counts by how often it is there. So its
    balance law, the undoing of its probabilities and its :func:`logit_adjustment` all take this share.

    Args:
        class_counts: K counts, as in :func:`class_weights`; 0 has a share of 0.
        batch_size: B samples, >= 1; from N on every batch has everything.

    Returns:
        (K,) float64.

    Raises:
        TypeError, ValueError: counts or a batch size that are none, counts that are all zero.

    Source:
        Derived for this project.

    Example:
        >>> batch_presence([900, 90, 10], batch_size=64)
        tensor([1.0000, 0.9981, 0.4855], dtype=torch.float64)
    """
    n = count_tensor(class_counts).double()
    batch_size = check_integer("batch_size", batch_size, low=1)
    total = int(n.sum())
    if total == 0:
        raise ValueError("class_counts must have a sample of at least one class, got none")
    log_absent = torch.zeros_like(n)
    drawn = torch.arange(min(batch_size, total), device=n.device)
    for part in torch.split(drawn, max(1, _MOST_NUMBERS // len(n))):
        log_absent += torch.log1p(-(n / (total - part)[:, None]).clamp(max=1)).sum(0)
    return -torch.expm1(log_absent)


def logit_adjustment(class_counts: Counts, *, tau: float = 1.0, batch_size: int | None = None) -> Tensor:
    r"""Return what to add to the logits in training, so that the logits themselves are free of the training prior.

    .. math:: \tau \log \frac{n_k}{N}, \qquad \text{or } \tau \log \rho_k \text{ with a batch size}

    Pass it to a loss as ``logit_adjustment`` and predict from the logits as they are. The softmax of logits *plus*
    adjustment is the posterior under the training frequencies; for one-vs-all losses the adjustment acts as a
    margin, larger for rarer classes.

    Args:
        class_counts: K counts, as in :func:`class_weights`.
        tau: strength, finite; 1 is the prior itself, 0 nothing.
        batch_size: of the mini-batches of LGL-INR, which has balanced all else: then the adjustment is the log of
            each class's :func:`batch_presence`, the prior that it leaves.

    Returns:
        (K,) float32.

    Raises:
        ValueError: a class without samples: its adjustment is infinite.

    Source:
        Menon et al., ICLR 2021 (softmax); Ren et al., NeurIPS 2020 (balanced softmax). For LGL-INR it is ours.

    Example:
        >>> logit_adjustment([75, 25])
        tensor([-0.2877, -1.3863])
        >>> logit_adjustment([900, 90, 10], batch_size=64)
        tensor([ 0.0000, -0.0019, -0.7226])
    """
    tau = check_number("tau", tau)
    if batch_size is None:
        return tau * initial_bias(class_counts, "softmax")
    presence = batch_presence(class_counts, batch_size)
    if bool((presence == 0).any()):
        raise ValueError(
            f"class_counts has no samples of {some_classes(presence == 0, class_counts, None)}: "
            "its adjustment is -inf"
        )
    return (tau * presence.log()).float()


def label_aware_smoothing(class_counts: Counts, *, head: float = 0.3, tail: float = 0.0) -> Tensor:
    r"""Return how much to smooth the labels of each class: more for frequent classes, which models are sure of.

    .. math:: \epsilon_k = \epsilon_- + (\epsilon_+ - \epsilon_-) \sin \frac{\pi (n_k - n_-)}{2 (n_+ - n_-)}

    with :math:`n_+, n_-` the largest and the least count. Pass it to the loss ``class-smoothing`` as
    ``class_smoothing``; the preset ``label-aware-smoothing`` does.

    Args:
        class_counts: K counts, as in :func:`class_weights`.
        head, tail: :math:`\epsilon_+` and :math:`\epsilon_-`, in [0, 1]: for the most frequent and the rarest
            class. Defaults: those of the authors for ImageNet-LT.

    Returns:
        (K,) float32.

    Raises:
        ValueError: counts that are all the same, of which none is the head.

    Source:
        Zhong, Cui, Liu, Jia, CVPR 2021 (MiSLAS, the concave form).

    Example:
        >>> label_aware_smoothing([900, 300, 100])
        tensor([0.3000, 0.1148, 0.0000])
    """
    head, tail = check_number("head", head, low=0, high=1), check_number("tail", tail, low=0, high=1)
    n = count_tensor(class_counts).double()
    if bool(n.max() == n.min()):
        raise ValueError(
            f"class_counts must differ, as smoothing goes from the rarest to the most frequent class, "
            f"got {int(n.max())} for every class"
        )
    angle = math.pi / 2 * (n - n.min()) / (n.max() - n.min())
    return (tail + (head - tail) * angle.sin()).float()


def class_margins(class_counts: Counts, *, max_margin: float = 0.5) -> Tensor:
    r"""Return the margins of LDAM, larger for rarer classes.

    .. math:: m_k = m_{\max} \Big(\frac{\min_{k'} n_{k'}}{n_k}\Big)^{1/4}

    Args:
        class_counts: K counts, as in :func:`class_weights`.
        max_margin: of the rarest class, >= 0, in units of the logits.

    Returns:
        (K,) float32.

    Raises:
        ValueError: a class without samples: its margin is infinite.

    Source:
        Cao et al., NeurIPS 2019, equation 13, with the constant of the authors' code.

    Example:
        >>> class_margins([10000, 16, 1])
        tensor([0.0500, 0.2500, 0.5000])
    """
    max_margin = check_number("max_margin", max_margin, low=0)
    counts = _all_there(class_counts, "margin is infinite")
    return (max_margin * (counts.min() / counts) ** 0.25).float()


def logit_factors(class_counts: Counts, *, gamma: float) -> Tensor:
    r"""Return what CDT and the VS loss multiply the logits by in training, smaller for rarer classes.

    .. math:: d_k = \Big(\frac{n_k}{\max_{k'} n_{k'}}\Big)^{\gamma}

    Args:
        class_counts: K counts, as in :func:`class_weights`.
        gamma: strength, from 0, which changes nothing, to 10.

    Returns:
        (K,) float32.

    Raises:
        ValueError: a class without samples: its factor is 0.

    Source:
        Ye et al., 2020, arXiv 2001.01385 (temperatures 1 / d); Kini et al., NeurIPS 2021.

    Example:
        >>> logit_factors([10000, 100, 1], gamma=0.25)
        tensor([1.0000, 0.3162, 0.1000])
    """
    gamma = check_number("gamma", gamma, low=0, high=10)
    counts = _all_there(class_counts, "factor is 0")
    factors = ((counts / counts.max()) ** gamma).float()
    if float(factors.min()) < 1e-30:
        raise ValueError(f"gamma must leave every class a factor of at least 1e-30, got {gamma:g}")
    return factors


def confidence_margins(class_counts: Counts, *, power: float = 1 / 3) -> Tensor:
    r"""Return the confidence margins of IMMAX, less for rarer classes: they divide a sample's logits.

    .. math:: \rho_k = \frac{n_k^{\,\gamma}}{\frac{1}{K} \sum_{k'} n_{k'}^{\,\gamma}}

    With :math:`\gamma = 1/3` they make the authors' bound least where classes can be separated, and are K times
    the values around which the authors search by cross-validation: those sum to 1, and ours have a mean of 1, so
    equal counts give the softmax loss. With ``scale=K`` the loss has the authors' size.

    Args:
        class_counts: K counts, as in :func:`class_weights`.
        power: :math:`\gamma`, in [0, 2]; 0 gives margins of 1, which change nothing.

    Returns:
        (K,) float32, of mean 1.

    Raises:
        ValueError: a class without samples: its margin is 0; a power that gives a margin below 1e-8.

    Source:
        Cortes, Mao, Mohri, Zhong, ICML 2025, sections 4 and 5 and appendix B.

    Example:
        >>> confidence_margins([1000, 125, 1])
        tensor([1.8750, 0.9375, 0.1875])
    """
    power = check_number("power", power, low=0, high=2)
    counts = _all_there(class_counts, "confidence margin is 0")
    powers = (counts / counts.max()) ** power
    found = (powers / powers.mean()).float()
    if float(found.min()) < 1e-8:
        raise ValueError(
            f"power must leave every class a confidence margin of at least 1e-08, got {power:g}, which gives "
            f"{float(found.min()):.2g}"
        )
    return found


def kept_negatives(class_counts: Counts, *, gamma: float, threshold: float) -> Tensor:
    r"""Return the share of the negative samples that each class keeps under EQL.

    .. math:: w_k = 1 - \gamma \text{ if } n_k / N < \lambda, \text{ else } 1

    The authors draw, for every sample and rare class, whether to leave the class out of the softmax of samples of
    other classes; they do so with probability :math:`\gamma`. The mean of what stays is :math:`w_k`.

    Args:
        class_counts: K counts, as in :func:`class_weights`.
        gamma: share that is left out, in [0, 0.999].
        threshold: :math:`\lambda`, the frequency below which a class is rare, in [0, 1].

    Returns:
        (K,) float32.

    Source:
        Tan et al., CVPR 2020, the form for softmax.

    Example:
        >>> kept_negatives([990, 8, 2], gamma=0.9, threshold=0.005)
        tensor([1.0000, 1.0000, 0.1000])
    """
    gamma = check_number("gamma", gamma, low=0, high=0.999)
    threshold = check_number("threshold", threshold, low=0, high=1)
    counts = count_tensor(class_counts).double()
    return torch.where(counts / counts.sum() < threshold, 1 - gamma, 1.0).float()


def _all_there(class_counts: Counts, otherwise: str) -> Tensor:
    """Return the counts, float64, of classes that all have samples."""
    counts = count_tensor(class_counts).double()
    if bool((counts == 0).any()):
        raise ValueError(
            f"class_counts has no samples of {some_classes(counts == 0, class_counts, None)}: its {otherwise}"
        )
    return counts
