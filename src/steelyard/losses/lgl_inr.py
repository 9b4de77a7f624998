"""In-negative reweighted logistic loss (LGL-INR): one-vs-all, balanced and stressed by class in every batch."""

import functools
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from steelyard._common.checks import Beta, check_beta, check_integer, check_vector, compute_dtype
from steelyard._common.spread import whole
from steelyard._common.tracing import exports_to_onnx
from steelyard.kernels.lgl_inr import small
from steelyard.kernels.lgl_inr.dispatch import lgl_inr_columns
from steelyard.kernels.lgl_inr.group import check_group, group_class_sums, lgl_inr_group_columns
from steelyard.losses.base import Loss, Options
from steelyard.losses.function import function_of
from steelyard.losses.one_vs_all import softplus
from steelyard.losses.options import OUTPUT_WEIGHTS, POS_WEIGHT, option
from steelyard.losses.registry import register
from steelyard.targets import TargetLike, class_sums
from steelyard.weights.adjustments import initial_bias
from steelyard.weights.counts import Counts

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


_NOT_QUICK = ("output_weights", "pos_weight", "logit_adjustment", "mean_confusion", "process_group")


def omega_of(P: Tensor, beta: float) -> Tensor:
    r"""Return :math:`\omega_{kj} = e^{\beta P_{kj}} / \sum_{k' \ne j} e^{\beta P_{k'j}}`, 0 for k = j, (K, K).

    A row of NaN in P is a class that is not there.
    """
    out = P.isnan() | torch.eye(len(P), dtype=torch.bool, device=P.device)
    scores = (beta * P.masked_fill(out, 0.0)).masked_fill(out, -torch.inf)
    nobody = out.all(0)  # such as a single class: no negatives, weights of 0
    return torch.softmax(scores.masked_fill(nobody, 0.0), 0).masked_fill(out, 0.0)


def columns_under(
    z: Tensor, labels: Tensor, ignored: Tensor, omega_given: Tensor, beta: float, pos_weight: Tensor | None
) -> Tensor:
    r"""Return the column losses under weights that a given mean confusion fixes, (K,) of (M, K) logits.

    .. math:: \ell_j = u_j \tfrac{1}{n_j} \sum_{i \in j} s(-z_{ij}) + \sum_{k \ne j} \omega_{kj} A_{kj}
    """
    label = labels[:, None]
    positives = softplus(-z.gather(1, label).masked_fill(ignored[:, None], torch.inf))[:, 0]
    negatives = softplus(z.masked_fill(ignored[:, None], -torch.inf).scatter(1, label, -torch.inf))
    counts = negatives.new_zeros(z.shape[1]).index_add(0, labels, (~ignored).to(negatives.dtype))
    present = omega_given.to(negatives.dtype).masked_fill((counts == 0)[:, None], torch.nan)
    scale = 1 / counts.clamp(min=1)
    if pos_weight is not None:
        positives = positives * pos_weight[labels]
    pull = torch.zeros_like(scale).index_add(0, labels, positives * scale[labels])
    share = omega_of(present.detach(), beta) * scale[:, None]
    return pull + (negatives * share[labels]).sum(0)


def plain_columns(z: Tensor, labels: Tensor, ignored: Tensor, beta: float, pos_weight: Tensor | None) -> Tensor:
    """Return the column losses in standard operations, (K,) of (M, K) logits, for graphs that take no others."""
    sums, counts = class_sums(torch.sigmoid(z), labels, ignored, z.shape[1])
    return columns_under(z, labels, ignored, sums / counts[:, None], beta, pos_weight)


