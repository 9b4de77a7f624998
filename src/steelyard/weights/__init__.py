"""Class counts to class weights, adjustments of logits and first biases; schedules. No losses here."""

from steelyard.weights.adjustments import batch_presence, initial_bias, label_aware_smoothing, logit_adjustment
from steelyard.weights.class_weights import class_weights
from steelyard.weights.counts import class_counts
from steelyard.weights.schedules import DeferredReweighting

__all__ = [
    "DeferredReweighting",
    "batch_presence",
    "class_counts",
    "class_weights",
    "initial_bias",
    "label_aware_smoothing",
    "logit_adjustment",
]
