"""Losses for imbalanced classification and the balance laws that say what class weights did."""

from steelyard.losses import LGLINRLoss, LogisticLoss, SoftmaxLoss, create_loss, list_losses

__version__ = "0.1.0"

__all__ = ["LGLINRLoss", "LogisticLoss", "SoftmaxLoss", "create_loss", "list_losses"]
