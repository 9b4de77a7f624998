"""Fitting one network with one loss, resumable at any moment; what to fit is decided by `experiments`."""

import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from steelyard.priors import DeferredReweighting
from steelyard.training.augmentation import Augmentation, augment

_SECONDS_BETWEEN_CHECKPOINTS = 10.0


@dataclass(frozen=True)
class Recipe:
    """How to train: SGD with Nesterov momentum, linear warm-up over a tenth of the steps, then half a cosine.

    Weight decay leaves biases alone: on a bias it would enter the balance law. `augmentation` changes the training
    images of every step.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augmentation: Augmentation = "none"


@dataclass(frozen=True)
class Fitted:
    """A network as training left it (the last epoch) and what happened, epoch by epoch."""

    network: nn.Module
    history: list[dict[str, float]]


class Diverged(ArithmeticError):
    """The loss became NaN or infinite."""


def fit(
    network: nn.Module,
    loss: nn.Module,
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    recipe: Recipe,
    *,
    seed: int,
    checkpoint: Path,
    schedule: tuple[str, DeferredReweighting] | None = None,
    accelerator: str = "auto",
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
) -> Fitted:
    """Train `network` under `loss` to the last epoch; the same seed gives the same numbers, resumed or not.

    Every few seconds the state is saved to `checkpoint`, written aside and renamed. If that file exists,
    training goes on from it; it is removed at the end. The order of samples in an epoch is a function of seed
    and epoch alone, so a resumed training sees what an uninterrupted one sees.

    Args:
        network: images to logits.
        loss: logits and target to a scalar.
        train: images (N, C, H, W) and labels (N,).
        validation: the same, for the balanced accuracy in the history; it decides nothing here.
        recipe: optimiser and length.
        seed: of the sample order and the augmentation (the network comes initialised).
        checkpoint: file for the state of an unfinished training.
        schedule: a weight argument of the loss and what sets it at each epoch.
        accelerator: as Lightning's Trainer takes it.
        on_epoch: called with the history's newest row.

    Returns:
        The network, on the CPU, and the history: epoch (from 1), train_loss, validation_balanced_accuracy, lr.

    Raises:
        Diverged: the loss became NaN or infinite; the message names step and epoch. The checkpoint stays.
        ValueError: the checkpoint cannot be read or is of another model.
    """
    network.train()  # Lightning trains a network in the mode that it finds it in
    module = _Training(network, loss, recipe, len(train[1]), seed, checkpoint, schedule, on_epoch)
    loader = DataLoader(
        _InMemory(*train), sampler=_EpochBatches(len(train[1]), recipe.batch_size, seed), batch_size=None
    )
    with _quiet_lightning():
        trainer = L.Trainer(
            accelerator=accelerator,
            devices=1,
            max_epochs=recipe.epochs,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            plugins=[_SafeCheckpointIO()],
        )
        try:
            trainer.fit(
                module,
                loader,
                _batches(*validation),
                ckpt_path=str(checkpoint) if checkpoint.exists() else None,
                weights_only=True,
            )
        except RuntimeError as error:
            if "loading state_dict" not in str(error):
                raise
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"checkpoint {checkpoint} is of another model ({reason}); remove it") from error
    checkpoint.unlink(missing_ok=True)
    return Fitted(network.cpu().eval(), module.history)


@torch.no_grad()
def predict(network: nn.Module, images: Tensor, batch_size: int = 1024) -> Tensor:
    """Logits (N, K), float32 on the CPU, of images (N, C, H, W), in evaluation mode."""
    network.eval()
    device = next(network.parameters()).device
    return torch.cat([network(part.to(device)).float().cpu() for part in images.split(batch_size)])


@torch.no_grad()
def predict_features(network: nn.Module, images: Tensor, batch_size: int = 1024) -> Tensor:
    """Features (N, D), float32 on the CPU, of images (N, C, H, W): what the network's head multiplies."""
    network.eval()
    device = next(network.parameters()).device
    parts = [network.forward_features(part.to(device)) for part in images.split(batch_size)]  # type: ignore[operator]
    return torch.cat([part.float().cpu() for part in parts])


