"""Hugging Face transformers: our losses in its Trainer, exact under accumulation and on several processes; and an
audit of what `Trainer.predict` returns."""

import sys
from types import FrameType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

try:
    from datasets import Dataset
    from transformers import Trainer
    from transformers.trainer_utils import PredictionOutput
except ImportError as error:
    raise ImportError(
        f"steelyard.integrations.huggingface needs transformers, accelerate and datasets ({error}): "
        "pip install 'steelyard[transformers]'"
    ) from None

from steelyard._common.checks import Vector
from steelyard.auditing.audit import audit
from steelyard.auditing.report import AuditReport
from steelyard.auditing.stated import SetupOrLoss
from steelyard.losses.base import Loss
from steelyard.losses.create import create_loss
from steelyard.losses.presets import made_of_counts
from steelyard.weights.class_weights import Scheme
from steelyard.weights.counts import Counts
from steelyard.weights.counts import class_counts as count_labels

_LABELS = ("labels", "label", "label_ids")  # as transformers' collators look for them
_OURS = {
    "class_dim": "the classes of transformers' logits come last",
    "ignore_index": "the Trainer counts labels other than -100",
    "process_group": "the Trainer's processes are taken",
}


class _Made(NamedTuple):
    dataset: object
    loss: Loss


class LossFunc:
    """A loss for ``Trainer(compute_loss_func=...)``; :func:`loss_func` makes it and says what it does."""

    def __init__(
        self, name: str, class_weights: Vector | str | None, class_counts: Counts | None, options: dict[str, Any]
    ) -> None:
        for key, why in _OURS.items():
            if key in options:
                raise TypeError(f"loss_func takes no {key}: {why}")
        self._name = name
        self._weights = "balanced" if isinstance(class_weights, str) and class_weights == "auto" else class_weights
        self._counts, self._options = class_counts, options
        needs = isinstance(self._weights, str) or made_of_counts(name)
        self._needs_counts = needs and class_counts is None
        loss = self._create([1, 1] if self._needs_counts else class_counts)  # what is wrong is said here
        self._by_rows = loss.separable_over == "rows"
        if loss.reduction == "none":
            raise ValueError("reduction must be 'mean' or 'sum' in a Trainer, got 'none'")
        if self._by_rows:
            if options.get("normalization") == "weights":
                raise ValueError(
                    "normalization must be 'count' or 'none' in a Trainer, which knows how many labels a whole "
                    "batch has, but not what they weigh, got 'weights'"
                )
            if any(True for _ in loss.buffers()):
                given = "class_counts" if "class_counts" in loss.needs else "gradient_ratio"
                raise ValueError(
                    f"{name} must not add up over batches in a Trainer, whose checkpoints do not hold the sums: "
                    f"give {given}"
                )
            self._mean = loss.reduction == "mean" and options.get("normalization") != "none"
        elif getattr(loss, "statistics", "batch") != "batch":
            raise ValueError(
                f"statistics must be 'batch' in a Trainer, whose checkpoints do not hold a running average, "
                f"got {options['statistics']!r}"
            )
        self._made: WeakKeyDictionary[Trainer, _Made] = WeakKeyDictionary()
        self._last = None if self._needs_counts else self._set(loss)

    @property
    def loss(self) -> Loss:
        """Return the loss of the last call, with its class weights, as :func:`~steelyard.audit` takes it.

        Raises:
            RuntimeError: it needs class counts of the training data, and no Trainer has called it.
        """
        if self._last is None:
            raise RuntimeError("the loss has no class weights yet: they are made when a Trainer first calls it")
        return self._last

    def __call__(
        self, outputs: Any, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        trainer = _calling_trainer()
        _check(trainer)
        if labels is None or num_items_in_batch is None:
            raise ValueError("batches must have 'labels', a tensor, got none")
        logits = _logits_of(outputs)
        loss = self._last = self._loss_for(trainer, logits, labels)
        processes = trainer.accelerator.num_processes
        if not self._by_rows:
            return _whole(loss, logits, labels, trainer, processes)
        total: Tensor = loss(logits, labels)
        if not self._mean:
            return total
        count = torch.as_tensor(num_items_in_batch, device=total.device)
        if labels.shape == logits.shape and labels.dim() > 1:  # the Trainer counted every output of a sample
            if bool((labels == -100).any()):
                raise ValueError(
                    "labels of several outputs must not hold -100 in a Trainer, which counts them one by one"
                )
            count = count / labels.shape[-1]
        return total / count.clamp(min=1)

    def _create(self, counts: Counts | None) -> Loss:
        return create_loss(
            self._name,
            class_counts=counts,
            class_weights=self._weights,  # type: ignore[arg-type]
            **self._options,
        )

    def _set(self, loss: Loss) -> Loss:
        loss.class_dim = -1
        if self._by_rows:
            loss.reduction = "sum"
        return loss

    def _loss_for(self, trainer: Trainer, logits: Tensor, labels: Tensor) -> Loss:
        if not self._needs_counts:
            assert self._last is not None
            return self._last
        made = self._made.get(trainer)
        if made is None or made.dataset is not trainer.train_dataset:
            if labels.dim() == logits.dim():
                raise ValueError("class_counts must be given for labels of several outputs, got None")
            counts = count_labels(_labels_of(trainer.train_dataset), max(logits.shape[-1], 2))
            made = self._made[trainer] = _Made(trainer.train_dataset, self._set(self._create(counts)))
        return made.loss


def loss_func(
    name: str,
    *,
    class_weights: Vector | Scheme | str | None = None,
    class_counts: Counts | None = None,
    **options: Any,
) -> LossFunc:
    r"""Return a loss for ``transformers.Trainer(compute_loss_func=...)``, exact for the whole batch.

    .. math:: \frac{1}{n} \sum_i c_{y_i} \ell(z_i, y_i)

    with n the labels other than -100 of the *whole* batch of an optimizer step: all accumulated micro-batches of
    all processes. The gradient is that of ``create_loss(name, ..., normalization="count")`` on that batch in one
    process.

    Args:
        name: one of :func:`~steelyard.list_losses`.
        class_weights: (K,) weight of the samples of each class; a scheme such as ``"inverse"``; or ``"auto"``,
            which is ``"balanced"``: the mean weight of a training label is 1. Default: none.
        class_counts: K training samples (of token classification: labels) of each class, for a scheme and for
            presets such as ``"balanced-softmax"``. Default: counted once, when training begins, in the column
            ``labels`` or ``label`` of the Trainer's ``train_dataset``, a ``datasets.Dataset``.
        **options: of the loss. ``normalization`` is ``"count"`` or, for a sum, ``"none"``.

    Labels are (N,), or (N, L) with logits (N, L, K); soft or multi-hot (N, K), without -100. Losses of whole
    batches (``"lgl-inr"``) are exact on several processes, whose class statistics they add up in one collective;
    under gradient accumulation they are refused.

    Returns:
        A function of ``outputs, labels, num_items_in_batch``. Its ``loss`` is the loss module, for an audit.

    Raises:
        TypeError, ValueError: as :func:`~steelyard.create_loss` does; ``normalization="weights"``, which needs the
            weights of micro-batches that are still to come. In training: settings of the Trainer under which the
            gradient would be another one, such as ``average_tokens_across_devices=False`` on several processes,
            ``torch.nn.DataParallel``, or models whose labels are shifted; a data set whose labels cannot be read.
        RuntimeError: called by something else than a Trainer.

    Source:
        What the Trainer does was read in transformers 5.23.

    Example:
        >>> from steelyard.integrations.huggingface import loss_func
        >>> loss_func("softmax", class_weights=[1.0, 4.0], label_smoothing=0.1).loss.class_weights
        tensor([1., 4.])
    """
    return LossFunc(name, class_weights, class_counts, options)


def audit_predictions(output: PredictionOutput, setup: SetupOrLoss | LossFunc, **options: Any) -> AuditReport:
    """Return the audit of what ``trainer.predict(train_dataset)`` returned.

    Args:
        output: predictions (N, K) or (N, L, K), logits with the classes last, and label_ids (N,) or (N, L), in
            which -100 is left out; (N, K) for outputs that stand for themselves.
        setup: what was done in training: the :func:`loss_func` itself, or all that :func:`~steelyard.audit` takes.
        **options: of :func:`~steelyard.audit`, such as ``class_names``; ``class_counts`` where these are not the
            training samples.

    Raises:
        TypeError: predictions or labels that are not one array; what :func:`~steelyard.audit` raises.

    Source:
        As :func:`~steelyard.audit`.

    Example:
        >>> labels = np.arange(300).reshape(100, 3) % 3
        >>> logits = np.eye(3)[labels] + np.random.default_rng(0).normal(size=(100, 3, 3))
        >>> labels[:, 2] = -100
        >>> report = audit_predictions(PredictionOutput(logits, labels, None), "softmax")
        >>> report.mean_confusion.shape, report.faults
        (torch.Size([3, 3]), ())
    """
    for name in ("predictions", "label_ids"):
        value = getattr(output, name, None)
        if not isinstance(value, np.ndarray):
            parts = f"{len(value)} arrays" if isinstance(value, tuple) else type(value).__name__
            raise TypeError(
                f"{name} must be one array, got {parts}"
                + (
                    ": keep that of the logits, such as output._replace(predictions=output.predictions[0])"
                    if name == "predictions" and isinstance(value, tuple)
                    else ""
                )
            )
    stated = setup.loss if isinstance(setup, LossFunc) else setup
    logits, labels = output.predictions, output.label_ids
    return audit(logits, labels, stated, class_dim=-1, **options)  # type: ignore[arg-type]


def _calling_trainer() -> Trainer:
    """Return the Trainer whose method called: only it knows how it scales a loss and what it trains on."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        found = frame.f_locals.get("self")
        if isinstance(found, Trainer):
            return found
        frame = frame.f_back
    raise RuntimeError("loss_func must be called by a transformers.Trainer: elsewhere use steelyard.create_loss")


def _check(trainer: Trainer) -> None:
    """Refuse settings under which the Trainer scales or counts in another way than it does by default."""
    args = trainer.args
    if args.n_gpu > 1:
        raise ValueError("Trainer must have one device a process, got torch.nn.DataParallel: use torchrun")
    if trainer.accelerator.num_processes > 1 and not args.average_tokens_across_devices:
        raise ValueError(
            "average_tokens_across_devices must be True on several processes, so that each counts the labels of "
            "all, got False"
        )
    sizes = (trainer.get_tp_size(), trainer.get_cp_size(), trainer.get_sp_size())
    if sizes != (1, 1, 1):
        raise ValueError(
            "Trainer must give each process whole logits of its own samples, got tensor, context and "
            f"sequence parallelism over {sizes} processes"
        )
    if trainer.loss_is_scaled_for_ga is False:
        raise ValueError("loss_is_scaled_for_ga must be None or True, as this loss is scaled already, got False")
    if trainer._loss_shifts_labels:
        raise ValueError("model must not shift its labels, as a causal language model does")
    if args.label_smoothing_factor:
        raise ValueError(
            "label_smoothing_factor plays no part beside compute_loss_func: give label_smoothing to loss_func, "
            f"got {args.label_smoothing_factor:g}"
        )


def _whole(loss: Loss, logits: Tensor, labels: Tensor, trainer: Trainer, processes: int) -> Tensor:
    """Return a loss of a whole batch, of all processes, over the factor by which the Trainer multiplies."""
    if torch.is_grad_enabled() and trainer.args.gradient_accumulation_steps > 1:
        raise ValueError(
            f"gradient_accumulation_steps must be 1 for {loss.name}, a function of the whole batch, got "
            f"{trainer.args.gradient_accumulation_steps}: use a larger batch, or a loop of your own with "
            "steelyard.exact_accumulation"
        )
    if processes == 1:
        value: Tensor = loss(logits, labels)
        return value
    spread = loss.placed(logits) | {"mean_confusion": None, "process_group": dist.group.WORLD}
    return loss.evaluate(logits, labels, None, spread) / processes


def _logits_of(outputs: Any) -> Tensor:
    """Return the logits among what a model gave: by name, or the first of a tuple."""
    if isinstance(outputs, tuple) and outputs:
        found = outputs[0]
    else:
        found = outputs.get("logits") if hasattr(outputs, "get") else None
    if not isinstance(found, Tensor):
        raise TypeError(f"model must give logits, got {type(outputs).__name__} without them")
    return found


def _labels_of(dataset: object) -> np.ndarray[Any, Any]:
    """Return all labels of a training set in a row, or refuse to guess them."""
    found = [name for name in _LABELS if isinstance(dataset, Dataset) and name in dataset.column_names]
    if not isinstance(dataset, Dataset) or len(found) != 1 or dataset.format["type"] == "custom":
        raise ValueError(
            "class_counts must be given where train_dataset is no datasets.Dataset with a column 'labels' or "
            f"'label' and without a transform, got {type(dataset).__name__}"
        )
    column = dataset.with_format("numpy").select_columns(found)[:][found[0]]
    if len(column) == 0:
        raise ValueError("train_dataset must have samples to count classes, got none")
    return np.concatenate([np.asarray(labels).reshape(-1) for labels in column])
