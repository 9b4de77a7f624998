"""Networks for small images."""

import torch
from torch import Tensor, nn


class SmallCNN(nn.Module):
    """A LeNet-size network: two convolutions with pooling, one hidden layer, a linear head.

    Works on images from 8 x 8 up. Pixels come as uint8; the network normalises them itself by the mean and
    standard deviation of each channel over the training images, which are part of its ``state_dict``.

    Args:
        images: (N, C, H, W) uint8, the training images, for the shape and the normalisation.
        num_classes: K outputs.
        width: channels of the first convolution; the second has twice as many.
        initial_bias: (K,) start of the head's bias. Default: zeros.

    Raises:
        ValueError: images smaller than 8 x 8.

    Example:
        >>> network = SmallCNN(torch.randint(256, (10, 1, 8, 8), dtype=torch.uint8), num_classes=3)
        >>> network(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape
        torch.Size([2, 3])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, images: Tensor, num_classes: int, *, width: int = 16, initial_bias: Tensor | None = None
    ) -> None:
        super().__init__()
        channels, height, side = images.shape[1:]
        if min(height, side) < 8:
            raise ValueError(f"images must be at least 8 x 8 pixels, got {height} x {side}")
        pixels = images.double()
        self.register_buffer("mean", pixels.mean((0, 2, 3)).float()[:, None, None])
        self.register_buffer("std", pixels.std((0, 2, 3)).clamp(min=1.0).float()[:, None, None])
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * width * (height // 4) * (side // 4), 8 * width),
            nn.ReLU(),
        )
        self.head = nn.Linear(8 * width, num_classes)
        # a CPU's convolutions are up to twice as fast so
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        nn.init.zeros_(self.head.bias)
        if initial_bias is not None:
            with torch.no_grad():
                self.head.bias.copy_(initial_bias)

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, C, H, W) uint8 -> features (N, D), what the head multiplies."""
        pixels = (images.float() - self.mean) / self.std
        features: Tensor = self.features(pixels.to(memory_format=torch.channels_last))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) uint8 -> logits (N, K)."""
        logits: Tensor = self.head(self.forward_features(images))
        return logits
