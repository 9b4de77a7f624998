"""The losses as pure functions of logits and labels; modules over them live beside this file.

All take logits of shape (N, K) or (N, K, d1, ...), compute in float32 (float64 for float64 logits) whatever
the logits' dtype and return that dtype. None synchronises with the device.
"""

import functools
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from steelyard._common.checks import (
    REDUCTIONS,
    Beta,
    Reduction,
    check_beta,
    check_choice,
    check_flag,
    check_logits,
    check_number,
    check_presence,
    check_target,
    check_values,
    check_weights,
    compute_dtype,
    values_readable,
)
from steelyard.kernels.lgl_inr.dispatch import lgl_inr_columns
from steelyard.kernels.lgl_inr.group import check_group, lgl_inr_group_columns

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Normalization = Literal["weights", "count", "none"]
NORMALIZATIONS: tuple[Normalization, ...] = ("weights", "count", "none")


def softmax_loss(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    logit_adjustment: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    normalization: Normalization = "weights",
    validate: bool | None = None,
) -> Tensor:
    r"""Softmax loss (SML): cross-entropy with one weight per class.

    .. math:: \ell_i = w_{y_i} \Big[-(1-\epsilon) \log p_{i y_i} - \tfrac{\epsilon}{K} \sum_j \log p_{ij}\Big],
        \qquad p_i = \mathrm{softmax}(z_i)

    The loss is torch's :func:`~torch.nn.functional.cross_entropy`, with two differences. Torch's weighted mean
    divides by the weights of the batch, which cancels them in a batch of one class (or one sample) and makes
    accumulated micro-batches differ from the whole batch: ``normalization`` offers the alternatives. And
    under ``label_smoothing`` the weight multiplies the sample's whole loss, so that every sample's optimum
    is the smoothed label whatever the weights; torch also weights the smoothing mass class by class, which
    moves the optimum towards heavy classes.

    Args:
        logits: (N, K) or (N, K, d1, ...), floating.
        target: (N,) or (N, d1, ...), integer labels from 0 to K - 1.
        weight: (K,) weight of the samples of each class, not negative. Default: all 1.
        logit_adjustment: (K,) values that are added to the logits: with the log of the class frequencies
            (:func:`~steelyard.logit_adjustment`) the logits themselves become free of the training prior.
            Default: none.
        ignore_index: label of positions that count for nothing.
        reduction: ``"mean"`` (see ``normalization``), ``"sum"``, or ``"none"`` for one loss per sample.
        label_smoothing: epsilon in [0, 1].
        normalization: what ``"mean"`` divides by: ``"weights"``, the sum of the weights of the batch's samples
            (torch); ``"count"``, the number of samples not ignored (a sample's weight means the same in every
            batch of that size); ``"none"``, nothing: divide by a constant of yours, such as the number of
            samples in all micro-batches of a step.
        validate: look at the values of target and weights. Default: on the CPU only, where it is free of
            synchronisation; elsewhere a label out of range fails in the device's own assertion.

    Returns:
        Scalar, or the shape of ``target`` for ``"none"``. 0 with a graph if nothing counts.

    Raises:
        TypeError: a dtype that cannot be meant.
        ValueError: a shape, label, weight or choice that is not accepted.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020 (SML, with class-wise reweighting).

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
        >>> softmax_loss(logits, torch.tensor([0, 1]), weight=torch.tensor([1.0, 3.0]), normalization="count")
        tensor(1.1032)
    """
    check_logits(logits)
    num_classes = logits.shape[1]
    check_target(logits, target, num_labels=num_classes, ignore_index=ignore_index, validate=validate)
    logits = adjusted_logits(logits, logit_adjustment, validate)
    weight = check_weights("weight", weight, length=num_classes, logits=logits, validate=validate)
    check_choice("reduction", reduction, REDUCTIONS)
    check_choice("normalization", normalization, NORMALIZATIONS)
    epsilon = check_number("label_smoothing", label_smoothing, low=0, high=1)

    logits, target = logits.to(compute_dtype(logits)), target.long()
    smoothed_weight = weight if epsilon > 0 else None  # torch would weight the smoothing mass too
    torch_weight = None if epsilon > 0 else weight
    torch_reduction = "none" if reduction == "none" or smoothed_weight is not None else "sum"
    loss = F.cross_entropy(
        logits,
        target,
        weight=torch_weight,
        ignore_index=ignore_index,
        reduction=torch_reduction,
        label_smoothing=epsilon,
    )
    if smoothed_weight is not None:
        loss = loss * _of_label(smoothed_weight, target, ignore_index)
    if reduction == "none":
        return loss
    loss = loss.sum()
    if reduction == "sum":
        return loss
    return _divide(loss, target, weight, ignore_index, normalization)


