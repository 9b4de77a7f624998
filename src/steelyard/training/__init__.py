"""Training: networks by name, their Lightning module, and functions that fit and predict."""

from steelyard.training.augmentation import Augmentation, augment
from steelyard.training.fitting import Diverged, Fitted, fit
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
from steelyard.training.recipe import Precision, Recipe

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
