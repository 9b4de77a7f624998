"""The page of a forecast, from its folder to one HTML file that opens anywhere."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.report.figures import Series, confusion_figure, recall_figure
from steelyard.report.html import render_template, save_page
from steelyard.report.style import Array, Classes, shown

_MOST_ROWS = 50


def write_forecast_page(folder: Path) -> Path:
    """Write `report.html` into a forecast's folder, from forecast.json and mean_confusion.npz there.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: forecast.json is not one of ours.
    """
    file = folder / "forecast.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no forecast: there is no forecast.json")
    found = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.get("schema") != 1 or "forecasts" not in found:
        raise ValueError(f"{file} is not a forecast of schema 1")
    arrays = np.load(folder / "mean_confusion.npz", allow_pickle=False)
    return save_page(folder / "report.html", render_forecast(found, {name: arrays[name] for name in arrays.files}))


def render_forecast(found: dict[str, Any], confusions: dict[str, Array]) -> str:
    """The page's text."""
    classes = Classes(found["class_names"], found["class_counts"])
    forecasts = [one | {"label": f"{one['loss']}:{one['name']}"} for one in found["forecasts"]]
    best = {
        "accuracy": max(one["accuracy"] for one in forecasts),
        "balanced_accuracy": max(one["balanced_accuracy"] for one in forecasts),
        "nll": min(one["nll"] for one in forecasts),
        "ece": min(one["ece"] for one in forecasts),
    }
    return render_template(
        "forecast.html.j2",
        found=found,
        name=shown(found["name"], 80),
        classes=len(classes.names),
        forecasts=[one | {"label": shown(one["label"], 60)} for one in forecasts],
        best=best,
        order=classes.by_count().tolist()[:_MOST_ROWS],
        names=[shown(name, 40) for name in classes.names],
        left_out=max(0, len(classes.names) - _MOST_ROWS),
        figures={
            "recall": recall_figure(
                [Series(one["label"], _array(one["recall"])[None]) for one in forecasts],
                classes,
                title="Forecast recall of each class under each weighting",
            ),
            "confusion": confusion_figure(
                list(confusions.items()), classes, title="Forecast mean confusion under each weighting"
            ),
        },
    )


def _array(values: list[float | None]) -> Array:
    return np.asarray([math.nan if value is None else value for value in values], dtype=np.float64)