def logistic_loss(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    class_weights: Tensor | None = None,
    logit_adjustment: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    normalization: Normalization = "count",
    validate: bool | None = None,
) -> Tensor:
    r"""Logistic loss (LGL): binary for one output, one-vs-all over class labels for more.

    .. math:: \ell_i = c_{y_i} \Big[v_{y_i} u_{y_i}\, s(-z_{i y_i}) + \sum_{j \ne y_i} v_j\, s(z_{ij})\Big],
        \qquad s(z) = \log(1 + e^z)

    with :math:`v` = ``weight``, :math:`u` = ``pos_weight`` and :math:`c` = ``class_weights``. With K = 1 the
    target is 0 or 1 and :math:`\ell_i = c_1 v u\, s(-z_i)` or :math:`c_0 v\, s(z_i)`. Labels are never expanded
    to one-hot rows.

    The default is the mean over samples of the *sum* over outputs, so that values and learning rates compare
    with :func:`softmax_loss`. ``F.binary_cross_entropy_with_logits`` on one-hot labels is this divided by K
    (its mean runs over the N K elements); timm's ``BinaryCrossEntropy(smoothing=0, sum_classes=True)`` is the
    same.

    Args:
        logits: (N, K) or (N, K, d1, ...), floating.
        target: (N,) or (N, d1, ...), integer labels from 0 to K - 1; for K = 1, 0 or 1 (or bool).
        weight: (K,) weight of each output's whole loss. Default: all 1.
        pos_weight: (K,) further weight of each output's positives. Default: all 1.
        class_weights: (K,), or (2,) for K = 1: weight of the samples of each class, in all outputs
            (the paper's class-wise reweighting). Default: all 1.
        logit_adjustment: (K,) values that are added to the logits: with the log of the class frequencies
            (:func:`~steelyard.logit_adjustment`) the logits themselves become free of the training prior.
            Default: none.
        ignore_index: label of positions that count for nothing.
        reduction: ``"mean"`` (see ``normalization``), ``"sum"``, or ``"none"`` for one loss per sample.
        normalization: what ``"mean"`` divides by: ``"count"``, the number of samples not ignored (as torch's
            binary cross-entropy); ``"weights"``, the sum of their ``class_weights`` (as torch's
            cross-entropy); ``"none"``, nothing.
        validate: look at the values of target and weights. Default: on the CPU only.

    Returns:
        Scalar, or the shape of ``target`` for ``"none"``. 0 with a graph if nothing counts.

    Raises:
        TypeError: a dtype that cannot be meant.
        ValueError: a shape, label, weight or choice that is not accepted.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020 (LGL, with class-wise reweighting).

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
        >>> logistic_loss(logits, torch.tensor([0, 1]))
        tensor(1.1032)
        >>> logistic_loss(torch.tensor([[2.0], [0.0]]), torch.tensor([1, 0]), pos_weight=torch.tensor([4.0]))
        tensor(0.6004)
    """
    check_logits(logits)
    outputs = logits.shape[1]
    labels = max(outputs, 2)
    check_target(logits, target, num_labels=labels, ignore_index=ignore_index, validate=validate)
    logits = adjusted_logits(logits, logit_adjustment, validate)
    weight = check_weights("weight", weight, length=outputs, logits=logits, validate=validate)
    pos_weight = check_weights("pos_weight", pos_weight, length=outputs, logits=logits, validate=validate)
    class_weights = check_weights("class_weights", class_weights, length=labels, logits=logits, validate=validate)
    check_choice("reduction", reduction, REDUCTIONS)
    check_choice("normalization", normalization, NORMALIZATIONS)

    shape, target = target.shape, target.long()
    flat_target = target.reshape(-1)
    if outputs == 1:
        positives, negatives = _binary_terms(logits, flat_target, ignore_index)
        column = torch.zeros_like(flat_target)
    else:
        positives, negatives = _one_vs_all_terms(logits, flat_target, ignore_index)
        column = flat_target
    if weight is not None:
        negatives = negatives * weight
        positives = positives * _of_label(weight, column, ignore_index)
    if pos_weight is not None:
        positives = positives * _of_label(pos_weight, column, ignore_index)
    loss = positives + negatives.sum(1)
    if class_weights is not None:
        loss = loss * _of_label(class_weights, flat_target, ignore_index)
    if reduction == "none":
        return loss.reshape(shape)
    loss = loss.sum()
    if reduction == "sum":
        return loss
    return _divide(loss, flat_target, class_weights, ignore_index, normalization)


