"""Losses: a file each, found by name; functions in `functional`, heads that own their loss in `heads`."""

from steelyard.losses.asymmetric import AsymmetricLoss
from steelyard.losses.base import Loss
from steelyard.losses.class_smoothing import ClassSmoothingLoss
from steelyard.losses.cosine import CosineHead
from steelyard.losses.create import create_loss, list_losses
from steelyard.losses.eqlv2 import EQLv2Loss
from steelyard.losses.focal import FocalLoss
from steelyard.losses.heads import LGLINRLinear, LogisticLinear
from steelyard.losses.lgl_inr import LGLINRLoss
from steelyard.losses.linear import lgl_inr_linear, linear_topk, logistic_linear
from steelyard.losses.logistic import LogisticLoss
from steelyard.losses.margin import MarginSoftmaxLoss
from steelyard.losses.poly1 import Poly1Loss
from steelyard.losses.seesaw import SeesawLoss
from steelyard.losses.softmax import SoftmaxLoss

__all__ = [
    "AsymmetricLoss",
    "ClassSmoothingLoss",
    "CosineHead",
    "EQLv2Loss",
    "FocalLoss",
    "LGLINRLinear",
    "LGLINRLoss",
    "LogisticLinear",
    "LogisticLoss",
    "Loss",
    "MarginSoftmaxLoss",
    "Poly1Loss",
    "SeesawLoss",
    "SoftmaxLoss",
    "create_loss",
    "lgl_inr_linear",
    "linear_topk",
    "list_losses",
    "logistic_linear",
]
