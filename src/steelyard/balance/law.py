"""The balance law of any loss that is a sum over samples, by differentiation; closed forms are in `laws`."""

from dataclasses import dataclass

import torch
from torch import Tensor

from steelyard._common.checks import Vector, check_vector
from steelyard._common.text import listed
from steelyard.balance.laws import Balance, lgl_inr_law
from steelyard.balance.means import logistic_statistics, mean_confusion
from steelyard.balance.readings import Targets, as_rows, eager_gradient
from steelyard.balance.setup import TrainingSetup, check_alone
from steelyard.targets import TargetLike, as_tensor, check_logits, check_target


def law(
    logits: Tensor, target: TargetLike, setup: TrainingSetup, *, sample_weight: Vector | None = None
) -> Balance:
    r"""Return pull and push of each output at these logits, under the loss that training minimised.

    With :math:`g(z, k) = \partial \ell(z, k) / \partial z`, :math:`w` the setup's class effect and :math:`s` the
    sample weights:

    .. math::
        \text{pull}_j = -\frac{1}{S} \sum_{i: y_i = j} s_i w_j\, g_j(z_i, j), \qquad
        \text{push}_j = \frac{1}{S} \sum_{i: y_i \ne j} s_i w_{y_i}\, g_j(z_i, y_i), \qquad
        S = \sum_i s_i w_{y_i}

    They are equal where the bias of the head has no gradient. Under multi-hot targets the own samples of an output
    are its positives, and S is the (weighted) number of samples. Under soft targets pull and push are the parts of
    negative and of positive gradient. LGL-INR is no sum over samples; its law is :func:`lgl_inr_law`.

    Args:
        logits: (N, K) or (N, K, d1, ...), floating; (N,) or (N, 1) for one output. Take them as the
            model gives them in evaluation; they contain the setup's logit shift, if there is one.
        target: (N,) or (N, d1, ...) labels; (N, K) multi-hot or soft targets; for one output 0 and 1 of any dtype.
        setup: what was done in training.
        sample_weight: (N,) weight of each sample in the loss. Default: all 1.

    Returns:
        Both sides, (K,) float64 (one for one output).

    Raises:
        TypeError, ValueError: shapes and labels that do not fit, or a batch loss that is not ours.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020, for softmax and logistic; for any other loss derived for this project.

    Example:
        >>> from steelyard import TrainingSetup
        >>> balance = law(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]), TrainingSetup("softmax"))
        >>> balance.residual.abs().max().item() < 1e-15
        True
    """
    if setup.in_negative is not None:
        if sample_weight is not None:
            raise ValueError("sample_weight must be None for LGL-INR, which has no weight of a single sample")
        return _in_negative_law(logits, target, setup)
    batch = read_batch(logits, target, setup, sample_weight)
    if batch.soft:
        gradient = gradients(setup, batch)
        mass = _positive(batch.weights.sum())
        return Balance((-gradient).clamp(min=0).sum(0) / mass, gradient.clamp(min=0).sum(0) / mass)
    return balance_of(*sums_by_class(setup, batch), setup)


def balance_of(sums: Tensor, masses: Tensor, setup: TrainingSetup) -> Balance:
    """Return the law from gradients summed by class.

    Args:
        sums: (K, K), row k over the samples of class k; (2, K) for independent outputs, negatives and positives.
        masses: the sample weights that were summed: (K,), or (2, K).
        setup: whose class effect weighs the rows.
    """
    effect = setup.class_effect
    if masses.dim() == 1:
        w = torch.ones_like(masses) if effect is None else effect.to(masses)
        weighted, mass = w[:, None] * sums, _positive((w * masses).sum())
        own = weighted.diagonal()
        pushed = weighted.masked_fill(torch.eye(len(w), dtype=torch.bool, device=w.device), 0.0).sum(0)
        return Balance(-own / mass, pushed / mass)
    w = torch.ones(2).to(masses) if effect is None else effect.to(masses)
    mass = _positive(w @ masses)
    return Balance(-w[1] * sums[1] / mass, w[0] * sums[0] / mass)


@dataclass(frozen=True)
class Batch:
    """Samples that count, as rows.

    Attributes:
        logits: (M, K) float64.
        target: (M,) int64 labels, or (M, K) float64 multi-hot or soft targets with 0 where `kept` is false.
        weights: (M,) float64 sample weights.
        kept: (M, K), false at entries of multi-hot targets that are ignored; None for labels.
        soft: whether the target holds more than 0 and 1, or is a distribution over classes.
    """

    logits: Tensor
    target: Tensor
    weights: Tensor
    kept: Tensor | None = None
    soft: bool = False


