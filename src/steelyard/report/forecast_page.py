"""The page of a forecast, from its folder to one HTML file that opens anywhere."""

from os import PathLike
from pathlib import Path

import numpy as np

from steelyard._common.files import write_text
from steelyard.report.figures import Series, confusion_figure, recall_figure
from steelyard.report.html import render_template
from steelyard.report.results import ForecastResults, read_confusions
from steelyard.report.style import Array, Classes, shown

_MOST_ROWS = 50


def write_forecast_page(folder: str | PathLike[str]) -> Path:
    """Write `report.html` into a forecast's folder, from forecast.json and mean_confusion.npz there.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: forecast.json is not one of ours, or a file was cut off or edited; the sentence names it.
    """
    folder = Path(folder)
    found = ForecastResults.read(folder)
    confusions = read_confusions(folder / "mean_confusion.npz", len(found.class_names))
    return write_text(folder / "report.html", render_forecast(found, confusions))


def render_forecast(found: ForecastResults, confusions: dict[str, Array]) -> str:
    """Return the page's text."""
    classes, rows = Classes(found.class_names, found.class_counts), found.tables
    best = {
        "accuracy": max(row.scores.accuracy for row in rows),
        "balanced_accuracy": max(row.scores.balanced_accuracy for row in rows),
        "nll": min((row.scores.nll for row in rows if row.scores.nll is not None), default=None),
        "ece": min(row.scores.ece for row in rows),
    }
    return render_template(
        "forecast.html.j2",
        found=found,
        name=shown(found.name, 80),
        classes=len(classes.names),
        rows=[(shown(row.label, 60), row) for row in rows],
        best=best,
        order=classes.by_count().tolist()[:_MOST_ROWS],
        names=[shown(name, 40) for name in classes.names],
        left_out=max(0, len(classes.names) - _MOST_ROWS),
        figures={
            "recall": recall_figure(
                [Series(row.label, np.asarray([row.scores.recall], dtype=np.float64)) for row in rows],
                classes,
                title="Forecast recall of each class under each weighting",
            ),
            "confusion": confusion_figure(
                list(confusions.items()), classes, title="Forecast mean confusion under each weighting"
            ),
        },
    )
