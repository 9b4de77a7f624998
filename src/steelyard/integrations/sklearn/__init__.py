"""scikit-learn: honest probabilities from a classifier that is fitted with class weights or resamples, and a
linear classifier under any loss that is a sum over rows."""

from steelyard.integrations.sklearn.classifier import PriorCalibratedClassifier
from steelyard.integrations.sklearn.linear import LogisticClassifier

__all__ = ["LogisticClassifier", "PriorCalibratedClassifier"]