def read_batch(logits: Tensor, target: TargetLike, setup: TrainingSetup, sample_weight: Vector | None) -> Batch:
    """Check a batch and leave out what is ignored.

    Raises:
        TypeError, ValueError: shapes, labels or weights that do not fit the setup.
    """
    flat = logits[:, None] if isinstance(logits, Tensor) and logits.dim() == 1 else logits
    check_logits(flat)
    target = as_tensor(target, flat.device)
    outputs, ignore = flat.shape[1], setup.reading.ignore_index
    if setup.size is not None and max(outputs, 2) != setup.size:
        raise ValueError(f"logits must have the {setup.size} columns of the setup, got {outputs}")
    rows, kind = as_rows(flat).detach().double(), setup.kind(outputs)
    if kind == "binary" and outputs != 1:
        raise ValueError(f"logits must have one column for a setup of binary targets, got {outputs}")
    dense = target.shape == flat.shape and (kind == "multi-hot" or outputs > 1)
    if kind == "binary":
        samples = flat.shape[:1] + flat.shape[2:]
        one_each = target.shape in (samples, flat.shape, (*samples, 1))
        columns = target.reshape(samples) if one_each else target
        labels = columns.long()
        if not bool((labels == columns).all()):
            raise ValueError("target must hold 0 and 1 for one output, got other numbers")
        check_target(flat, labels, num_labels=2, ignore_index=ignore, validate=True)
    elif not dense:
        if kind == "multi-hot":
            raise ValueError(f"target must be multi-hot, of shape {tuple(flat.shape)}, got {tuple(target.shape)}")
        check_target(flat, target, num_labels=outputs, ignore_index=ignore, validate=True)
        labels = target.long()
    weights = torch.ones(len(rows), dtype=torch.float64, device=rows.device)
    if sample_weight is not None:
        values = sample_weight.reshape(-1) if isinstance(sample_weight, Tensor) else sample_weight
        weights = check_vector("sample_weight", values, len(rows), low=0, device=rows.device)
    if dense:
        return _dense_batch(rows, as_rows(target).double(), weights, setup, kind)
    labels = labels.reshape(-1)
    counted = labels != ignore
    return Batch(rows[counted], labels[counted], weights[counted])


def _dense_batch(rows: Tensor, target: Tensor, weights: Tensor, setup: TrainingSetup, kind: Targets) -> Batch:
    shares = setup.reading.link == "softmax"  # rows are distributions, of which nothing can be left out
    kept = torch.ones_like(target, dtype=torch.bool) if shares else target != setup.reading.ignore_index
    target = target.masked_fill(~kept, 0.0)
    if bool((~((target > -1e-6) & (target < 1 + 1e-6))).any()):
        raise ValueError("target must lie in [0, 1] where it has a column for each class, got other numbers")
    off = (target.sum(1) - 1).abs() > 1e-3
    if shares and setup.reading.mixes and bool(off.any()):  # as the loss itself
        row = int(off.nonzero()[0])
        raise ValueError(f"soft target rows must sum to 1, got {float(target[row].sum()):g} in row {row}")
    soft = kind == "labels" or bool(((target != 0) & (target != 1)).any())
    effect = setup.class_effect
    if effect is not None and kind == "labels" and setup.reading.mixes:
        target = target * effect.to(target)  # a mixture of samples of its classes, each with its weight
    elif effect is not None and not (
        soft and setup.reading.held_in_soft and list(setup.parts) == ["class weights"]
    ):
        raise ValueError(
            f"target must hold class labels where {listed(list(setup.parts))} weigh classes: a sample that "
            "belongs to several classes, or to parts of them, has no class weight"
        )
    return Batch(rows, target, weights, kept, soft)


def gradients(setup: TrainingSetup, batch: Batch) -> Tensor:
    """Return the (M, K) gradient of each sample's loss in its logits, times its sample weight, without class
    weights."""
    gradient = eager_gradient(setup.per_sample, batch.logits, batch.target) * batch.weights[:, None]
    check_alone(setup, batch.logits, batch.target)
    return gradient if batch.kept is None else gradient.masked_fill(~batch.kept, 0.0)


def sums_by_class(setup: TrainingSetup, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return gradients and sample weights summed by class, as :func:`balance_of` takes them."""
    gradient, size = gradients(setup, batch), batch.logits.shape[1]
    if batch.target.dim() == 1 and size > 1:
        sums = gradient.new_zeros(size, size).index_add(0, batch.target, gradient)
        return sums, gradient.new_zeros(size).index_add(0, batch.target, batch.weights)
    own = batch.target.reshape(len(gradient), size) > 0
    masses = batch.weights[:, None]
    if batch.kept is not None:
        masses = masses.masked_fill(~batch.kept, 0.0)

    def apart(values: Tensor) -> Tensor:
        return torch.stack([values.masked_fill(own, 0.0).sum(0), values.masked_fill(~own, 0.0).sum(0)])

    return apart(gradient), apart(masses)


def _in_negative_law(logits: Tensor, target: TargetLike, setup: TrainingSetup) -> Balance:
    inner = setup.in_negative
    assert inner is not None
    target, z = as_tensor(target, logits.device), logits.detach()
    if setup.logit_adjustment is not None:
        z = z + _column(setup.logit_adjustment, z)
    P, counts = mean_confusion(z, target, link="logistic", ignore_index=setup.reading.ignore_index)
    presence = setup.presence_of(counts) if setup.presence is None else setup.presence
    statistics = None
    if not inner.detached:
        statistics = logistic_statistics(z, target, ignore_index=setup.reading.ignore_index)
    return lgl_inr_law(P, beta=inner.beta, pos_weight=setup.pos_weight, presence=presence, statistics=statistics)


def _column(values: Tensor, logits: Tensor) -> Tensor:
    return values.to(logits).reshape(-1, *[1] * (logits.dim() - 2))


def _positive(mass: Tensor) -> Tensor:
    """Return the normaliser, 1 where nothing counts so that both sides are 0."""
    return torch.where(mass > 0, mass, 1.0)
