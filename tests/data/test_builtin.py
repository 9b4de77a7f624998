"""Built-in tasks: the same data every time, no sample of the test split in training, classes that can be told."""

import pytest
import torch

from steelyard.data import load_dataset
from steelyard.data.builtin import TASKS

SIZES = {"digits": 10, "digits-rotated": 40, "digit-pairs": 100, "stdlib-text": 150, "gaussians": 200}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "stdlib-text" else n for n in TASKS]
)
def test_task(name):
    data, again = load_dataset(name), load_dataset(name)
    size = SIZES[name]
    assert len(set(data.class_names)) == size
    parts = {}
    for split, target in (("train", data.train_target), ("test", data.test_target)):
        counts = torch.bincount(target, minlength=size)
        assert len(counts) == size
        assert counts.min() >= (100 if split == "train" else 30)
        rows = torch.arange(len(target))
        images = data.inputs(split, rows)
        assert images.dtype == torch.uint8
        assert torch.equal(images, again.inputs(split, rows))
        parts[split] = images.flatten(1)
    if name != "gaussians":  # where the text of a file, or a digit, might be in both
        both, counts = torch.cat(list(parts.values())).unique(dim=0, return_counts=True)
        train_alone = parts["train"].unique(dim=0)
        test_alone = parts["test"].unique(dim=0)
        assert len(train_alone) + len(test_alone) - len(both) <= 0.01 * len(test_alone)
    scale = parts["train"].float().std(0).clamp(min=1)
    train, test = parts["train"] / scale, parts["test"] / scale
    centres = torch.stack([train[data.train_target == k].mean(0) for k in range(size)])
    right = torch.cdist(test, centres).argmin(1) == data.test_target
    assert right.double().mean() > 5 / size
