"""Files of predictions or features, read as a stream."""

from steelyard.data.predictions.file import Predictions, open_predictions
from steelyard.data.predictions.labels import ClassCounts, count_classes

__all__ = ["ClassCounts", "Predictions", "count_classes", "open_predictions"]
