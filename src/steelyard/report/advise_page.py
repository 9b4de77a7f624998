"""The page of advice, from its folder to one HTML file that opens anywhere."""

from os import PathLike
from pathlib import Path

import numpy as np

from steelyard.report.cards import Badge, Card, Headline
from steelyard.report.explorer import Mark, explorer_of, exponent_of, read_rows
from steelyard.report.family import write_page
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
    return write_page(
        folder / "report.html",
        render_advice(found, read_rows(folder, len(found.class_names)) if rows else None),
    )


def render_advice(found: AdviceResults, rows: HeldOutRows | None) -> str:
    """Return the page's text."""
    counts = [round(n) for n in found.class_counts or found.samples]
    classes, way, plain = Classes(found.class_names, counts), found.way, found.plain
    explorer = explorer_of(
        rows, found.class_names, counts, _marks(found), bases=[("", 0.0)], marks_are="trained with weights"
    )
    if explorer is not None and way.class_weights is None and way.offsets is not None:
        explorer["data"]["advised"] = way.offsets
    return render_template(
        "advise.html.j2",
        found=found,
        name=shown(found.name, 80),
        head=advice_headline(found),
        findings=_cards(found, counts),
        value=shown(found.value, 60),
        names=[shown(name, 40) for name in found.class_names],
        way=way,
        plain=plain,
        order=classes.by_count().tolist()[:_MOST_ROWS],
        left_out=max(0, len(classes.names) - _MOST_ROWS),
        counts=counts,
        explorer=explorer,
    )


def advice_headline(found: AdviceResults) -> Headline:
    """Return what to do and what it buys."""
    way, kinds = found.way, {"out of reach": "fault", "train again": "warning"}
    label = "nothing to change" if way is found.plain else "change the decision"
    if way.class_weights is not None:
        label = "train again"
    if not way.allowed:
        label = "out of reach"
    badge: Badge = kinds.get(label, "fine")  # type: ignore[assignment]
    return Headline(shown(found.sentence, 1000), (), badge, label)


def _cards(found: AdviceResults, counts: list[int]) -> list[Card]:
    way, plain, value = found.way, found.plain, shown(found.value, 60)
    cards = [_card(way, "advised", value, "It is the simplest of all ways. None surely beats it.")]
    weighed = max((one for one in found.ways if one.class_weights), key=lambda one: one.value, default=None)
    if way is not plain:
        cards[0] = _card(
            way, "advised", value, f"Its gain over plain training and the largest logit is {_gain(way)}."
        )
    if weighed is not None and weighed is not way:
        text = f"Its gain over plain training is {_gain(weighed)}. It needs another training."
        cards.append(_card(weighed, "best with weights", value, text))
    if way is not plain:
        rarest = int(np.argmin(np.where(np.asarray(found.samples) > 0, counts, np.inf)))
        name, now, then = shown(found.class_names[rarest], 40), plain.recall[rarest], way.recall[rarest]
        text = f"Plain training has {_share(now)}. Judged by {found.samples[rarest]} rows out of fold."
        cards.append(Card("Recall of the rarest class", text, "note", name, _share(then), link="part-classes"))
    return cards


def _card(way: AdvisedWay, label: str, value: str, text: str) -> Card:
    name = way.name[:1].upper() + way.name[1:]
    return Card(name, f"{value.capitalize()}. {text}", "note", label, f"{way.value:.4g}", link="part-results")


def _gain(way: AdvisedWay) -> str:
    return f"{way.gain:+.4f} [{way.interval[0]:+.4f}, {way.interval[1]:+.4f}]"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}%"


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
        ends: dict[str, tuple[float, float | None, float | None]] = {}
        for key, value in values.items():
            low, high = (min(max(found.plain.value + gain, 0.0), 1.0) for gain in way.interval)
            ends[key] = (value, low, high) if key == found.objective else (value, None, None)
        exponent = exponent_of(way.class_weights, [round(n) for n in found.class_counts or found.samples])
        marks.append(Mark(way.name, "", exponent, ends["balanced-accuracy"], ends["accuracy"]))
    return marks
