"""The page of an audit, from its folder to one HTML file that opens anywhere."""

import math
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from steelyard._common.intervals import QUANTILE
from steelyard.report.cards import Badge, Card, Headline
from steelyard.report.charts import misfit_figure, trades_figure
from steelyard.report.family import write_page
from steelyard.report.figures import (
    balance_figure,
    confusion_cells,
    confusion_figure,
    weights_figure,
)
from steelyard.report.html import render_template
from steelyard.report.results import Audit, read_confusions
from steelyard.report.results.audit import VerdictResult
from steelyard.report.style import Array, Classes, shown
from steelyard.report.words import finding_words, glossary

_EVIDENCE = {
    "weights": "part-weights",
    "double counting": "part-weights",
    "groups": "part-weights",
    "loss": "part-misfit",
    "balance": "part-balance",
    "hard classes": "part-classes",
    "trades": "part-trades",
}
"""Where the page shows what a finding rests on, by its topic."""

_STRENGTH = "times the stated strength"
_UNITS = {
    "score_flipped": "agreement of scores and labels",
    "wrong_class_order": "columns",
    "weights_acted": _STRENGTH,
    "weights_not_applied": _STRENGTH,
    "weights_applied_twice": _STRENGTH,
    "weights_at_other_strength": _STRENGTH,
    "weights_permuted": _STRENGTH,
    "class_weight_off": _STRENGTH,
    "weights_unstated": "times as much or as little, at most",
    "counted": "is the power of 1 / count in the weights",
    "counted_twice": "is the power of 1 / count in the weights",
    "wrong_loss": "misfit, from 0 to 1",
    "in_balance": "misfit, from 0 to 1",
    "undertrained": "nats of loss to gain",
    "logits_too_small": "times these logits would fit better",
    "logits_too_large": "times these logits would fit better",
    "groups": "groups",
    "hard_classes": "classes",
}
"""What the number of a finding counts."""
_ONE = {"columns": "column", "groups": "group", "classes": "class"}


def write_audit_page(folder: str | PathLike[str]) -> Path:
    """Write `report.html` into an audit's folder, from audit.json and mean_confusion.npz there.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: audit.json is not one of ours, or a file was cut off or edited; the sentence names it.
    """
    folder = Path(folder)
    found = Audit.read(folder)
    file = folder / "mean_confusion.npz"
    P = read_confusions(file, len(found.class_names), "mean_confusion")["mean_confusion"]
    return write_page(folder / "report.html", render_audit(found, P))


def audit_headline(found: Audit) -> Headline:
    """Return the answer of an audit, and what the documentation says is to do about it."""
    first = next(
        (v for v in found.verdicts if v.severity != "note"),
        next((v for v in found.verdicts if v.topic in ("weights", "balance")), None),
    )
    words = None if first is None else finding_words(first.code)
    badge: Badge = "fine" if first is None or first.severity == "note" else first.severity
    label = {"fault": "fault", "warning": "warning"}.get(badge, "no fault")
    return Headline(_clean(found.headline), () if words is None else tuple(words["mend"]), badge, label)


def render_audit(found: Audit, mean_confusion: Array) -> str:
    """Return the page's text from an audit's numbers."""
    classes = Classes(found.class_names, [int(n) for n in found.class_counts])
    residual, implied = found.residual, found.implied_weights
    pull, push = _array(residual.pull_up), _array(residual.push_down)
    misplaced = max(float(push.sum()), 1e-300)
    rows, confusions = found.classes, [("audited samples", mean_confusion)]
    return render_template(
        "audit.html.j2",
        found=found,
        name=shown(found.name, 80),
        classes=len(classes.names),
        fewest=min(n for n in classes.counts if n > 0),
        most=max(classes.counts),
        head=audit_headline(found),
        findings=[_card(verdict, found) for verdict in found.verdicts],
        findings_words=[
            (v.code, v.name.replace("_", " "), words)
            for v in found.verdicts
            if (words := finding_words(v.code)) is not None
        ],
        glossary=glossary(),
        rows=[replace(row, name=shown(row.name, 40)) for row in rows],
        cells=confusion_cells(confusions, classes),
        softmax=implied is not None,
        stated=found.stated_weights is not None,
        figures={
            "misfit": misfit_figure(
                [
                    (("as stated: " if h.name == "as stated" else "") + h.text, h.misfit, h.error)
                    for h in found.hypotheses
                ],
                title="Misfit of each hypothesis about the training",
            ),
            "weights": _weights_figure(found, classes),
            "balance": balance_figure(
                [("under the stated loss", pull, push)],
                classes,
                title="Pull up and push down of each class, with the residual",
            ),
            "confusion": confusion_figure(confusions, classes, title="Mean confusion on the audited samples"),
            "trades": found.trades
            and trades_figure(
                [
                    (
                        classes.names[t.classes[0]],
                        classes.names[t.classes[1]],
                        100 * t.there / misplaced,
                        100 * t.back / misplaced,
                    )
                    for t in found.trades
                ],
                title="Which pairs of classes give each other most probability",
            ),
        },
    )


def _card(verdict: VerdictResult, found: Audit) -> Card:
    words, number, told = finding_words(verdict.code), "", []
    if verdict.value is not None and verdict.topic != "trades":
        number, told = f"{verdict.value:.3g}", [_unit(verdict, found)]
    if verdict.low is not None and verdict.high is not None:
        told.append(f"95% interval {verdict.low:.3g} to {verdict.high:.3g}")
    return Card(
        f"{verdict.name.replace('_', ' ').capitalize()} ({verdict.code})",
        _clean(verdict.text),
        verdict.severity,
        "" if verdict.severity == "note" else verdict.severity,
        number,
        "; ".join(part for part in told if part),
        _EVIDENCE.get(verdict.topic, ""),
        "" if words is None else verdict.code,
    )


def _unit(verdict: VerdictResult, found: Audit) -> str:
    if verdict.name == "weights_unclear":  # the strength of stated weights; the range of others
        stated = len(set(found.stated_weights or ())) > 1 or found.stated_pos_weight is not None
        return _STRENGTH if stated else _UNITS["weights_unstated"]
    unit = _UNITS.get(verdict.name, "")
    return _ONE.get(unit, unit) if verdict.value == 1 else unit


def _weights_figure(found: Audit, classes: Classes) -> str:
    implied, ratio = found.implied_weights, found.ratio
    if ratio is not None:  # in units of class 0, as everywhere
        stated_ratio = 1.0 if found.stated_weights is None else ratio.stated
        ends = (ratio.found.low, ratio.found.high)
        width = math.nan if None in ends else math.log(ends[1] / ends[0]) / 2 / QUANTILE  # type: ignore[operator]
        return weights_figure(
            np.array([1.0, ratio.found.value / stated_ratio]),
            np.array([math.nan, width]),
            classes,
            label="implied over stated\nweight" if found.stated_weights is not None else "implied weight",
            reference=True,
            title="Weights that the model behaves as if trained with",
        )
    if implied is None:
        values, error = found.implied_pos_weight, None
        stated, what = found.stated_pos_weight, "weight of positives"
    else:
        values, error = implied.weights, implied.log_error
        stated, what = found.stated_weights, "class weight"
        values = found.implied_over_stated if stated is not None else values
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
    """Return numbers, with None as NaN."""
    return np.asarray([math.nan if value is None else value for value in values], dtype=np.float64)
