"""Training: networks by name, and functions that fit them with Lightning and predict."""

from steelyard.training.augmentation import Augmentation, augment
from steelyard.training.fitting import Fitted, fit
from steelyard.training.networks import (
    MLP,
    Network,
    ResNet32,
    SmallCNN,
    check_backbone,
    check_takes,
    create_backbone,
)
from steelyard.training.predicting import predict, predict_features
from steelyard.training.recipe import Diverged, Precision, Recipe

__all__ = [
    "MLP",
    "Augmentation",
    "Diverged",
    "Fitted",
    "Network",
    "Precision",
    "Recipe",
    "ResNet32",
    "SmallCNN",
    "augment",
    "check_backbone",
    "check_takes",
    "create_backbone",
    "fit",
    "predict",
    "predict_features",
]
