"""Networks, trained by SGD epoch by epoch."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from steelyard.notation import LossSpec
from steelyard.training.fitting import Fitted, fit
from steelyard.training.learners.base import Learner, Setting, Task
from steelyard.training.networks import check_takes, create_backbone

OF_NETWORKS = (
    "epochs", "batch_size", "learning_rates", "momentum", "weight_decay", "initial_bias", "augmentation", "precision"
)  # fmt: skip


class NetworkLearner(Learner):
    """A backbone and a linear head; ``mlp`` names the backbone with one hidden layer."""

    in_batches = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.settings = OF_NETWORKS if name == "mlp" else (*OF_NETWORKS, "backbone")

    def backbone(self, setting: Setting) -> str:
        """Return the backbone of this learner."""
        return "mlp" if self.name == "mlp" else setting.backbone

    def check(self, spec: LossSpec) -> None:
        """Accept every loss."""

    def check_inputs(self, inputs: Tensor, setting: Setting) -> None:
        """Refuse what the backbone or the augmentation cannot take."""
        check_takes(self.backbone(setting), inputs, setting.recipe.augmentation)

    def fit(self, task: Task, setting: Setting) -> Fitted:
        """Train a network to the last epoch; see :func:`~steelyard.training.fit`."""
        counts, size = task.class_counts, setting.recipe.batch_size
        bias = task.spec.first_bias(counts, size) if setting.initial_bias == "prior" else None
        return train_network(
            lambda: create_backbone(self.backbone(setting), task.train[0], len(counts), initial_bias=bias),
            task,
            setting,
        )

    def words(self, setting: Setting) -> str:
        """Return the backbone and the epochs."""
        return f"a network, {self.backbone(setting)}, to the last of {setting.recipe.epochs} epochs"


def train_network(make: Callable[[], nn.Module], task: Task, setting: Setting) -> Fitted:
    """Make a network under the task's seed and train it; see :func:`~steelyard.training.fit`."""
    loss, schedule = task.spec.build(task.class_counts, setting.recipe.batch_size)
    torch.manual_seed(task.seed)
    return fit(
        make(),
        loss,
        task.train,
        task.validation,
        replace(setting.recipe, learning_rate=task.rate),
        seed=task.seed,
        checkpoint=task.checkpoint,
        of=task.of,
        schedule=schedule,
        accelerator=setting.accelerator,
        devices=setting.devices,
        precision=setting.precision,
        on_epoch=task.on_epoch,
    )
