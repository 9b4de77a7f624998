"""Random crops and mirrors: every result is a shift of its image, and a function of seed and step."""

import pytest
import torch
from torch.nn import functional as F

from steelyard.training import augment

IMAGES = torch.randint(1, 256, (64, 3, 10, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _shifts(image, flip):
    padded = F.pad(image.flip(-1) if flip else image, (4, 4, 4, 4))
    # a mirrored image is cut out of the mirrored padded one
    return [padded[:, y : y + 10, x : x + 12] for y in range(9) for x in range(9)]


@pytest.mark.parametrize("kind", ["crop", "crop-flip"])
def test_every_image_is_a_shift_of_its_own(kind):
    moved = augment(IMAGES, kind, seed=1, step=2)
    assert moved.shape == IMAGES.shape
    assert moved.dtype == torch.uint8
    mirrored = 0
    for image, result in zip(IMAGES, moved, strict=True):
        plain = any(torch.equal(result, shift) for shift in _shifts(image, False))
        turned = any(torch.equal(result, shift) for shift in _shifts(image, True))
        assert plain != turned
        mirrored += turned
    assert mirrored == 0 if kind == "crop" else 16 < mirrored < 48


def test_it_is_a_function_of_seed_and_step():
    one = augment(IMAGES, "crop-flip", seed=1, step=2)
    assert torch.equal(one, augment(IMAGES, "crop-flip", seed=1, step=2))
    assert not torch.equal(one, augment(IMAGES, "crop-flip", seed=1, step=3))
    assert not torch.equal(one, augment(IMAGES, "crop-flip", seed=2, step=2))
    assert augment(IMAGES, "none", seed=1, step=2) is IMAGES


def test_shares_of_a_batch_change_as_the_batch_does():
    whole = augment(IMAGES, "crop-flip", seed=1, step=2)
    parts = [augment(IMAGES[a:b], "crop-flip", seed=1, step=2, start=a, total=64) for a, b in ((0, 21), (21, 64))]
    assert torch.equal(torch.cat(parts), whole)