@register
class LGLINRLoss(Loss):
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

    with :math:`v` = ``output_weights`` and :math:`u` = ``pos_weight``. It balances classes (by :math:`1/n_k`),
    balances each column's positives against its negatives one to one, and stresses the classes that are hard for
    the column (by :math:`\beta`). Columns of absent classes are still pushed down. The loss is a function of the
    whole batch: two half batches do not average to it. So it has no loss of a sample, no ``class_weights`` and no
    ``sample_weight``, and it takes class labels alone.

    Forward and backward are closed forms, exact at any logit (the authors' code takes ``log(p + 1e-7)``, whose
    gradient vanishes for confident errors); at most three buffers of N x K are alive beside the logits.
    It cannot be differentiated twice, unless ``mean_confusion`` is given.

    With ``statistics="running"`` the weights :math:`\omega` come from an exponential average of the mean
    confusion P, not from the batch: with many classes and small batches a batch holds one or two samples of a
    class, and its own P is noise. Row k is set by the first batch with class k, then moves by ``momentum``
    towards each further one; :math:`\omega` is normalised over the classes in the batch, as ever, and is a
    constant in the gradient. The average moves in training mode only, by classes without NaN in the batch, and is
    part of ``state_dict``.

    Args:
        beta: from -1e30 to 1e30; 0 weights the non-target classes evenly, large values keep the hardest. The
            authors' default is 1. ``"auto"`` is :math:`2 \log(K - 1)` (ours): a class that the column cannot tell
            from its own, :math:`P_{kj} = 1/2`, weighs as much as K - 1 classes that it never confuses.
        detach_weights: treat :math:`\omega` as a constant in the gradient. The authors' default is False.
        output_weights: (K,) weight of each column's loss; tensor or sequence. Default: all 1.
        pos_weight: (K,) further weight of each column's positive term; gets no gradient. Default: all 1.
        logit_adjustment: (K,) added to the logits; tensor or sequence. Default: none.
        mean_confusion: (K, K), of the function only: values of P to weight by instead of the batch's own, with the
            same :math:`C`; a row of NaN leaves its class out of :math:`C`. The weights are then constants.
        statistics: ``"batch"`` or ``"running"``; of the module only, as are ``momentum`` and ``num_classes``.
        momentum: share of the new batch in the running average, in (0, 1].
        num_classes: K; needed for ``"running"`` only, whose buffers take K x K numbers.
        process_group: the batch is spread over the processes of this group
            (``torch.distributed.group.WORLD`` for all), each of which calls with its own rows, or none: classes,
            counts and :math:`P` are those of the whole batch, and so is the loss.
            The gradient is such that its mean over processes, which data
            parallelism takes, is that of one process with the whole batch. One collective of 2 K (K + 1) numbers;
            no double backward. Default: the batch is this process's.
        ignore_index, class_dim, validate: see :class:`~steelyard.losses.base.Loss`.
        reduction: ``"sum"`` over the K columns (the authors' scale), ``"mean"``: that divided by K, or
            ``"none"``: the K column losses.

    Raises:
        RuntimeError: on differentiating twice.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020, and the authors' published loss; the closed-form gradient and running
        statistics are ours.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0], [0.5, 0.0, 0.0]])
        >>> LGLINRLoss()(logits, torch.tensor([0, 1, 1]))
        tensor(0.8940)
        >>> LGLINRLoss(reduction="none")(logits, torch.tensor([0, 1, 1]))
        tensor([0.9605, 1.1964, 0.5251])
        >>> loss = LGLINRLoss(statistics="running", num_classes=3, beta=10.0)
        >>> loss(logits, torch.tensor([0, 1, 1]))
        tensor(0.9386)
    """

    name = "lgl-inr"
    link = "logistic"
    separable_over = "columns"
    why_labels = (
        "it balances the classes of a batch, and a sample of several classes has no one class to count for"
    )
    torch_weight = "output_weights"
    refuses: ClassVar[dict[str, str]] = {
        "class_weights": "it balances the classes of a batch already; output_weights weigh whole columns, "
        "pos_weight their positives",
        "label_smoothing": "a smoothed label belongs to no one class of the batch",
        "normalization": "its means are over classes; reduction says what becomes of the columns",
    }
    law_text = (
        "uⱼ ρⱼ (1 − P[j,j]) = Σₖ≠ⱼ ω[k,j] P̃[k,j], ω summing to 1 in each column, ρ the share of batches that "
        "have the class: counts enter by it alone"
    )
    formula_text = (
        "of a batch, summed over outputs j: the mean of `−log pⱼ` over class j, and that of `−log(1 − pⱼ)` over "
        "each other class k, weighed by `ω[k,j] ∝ exp(beta P[k,j])`"
    )
    posterior_text = "solved from its law; needs the mean confusion of the training rows"
    use_text = 'You need one-vs-all outputs, and some classes are rare. Adjust the logits, and take `beta="auto"`.'

    beta: Beta = option(1.0, 'stress on hard classes, or ``"auto"``.')
    detach_weights: bool = option(False, "treat the weights of classes as constants.", kind="flag")
    output_weights: Tensor | None = OUTPUT_WEIGHTS
    pos_weight: Tensor | None = POS_WEIGHT
    mean_confusion: Tensor | None = option(None, "(K, K) to weight by instead of the batch's.", of="function")
    process_group: "ProcessGroup | None" = option(None, "processes over which the batch is spread.")
    statistics: Literal["batch", "running"] = option(
        "batch", "where the weights come from.", kind="choice", choices=("batch", "running"), of="module"
    )
    momentum: float = option(
        0.1, "share of the new batch in the running average.", kind="number", low=0, high=1, of="module"
    )
    num_classes: int | None = option(None, "K, for running statistics.", of="module")

    def __init__(self, *nameless: Any, **given: Any) -> None:
        super().__init__(*nameless, **given)
        if self.process_group is not None:
            check_group(self.process_group)
        beta = check_beta(self.beta, 1)
        if not isinstance(self.beta, str):
            self.beta = beta
        if self.statistics == "running":
            if self.momentum == 0:
                raise ValueError("momentum must be in (0, 1], got 0, with which the average would never move")
            if self.num_classes is None:
                raise ValueError('statistics="running" needs num_classes, an int >= 1, got None')
            size = self.num_classes = check_integer("num_classes", self.num_classes, low=1)
            dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
            self.register_buffer("running_mean_confusion", torch.zeros(size, size, dtype=dtype))
            self.register_buffer("num_batches_tracked", torch.zeros(size, dtype=torch.long))

    running_mean_confusion: Tensor
    num_batches_tracked: Tensor

    def first_bias(self, class_counts: Counts, *, num_samples: int | None = None) -> Tensor:
        """Return the logits of a model that knows the class counts alone, which play no part in a batch.

        Positives and negatives weigh one to one, so the constant solution is a probability of 1/2 (u / (1 + u)
        with ``pos_weight`` u), less the adjustment.
        """
        if num_samples is not None:
            raise TypeError(f"lgl-inr takes no num_samples: {self.why_labels}")
        self._check_positives()
        bias = torch.zeros(len(initial_bias(class_counts, "softmax")))
        if self.pos_weight is not None:
            bias = bias + self.pos_weight.log().to(bias)
        return bias if self.logit_adjustment is None else bias - self.logit_adjustment.to(bias)

    def forward(self, logits: Tensor, target: TargetLike, *, sample_weight: TargetLike | None = None) -> Tensor:
        if self.process_group is None:
            logits, target = whole(logits), whole(target)
        if sample_weight is None and self.statistics == "batch":
            found = self._quickly(logits, target, vars(self))
            if found is not None:
                return found
        options: dict[str, Any] = self.placed(logits) | {"mean_confusion": None}
        if self.statistics == "running":
            self._update(logits, target, options)
            seen = self.num_batches_tracked[:, None] > 0
            options["mean_confusion"] = self.running_mean_confusion.masked_fill(~seen, torch.nan)
        return self.evaluate(logits, target, sample_weight, options)

    @classmethod
    def _quick(cls, logits: Tensor, target: Tensor, options: Options) -> Tensor | None:
        """Return the sum or mean over columns without weights of small float32 logits, by compiled code."""
        if any(options.get(key) is not None for key in _NOT_QUICK) or options["class_dim"] not in (1, -1):
            return None
        reduction, ignored, detached = (options[key] for key in ("reduction", "ignore_index", "detach_weights"))
        if reduction == "none" or type(ignored) is not int or not small.takes(logits):
            return None
        total = small.small_total(logits, target, check_beta(options["beta"], logits.shape[1]), detached, ignored)
        return total if total is None or reduction == "sum" else total / logits.shape[1]

    @classmethod
    def evaluate(
        cls, logits: Tensor, target: TargetLike, sample_weight: TargetLike | None, options: Options
    ) -> Tensor:
        if sample_weight is not None:
            raise TypeError("lgl-inr takes no sample_weight: a sample counts by its class's mean in the batch")
        if options["process_group"] is None:  # else each process gives rows of its own
            logits, target = whole(logits), whole(target)
        _, targets, rows, vectors = cls.read(logits, target, options)
        outputs = rows.shape[1]
        beta = check_beta(options["beta"], outputs)
        given, group, pos_weight = options["mean_confusion"], options["process_group"], vectors["pos_weight"]
        if pos_weight is not None and pos_weight.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                "pos_weight must not require a gradient, as this loss has none for it: pass pos_weight.detach()"
            )
        assert targets.labels is not None
        if given is not None:
            check_mean_confusion(given, outputs)
        labels, ignore_index = targets.labels, options["ignore_index"]
        if targets.ignored is not None:  # the operators know the ignored by a label that is none
            labels = labels.masked_fill(targets.ignored, ignore_index)
        if group is not None:
            check_group(group)
            weigh = functools.partial(_weigh, beta=beta, detach=options["detach_weights"], given=given)
            own = rows.to(compute_dtype(logits))
            columns = lgl_inr_group_columns(own, labels, weigh, pos_weight, ignore_index, group)
        elif rows.shape[0] == 0:
            columns = rows.to(compute_dtype(logits)).sum(0)
        elif given is None and not exports_to_onnx():
            columns = lgl_inr_columns(rows, labels, pos_weight, beta, options["detach_weights"], ignore_index)
        else:
            ignored = torch.zeros_like(labels, dtype=torch.bool) if targets.ignored is None else targets.ignored
            batch = rows.to(compute_dtype(logits)), targets.labels, ignored
            if given is None:
                columns = plain_columns(*batch, beta, pos_weight)
            else:
                columns = columns_under(*batch, given, beta, pos_weight)
        if vectors["output_weights"] is not None:
            columns = columns * vectors["output_weights"]
        if options["reduction"] == "none":
            return columns
        return columns.sum() if options["reduction"] == "sum" else columns.mean()

    @torch.no_grad()
    def _update(self, logits: Tensor, target: TargetLike, options: Options) -> None:
        """Move the rows of the classes in the batch; the first batch of a class sets its row."""
        _, targets, rows, _ = self.read(logits, target, options)
        average = self.running_mean_confusion
        if rows.shape[1] != len(average):
            raise ValueError(f"logits must have num_classes = {len(average)} columns, got {rows.shape[1]}")
        if not self.training:
            return
        assert targets.labels is not None
        probabilities = torch.sigmoid(rows.to(average.dtype))
        if self.process_group is None:
            sums, counts = class_sums(probabilities, targets.labels, targets.ignored, len(average))
        else:
            ignored = targets.ignored
            labels = targets.labels if ignored is None else targets.labels.masked_fill(ignored, self.ignore_index)
            sums, counts = group_class_sums(probabilities, labels, self.ignore_index, self.process_group)
        batch = sums / counts[:, None]  # NaN where no sample is
        here = batch.isfinite().all(1)  # a step of NaN, which a gradient scaler skips, moves nothing either
        share = torch.where(self.num_batches_tracked == 0, 1.0, self.momentum) * here
        average.lerp_(batch.masked_fill(~here[:, None], 0.0), share[:, None].to(average.dtype))
        self.num_batches_tracked.add_(here)


lgl_inr_loss = function_of(LGLINRLoss, "lgl_inr_loss")


def in_negative_weights(mean_confusion: Tensor, *, beta: Beta = 1.0, presence: Tensor | None = None) -> Tensor:
    r"""Return the weights :math:`\omega_{kj}` of LGL-INR from a mean confusion, over the classes observed.

    .. math:: \omega_{kj} = \frac{\rho_k e^{\beta P_{kj}}}{\sum_{k' \ne j} \rho_{k'} e^{\beta P_{k'j}}}
        \quad (k \ne j), \qquad \omega_{jj} = 0

    with :math:`\rho` = ``presence``, all 1 for a batch; other values give the mean of a class's weight over
    mini-batches that have it in this share, to first order.

    Args:
        mean_confusion: (K, K), P[k, j] = mean of sigmoid(z_ij) over the samples of class k; a row of NaN marks
            a class that was not observed.
        beta: finite, or ``"auto"``, as in :class:`LGLINRLoss`.
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
    check_mean_confusion(mean_confusion)
    beta = check_beta(beta, len(mean_confusion))
    omega = omega_of(mean_confusion.detach(), beta)
    if presence is None:
        return omega
    share = check_vector("presence", presence, len(omega), low=0, high=1, dtype=omega.dtype, device=omega.device)
    omega = omega * share[:, None]
    return omega / omega.sum(0).clamp(min=torch.finfo(omega.dtype).tiny)


def check_mean_confusion(mean_confusion: Tensor, num_classes: int | None = None) -> None:
    """Refuse what is no floating (K, K) tensor, of this K if one is given."""
    if not (isinstance(mean_confusion, Tensor) and mean_confusion.is_floating_point()):
        raise TypeError("mean_confusion must be a floating tensor of shape (K, K)")
    shape = tuple(mean_confusion.shape)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"mean_confusion must have shape (K, K), got {shape}")
    if num_classes is not None and shape[0] != num_classes:
        raise ValueError(
            f"mean_confusion must have K = {num_classes} for logits of {num_classes} columns, got {shape}"
        )


def _weigh(P: Tensor, *, beta: float, detach: bool, given: Tensor | None) -> Tensor:
    """Return the weights of a whole batch from its mean confusion P, or from the given one over the classes it
    has."""
    if given is not None:
        return omega_of(given.detach().to(P).masked_fill(P.isnan(), torch.nan), beta)
    return omega_of(P.detach() if detach else P, beta)
