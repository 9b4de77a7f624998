"""What results on disk hold, as typed objects: made by who measures, written as JSON, read and checked here."""

from steelyard.report.results.advice import AdviceResults
from steelyard.report.results.arrays import read_confusions
from steelyard.report.results.audit import Audit
from steelyard.report.results.claim import (
    Claim,
    Conclusion,
    Held,
    Leaderboard,
    Number,
    Points,
    PointsFigure,
    Standing,
)
from steelyard.report.results.comparison import (
    ComparedData,
    ComparedLearner,
    ComparedLoss,
    Comparison,
    Epoch,
    Metric,
    Run,
    Summary,
    Trial,
)
from steelyard.report.results.forecast import ForecastResults
from steelyard.report.results.parts import Environment, Estimate, Numbers, Sides
from steelyard.report.results.rows import HeldOutRows, PackedRows

__all__ = [
    "AdviceResults",
    "Audit",
    "Claim",
    "ComparedData",
    "ComparedLearner",
    "ComparedLoss",
    "Comparison",
    "Conclusion",
    "Environment",
    "Epoch",
    "Estimate",
    "ForecastResults",
    "Held",
    "HeldOutRows",
    "Leaderboard",
    "Metric",
    "Number",
    "Numbers",
    "PackedRows",
    "Points",
    "PointsFigure",
    "Run",
    "Sides",
    "Standing",
    "Summary",
    "Trial",
    "read_confusions",
]