def lgl_inr_loss(
    logits: Tensor,
    target: Tensor,
    *,
    beta: Beta = 1.0,
    detach_weights: bool = False,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    mean_confusion: Tensor | None = None,
    logit_adjustment: Tensor | None = None,
    process_group: "ProcessGroup | None" = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    validate: bool | None = None,
) -> Tensor:
    r"""In-negative reweighted logistic loss (LGL-INR) of a mini-batch, by output column.

    With :math:`C` the classes present, :math:`n_k` their counts, :math:`s(z) = \log(1 + e^z)` and

    .. math::
        P_{kj} = \tfrac{1}{n_k} \sum_{i \in k} \sigma(z_{ij}), \qquad
        A_{kj} = \tfrac{1}{n_k} \sum_{i \in k} s(z_{ij}), \qquad
        \omega_{kj} = \frac{e^{\beta P_{kj}}}{\sum_{k' \in C, k' \ne j} e^{\beta P_{k'j}}}

    the loss of column j is

    .. math::
        \ell_j = v_j \Big[u_j\, [j \in C]\, \tfrac{1}{n_j} \sum_{i \in j} s(-z_{ij})
               + \sum_{k \in C, k \ne j} \omega_{kj} A_{kj}\Big]

    with :math:`v` = ``weight`` and :math:`u` = ``pos_weight``. It balances classes (by :math:`1/n_k`), balances
    each column's positives against its negatives one to one, and stresses the classes that are hard for the
    column (by :math:`\beta`). Columns of absent classes are still pushed down. The loss is a function of the
    whole batch: two half batches do not average to it.

    Forward and backward are closed forms, exact at any logit (the authors' code takes ``log(p + 1e-7)``, whose
    gradient vanishes for confident errors); at most three buffers of N x K are alive beside the logits.
    It cannot be differentiated twice, unless ``mean_confusion`` is given.

    Args:
        logits: (N, K) or (N, K, d1, ...), floating. A binary problem takes K = 2.
        target: (N,) or (N, d1, ...), integer labels from 0 to K - 1.
        beta: from -1e30 to 1e30; 0 weights the non-target classes alike, large values keep the hardest. The
            authors' default is 1. ``"auto"`` is :math:`2 \log(K - 1)` (ours): a class that the column cannot tell
            from its own, :math:`P_{kj} = 1/2`, weighs as much as K - 1 classes that it never confuses.
        detach_weights: treat :math:`\omega` as a constant in the gradient. The authors' default is False.
        weight: (K,) weight of each column's loss. Default: all 1.
        pos_weight: (K,) further weight of each column's positive term; gets no gradient. Default: all 1.
        mean_confusion: (K, K) values of P to weight by instead of the batch's own, with the same :math:`C`;
            a row of NaN leaves its class out of :math:`C`. The weights are then constants.
        logit_adjustment: (K,) values that are added to the logits: with the log of the class frequencies
            (:func:`~steelyard.logit_adjustment`) the logits themselves become free of the training prior.
            Default: none.
        process_group: the batch is spread over the processes of this group (``torch.distributed.group.WORLD`` for
            all), each of which calls with its own rows, or none: classes, counts and :math:`P` are those of the
            whole batch, and so is the loss. The gradient is such that its mean over processes, which data
            parallelism takes, is that of one process with the whole batch. One collective of 2 K (K + 1) numbers;
            no double backward. Default: the batch is this process's.
        ignore_index: label of positions that count for nothing.
        reduction: ``"sum"`` over the K columns (the authors' scale), ``"mean"``: that divided by K, or
            ``"none"``: the K column losses.
        validate: look at the values of target and weights. Default: on the CPU only.

    Returns:
        Scalar, or (K,) for ``"none"``. 0 with a graph if nothing counts.

    Raises:
        TypeError: a dtype that cannot be meant.
        ValueError: a shape, label, weight, beta or choice that is not accepted.
        RuntimeError: on differentiating twice.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020, and the authors' published loss; the closed-form gradient is ours.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0], [0.5, 0.0, 0.0]])
        >>> lgl_inr_loss(logits, torch.tensor([0, 1, 1]), reduction="none")
        tensor([0.9605, 1.1964, 0.5251])
    """
    check_logits(logits)
    num_classes = logits.shape[1]
    check_target(logits, target, num_labels=num_classes, ignore_index=ignore_index, validate=validate)
    logits = adjusted_logits(logits, logit_adjustment, validate)
    weight = check_weights("weight", weight, length=num_classes, logits=logits, validate=validate)
    pos_weight = check_weights(
        "pos_weight", pos_weight, length=num_classes, logits=logits, validate=validate, constant=True
    )
    beta = check_beta(beta, num_classes)
    check_flag("detach_weights", detach_weights)
    check_choice("reduction", reduction, REDUCTIONS)

    rows, labels = _rows(logits), target.long().reshape(-1)
    if mean_confusion is not None:
        _check_mean_confusion(mean_confusion, num_classes)
    if process_group is not None:
        check_group(process_group)
        weigh = functools.partial(_weigh, beta=beta, detach=detach_weights, given=mean_confusion)
        columns = lgl_inr_group_columns(
            rows.to(compute_dtype(logits)), labels, weigh, pos_weight, ignore_index, process_group
        )
    elif rows.shape[0] == 0:
        columns = rows.to(compute_dtype(logits)).sum(0)
    elif mean_confusion is None:
        columns = lgl_inr_columns(rows, labels, pos_weight, beta, detach_weights, ignore_index)
    else:
        columns = _given_confusion(rows, labels, mean_confusion, beta, pos_weight, ignore_index)
    if weight is not None:
        columns = columns * weight
    if reduction == "none":
        return columns
    return columns.sum() if reduction == "sum" else columns.mean()


