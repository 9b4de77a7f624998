"""Losses: a file each, found by name; functions in `functional`, heads that own their loss in `heads`."""

from steelyard.losses.base import Loss
from steelyard.losses.create import create_loss, list_losses
from steelyard.losses.eqlv2 import EQLv2Loss
from steelyard.losses.focal import FocalLoss
from steelyard.losses.heads import LGLINRLinear, LogisticLinear
from steelyard.losses.lgl_inr import LGLINRLoss
from steelyard.losses.linear import lgl_inr_linear, linear_topk, logistic_linear
from steelyard.losses.logistic import LogisticLoss
from steelyard.losses.margin import MarginSoftmaxLoss
from steelyard.losses.seesaw import SeesawLoss
from steelyard.losses.softmax import SoftmaxLoss

__all__ = [
    "EQLv2Loss",
    "FocalLoss",
    "LGLINRLinear",
    "LGLINRLoss",
    "LogisticLinear",
    "LogisticLoss",
    "Loss",
    "MarginSoftmaxLoss",
    "SeesawLoss",
    "SoftmaxLoss",
    "create_loss",
    "lgl_inr_linear",
    "linear_topk",
    "list_losses",
    "logistic_linear",
]
