"""Networks for images and features: each normalises what comes as uint8 itself, and ends in a linear head."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steelyard._common.text import listed
from steelyard.losses import CosineHead
from steelyard.training.augmentation import Augmentation
from steelyard.training.libraries import LIBRARIES, check_model, create_features


def create_backbone(
    name: str, inputs: Tensor, num_classes: int, *, initial_bias: Tensor | None = None
) -> "Network":
    """Return a network by its name, with random weights.

    Args:
        name: ``"linear"``, the head alone; ``"mlp"``, one hidden layer; ``"mlp-cosine"``, one hidden layer and a
            head of cosines; for images ``"small-cnn"``, ``"resnet32"``, or an image classifier of another library,
            ``"timm:NAME"``, ``"torchvision:NAME"`` or ``"transformers:NAME"``, the last being a model type such as
            ``vit`` or ``resnet``, a folder with a ``config.json``, or a name on the Hugging Face hub, of which the
            configuration alone is fetched. Models of transformers are made for the size of the images; the others
            come as their libraries make them.
        inputs, num_classes, initial_bias: as the networks take them.

    Raises:
        ValueError: an unknown name, a model that does not end in a linear layer, or inputs that it cannot take.
        ImportError: a library that is not installed.

    Example:
        >>> images = torch.randint(256, (10, 3, 32, 32), dtype=torch.uint8)
        >>> create_backbone("resnet32", images, num_classes=10).head
        Linear(in_features=64, out_features=10, bias=True)
    """
    library, _, model = check_backbone(name).partition(":")
    check_takes(name, inputs)
    if library in LIBRARIES:
        features, width = create_features(library, model, inputs)
        return Network(inputs, num_classes, features, width, initial_bias=initial_bias)
    return _OWN[name](inputs, num_classes, initial_bias=initial_bias)


def check_takes(backbone: str, inputs: Tensor, augmentation: Augmentation = "none") -> None:
    """Refuse features (N, D) where a network or an augmentation takes images alone.

    Raises:
        ValueError: such inputs.
    """
    if inputs.dim() == 4:
        return
    shape = f"features {tuple(inputs.shape)}" if inputs.dim() == 2 else f"shape {tuple(inputs.shape)}"
    if inputs.dim() != 2:
        raise ValueError(f"inputs must be images (N, C, H, W) or features (N, D), got {shape}")
    if backbone not in _OF_FEATURES:
        raise ValueError(
            f"backbone {backbone} takes images (N, C, H, W), got {shape}; {listed(_OF_FEATURES)} take features"
        )
    if augmentation != "none":
        raise ValueError(
            f"augmentation {augmentation} takes images (N, C, H, W), got {shape}; none takes features"
        )


def check_backbone(name: str) -> str:
    """Return the name of a network after refusing what :func:`create_backbone` does not know.

    Raises:
        ValueError: an unknown name; those near it are in the message.
        ImportError: a library that is not installed.
    """
    library, colon, model = name.partition(":")
    if colon and library in LIBRARIES:
        check_model(library, model)
    elif name not in _OWN:
        known = ", ".join([*_OWN, *(f"{library}:NAME" for library in LIBRARIES)])
        raise ValueError(f"backbone must be one of {known}, got {name!r}")
    return name


class Network(nn.Module):
    """Inputs, normalised where they are uint8; features, and a linear head over them.

    uint8 inputs are normalised by the mean and standard deviation of each channel over the training inputs, which
    are part of the ``state_dict``. Floating ones are taken as they are.

    Args:
        inputs: (N, C, H, W) uint8 or (N, D) uint8 or floating, the training inputs, for the normalisation.
        num_classes: K outputs.
        features: normalised inputs to features (N, F).
        width: F.
        initial_bias: (K,) start of the head's bias. Default: zeros.

    Attributes:
        head_is_linear: whether the logits are linear in the features, which a refit of the head takes for granted.
    """

    head_is_linear = True
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        inputs: Tensor,
        num_classes: int,
        features: nn.Module,
        width: int,
        *,
        initial_bias: Tensor | None = None,
    ) -> None:
        super().__init__()
        if inputs.dtype == torch.uint8:
            mean, std = _mean_and_std(inputs)
        else:
            mean, std = torch.zeros(inputs.shape[1]), torch.ones(inputs.shape[1])
        pixels = [1] * (inputs.dim() - 2)
        self.register_buffer("mean", mean.float().reshape(-1, *pixels))
        self.register_buffer("std", std.clamp(min=1.0).float().reshape(-1, *pixels))
        self.features = features
        self.head = nn.Linear(width, num_classes)
        nn.init.zeros_(self.head.bias)
        if initial_bias is not None:
            with torch.no_grad():
                self.head.bias.copy_(initial_bias)

    def normalise(self, inputs: Tensor) -> Tensor:
        """Inputs -> the same shape, float32."""
        return (inputs.float() - self.mean) / self.std

    def forward_features(self, inputs: Tensor) -> Tensor:
        """Inputs -> features (N, F), what the head multiplies."""
        features: Tensor = self.features(self.normalise(inputs))
        return features

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs -> logits (N, K)."""
        logits: Tensor = self.head(self.forward_features(inputs))
        return logits


