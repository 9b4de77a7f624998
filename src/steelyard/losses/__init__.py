"""Losses: modules and the registry; the pure functions are in `steelyard.losses.functional`."""

from steelyard.losses.modules import LGLINRLoss, LogisticLoss, SoftmaxLoss
from steelyard.losses.registry import create_loss, list_losses

__all__ = ["LGLINRLoss", "LogisticLoss", "SoftmaxLoss", "create_loss", "list_losses"]
