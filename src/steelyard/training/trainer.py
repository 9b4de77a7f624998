"""A training by Lightning's Trainer, in one process or in several."""

import copy
import functools
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from steelyard._common.checks import check_same
from steelyard._common.text import reason_of
from steelyard.training.augmentation import augment
from steelyard.training.batches import EpochBatches, Shares, Split, steps
from steelyard.training.lightning import SafeCheckpointIO, deterministic, quiet_lightning
from steelyard.training.predicting import at_once
from steelyard.training.processes import Report, in_processes
from steelyard.training.recipe import Diverged, Precision, Recipe
from steelyard.weights.schedules import DeferredReweighting

_SECONDS_BETWEEN_CHECKPOINTS = 10.0


@dataclass(frozen=True)
class Place:
    """What a training runs on."""

    train: Split
    validation: Split
    accelerator: str
    devices: int
    precision: Precision


def run(module: "Training", place: Place, on_epoch: Report) -> None:
    """Train to the last epoch, and tell of every epoch; with several devices each has a process of its own."""
    if place.devices == 1:
        module.on_epoch = on_epoch
        _train(module, place)
        return
    with tempfile.TemporaryDirectory() as folder, quiet_lightning():
        file = Path(folder) / "fitted.pt"
        in_processes(functools.partial(_run_copy, module, place, file), place.devices, on_epoch)
        found = torch.load(file, map_location="cpu", weights_only=True)
    module.load_state_dict(found["state"])
    module.history = found["history"]


def _run_copy(module: "Training", place: Place, file: Path, rank: int, report: Report) -> None:
    """Train a copy of a module that is shared with other processes; the first of them saves what came of it."""
    module = copy.deepcopy(module)
    if rank == 0:
        module.on_epoch = report
    _train(module, place, rank)
    if rank == 0:
        torch.save({"state": module.state_dict(), "history": module.history}, file)


