"""The page of advice, from its folder to one HTML file that opens anywhere."""

from os import PathLike
from pathlib import Path

import numpy as np

from steelyard._common.files import write_text
from steelyard.report.explorer import Mark, explorer_of, exponent_of, read_rows
from steelyard.report.html import render_template
from steelyard.report.results import AdviceResults, HeldOutRows
from steelyard.report.results.advice import AdvisedWay
from steelyard.report.style import Classes, shown

_MOST_ROWS = 50


def write_advise_page(folder: str | PathLike[str], *, rows: bool = True) -> Path:
    """Write `report.html` into a folder of advice, from advise.json and explorer.json there, and return its path.

    Args:
        folder: holds advise.json; explorer.json where the page shall have an explorer.
        rows: whether explorer.json is used, where there is one.

    Raises:
        FileNotFoundError: advise.json is missing.
        ValueError: a file is not one of ours, or was cut off or edited; the sentence names it.
    """
    folder = Path(folder)
    found = AdviceResults.read(folder)
    return write_text(
        folder / "report.html",
        render_advice(found, read_rows(folder, len(found.class_names)) if rows else None),
    )


def render_advice(found: AdviceResults, rows: HeldOutRows | None) -> str:
    """Return the page's text."""
    counts = [round(n) for n in found.class_counts or found.samples]
    classes, way, plain = Classes(found.class_names, counts), found.way, found.plain
    rarest = int(np.argmin(np.where(np.asarray(found.samples) > 0, counts, np.inf)))
    explorer = explorer_of(
        rows, found.class_names, counts, _marks(found), bases=[("", 0.0)], marks_are="trained with weights"
    )
    if explorer is not None and way.class_weights is None and way.offsets is not None:
        explorer["data"]["advised"] = way.offsets
    return render_template(
        "advise.html.j2",
        found=found,
        name=shown(found.name, 80),
        sentence=shown(found.sentence, 1000),
        value=shown(found.value, 60),
        names=[shown(name, 40) for name in found.class_names],
        way=way,
        plain=plain,
        badge=_badge(way, plain),
        rarest=(
            shown(found.class_names[rarest], 40),
            plain.recall[rarest],
            way.recall[rarest],
            found.samples[rarest],
        ),
        weighed=max((one for one in found.ways if one.class_weights), key=lambda one: one.value, default=None),
        order=classes.by_count().tolist()[:_MOST_ROWS],
        left_out=max(0, len(classes.names) - _MOST_ROWS),
        counts=counts,
        explorer=explorer,
    )


def _badge(way: AdvisedWay, plain: AdvisedWay) -> tuple[str, str]:
    """Return what kind of step it is, and the class of its colour."""
    if not way.allowed:
        return "out of reach", "fault"
    if way is plain:
        return "nothing to change", "fine"
    return ("train again", "warning") if way.class_weights is not None else ("change the decision", "fine")


def _marks(found: AdviceResults) -> list[Mark]:
    """Return the models that were trained with weights and decide for the largest logit."""
    samples = np.asarray(found.samples, dtype=np.float64)
    marks = []
    for way in found.ways:
        if way.class_weights is None or way.rule != "argmax":
            continue
        recall = np.asarray([np.nan if r is None else r for r in way.recall], dtype=np.float64)
        values = {
            "balanced-accuracy": float(np.nanmean(recall)),
            "accuracy": float(np.nansum(recall * samples) / samples.sum()),
        }
        ends = {
            key: (value, *(found.plain.value + gain for gain in way.interval))
            if key == found.objective
            else (value, None, None)
            for key, value in values.items()
        }
        exponent = exponent_of(way.class_weights, [round(n) for n in found.class_counts or found.samples])
        marks.append(Mark(way.name, "", exponent, ends["balanced-accuracy"], ends["accuracy"]))
    return marks
