"""The order of samples, and each process's share of them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

Split = tuple[Tensor, Tensor]  # inputs and labels


class Shares(Dataset[tuple[Tensor, Tensor, int]]):
    """By whole batches of indices: the inputs of a process's share, all labels, and where the share starts."""

    def __init__(self, inputs: Tensor, target: Tensor, rank: int, devices: int) -> None:
        self.inputs, self.target, self.rank, self.devices = inputs, target, rank, devices

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor, int]:
        start, stop = (len(index) * rank // self.devices for rank in (self.rank, self.rank + 1))
        return self.inputs[index[start:stop]], self.target[index], start


class EpochBatches(Sampler[list[int]]):
    """Shuffled batches as a function of (seed, epoch); an incomplete last batch is left out."""

    def __init__(self, samples: int, batch_size: int, seed: int) -> None:
        self.samples, self.batch_size, self.seed, self.epoch = samples, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return steps(self.samples, self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        # A generator, so that the epoch is read at the first batch: on resuming, Lightning sets it after iter().
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.samples, generator=generator)
        for i in range(len(self)):
            yield order[i * self.batch_size :][: self.batch_size].tolist()


def steps(samples: int, batch_size: int) -> int:
    """Return how many steps an epoch has."""
    return max(1, samples // batch_size)
