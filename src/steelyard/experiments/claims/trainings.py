"""What the claims' jobs share: a small network trained on imbalanced images, and what came of it."""

import functools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from steelyard.data import ImageDataset, load_dataset
from steelyard.experiments.metrics import summary
from steelyard.priors import DeferredReweighting
from steelyard.training import Backbone, Recipe, create_backbone, fit, predict, predict_features


@dataclass(frozen=True)
class Trained:
    """A training's outputs on the samples that it was trained on, and on the test split."""

    logits: Tensor
    features: Tensor
    target: Tensor
    test_logits: Tensor
    test_features: Tensor
    test_target: Tensor


@functools.lru_cache(maxsize=2)
def dataset(name: str) -> ImageDataset:
    """A data set, opened once in each process."""
    return load_dataset(name)


def draw(target: Tensor, counts: Sequence[int], *, seed: int) -> Tensor:
    """Indices of so many samples of each class, in rising order; the same seed draws the same."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(target), generator=generator)
    return torch.cat([order[target[order] == k][:count] for k, count in enumerate(counts)]).sort().values


def train(
    data: ImageDataset,
    chosen: Tensor,
    target: Tensor,
    loss: nn.Module,
    recipe: Recipe,
    *,
    outputs: int,
    seed: int,
    test_target: Tensor,
    schedule: tuple[str, DeferredReweighting] | None = None,
    validation: Tensor | None = None,
    backbone: Backbone = "small-cnn",
    limit_test: int = 2000,
) -> Trained:
    """Train a network on the chosen training images with these labels, to the last epoch.

    It is judged on every so many-th test image, or on the training images that `validation` names.
    """
    images, labels = data.images("train", chosen), target[chosen]
    torch.manual_seed(seed)
    network = create_backbone(backbone, images, outputs)
    judged = torch.arange(len(test_target))[:: max(1, -(-len(test_target) // limit_test))]
    test = data.images("test", judged), test_target[judged]
    if validation is not None:
        test = data.images("train", validation), target[validation]
    with tempfile.TemporaryDirectory() as folder:
        # the history needs some validation samples; nothing is decided by them
        few = images[:64], labels[:64]
        checkpoint = Path(folder) / "last.ckpt"
        fit(network, loss, (images, labels), few, recipe, seed=seed, checkpoint=checkpoint, schedule=schedule)
    return Trained(
        predict(network, images),
        predict_features(network, images),
        labels,
        predict(network, test[0]),
        predict_features(network, test[0]),
        test[1],
    )


def mean_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean, and the ends of its 95% Student interval; none for one value."""
    found = summary(values)
    if found is None or found["mean"] is None:
        raise ValueError("values must not be empty")
    return found["mean"], found["low"], found["high"]
