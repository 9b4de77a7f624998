"""Decisions from honest probabilities: by costs, or by thresholds found on held-out rows."""

from steelyard.deciding.costs import decide, expected_costs
from steelyard.deciding.objectives import Objective, cost_objective, create_objective
from steelyard.deciding.thresholds import Thresholds, thresholds

__all__ = [
    "Objective",
    "Thresholds",
    "cost_objective",
    "create_objective",
    "decide",
    "expected_costs",
    "thresholds",
]
