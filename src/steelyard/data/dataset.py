"""A data set of images and labels, decoded when asked for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from steelyard._common.checks import check_choice


@dataclass(frozen=True)
class ImageDataset:
    """Labels in memory, images decoded on demand.

    Attributes:
        name: as it was asked for.
        class_names: K names.
        train_target, test_target: labels from 0 to K - 1, int64.
    """

    name: str
    class_names: tuple[str, ...]
    train_target: Tensor
    test_target: Tensor
    _decode: Callable[[str, Tensor], Tensor] = field(repr=False)

    def images(self, split: Literal["train", "test"], indices: Tensor) -> Tensor:
        """Return images (n, C, H, W), uint8, of these rows of a split.

        More than 4 GiB of decoded images are mapped from a temporary file (in ``TMPDIR``), not held in memory.

        Raises:
            TypeError: indices that are no integers.
            IndexError: a row that the split does not have.
            ValueError: rows that cannot be decoded (they are listed), mixed modes, or mixed sizes.
        """
        check_choice("split", split, ("train", "test"))
        rows = len(self.train_target if split == "train" else self.test_target)
        if indices.dim() != 1 or indices.dtype not in (torch.int64, torch.int32):
            dtype = str(indices.dtype).removeprefix("torch.")
            raise TypeError(f"indices must be integers (n,), got {dtype} of shape {tuple(indices.shape)}")
        if len(indices) == 0:  # the first row tells C, H and W
            return self._decode(split, torch.tensor([0]))[:0]
        for row in (int(indices.min()), int(indices.max())):
            if not 0 <= row < rows:
                raise IndexError(f"indices must be from 0 to {rows - 1} in split {split}, got {row}")
        return self._decode(split, indices)
