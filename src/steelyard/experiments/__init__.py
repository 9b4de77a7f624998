"""Experiments: losses compared on one data set; results are files, which `report` reads."""

from steelyard.experiments.comparison import compare
from steelyard.experiments.config import CompareConfig
from steelyard.experiments.runs import RunFolder

__all__ = ["CompareConfig", "RunFolder", "compare"]