def in_negative_weights(mean_confusion: Tensor, *, beta: Beta = 1.0, presence: Tensor | None = None) -> Tensor:
    r"""Weights :math:`\omega_{kj}` of LGL-INR from a mean confusion, over the classes that were observed.

    .. math:: \omega_{kj} = \frac{\rho_k e^{\beta P_{kj}}}{\sum_{k' \ne j} \rho_{k'} e^{\beta P_{k'j}}}
        \quad (k \ne j), \qquad \omega_{jj} = 0

    with :math:`\rho` = ``presence``, all 1 for a batch; other values give the mean of a class's weight over
    mini-batches that have it in this share, to first order.

    Args:
        mean_confusion: (K, K), P[k, j] = mean of sigmoid(z_ij) over the samples of class k; a row of NaN marks
            a class that was not observed.
        beta: finite, or ``"auto"``, as in :func:`lgl_inr_loss`.
        presence: (K,) in [0, 1], share of the mini-batches that have a sample of each class
            (:func:`~steelyard.batch_presence`). Default: all 1.

    Returns:
        (K, K), each column sums to 1 (to 0 where no other class was observed). No gradient.

    Raises:
        TypeError, ValueError: on anything but a floating (K, K) tensor, such a beta and such shares.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020, and the authors' published loss; presence is ours.

    Example:
        >>> in_negative_weights(torch.tensor([[0.9, 0.2, 0.1], [0.3, 0.8, 0.1], [0.3, 0.2, 0.8]]))
        tensor([[0.0000, 0.5000, 0.5000],
                [0.5000, 0.0000, 0.5000],
                [0.5000, 0.5000, 0.0000]])
    """
    _check_mean_confusion(mean_confusion)
    beta = check_beta(beta, len(mean_confusion))
    omega = _omega(mean_confusion.detach(), beta)
    if presence is None:
        return omega
    check_presence(presence, len(omega))
    omega = omega * presence.to(omega)[:, None]
    return omega / omega.sum(0).clamp(min=torch.finfo(omega.dtype).tiny)


