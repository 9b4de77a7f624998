"""A learner that a function of yours makes: ``module:function``."""

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from steelyard._common.text import reason_of
from steelyard.data.own import load_object
from steelyard.notation import LossSpec
from steelyard.training.learners.base import (
    Learner,
    Model,
    Setting,
    Task,
    check_on_cpu,
    finite,
    flat,
    plain_loss,
    refuse_late_weights,
    row_weights,
)
from steelyard.training.learners.network import OF_NETWORKS, train_network

_LEAST = 1e-12  # of a probability, whose logarithm is a logit


class OwnLearner(Learner):
    """What a function of yours makes for each training, called as ``f(num_classes=, shape=, rate=, seed=)``.

    ``shape`` is that of one row of inputs, ``rate`` the learning rate that is tried. It returns

    - a ``torch.nn.Module`` that gives logits (N, K) for inputs in float32. It is trained as other networks are,
      under any loss. If it has ``forward_features`` and a linear ``head``, features are written too.
    - a classifier with ``fit(X, y, sample_weight=...)`` and ``predict_proba``. Its loss is its own: it is taken
      for softmax, with class weights as weights of rows, and every other loss is refused. Images come as rows.

    Pixels come as they are stored, from 0 to 255: which scale a model needs, only its author knows.
    """

    settings = OF_NETWORKS
    in_batches = True

    def __init__(self, name: str) -> None:
        self.name = name
        self._make = load_object("learner", name)
        self._is_classifier = False  # as far as is known
        if not callable(self._make):
            raise TypeError(f"learner {name!r} must be a function, got {type(self._make).__name__}")

    def make(self, shape: tuple[int, ...], num_classes: int, rate: float, seed: int) -> Any:
        """Return what the function makes.

        Raises:
            TypeError: it does not take what it is called with, or makes something else.
        """
        torch.manual_seed(seed)
        try:
            made = self._make(num_classes=num_classes, shape=shape, rate=rate, seed=seed)
        except TypeError as error:
            raise TypeError(
                f"learner {self.name!r} is called with num_classes, shape, rate and seed: {reason_of(error)}"
            ) from error
        if not isinstance(made, nn.Module) and not (hasattr(made, "fit") and hasattr(made, "predict_proba")):
            raise TypeError(
                f"learner {self.name!r} must make a torch module or a classifier with fit and predict_proba, "
                f"got {type(made).__name__}"
            )
        return made

    def check(self, spec: LossSpec) -> None:
        """Refuse what a classifier cannot train; before inputs were seen nobody knows whether it is one."""
        if not self._is_classifier:
            return
        refuse_late_weights(self.name, spec)
        if plain_loss(spec) != "softmax":
            raise ValueError(
                f"learner {self.name} cannot train {spec.label}; a classifier with a loss of its own takes "
                "softmax with class weights"
            )

    def check_inputs(self, inputs: Tensor, num_classes: int, setting: Setting) -> None:
        """Call the function once, so that losses and settings are refused before work starts."""
        made = self.make(tuple(inputs.shape[1:]), num_classes, setting.recipe.learning_rate, 0)
        self._is_classifier = not isinstance(made, nn.Module)
        if self._is_classifier:
            check_on_cpu(self.name, setting)

    def fit(self, task: Task, setting: Setting) -> Model:
        """Train a network as others are trained, or call the classifier's own ``fit``."""
        inputs, target = task.train
        size = len(task.class_counts)
        made = self.make(tuple(inputs.shape[1:]), size, task.rate, task.seed)
        if isinstance(made, nn.Module):
            loss, schedule = task.spec.build(task.class_counts, setting.recipe.batch_size, setting.recipe.epochs)
            return train_network(
                lambda: InFloats(made),
                loss,
                task.train,
                task.validation,
                setting,
                rate=task.rate,
                seed=task.seed,
                checkpoint=task.checkpoint,
                of=task.of,
                schedule=schedule,
                on_epoch=task.on_epoch,
            )
        self._is_classifier = True
        check_on_cpu(self.name, setting)
        self.check(task.spec)
        weights = row_weights(task)
        made.fit(flat(inputs).numpy(), target.numpy(), sample_weight=None if weights is None else weights.numpy())
        if list(made.classes_) != list(range(size)):
            raise ValueError(f"learner {self.name} must know the {size} classes, got {list(made.classes_)}")
        found = Classifier(made.predict_proba, [])
        finite(found.logits(inputs), self.name, task)
        return found

    def words(self, setting: Setting) -> str:
        """Return the name of the function."""
        return f"what {self.name} makes"


@dataclass(frozen=True)
class Classifier:
    """A classifier that gives probabilities (N, K) for rows (N, D); their logarithms are its logits."""

    probabilities: Callable[[Any], Any]
    history: list[dict[str, float]]

    def logits(self, inputs: Tensor) -> Tensor:
        """Return the logarithms of the probabilities, none of which is taken for less than 1e-12."""
        found = torch.as_tensor(self.probabilities(flat(inputs).numpy())).double()
        return found.clamp(min=_LEAST).log().float()

    def features(self, inputs: Tensor) -> None:
        """Return None: what it computes inside is not known."""

    def save(self, folder: str | PathLike[str]) -> list[str]:
        """Write nothing: a pickle runs code when it is opened."""
        return []


class InFloats(nn.Module):
    """A network of yours, which is given float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        if hasattr(network, "forward_features") and isinstance(getattr(network, "head", None), nn.Linear):
            inside: Any = network
            self.forward_features = lambda inputs: inside.forward_features(inputs.float())

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (N, ...) -> logits (N, K)."""
        logits: Tensor = self.network(inputs.float())
        return logits
