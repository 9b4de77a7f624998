"""scikit-learn: honest probabilities from a classifier that is fitted with class weights or resamples."""

from steelyard.integrations.sklearn.classifier import PriorCalibratedClassifier

__all__ = ["PriorCalibratedClassifier"]
