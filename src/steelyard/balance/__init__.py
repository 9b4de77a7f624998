"""The balance laws: what a trained network must satisfy under each loss."""

from steelyard.balance.audit import AuditReport, audit, audit_evidence
from steelyard.balance.confusion import MeanConfusion, logistic_statistics, mean_confusion
from steelyard.balance.design import Design, design_weights
from steelyard.balance.evidence import Evidence
from steelyard.balance.flows import HardClasses, Trade, hard_classes, ledger, trades
from steelyard.balance.forecast import GUARANTEE, Forecast, Head, binary_ratio, fit_head, forecast
from steelyard.balance.implied import AppliedPower, ImpliedWeights, implied_weights
from steelyard.balance.laws import Balance, binary_law, feature_law, lgl_inr_law, one_vs_all_law, softmax_law
from steelyard.balance.verdicts import Hypothesis, Verdict

__all__ = [
    "GUARANTEE",
    "AppliedPower",
    "AuditReport",
    "Balance",
    "Design",
    "Evidence",
    "Forecast",
    "HardClasses",
    "Head",
    "Hypothesis",
    "ImpliedWeights",
    "MeanConfusion",
    "Trade",
    "Verdict",
    "audit",
    "audit_evidence",
    "binary_law",
    "binary_ratio",
    "design_weights",
    "feature_law",
    "fit_head",
    "forecast",
    "hard_classes",
    "implied_weights",
    "ledger",
    "lgl_inr_law",
    "logistic_statistics",
    "mean_confusion",
    "one_vs_all_law",
    "softmax_law",
    "trades",
]