def adjusted_logits(logits: Tensor, logit_adjustment: Tensor | None, validate: bool | None = None) -> Tensor:
    """Logits plus one value per column, in the dtype that losses compute in; as they are if there is none."""
    if logit_adjustment is None:
        return logits
    values = check_values(
        "logit_adjustment", logit_adjustment, length=logits.shape[1], logits=logits, validate=validate
    )
    return logits.to(values.dtype) + values.reshape(-1, *[1] * (logits.dim() - 2))


def class_means(values: Tensor, target: Tensor, *, ignore_index: int = -100) -> tuple[Tensor, Tensor]:
    """Means of `values`, (N, K) or (N, K, d1, ...), over the samples of each class, and the classes' counts.

    Args:
        values: any floating values of one column per class, such as probabilities.
        target: (N,) or (N, d1, ...), labels from 0 to K - 1 or `ignore_index`.
        ignore_index: label of positions that count for nothing.

    Returns:
        (K, K) means, row k over the samples of class k (0 where there are none), and (K,) counts.

    Example:
        >>> class_means(torch.tensor([[0.9, 0.1], [0.7, 0.3]]), torch.tensor([0, 0]))[0]
        tensor([[0.8000, 0.2000],
                [0.0000, 0.0000]])
    """
    rows, labels = _rows(values), target.long().reshape(-1)
    ignored = labels == ignore_index
    labels = labels.masked_fill(ignored, 0)
    rows = rows.masked_fill(ignored[:, None], 0.0)
    sums = rows.new_zeros(rows.shape[1], rows.shape[1]).index_add(0, labels, rows)
    counts = torch.zeros_like(sums[0], dtype=torch.long).index_add(0, labels, (~ignored).long())
    return sums / counts.clamp(min=1)[:, None], counts


def _rows(logits: Tensor) -> Tensor:
    """(N, K, d1, ...) -> (N d1 ..., K)."""
    return logits if logits.dim() == 2 else logits.movedim(1, -1).reshape(-1, logits.shape[1])


def _softplus(z: Tensor) -> Tensor:
    return F.softplus(z, threshold=40.0)  # torch's default 20 is exact for float32 only


