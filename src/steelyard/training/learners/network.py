"""Networks, trained by SGD epoch by epoch."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from steelyard.notation import LossSpec
from steelyard.training.batches import Split
from steelyard.training.fitting import Fitted, fit
from steelyard.training.learners.base import Learner, OnEpoch, Setting, Task
from steelyard.training.networks import check_takes, create_backbone
from steelyard.weights.schedules import DeferredReweighting

_OF_SGD = ("epochs", "batch_size", "learning_rates", "momentum", "weight_decay")
OF_NETWORKS = (*_OF_SGD, "initial_bias", "augmentation", "precision")


class NetworkLearner(Learner):
    """A backbone and a linear head; ``mlp`` names the backbone with one hidden layer."""

    in_batches = True
    has_decay = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.settings = OF_NETWORKS if name == "mlp" else (*OF_NETWORKS, "backbone")

    def backbone(self, setting: Setting) -> str:
        """Return the backbone of this learner."""
        return "mlp" if self.name == "mlp" else setting.backbone

    def check(self, spec: LossSpec) -> None:
        """Accept every loss."""

    def check_inputs(self, inputs: Tensor, num_classes: int, setting: Setting) -> None:
        """Refuse what the backbone or the augmentation cannot take."""
        check_takes(self.backbone(setting), inputs, setting.recipe.augmentation)

    def fit(self, task: Task, setting: Setting) -> Fitted:
        """Train a network to the last epoch; see :func:`~steelyard.training.fit`."""
        counts, size = task.class_counts, setting.recipe.batch_size
        bias = task.spec.first_bias(counts, size) if setting.initial_bias == "prior" else None
        loss, schedule = task.spec.build(counts, size, setting.recipe.epochs)
        return train_network(
            lambda: create_backbone(self.backbone(setting), task.train[0], len(counts), initial_bias=bias),
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

    def words(self, setting: Setting) -> str:
        """Return the backbone and the epochs."""
        return f"a network, {self.backbone(setting)}, to the last of {setting.recipe.epochs} epochs"


def train_network(
    make: Callable[[], nn.Module],
    loss: nn.Module,
    train: Split,
    validation: Split,
    setting: Setting,
    *,
    rate: float,
    seed: int,
    checkpoint: Path,
    of: Mapping[str, object] | None = None,
    schedule: tuple[str, DeferredReweighting] | None = None,
    on_epoch: OnEpoch = lambda row: None,
) -> Fitted:
    """Make a network under a seed and train it to the last epoch; see :func:`~steelyard.training.fit`.

    Raises:
        Diverged: the loss became NaN or infinite.
    """
    torch.manual_seed(seed)
    return fit(
        make(),
        loss,
        train,
        validation,
        replace(setting.recipe, learning_rate=rate),
        seed=seed,
        checkpoint=checkpoint,
        of=of,
        schedule=schedule,
        accelerator=setting.accelerator,
        devices=setting.devices,
        precision=setting.precision,
        on_epoch=on_epoch,
    )
