"""Write a data set of 100 classes made from scikit-learn's digits: two digits side by side, 8 x 16 pixels.

    python benchmarks/digit_pairs.py runs/digit-pairs
    steelyard compare --dataset runs/digit-pairs --imbalance exponential:20 --losses softmax,logistic,lgl-inr

Train and test pairs come from different digits, so nothing of the test split is seen in training.
"""

import argparse
from pathlib import Path

import datasets
import torch
from PIL import Image

from steelyard.data import load_dataset


def pairs(split: str, per_class: int, generator: torch.Generator) -> datasets.Dataset:
    digits = load_dataset("digits")
    target = digits.train_target if split == "train" else digits.test_target
    images = digits.images(split, torch.arange(len(target)))
    rows_of = [(target == k).nonzero()[:, 0] for k in range(10)]
    rows: dict[str, list[object]] = {"image": [], "label": []}
    for label in range(100):
        for _ in range(per_class):
            sides = [rows_of[k] for k in divmod(label, 10)]
            chosen = [side[torch.randint(len(side), (1,), generator=generator)][0] for side in sides]
            pair = torch.cat([images[i, 0] for i in chosen], 1)
            rows["image"].append(Image.fromarray(pair.numpy()))
            rows["label"].append(label)
    names = [f"{k:02d}" for k in range(100)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict(rows, features=features)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train-per-class", type=int, default=220)
    parser.add_argument("--test-per-class", type=int, default=30)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    (arguments.folder / "data").mkdir(parents=True)
    for split, per_class in (("train", arguments.train_per_class), ("test", arguments.test_per_class)):
        table = pairs(split, per_class, generator)
        table.to_parquet(arguments.folder / "data" / f"{split}-00000-of-00001.parquet")
    print(f"wrote {arguments.folder}")


if __name__ == "__main__":
    main()
