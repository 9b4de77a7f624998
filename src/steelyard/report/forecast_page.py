"""The page of a forecast, from its folder to one HTML file that opens anywhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np

from steelyard.report.cards import Badge, Card, Headline
from steelyard.report.explorer import Mark, explorer_of, exponent_of, read_rows
from steelyard.report.family import write_page
from steelyard.report.figures import Series, confusion_figure, recall_figure
from steelyard.report.html import render_template
from steelyard.report.intervals import surely_best
from steelyard.report.results import ForecastResults, HeldOutRows, read_confusions
from steelyard.report.results.forecast import Ends, Gain, Row, Scored, best_of
from steelyard.report.style import Array, Classes, shown

_MOST_ROWS = 50


def write_forecast_page(folder: str | PathLike[str], *, rows: bool = True) -> Path:
    """Write `report.html` into a forecast's folder, from the files there, and return its path.

    Args:
        folder: holds forecast.json and mean_confusion.npz; explorer.json where the page shall have an explorer.
        rows: whether explorer.json is used, where there is one.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not one of ours, or was cut off or edited; the sentence names it.
    """
    folder = Path(folder)
    found = ForecastResults.read(folder)
    size = len(found.class_names)
    confusions = read_confusions(folder / "mean_confusion.npz", size)
    return write_page(
        folder / "report.html", render_forecast(found, confusions, read_rows(folder, size) if rows else None)
    )


def render_forecast(
    found: ForecastResults, confusions: dict[str, Array], held_out: HeldOutRows | None = None
) -> str:
    """Return the page's text."""
    classes, rows = Classes(found.class_names, found.class_counts), found.tables
    return render_template(
        "forecast.html.j2",
        found=found,
        name=shown(found.name, 80),
        classes=len(classes.names),
        head=forecast_headline(found),
        findings=_cards(found),
        rows=[(shown(row.label, 60), row) for row in rows],
        best={
            "accuracy": _best(rows, "accuracy"),
            "balanced_accuracy": _best(rows, "balanced_accuracy"),
            "nll": _best(rows, "nll"),
            "ece": _best(rows, "ece"),
        },
        order=classes.by_count().tolist()[:_MOST_ROWS],
        names=[shown(name, 40) for name in classes.names],
        left_out=max(0, len(classes.names) - _MOST_ROWS),
        explorer=explorer_of(
            held_out,
            found.class_names,
            found.class_counts,
            _marks(found),
            bases=[(one.label, 0.0) for one in held_out.models] if held_out else (),
            marks_are="refitted with weights",
        ),
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


@dataclass(frozen=True)
class _Advice:
    """What the forecast says to do for balanced accuracy.

    Attributes:
        label, badge: what kind of step it is, and its colour.
        sentence: what to do and what it buys.
        now, shift, refit: rows without weights, and the best of each way.
        best: the one of them that is advised.
    """

    label: str
    badge: Badge
    sentence: str
    now: Row
    shift: Row | None
    refit: Row | None
    best: Row


def forecast_headline(found: ForecastResults) -> Headline:
    """Return what to do and what it buys."""
    advice = _advice(found)
    return Headline(advice.sentence, (), advice.badge, advice.label)


def _cards(found: ForecastResults) -> list[Card]:
    advice = _advice(found)
    cards = [_card("No change", "costs nothing", advice.now, "The head without weights.")]
    if advice.shift is None or advice.refit is None:
        return cards
    title, text = f"Shift by {advice.shift.weights}", "The head without weights, with log w added to its logits."
    cards.append(_card(title, "costs nothing", advice.shift, text))
    title, text = f"Refit with {advice.refit.weights}", "The head fitted again with these weights."
    cards.append(_card(title, "train again", advice.refit, text))
    rarest = int(np.argmin([count or np.inf for count in found.class_counts]))
    other = advice.refit if advice.best is advice.now else advice.best
    now, then = (_recall(row.scores, rarest) for row in (advice.now, other))
    text = f"Under {other.label}; without weights {now[0]} {now[1]}."
    cards.append(
        Card(
            "Recall of the rarest class",
            text,
            "note",
            shown(found.class_names[rarest], 40),
            *then,
            "part-classes",
        )
    )
    return cards


def _card(title: str, label: str, row: Row, text: str) -> Card:
    one = row.scores
    told = f"Balanced accuracy; accuracy {' '.join(_percent(one.accuracy, one.intervals.accuracy))}. {text}"
    shares = _percent(one.balanced_accuracy, one.intervals.balanced_accuracy)
    return Card(title, told, "note", label, *shares, "part-results")


def _recall(one: Scored, k: int) -> tuple[str, str]:
    return _percent(one.recall[k], one.intervals.recall[k])


def _percent(value: float | None, ends: Ends) -> tuple[str, str]:
    low, high = ends
    between = "" if low is None or high is None else f"[{100 * low:.1f}, {100 * high:.1f}]"
    return "–" if value is None else f"{100 * value:.1f}%", between


def _advice(found: ForecastResults) -> _Advice:
    """Return what to do: the cheapest way that no dearer one surely beats."""
    rows = found.tables
    now, shift, refit = (best_of(rows, how) for how in ("no change", "shift", "refit"))
    assert now is not None
    if shift is None or refit is None:
        told = "Only the head without weights was asked for: balanced accuracy " + _told(now) + "."
        return _Advice("nothing to compare", "note", told, now, None, None, now)
    gain = {(one.row, one.over): one for one in found.gains}
    of_shift, of_refit, over_shift = (
        gain[one.label, other.label] for one, other in ((shift, now), (refit, now), (refit, shift))
    )
    if of_refit.low > 0 and over_shift.low > 0:
        told = (
            f"Train again with the weights {_weights(refit)}: balanced accuracy {_told(refit)} in place of "
            f"{_told(now)}, {_points(of_refit)} more (95%, paired). The best shift of the logits has "
            f"{_told(shift)}, {_points(over_shift)} less."
        )
        return _Advice("train again", "warning", told, now, shift, refit, refit)
    if of_shift.low > 0:
        sure = "is worse" if over_shift.high < 0 else "is not surely better"
        told = (
            f"Add the log of the weights {_weights(shift)} to the logits: balanced accuracy {_told(shift)} in "
            f"place of {_told(now)}, {_points(of_shift)} more (95%, paired). The best head that is trained again, "
            f"with {_weights(refit)}, {sure}: {_points(over_shift)}."
        )
        return _Advice("shift the logits", "fine", told, now, shift, refit, shift)
    best, by = max(((shift, of_shift), (refit, of_refit)), key=lambda one: one[1].gain)
    told = (
        f"Change nothing: no weights surely raise balanced accuracy, which is {_told(now)} "
        f"without weights. The best, {best.label}, has {_points(by)} more (95%, paired)."
    )
    return _Advice("nothing to change", "fine", told, now, shift, refit, now)


def _weights(row: Row) -> str:
    return f"{row.weights} ({row.loss})"


def _told(row: Row) -> str:
    return f"{100 * row.scores.balanced_accuracy:.1f}%"


def _points(one: Gain) -> str:
    return f"{100 * one.gain:.1f} points [{100 * one.low:.1f}, {100 * one.high:.1f}]"


def _best(rows: Sequence[Row], key: Literal["accuracy", "balanced_accuracy", "nll", "ece"]) -> Row | None:
    """Return the row that is surely the best of a column, if there is one."""
    estimates = [(getattr(row.scores, key), *getattr(row.scores.intervals, key)) for row in rows]
    place = surely_best(estimates, higher=key in ("accuracy", "balanced_accuracy"))
    return None if place is None else rows[place]


def _marks(found: ForecastResults) -> list[Mark]:
    """Return the refitted heads."""
    return [
        Mark(
            f"{one.loss}:{one.name}",
            one.loss,
            exponent_of(one.class_weights, found.class_counts),
            (one.balanced_accuracy, *one.intervals.balanced_accuracy),
            (one.accuracy, *one.intervals.accuracy),
        )
        for one in found.forecasts
        if one.weighs
    ]
