"""Training: a small network, its Lightning module, and one function that fits and predicts."""

from steelyard.training.backbone import SmallCNN
from steelyard.training.fitting import Diverged, Fitted, Recipe, fit, predict, predict_features

__all__ = ["Diverged", "Fitted", "Recipe", "SmallCNN", "fit", "predict", "predict_features"]