def _train(module: "Training", place: Place, rank: int = 0) -> None:
    """Train in this process, the only one or one of a group."""
    devices, precision = place.devices, place.precision
    several = devices > 1
    with quiet_lightning():
        try:
            trainer = L.Trainer(
                accelerator=place.accelerator,
                devices=devices,
                precision=precision,
                strategy=DDPStrategy() if several else "auto",
                sync_batchnorm=several,
                use_distributed_sampler=False,
                max_epochs=module.recipe.epochs,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                plugins=[SafeCheckpointIO(), LightningEnvironment()],  # a cluster's own processes are not ours
            )
        except MisconfigurationException as error:
            reason = reason_of(error)
            raise ValueError(
                f"accelerator {place.accelerator!r} with devices {devices} is not here: {reason}"
            ) from error
        on_cpu = trainer.strategy.root_device.type == "cpu"
        if trainer.precision != precision:
            raise ValueError(f"precision must be 32-true or bf16-mixed on a CPU, got {precision!r}")
        if several and on_cpu and any(isinstance(part, _BatchNorm) for part in module.modules()):
            raise ValueError(
                f"devices must be 1 on CPUs for a network with batch normalisation, got {devices}: "
                "its statistics are shared between GPUs only"
            )
        train, validation = (Shares(*split, rank, devices) for split in (place.train, place.validation))
        sampler = EpochBatches(len(train), module.recipe.batch_size, module.seed)
        parts = torch.arange(len(validation)).tensor_split(-(-len(validation) // at_once(place.validation[0])))
        with deterministic(trainer.strategy.root_device):
            trainer.fit(
                module,
                DataLoader(train, sampler=sampler, batch_size=None),
                DataLoader(validation, sampler=parts, batch_size=None),
                ckpt_path=str(module.checkpoint) if module.checkpoint.exists() else None,
                weights_only=True,
            )


def _seed(seed: int, device: torch.device) -> None:
    """Seed what a step draws from.

    On a CPU that is one generator. ``torch.manual_seed`` there also keeps, for each kind of device that was never
    used, the call and its whole stack, at every step.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


class Training(L.LightningModule):
    """A network under its loss, as the Trainer takes it."""

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        recipe: Recipe,
        place: Place,
        seed: int,
        checkpoint: Path,
        of: dict[str, object],
        schedule: tuple[str, DeferredReweighting] | None,
    ) -> None:
        super().__init__()
        self.network, self.loss, self.recipe, self.seed = network, loss, recipe, seed
        self.steps = recipe.epochs * steps(len(place.train[1]), recipe.batch_size)
        self.checkpoint, self.of, self.schedule = checkpoint, of, schedule
        self.on_epoch: Report | None = None
        self.history: list[dict[str, float]] = []
        self._saved, self._interval = time.monotonic(), _SECONDS_BETWEEN_CHECKPOINTS
        self._losses: list[Tensor] = []
        # validation samples of each class, and those of them that are classified rightly
        self._counts = torch.zeros(2, int(place.validation[1].max()) + 1, dtype=torch.long)

    def configure_optimizers(self) -> Any:
        parameters = list(self.network.parameters())
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": self.recipe.weight_decay},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.SGD(
            groups, lr=self.recipe.learning_rate, momentum=self.recipe.momentum, nesterov=self.recipe.momentum > 0
        )
        warm_up = max(1, self.steps // 10)

        def factor(step: int) -> float:
            if step < warm_up:
                return (step + 1) / warm_up
            return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, self.steps - warm_up)))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        self._losses.clear()
        if self.schedule is not None:
            argument, schedule = self.schedule
            schedule.set_epoch(self.current_epoch)
            setattr(self.loss, argument, schedule.class_weights.to(self.device))

    def training_step(self, batch: tuple[Tensor, Tensor, int], batch_index: int) -> Tensor:
        inputs, target, start = batch
        _seed(((self.seed * 1_000_003 + self.global_step) * 1009 + self.global_rank + 1) % 2**63, self.device)
        inputs = augment(
            inputs,
            self.recipe.augmentation,
            seed=self.seed,
            step=self.global_step,
            start=start,
            total=len(target),
        )
        logits = self._gather(self.network(inputs), start, len(target))
        with torch.autocast(self.device.type, enabled=False):
            value: Tensor = self.loss(logits, target)
        if not torch.isfinite(value):
            raise Diverged(
                f"the loss became {value.item()} at step {self.global_step + 1} of {self.steps} "
                f"(epoch {self.current_epoch + 1}); lower the learning rate, {self.recipe.learning_rate:g}"
            )
        self._losses.append(value.detach())
        # every process has the whole loss and the gradient of its rows, of which data parallelism takes the mean
        scaled: Tensor = value * self.trainer.world_size
        return scaled

    def _gather(self, logits: Tensor, start: int, total: int) -> Tensor:
        """Return the logits (total, K) of the whole batch, in float32 at least; the rows of this process carry a
        gradient."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.trainer.world_size == 1:
            return logits
        stop = start + len(logits)
        whole = logits.new_zeros(total, logits.shape[1])
        whole[start:stop] = logits.detach()
        whole = self.trainer.strategy.reduce(whole, reduce_op="sum")
        return torch.cat([whole[:start], logits, whole[stop:]])

    def validation_step(self, batch: tuple[Tensor, Tensor, int], batch_index: int) -> None:
        inputs, target, start = batch
        target = target[start : start + len(inputs)]
        right = target[self.network(inputs).argmax(1) == target]
        size = self._counts.shape[1]
        self._counts += torch.stack([torch.bincount(part.cpu(), minlength=size) for part in (target, right)])

    def on_train_epoch_end(self) -> None:
        counts = self.trainer.strategy.reduce(self._counts.to(self.device), reduce_op="sum")
        target, right = counts.cpu().double()
        self._counts = torch.zeros_like(self._counts)
        recall = right / target
        self.history.append(
            {
                "epoch": self.current_epoch + 1,
                "train_loss": torch.stack(self._losses).double().mean().item(),
                "validation_balanced_accuracy": recall[~recall.isnan()].mean().item(),
                "lr": self.recipe.learning_rate,
            }
        )
        if self.trainer.strategy.broadcast(time.monotonic() - self._saved >= self._interval):
            self.trainer.save_checkpoint(self.checkpoint)
            self._saved = time.monotonic()
        if self.on_epoch is not None:
            self.on_epoch(self.history[-1])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"history": self.history, "of": self.of}
        if self.schedule is not None:
            checkpoint["schedule"] = self.schedule[1].state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        try:
            check_same(f"checkpoint {self.checkpoint}", checkpoint["of"], self.of)
        except ValueError as error:
            raise ValueError(f"{error}; remove it to train again") from None
        if ("schedule" in checkpoint) != (self.schedule is not None):
            which = "with" if "schedule" in checkpoint else "without"
            raise ValueError(
                f"checkpoint {self.checkpoint} is of a training {which} a schedule; remove it to train again"
            )
        self.history = checkpoint["history"]
        if self.schedule is not None:
            self.schedule[1].load_state_dict(checkpoint["schedule"])

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        try:
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        except RuntimeError as error:
            reason = reason_of(error)
            raise ValueError(f"checkpoint {self.checkpoint} is of another model ({reason}); remove it") from error
