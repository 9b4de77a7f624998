"""The page of a claim, from its folder to one HTML file that opens anywhere."""

import json
from os import PathLike
from pathlib import Path

import numpy as np

from steelyard._common.files import write_text
from steelyard.report.figures import points_figure
from steelyard.report.html import render_template
from steelyard.report.intervals import FEWEST
from steelyard.report.results import Claim, ComparedLearner, Number, PointsFigure


def write_claim_page(folder: str | PathLike[str]) -> Path:
    """Write `report.html` into a claim's folder, from claim.json there.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not one of ours, or was cut off or edited; the sentence names it.
    """
    folder = Path(folder)
    return write_text(folder / "report.html", render_claim(Claim.read(folder)))


def render_claim(found: Claim) -> str:
    """Return the page's text."""
    learner = found.learner or ComparedLearner(f"a network, {found.config['backbone']}", "learning rate", [], [])
    numbers = [] if found.tables else [n for n in found.numbers if n.value is not None]
    return render_template(
        "claim.html.j2",
        found=found,
        beside="95% intervals" if found.config["seeds"] >= FEWEST else "the least and the largest of them",
        figures=[(figure, _drawn(figure)) for figure in found.figures],
        settings=[
            (key, json.dumps(value, ensure_ascii=False))
            for key, value in found.config.items()
            if key not in learner.without
        ],
        learner=learner,
        numbers=[(number.name, _shown(number)) for number in numbers],
    )


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


def _shown(number: Number) -> str:
    value, low, high = number.value, number.low, number.high
    text = f"{value:.3g}" if isinstance(value, float) else f"{value}"
    return text if low is None or high is None else f"{text} [{low:.3g}, {high:.3g}]"
