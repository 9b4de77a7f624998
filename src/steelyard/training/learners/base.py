"""What a comparison trains: a learner, given rows and a loss, leaves a model that gives logits."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from steelyard.balance import TrainingSetup
from steelyard.notation import LossSpec
from steelyard.training.batches import Split
from steelyard.training.recipe import Diverged, Precision, Recipe

OnEpoch = Callable[[dict[str, float]], None]
Tuned = Literal["learning rate", "penalty"]


class Model(Protocol):
    """What a training left."""

    @property
    def history(self) -> list[dict[str, float]]:
        """Return a row for each epoch; none where training has no epochs."""

    def logits(self, inputs: Tensor) -> Tensor:
        """Return the logits (N, K), float32, of inputs (N, ...)."""

    def features(self, inputs: Tensor) -> Tensor | None:
        """Return what a linear head multiplies, (N, F) float32; None for a model without a head."""

    def save(self, folder: str | PathLike[str]) -> list[str]:
        """Write the model into a folder and return the names of its files; none where it has no safe format."""


@dataclass(frozen=True)
class Setting:
    """How models are trained, whatever the loss, the rate and the seed; a learner takes what it needs of it.

    Attributes:
        backbone: as :func:`~steelyard.training.create_backbone` takes it.
        recipe: of networks; its learning rate is replaced by each training's own.
        initial_bias: of the head: ``"zero"``, or ``"prior"`` for the constant solution of the loss.
        precision, accelerator, devices: as :func:`~steelyard.training.fit` takes them.
        rounds: of boosting.
        learner: as :func:`~steelyard.training.learners.find_learner` takes it.
    """

    backbone: str
    recipe: Recipe
    initial_bias: Literal["zero", "prior"] = "zero"
    precision: Precision = "32-true"
    accelerator: str = "auto"
    devices: int = 1
    rounds: int = 100
    learner: str = "network"


@dataclass(frozen=True)
class Task:
    """One training: rows, loss, candidate and seed.

    Attributes:
        spec: the loss.
        train, validation: inputs and labels (N,).
        class_counts: (K,) of the training labels.
        rate: the learning rate or the penalty.
        seed: of whatever is random.
        checkpoint, of: of an unfinished training, as :func:`~steelyard.training.fit` takes them.
        on_epoch: told each row of the history.
    """

    spec: LossSpec
    train: Split
    validation: Split
    class_counts: Tensor
    rate: float
    seed: int
    checkpoint: Path
    of: Mapping[str, object] = field(default_factory=dict)
    on_epoch: OnEpoch = lambda row: None


class Learner(ABC):
    """A kind of model and how it is trained.

    Attributes:
        name: as ``--learner`` takes it.
        tuned: what its candidates are.
        settings: names of the settings of a comparison that it has; others must be as they are by default.
        has_decay: whether a decay or a penalty, of the matrix and not of the bias, is in what is minimised.
        in_batches: whether a step sees a batch of rows, not all of them.
    """

    name: str
    settings: tuple[str, ...]
    tuned: ClassVar[Tuned] = "learning rate"
    has_decay: ClassVar[bool] = False
    in_batches: ClassVar[bool] = False

    @abstractmethod
    def check(self, spec: LossSpec) -> None:
        """Refuse a loss that the learner cannot train; a learner may need to see inputs first.

        Raises:
            ValueError: such a loss; the sentence says which it takes.
        """

    @abstractmethod
    def check_inputs(self, inputs: Tensor, num_classes: int, setting: Setting) -> None:
        """Refuse inputs, or a setting of them, that the learner cannot take.

        Raises:
            ValueError: such inputs, or such a setting.
        """

    @abstractmethod
    def fit(self, task: Task, setting: Setting) -> Model:
        """Train to the end and return the model.

        Raises:
            Diverged: the loss, or what the model says, became NaN or infinite.
        """

    @abstractmethod
    def words(self, setting: Setting) -> str:
        """Return how the learner is trained, for a page: what follows "Every loss was trained with"."""


def refuse_late_weights(learner: str, spec: LossSpec) -> None:
    """Refuse weights that start at an epoch, and statistics that run over batches, where there are neither."""
    if spec.late:
        raise ValueError(f"learner {learner} has no epochs, so weights cannot start at one, got {spec.label!r}")
    if spec.running:
        raise ValueError(f"learner {learner} has no batches for statistics to run over, got {spec.label!r}")


def check_on_cpu(learner: str, setting: Setting) -> None:
    """Refuse accelerators and several devices for a learner that is trained by one process on the CPU."""
    if setting.accelerator not in ("auto", "cpu") or setting.devices != 1:
        raise ValueError(
            f"learner {learner} trains on one CPU, got accelerator {setting.accelerator} with devices "
            f"{setting.devices}"
        )


def plain_loss(spec: LossSpec) -> str | None:
    """Return ``"softmax"`` or ``"logistic"`` where a loss is just that, with or without class weights; else None.

    Example:
        >>> from steelyard.notation import parse_loss
        >>> plain_loss(parse_loss("softmax:inverse")), plain_loss(parse_loss("softmax:tau=1"))
        ('softmax', None)
    """
    setup = TrainingSetup(spec.loss(torch.tensor([2, 1]), 3))
    beyond = set(setup.reading.held) - {"class_weights"}
    return None if beyond else setup.reading.plain


def row_weights(task: Task) -> Tensor | None:
    """Return what each training row weighs, (N,) float32 with mean 1; None without class weights.

    A preset's weights, which its loss makes, are among them.
    """
    target = task.train[1]
    weights: Tensor | None = getattr(task.spec.loss(task.class_counts, len(target)), "class_weights", None)
    if weights is None:
        return None
    each = weights.double().cpu()[target]
    scaled: Tensor = each / each.mean()
    return scaled.float()


def flat(inputs: Tensor) -> Tensor:
    """Return inputs (N, ...) as rows of numbers (N, D), float32; an image is the row of its pixels."""
    return inputs.flatten(1).float()


def finite(logits: Tensor, learner: str, task: Task) -> Tensor:
    """Return the logits of a model; it diverged where they are not finite."""
    if not bool(torch.isfinite(logits).all()):
        raise Diverged(f"learner {learner} at rate {task.rate:g} gave logits that are not finite")
    return logits
