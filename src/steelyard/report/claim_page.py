"""The page of a claim, from its folder to one HTML file that opens anywhere."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.report.figures import points_figure
from steelyard.report.html import render_template, save_page


def write_claim_page(folder: Path) -> Path:
    """Write `report.html` into a claim's folder, from claim.json there.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not one of ours.
    """
    file = folder / "claim.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no finished claim: there is no claim.json")
    found = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.get("schema") != 1 or "claim" not in found:
        raise ValueError(f"{file} is not a claim of schema 1")
    return save_page(folder / "report.html", render_claim(found))


def render_claim(found: dict[str, Any]) -> str:
    """The page's text."""
    figures = [
        figure
        | {
            "svg": points_figure(
                [(s["label"], np.asarray(s["points"], dtype=np.float64).reshape(-1, 2)) for s in figure["series"]],
                name=figure["id"],
                x=figure["x"],
                y=figure["y"],
                log=figure["log"],
                diagonal=figure["diagonal"],
                title=figure["title"],
                ticks=figure.get("names"),
            )
        }
        for figure in found["figures"]
    ]
    settings = [(k, json.dumps(v, ensure_ascii=False)) for k, v in found["config"].items()]
    return render_template(
        "claim.html.j2",
        found=found | {"tables": found.get("tables", [])},
        figures=figures,
        settings=settings,
        numbers=[]
        if found.get("tables")
        else [n | {"shown": _shown(n)} for n in found["numbers"] if n["value"] is not None],
    )


def _shown(number: dict[str, Any]) -> str:
    value, low, high = number["value"], number["low"], number["high"]
    text = f"{value:.3g}" if isinstance(value, float) else f"{value}"
    return text if low is None or high is None else f"{text} [{low:.3g}, {high:.3g}]"
