"""Data: image data sets, imbalance profiles, splits."""

from steelyard.data.datasets import ImageDataset, load_dataset
from steelyard.data.imbalance import (
    ImbalanceProfile,
    exponential,
    parse_imbalance,
    shot_groups,
    split_validation,
    step,
    subsample,
)

__all__ = [
    "ImageDataset",
    "ImbalanceProfile",
    "exponential",
    "load_dataset",
    "parse_imbalance",
    "shot_groups",
    "split_validation",
    "step",
    "subsample",
]
