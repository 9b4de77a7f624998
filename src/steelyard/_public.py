"""What `import steelyard` gives, gathered from the modules where it lives."""

from steelyard.auditing import BalanceWarning, BalanceWatch, assert_balanced, audit, audit_model
from steelyard.balance.setup import TrainingSetup
from steelyard.corrected import CorrectedModel
from steelyard.deciding import advise, decide, expected_costs, thresholds
from steelyard.losses import (
    AsymmetricLoss,
    ClassSmoothingLoss,
    EQLv2Loss,
    FocalLoss,
    LGLINRLoss,
    LogisticLoss,
    MarginSoftmaxLoss,
    Poly1Loss,
    SeesawLoss,
    SoftmaxLoss,
    create_loss,
    list_losses,
)
from steelyard.losses.accumulation import exact_accumulation
from steelyard.posterior import log_posterior
from steelyard.prior import estimate_prior
from steelyard.weights.adjustments import batch_presence, initial_bias, logit_adjustment
from steelyard.weights.class_weights import class_weights
from steelyard.weights.counts import class_counts
from steelyard.weights.schedules import DeferredReweighting

__all__ = [
    "AsymmetricLoss",
    "BalanceWarning",
    "BalanceWatch",
    "ClassSmoothingLoss",
    "CorrectedModel",
    "DeferredReweighting",
    "EQLv2Loss",
    "FocalLoss",
    "LGLINRLoss",
    "LogisticLoss",
    "MarginSoftmaxLoss",
    "Poly1Loss",
    "SeesawLoss",
    "SoftmaxLoss",
    "TrainingSetup",
    "advise",
    "assert_balanced",
    "audit",
    "audit_model",
    "batch_presence",
    "class_counts",
    "class_weights",
    "create_loss",
    "decide",
    "estimate_prior",
    "exact_accumulation",
    "expected_costs",
    "initial_bias",
    "list_losses",
    "log_posterior",
    "logit_adjustment",
    "thresholds",
]
