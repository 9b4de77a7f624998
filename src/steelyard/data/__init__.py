"""Data: image data sets, imbalance profiles, splits, files of predictions."""

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
from steelyard.data.predictions import Predictions, open_predictions

__all__ = [
    "ImageDataset",
    "ImbalanceProfile",
    "Predictions",
    "exponential",
    "load_dataset",
    "open_predictions",
    "parse_imbalance",
    "shot_groups",
    "split_validation",
    "step",
    "subsample",
]
