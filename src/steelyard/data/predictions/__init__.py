"""Files of predictions or features, read as a stream."""

from steelyard.data.predictions.corrected import CORRECTED, are_independent, corrected_columns
from steelyard.data.predictions.file import Predictions, open_predictions
from steelyard.data.predictions.labels import ClassCounts, count_classes
from steelyard.data.predictions.rewriting import check_out, is_text_file

__all__ = [
    "CORRECTED",
    "ClassCounts",
    "Predictions",
    "are_independent",
    "check_out",
    "corrected_columns",
    "count_classes",
    "is_text_file",
    "open_predictions",
]
