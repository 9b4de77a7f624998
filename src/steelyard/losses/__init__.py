"""Losses: modules, heads and the registry; the pure functions are in `functional` and `linear`."""

from steelyard.losses.heads import LGLINRLinear, LogisticLinear
from steelyard.losses.linear import lgl_inr_linear, linear_topk, logistic_linear
from steelyard.losses.modules import LGLINRLoss, LogisticLoss, SoftmaxLoss
from steelyard.losses.registry import create_loss, list_losses

__all__ = [
    "LGLINRLinear",
    "LGLINRLoss",
    "LogisticLinear",
    "LogisticLoss",
    "SoftmaxLoss",
    "create_loss",
    "lgl_inr_linear",
    "linear_topk",
    "list_losses",
    "logistic_linear",
]
