"""Training: a small network, its Lightning module, and one function that fits and predicts."""

from steelyard.training.augmentation import Augmentation, augment
from steelyard.training.backbone import MLP, Backbone, ResNet32, SmallCNN, create_backbone
from steelyard.training.fitting import Diverged, Fitted, Recipe, fit, predict, predict_features

__all__ = [
    "MLP",
    "Augmentation",
    "Backbone",
    "Diverged",
    "Fitted",
    "Recipe",
    "ResNet32",
    "SmallCNN",
    "augment",
    "create_backbone",
    "fit",
    "predict",
    "predict_features",
]
