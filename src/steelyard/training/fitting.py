"""Fitting one network with one loss, resumable at any moment; what to fit is decided by `experiments`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import get_args

import safetensors.torch
from torch import Tensor, nn

from steelyard._common.checks import check_choice
from steelyard._common.files import write_atomically
from steelyard.training.batches import Split
from steelyard.training.predicting import predict, predict_features
from steelyard.training.recipe import Precision, Recipe
from steelyard.weights.schedules import DeferredReweighting


@dataclass(frozen=True)
class Fitted:
    """A network as training left it (the last epoch) and what happened, epoch by epoch."""

    network: nn.Module
    history: list[dict[str, float]]

    def logits(self, inputs: Tensor) -> Tensor:
        """Return the logits (N, K) of inputs (N, ...)."""
        return predict(self.network, inputs)

    def features(self, inputs: Tensor) -> Tensor | None:
        """Return what a linear head multiplies, (N, F); None of a network that has none."""
        linear = hasattr(self.network, "forward_features") and getattr(self.network, "head_is_linear", True)
        return predict_features(self.network, inputs) if linear else None

    def save(self, folder: str | PathLike[str]) -> list[str]:
        """Write the network as ``model.safetensors`` and return that name."""
        state = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        write_atomically(Path(folder) / "model.safetensors", lambda f: f.write(safetensors.torch.save(state)))
        return ["model.safetensors"]


def fit(
    network: nn.Module,
    loss: nn.Module,
    train: Split,
    validation: Split,
    recipe: Recipe,
    *,
    seed: int,
    checkpoint: str | PathLike[str],
    of: Mapping[str, object] | None = None,
    schedule: tuple[str, DeferredReweighting] | None = None,
    accelerator: str = "auto",
    devices: int = 1,
    precision: Precision = "32-true",
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
) -> Fitted:
    """Train `network` under `loss` to the last epoch; the same seed gives the same numbers, resumed or not.

    On a GPU so does it of torch's operations that have a deterministic form; torch warns of others.

    At the end of an epoch, but not more often than every few seconds, the state is saved to `checkpoint`,
    written aside and renamed. If that file exists, training goes on from it; it is removed at the end. The order
    of samples in an epoch is a function of seed and epoch alone, and torch's generators are seeded at every step
    (dropout draws from them), so a resumed training sees what an uninterrupted one sees.

    With several devices each has a process of its own, takes its share of every batch, and computes the loss of
    the whole batch from everybody's logits, which are gathered. So any loss, also one of batch statistics such as
    LGL-INR or one divided by the weights in the batch, is what it is on one device, and so are its gradients but
    for rounding (and for dropout, which each device draws for itself). Batch normalisation is synchronised.

    Args:
        network: inputs to logits (N, K).
        loss: logits and target to a scalar; gets float32 logits whatever the precision.
        train: inputs (images (N, C, H, W) or features (N, D)) and labels (N,).
        validation: the same, for the balanced accuracy in the history; it decides nothing here.
        recipe: optimiser and length.
        seed: of the sample order, the augmentation and dropout (the network comes initialised).
        checkpoint: file for the state of an unfinished training.
        of: settings, plain values, that a training is known by; the checkpoint of one with others is refused.
        schedule: a weight argument of the loss and what sets it at each epoch.
        accelerator: as Lightning's Trainer takes it.
        devices: how many of them, on this machine. A training may go on with another number. More than one need
            a script that does its work under ``if __name__ == "__main__"``.
        precision: ``"32-true"``, or of the network's forward and backward pass ``"16-mixed"`` (not on CPUs) or
            ``"bf16-mixed"``.
        on_epoch: called with the history's newest row.

    Returns:
        The network, on the CPU, and the history: epoch (from 1), train_loss, validation_balanced_accuracy, lr.

    Raises:
        Diverged: the loss became NaN or infinite; the message names step and epoch. The checkpoint stays.
        ValueError: the checkpoint cannot be read or is of another model or other settings; devices or a
            precision that are not to be had, or more devices than samples in a batch.
    """
    checkpoint = Path(checkpoint)
    check_choice("precision", precision, get_args(Precision))
    samples = min(recipe.batch_size, len(train[1]))
    if isinstance(devices, bool) or not isinstance(devices, int) or not 1 <= devices <= samples:
        raise ValueError(f"devices must be an integer from 1 to the {samples} samples of a batch, got {devices!r}")
    network.train()  # Lightning trains a network in the mode that it finds it in
    from steelyard.training.trainer import Place, Training, run  # Lightning takes seconds to import

    place = Place(train, validation, accelerator, devices, precision)
    module = Training(network, loss, recipe, place, seed, checkpoint, dict(of or {}), schedule)
    run(module, place, on_epoch)
    checkpoint.unlink(missing_ok=True)
    return Fitted(network.cpu().eval(), module.history)
