"""Random changes of whole batches of training images, as a function of a seed and a step."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Augmentation = Literal["none", "crop", "crop-flip"]
_MARGIN = 4


def augment(
    images: Tensor, kind: Augmentation, *, seed: int, step: int, start: int = 0, total: int | None = None
) -> Tensor:
    """Shift each image by up to 4 pixels, black moving in; for ``"crop-flip"`` also mirror one in two, at random.

    The same seed and step give the same change, so a resumed training sees what an uninterrupted one sees.

    Args:
        images: (N, C, H, W) uint8; for ``"none"`` whatever there is.
        kind: ``"none"``, ``"crop"``, or ``"crop-flip"`` (not for digits or letters, which a mirror makes others).
        seed, step: of the training.
        start, total: the images are those from `start` on of a batch of `total`. Default: the whole batch.

    Returns:
        Images of the same shape, on their device.

    Source:
        Lee, Xie, Gallagher, Zhang, Tu, AISTATS 2015 (pad by 4, crop, flip); the usual recipe for CIFAR.

    Example:
        >>> images = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)
        >>> moved = augment(images, "crop", seed=0, step=0)
        >>> moved.shape
        torch.Size([1, 1, 8, 8])
    """
    if kind == "none":
        return images
    number, _, height, width = images.shape
    total, mine = number if total is None else total, slice(start, start + number)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    moved = torch.randint(2 * _MARGIN + 1, (2, total), generator=generator)[:, mine].to(images.device)
    mirrored = (torch.rand(total, generator=generator)[mine] < 0.5).to(images.device)
    padded = F.pad(images, (_MARGIN,) * 4)
    rows = moved[0, :, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(number, width)
    if kind == "crop-flip":
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    columns = columns + moved[1, :, None]
    every = torch.arange(number, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[every, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
