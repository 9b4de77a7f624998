"""Forecasts: what other class weights would do, from refitted heads; and the weights for what is wanted."""

from steelyard.forecasting.design import Design, design_weights
from steelyard.forecasting.forecast import CAUTION, GUARANTEE, Forecast, binary_ratio, forecast
from steelyard.forecasting.head import Head, fit_head
from steelyard.forecasting.scores import Scores

__all__ = [
    "CAUTION",
    "GUARANTEE",
    "Design",
    "Forecast",
    "Head",
    "Scores",
    "binary_ratio",
    "design_weights",
    "fit_head",
    "forecast",
]
