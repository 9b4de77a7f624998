"""The balance laws: what a trained network must satisfy under each loss."""

from steelyard.balance.flows import HardClasses, Trade, hard_classes, ledger, trades
from steelyard.balance.gradient_ledger import GradientLedger
from steelyard.balance.implied import AppliedPower, ImpliedWeights, implied_pos_weight, implied_weights
from steelyard.balance.law import law
from steelyard.balance.laws import Balance, binary_law, feature_law, lgl_inr_law, one_vs_all_law, softmax_law
from steelyard.balance.means import MeanConfusion, logistic_statistics, mean_confusion
from steelyard.balance.setup import TrainingSetup

__all__ = [
    "AppliedPower",
    "Balance",
    "GradientLedger",
    "HardClasses",
    "ImpliedWeights",
    "MeanConfusion",
    "Trade",
    "TrainingSetup",
    "binary_law",
    "feature_law",
    "hard_classes",
    "implied_pos_weight",
    "implied_weights",
    "law",
    "ledger",
    "lgl_inr_law",
    "logistic_statistics",
    "mean_confusion",
    "one_vs_all_law",
    "softmax_law",
    "trades",
]
