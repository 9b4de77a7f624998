"""The page of a claim, from its folder to one HTML file that opens anywhere."""

import json
import re
from os import PathLike
from pathlib import Path

import numpy as np

from steelyard.report.cards import Badge, Headline
from steelyard.report.charts import points_figure
from steelyard.report.family import write_page
from steelyard.report.html import render_template
from steelyard.report.intervals import FEWEST
from steelyard.report.results import (
    Claim,
    ComparedLearner,
    Estimate,
    Held,
    Leaderboard,
    Number,
    PointsFigure,
    Standing,
)
from steelyard.report.words import glossary

Cell = tuple[float | None, list[float], str, str] | None
COLUMNS = (
    ("balanced_accuracy", "Balanced accuracy, %", 100),
    ("ahead", "Ahead of {reference}, points", 100),
    ("worst_recall", "Worst class, recall, %", 100),
    ("rare_recall", "Rarest third, recall, %", 100),
    ("accuracy", "Accuracy, %", 100),
    ("uniform_accuracy", "Uniform accuracy, %", 100),
    ("nll", "NLL, undone", 1),
    ("ece", "ECE, undone, %", 100),
    ("chosen_epoch", "Choosing the epoch on test adds", 100),
)
"""What a leaderboard shows of each loss: the name in the results, the heading, and what the number is times."""

_BADGES: dict[Held, Badge] = {"yes": "fine", "no": "fault", "partly": "warning", "undecided": "note"}


def write_claim_page(folder: str | PathLike[str]) -> Path:
    """Write `report.html` into a claim's folder, from claim.json there.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not one of ours, or was cut off or edited; the sentence names it.
    """
    folder = Path(folder)
    return write_page(folder / "report.html", render_claim(Claim.read(folder)))


def claim_headline(found: Claim) -> Headline:
    """Return whether a claim held, and what this means for a reader."""
    badge: Badge = _BADGES[found.held]
    did = {
        "yes": "It held here.",
        "no": "It did not hold here.",
        "partly": "It held in part.",
        "undecided": "It is not decided here.",
    }[found.held]
    todo = {
        "yes": "Rely on it for data and networks like these; `steelyard reproduce` tries it on yours.",
        "no": "Do not rely on it for data like these.",
        "partly": "Read below which part held before you rely on it.",
        "undecided": "Run it with more seeds, and with the losses that it speaks of.",
    }[found.held]
    return Headline(f"{did} {_first(found.verdict)}", (todo,), badge, did.rstrip("."))


def render_claim(found: Claim) -> str:
    """Return the page's text."""
    learner = found.learner or ComparedLearner(f"a network, {found.config['backbone']}", "learning rate", [], [])
    numbers = [] if found.tables else [n for n in found.numbers if n.value is not None]
    return render_template(
        "claim.html.j2",
        found=found,
        head=claim_headline(found),
        rest=found.verdict.removeprefix(_first(found.verdict)),
        glossary=glossary("Balance", "Interval", "Law", "Mean confusion", "Misfit", "One-vs-all"),
        beside="95% intervals" if found.config["seeds"] >= FEWEST else "the least and the largest of them",
        figures=[(figure, _drawn(figure)) for figure in found.figures],
        settings=[
            (key, json.dumps(value, ensure_ascii=False))
            for key, value in found.config.items()
            if key not in learner.without
        ],
        learner=learner,
        standings=[_standings(table, found.config["reference"]) for table in found.tables],
        numbers=[(number, *_shown(number)) for number in numbers],
    )


def _first(text: str) -> str:
    """Return the first sentence of a text."""
    return re.split(r"(?<=[.:]) (?=[A-Z])", text, maxsplit=1)[0]


def _drawn(figure: PointsFigure) -> str:
    return points_figure(
        [(s.label, np.asarray(s.points, dtype=np.float64).reshape(-1, 2)) for s in figure.series],
        name=figure.id,
        x=figure.x,
        y=figure.y,
        log=figure.log,
        diagonal=figure.diagonal,
        title=figure.title,
        ticks=figure.names,
    )


def _standings(table: Leaderboard, reference: str) -> tuple[list[str], list[tuple[Standing, list[Cell]]], bool]:
    """Return the headings and, for each row, the cells of those columns that any row has; and whether a weight
    decay was chosen."""
    columns = [column for column in COLUMNS if any(getattr(row, column[0]) is not None for row in table.rows)]
    rows = [(row, [_cell(getattr(row, name), times) for name, _, times in columns]) for row in table.rows]
    headings = [heading.format(reference=reference) for _, heading, _ in columns]
    return headings, rows, any(row.decay is not None for row in table.rows)


def _cell(found: Estimate | None, times: int) -> Cell:
    """Return value and ends as numbers for sorting, and as text; None where there is no value."""
    if found is None:
        return None
    style = ".1f" if times == 100 else ".3f"
    value, *ends = (None if number is None else times * number for number in found)
    known = [end for end in ends if end is not None]
    return value, known, f"{value:{style}}", " to ".join(f"{end:{style}}" for end in known)


def _shown(number: Number) -> tuple[str, str]:
    """Return a number and its interval as the page shows them; the interval may be empty."""
    value, low, high = number.value, number.low, number.high
    text = f"{value:.3g}" if isinstance(value, float) else f"{value}"
    return text, "" if low is None or high is None else f"{low:.3g} to {high:.3g}"