class _Training(L.LightningModule):
    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        recipe: Recipe,
        samples: int,
        seed: int,
        checkpoint: Path,
        schedule: tuple[str, DeferredReweighting] | None,
        on_epoch: Callable[[dict[str, float]], None],
    ) -> None:
        super().__init__()
        self.network, self.loss, self.recipe, self.seed = network, loss, recipe, seed
        self.steps = recipe.epochs * _steps(samples, recipe.batch_size)
        self.checkpoint, self.schedule, self.on_epoch = checkpoint, schedule, on_epoch
        self._saved = time.monotonic()
        self.history: list[dict[str, float]] = []
        self._losses: list[Tensor] = []
        self._right: list[Tensor] = []

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
            setattr(self.loss, argument, schedule.weight.to(self.device))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        images, target = batch
        images = augment(images, self.recipe.augmentation, seed=self.seed, step=self.global_step)
        value: Tensor = self.loss(self.network(images), target)
        if not torch.isfinite(value):
            raise Diverged(
                f"the loss became {value.item()} at step {self.global_step + 1} of {self.steps} "
                f"(epoch {self.current_epoch + 1}); lower the learning rate, {self.recipe.learning_rate:g}"
            )
        self._losses.append(value.detach())
        return value

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        images, target = batch
        self._right.append(torch.stack([target, (self.network(images).argmax(1) == target).long()]).cpu())

    def on_train_epoch_end(self) -> None:
        target, right = torch.cat(self._right, 1)
        self._right.clear()
        recall = torch.bincount(target, right.double()) / torch.bincount(target)
        self.history.append(
            {
                "epoch": self.current_epoch + 1,
                "train_loss": torch.stack(self._losses).double().mean().item(),
                "validation_balanced_accuracy": recall[~recall.isnan()].mean().item(),
                "lr": self.recipe.learning_rate,
            }
        )
        if time.monotonic() - self._saved >= _SECONDS_BETWEEN_CHECKPOINTS:
            self.trainer.save_checkpoint(self.checkpoint)
            self._saved = time.monotonic()
        self.on_epoch(self.history[-1])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history
        if self.schedule is not None:
            checkpoint["schedule"] = self.schedule[1].state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]
        if self.schedule is not None:
            self.schedule[1].load_state_dict(checkpoint["schedule"])


class _InMemory(Dataset[tuple[Tensor, Tensor]]):
    """Images and labels, by whole batches of indices: no per-sample loop."""

    def __init__(self, images: Tensor, target: Tensor) -> None:
        self.images, self.target = images, target

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: list[int]) -> tuple[Tensor, Tensor]:
        return self.images[index], self.target[index]


class _EpochBatches(Sampler[list[int]]):
    """Shuffled batches as a function of (seed, epoch); an incomplete last batch is left out."""

    def __init__(self, samples: int, batch_size: int, seed: int) -> None:
        self.samples, self.batch_size, self.seed, self.epoch = samples, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return _steps(self.samples, self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        # A generator, so that the epoch is read at the first batch: on resuming, Lightning sets it after iter().
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.samples, generator=generator)
        for i in range(len(self)):
            yield order[i * self.batch_size :][: self.batch_size].tolist()


def _steps(samples: int, batch_size: int) -> int:
    return max(1, samples // batch_size)


def _batches(images: Tensor, target: Tensor) -> DataLoader[tuple[Tensor, Tensor]]:
    sampler = BatchSampler(range(len(target)), batch_size=1024, drop_last=False)
    return DataLoader(_InMemory(images, target), sampler=sampler, batch_size=None)


class _SafeCheckpointIO(TorchCheckpointIO):  # type: ignore[misc]
    """Written aside and renamed; read without executing anything."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        aside = Path(path).with_suffix(".tmp")
        with aside.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(
                f"checkpoint {path} cannot be read ({str(error).splitlines()[0]}); remove it to train anew"
            ) from error


class _quiet_lightning:  # noqa: N801 (a context manager, used as a function)
    """Lightning's notices about loaders and devices are not for the readers of a table."""

    def __enter__(self) -> None:
        self.loggers = [logging.getLogger(n) for n in ("lightning.pytorch", "lightning.fabric")]
        self.levels = [logger.level for logger in self.loggers]
        for logger in self.loggers:
            logger.setLevel(logging.ERROR)
        self.warnings = warnings.catch_warnings()
        self.warnings.__enter__()
        warnings.filterwarnings("ignore", module="lightning|pytorch_lightning")
        warnings.filterwarnings("ignore", message=".*(num_workers|isinstance.treespec|logging interval).*")

    def __exit__(self, *error: object) -> None:
        self.warnings.__exit__(None, None, None)
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)
