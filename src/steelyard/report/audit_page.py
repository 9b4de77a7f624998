"""The page of an audit, from its folder to one HTML file that opens anywhere."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.auditing import class_rows
from steelyard.report.figures import balance_figure, confusion_figure, misfit_figure, trades_figure, weights_figure
from steelyard.report.html import render_template, save_page
from steelyard.report.style import Array, Classes, shown

_MOST_ROWS = 50  # of more classes the table shows those that are most off


def write_audit_page(folder: Path) -> Path:
    """Write `report.html` into an audit's folder, from audit.json and mean_confusion.npz there.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: audit.json is not one of ours.
    """
    file = folder / "audit.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no audit: there is no audit.json")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    if not isinstance(found, dict) or found.get("schema") != 1 or "verdicts" not in found:
        raise ValueError(f"{file} is not an audit of schema 1")
    arrays = folder / "mean_confusion.npz"
    if not arrays.is_file():
        raise FileNotFoundError(f"{arrays} is missing; the audit's folder must be kept whole")
    P = np.asarray(np.load(arrays, allow_pickle=False)["mean_confusion"], dtype=np.float64)
    return save_page(folder / "report.html", render_audit(found, P))


def render_audit(found: dict[str, Any], mean_confusion: Array) -> str:
    """The page's text from an audit's numbers."""
    classes = Classes(found["class_names"], [int(n) for n in found["class_counts"]])
    residual, implied = found["residual"], found["implied_weights"]
    pull, push = _array(residual["pull_up"]), _array(residual["push_down"])
    misplaced = max(float(push.sum()), 1e-300)
    rows = class_rows(found)
    return render_template(
        "audit.html.j2",
        found=found,
        name=shown(found["name"], 80),
        classes=len(classes.names),
        fewest=min(n for n in classes.counts if n > 0),
        most=max(classes.counts),
        verdicts=[v | {"text": _clean(v["text"])} for v in found["verdicts"]],
        rows=[row | {"name": shown(row["name"], 40)} for row in rows[:_MOST_ROWS]],
        left_out=max(0, len(rows) - _MOST_ROWS),
        softmax=implied is not None,
        stated=found["stated_weights"] is not None,
        figures={
            "misfit": misfit_figure(
                [
                    (("as stated: " if h["name"] == "as stated" else "") + h["text"], h["misfit"], h["error"])
                    for h in found["hypotheses"]
                ],
                title="Misfit of each hypothesis about the training",
            ),
            "weights": _weights_figure(found, classes),
            "balance": balance_figure(
                [("under the stated loss", pull, push)],
                classes,
                title="Pull up and push down of each class, with the residual",
            ),
            "confusion": confusion_figure(
                [("audited samples", mean_confusion)], classes, title="Mean confusion on the audited samples"
            ),
            "trades": trades_figure(
                [
                    (
                        *(classes.names[k] for k in t["classes"]),
                        *(100 * t[way] / misplaced for way in ("there", "back")),
                    )
                    for t in found["trades"]
                ],
                title="Which pairs of classes give each other most probability",
            ),
        },
    )


def _weights_figure(found: dict[str, Any], classes: Classes) -> str:
    implied = found["implied_weights"]
    if implied is None:
        values, error = found["implied_pos_weight"], None
        stated, what = found["stated_pos_weight"], "weight of positives"
    else:
        values, error = implied["weights"], implied["log_error"]
        stated, what = found["stated_weights"], "class weight"
        values = found["implied_over_stated"] if stated is not None else values
    numbers = _array(values if values is not None else [None] * len(classes.names))
    if implied is None and stated is not None:
        numbers = numbers / _array(stated)
    return weights_figure(
        numbers,
        None if error is None else _array(error),
        classes,
        label=f"implied over stated\n{what}" if stated is not None else f"implied {what}",
        reference=True,
        title="Weights that the model behaves as if trained with",
    )


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _array(values: Any) -> Array:
    """Numbers, with None as NaN."""
    return np.asarray([math.nan if value is None else value for value in values], dtype=np.float64)
