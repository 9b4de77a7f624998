"""Data: data sets of inputs, imbalance profiles, splits, files of predictions."""

from steelyard.data.builtin import TASKS
from steelyard.data.dataset import Dataset
from steelyard.data.imbalance import ImbalanceProfile, exponential, parse_imbalance, step
from steelyard.data.loading import load_dataset
from steelyard.data.own import is_code
from steelyard.data.predictions import Predictions, open_predictions
from steelyard.data.splits import grouped_folds, shot_groups, split_validation, subsample

__all__ = [
    "TASKS",
    "Dataset",
    "ImbalanceProfile",
    "Predictions",
    "exponential",
    "grouped_folds",
    "is_code",
    "load_dataset",
    "open_predictions",
    "parse_imbalance",
    "shot_groups",
    "split_validation",
    "step",
    "subsample",
]
