"""Decisions from honest probabilities: by costs or by thresholds; and advice on what to do at all."""

from steelyard.deciding.advice import Advice, Way
from steelyard.deciding.costs import decide, expected_costs
from steelyard.deciding.objectives import Objective, cost_objective, create_objective
from steelyard.deciding.thresholds import Thresholds, thresholds
from steelyard.deciding.trials import Model, Train, advise, train_heads

__all__ = [
    "Advice",
    "Model",
    "Objective",
    "Thresholds",
    "Train",
    "Way",
    "advise",
    "cost_objective",
    "create_objective",
    "decide",
    "expected_costs",
    "thresholds",
    "train_heads",
]