class SmallCNN(Network):
    """A LeNet-size network: two convolutions with pooling, one hidden layer, a linear head.

    Works on images from 8 x 8 up.

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

    def __init__(
        self, images: Tensor, num_classes: int, *, width: int = 16, initial_bias: Tensor | None = None
    ) -> None:
        channels, height, side = _check_size(images)
        features = nn.Sequential(
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
        super().__init__(images, num_classes, features, 8 * width, initial_bias=initial_bias)
        # a CPU's convolutions are up to twice as fast so
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def normalise(self, images: Tensor) -> Tensor:
        """(N, C, H, W) uint8 -> the same shape, float32, channels last in memory."""
        return super().normalise(images).to(memory_format=torch.channels_last)


class ResNet32(Network):
    """The residual network of 32 layers for images of 32 x 32, as the long-tail literature trains it on CIFAR.

    Three stages of five blocks with 16, 32 and 64 channels; shortcuts between stages take every other pixel and
    pad channels with zeros, without parameters. 0.46 million parameters for ten classes.

    Args:
        images: (N, C, H, W) uint8, the training images, for the channels and the normalisation.
        num_classes: K outputs.
        initial_bias: (K,) start of the head's bias. Default: zeros.

    Raises:
        ValueError: images smaller than 8 x 8.

    Source:
        He, Zhang, Ren, Sun, CVPR 2016, section 4.2.

    Example:
        >>> network = ResNet32(torch.randint(256, (10, 3, 32, 32), dtype=torch.uint8), num_classes=10)
        >>> sum(parameter.numel() for parameter in network.parameters())
        464154
    """

    def __init__(self, images: Tensor, num_classes: int, *, initial_bias: Tensor | None = None) -> None:
        channels, _, _ = _check_size(images)
        blocks: list[nn.Module] = []
        before = 16
        for width in (16, 32, 64):
            for _ in range(5):
                blocks.append(_Block(before, width))
                before = width
        features = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), *blocks
        )
        super().__init__(images, num_classes, features, 64, initial_bias=initial_bias)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, C, H, W) uint8 -> features (N, 64), what the head multiplies."""
        return super().forward_features(images).mean((2, 3))


class MLP(Network):
    """One hidden layer and a linear head, for features and for images of any size.

    Args:
        inputs: (N, D), or (N, C, H, W) uint8: the training inputs, for the shape and the normalisation.
        num_classes: K outputs.
        width: of the hidden layer.
        initial_bias: (K,) start of the head's bias. Default: zeros.

    Example:
        >>> network = MLP(torch.randn(10, 32), num_classes=3)
        >>> network(torch.zeros(2, 32)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self, inputs: Tensor, num_classes: int, *, width: int = 256, initial_bias: Tensor | None = None
    ) -> None:
        features = nn.Sequential(nn.Flatten(), nn.Linear(inputs[0].numel(), width), nn.ReLU())
        super().__init__(inputs, num_classes, features, width, initial_bias=initial_bias)


class Linear(Network):
    """A linear head over the inputs themselves.

    Args:
        inputs: (N, D), or (N, C, H, W) uint8: the training inputs, for the shape and the normalisation.
        num_classes: K outputs.
        initial_bias: (K,) start of the head's bias. Default: zeros.

    Example:
        >>> network = Linear(torch.randn(10, 32), num_classes=3)
        >>> network(torch.zeros(2, 32))
        tensor([[0., 0., 0.],
                [0., 0., 0.]], grad_fn=<AddmmBackward0>)
    """

    def __init__(self, inputs: Tensor, num_classes: int, *, initial_bias: Tensor | None = None) -> None:
        super().__init__(inputs, num_classes, nn.Flatten(), inputs[0].numel(), initial_bias=initial_bias)


class CosineMLP(MLP):
    """One hidden layer, and a head whose logits are scaled cosines plus a bias.

    The scale is 30. Losses that multiply by a scale themselves, such as LDAM, take ``scale=1`` here, and margins
    30 times as large.

    Args:
        inputs, num_classes, initial_bias: as of :class:`MLP`.

    Source:
        :class:`~steelyard.losses.CosineHead`; the bias is ours, as one-vs-all losses need one.

    Example:
        >>> network = CosineMLP(torch.randn(10, 32), num_classes=3)
        >>> bool((network(torch.randn(5, 32)).abs() <= 30).all())
        True
    """

    head_is_linear = False

    def __init__(self, inputs: Tensor, num_classes: int, *, initial_bias: Tensor | None = None) -> None:
        super().__init__(inputs, num_classes, initial_bias=initial_bias)
        self.cosines = CosineHead(self.head.in_features, num_classes)
        self.bias = self.head.bias
        del self.head

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs -> logits (N, K)."""
        logits: Tensor = self.cosines(self.forward_features(inputs)) + self.bias
        return logits


_OWN: dict[str, type[SmallCNN | ResNet32 | Linear | MLP]] = {
    "linear": Linear,
    "mlp": MLP,
    "mlp-cosine": CosineMLP,
    "small-cnn": SmallCNN,
    "resnet32": ResNet32,
}
_OF_FEATURES = ["linear", "mlp", "mlp-cosine"]


def _mean_and_std(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Of each channel, (C,) float64, by counting its 256 values: no copy of the inputs in a larger type."""
    counts = torch.zeros(inputs.shape[1], 256, dtype=torch.float64)
    for part in inputs.split(4096):
        for channel, pixels in zip(counts, part.unbind(1), strict=True):
            channel += torch.bincount(pixels.reshape(-1), minlength=256)
    values = torch.arange(256, dtype=torch.float64)
    number = counts.sum(1)
    mean = counts @ values / number
    return mean, ((counts * (values - mean[:, None]) ** 2).sum(1) / (number - 1)).sqrt()


def _check_size(images: Tensor) -> tuple[int, int, int]:
    channels, height, width = images.shape[1:]
    if min(height, width) < 8:
        raise ValueError(f"images must be at least 8 x 8 pixels, got {height} x {width}")
    return channels, height, width


class _Block(nn.Module):
    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.stride, self.more = (1, 0) if before == width else (2, width - before)
        self.body = nn.Sequential(
            nn.Conv2d(before, width, 3, stride=self.stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.more:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        return F.relu(self.body(x) + shortcut)
