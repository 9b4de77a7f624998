"""The balance laws: what a trained network must satisfy under each loss.

`MeanConfusion` and `GradientLedger` are metrics of torchmetrics, which is imported when one of them is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from steelyard.balance.flows import HardClasses, Trade, hard_classes, ledger, trades
from steelyard.balance.implied import AppliedPower, ImpliedWeights, implied_pos_weight, implied_weights
from steelyard.balance.law import law
from steelyard.balance.laws import Balance, binary_law, feature_law, lgl_inr_law, one_vs_all_law, softmax_law
from steelyard.balance.means import logistic_statistics, mean_confusion
from steelyard.balance.setup import TrainingSetup

if TYPE_CHECKING:
    from steelyard.balance.confusion import MeanConfusion
    from steelyard.balance.gradient_ledger import GradientLedger

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

_METRICS = {"GradientLedger": "gradient_ledger", "MeanConfusion": "confusion"}


def __getattr__(name: str) -> object:
    if name not in _METRICS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(import_module(f"{__name__}.{_METRICS[name]}"), name)
    return globals()[name]
