"""Forecasts: what other class weights would do, from refitted heads; and the weights for what is wanted."""

from steelyard.forecasting.design import Design, design_weights
from steelyard.forecasting.forecast import GUARANTEE, Forecast, binary_ratio, forecast
from steelyard.forecasting.head import Head, fit_head

__all__ = ["GUARANTEE", "Design", "Forecast", "Head", "binary_ratio", "design_weights", "fit_head", "forecast"]