def _one_vs_all_terms(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """s(-z) of each row's own output, (N,), and s(z) of the others, (N, K) with 0 at the own output."""
    rows = _rows(logits).to(compute_dtype(logits))
    ignored = (target == ignore_index)[:, None]
    label = target[:, None].masked_fill(ignored, 0)
    own = rows.gather(1, label).masked_fill(ignored, torch.inf)
    # s(-inf) = 0, gradient 0; a pass over the logits for ignored rows only where there may be some
    some = not values_readable(target, None) or bool(ignored.any())
    others = (rows.masked_fill(ignored, -torch.inf) if some else rows).scatter(1, label, -torch.inf)
    return _softplus(-own)[:, 0], _softplus(others)


def _binary_terms(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """s(-z) of the positive rows, (N,), and s(z) of the negative rows, (N, 1), 0 elsewhere."""
    rows = _rows(logits).to(compute_dtype(logits))
    positive = (target == 1)[:, None]
    ignored = (target == ignore_index)[:, None]
    positives = _softplus(-rows.masked_fill(~positive | ignored, torch.inf))
    return positives[:, 0], _softplus(rows.masked_fill(positive | ignored, -torch.inf))


def _given_confusion(
    rows: Tensor,
    target: Tensor,
    mean_confusion: Tensor,
    beta: float,
    pos_weight: Tensor | None,
    ignore_index: int,
) -> Tensor:
    """Column losses (K,) of LGL-INR under the constant weights of a given mean confusion (K, K)."""
    positives, negatives = _one_vs_all_terms(rows, target, ignore_index)
    ignored = target == ignore_index
    label = target.masked_fill(ignored, 0)
    counts = negatives.new_zeros(rows.shape[1]).index_add(0, label, (~ignored).to(negatives.dtype))
    present = mean_confusion.to(negatives.dtype).masked_fill((counts == 0)[:, None], torch.nan)
    scale = 1 / counts.clamp(min=1)
    if pos_weight is not None:
        positives = positives * pos_weight[label]
    pull = torch.zeros_like(scale).index_add(0, label, positives * scale[label])
    share = in_negative_weights(present, beta=beta) * scale[:, None]
    return pull + (negatives * share[label]).sum(0)


def _omega(P: Tensor, beta: float) -> Tensor:
    """Softmax of beta P down each column, over the classes that are not NaN but its own; differentiable."""
    out = P.isnan() | torch.eye(len(P), dtype=torch.bool, device=P.device)
    scores = (beta * P.masked_fill(out, 0.0)).masked_fill(out, -torch.inf)
    nobody = out.all(0)  # such as a single class: no negatives, weights of 0
    return torch.softmax(scores.masked_fill(nobody, 0.0), 0).masked_fill(out, 0.0)


def _weigh(P: Tensor, *, beta: float, detach: bool, given: Tensor | None) -> Tensor:
    """The weights of a whole batch from its mean confusion P, or from the given one over the classes it has."""
    if given is not None:
        return _omega(given.detach().to(P).masked_fill(P.isnan(), torch.nan), beta)
    return _omega(P.detach() if detach else P, beta)


def _check_mean_confusion(mean_confusion: Tensor, num_classes: int | None = None) -> None:
    if not (isinstance(mean_confusion, Tensor) and mean_confusion.is_floating_point()):
        raise TypeError("mean_confusion must be a floating tensor of shape (K, K)")
    shape = tuple(mean_confusion.shape)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"mean_confusion must have shape (K, K), got {shape}")
    if num_classes is not None and shape[0] != num_classes:
        raise ValueError(
            f"mean_confusion must have K = {num_classes} for logits of {num_classes} columns, got {shape}"
        )


def _of_label(weights: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """Each sample's weight; 0 for the ignored."""
    ignored = target == ignore_index
    return weights[target.masked_fill(ignored, 0)].masked_fill(ignored, 0.0)


def _divide(
    total: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, normalization: Normalization
) -> Tensor:
    """The mean that `normalization` asks for; an empty denominator leaves the total, which is then 0."""
    if normalization == "none":
        return total
    if normalization == "weights" and weight is not None:
        denominator = _of_label(weight, target, ignore_index).sum()
    else:
        denominator = (target != ignore_index).sum().to(total.dtype)
    return total / torch.where(denominator > 0, denominator, 1)
