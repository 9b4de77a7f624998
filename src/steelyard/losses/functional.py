"""The losses as functions of logits and target, gathered; each lives in the file of its loss.

All take logits of shape (N, K) or (N, K, d1, ...), compute in float32 (float64 for float64 logits) whatever
the logits' dtype and return that dtype. None synchronises with the device.
"""

from steelyard.losses.asymmetric import asymmetric_loss
from steelyard.losses.class_smoothing import class_smoothing_loss
from steelyard.losses.eqlv2 import eqlv2_loss
from steelyard.losses.focal import focal_loss
from steelyard.losses.lgl_inr import in_negative_weights, lgl_inr_loss
from steelyard.losses.logistic import logistic_loss
from steelyard.losses.margin import margin_softmax_loss
from steelyard.losses.poly1 import poly1_loss
from steelyard.losses.seesaw import seesaw_loss
from steelyard.losses.softmax import softmax_loss

__all__ = [
    "asymmetric_loss",
    "class_smoothing_loss",
    "eqlv2_loss",
    "focal_loss",
    "in_negative_weights",
    "lgl_inr_loss",
    "logistic_loss",
    "margin_softmax_loss",
    "poly1_loss",
    "seesaw_loss",
    "softmax_loss",
]
