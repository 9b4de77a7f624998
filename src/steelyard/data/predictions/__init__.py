"""Files of predictions or features, read as a stream."""

from steelyard.data.predictions.file import Predictions, open_predictions

__all__ = ["Predictions", "open_predictions"]
