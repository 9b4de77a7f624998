"""Figures of classes as SVG text from plain numbers, readable from 2 classes to 1000."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import PowerNorm, to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator

from steelyard._common.intervals import QUANTILE
from steelyard.report.intervals import beside_mean
from steelyard.report.style import (
    NAMED_TICKS,
    STYLE,
    Array,
    Classes,
    Indices,
    class_axis,
    legend,
    log_axis,
    look,
    shown,
    wrapped,
)
from steelyard.report.svg import INK, LINE, SOFT, WIDE, both_widths, in_panels, svg

_MOST_APART = 100  # classes that half a page shows one by one
_MOST_CELLS = 60_000  # of all heat maps of a figure
_MAP = "viridis"
_MOST_BESIDE = 8  # classes that one panel of recall shows; more are two
_MOST_CLOUDS = 12  # losses of which the dots of many classes can be told apart
_MOST_DOTS = 3000  # more points than this are drawn as groups of classes: a page stays below 1.5 MB


@dataclass(frozen=True)
class Series:
    """One loss's values over seeds.

    Attributes:
        label: the loss.
        values: (seeds, n) numbers.
    """

    label: str
    values: Array

    def mean(self) -> Array:
        return np.asarray(self.values.mean(0))


def recall_figure(losses: Sequence[Series], classes: Classes, *, title: str) -> str:
    """Return the recall of each class under each loss as SVGs, classes from frequent to rare, with intervals.

    More than a few classes are two panels, the frequent half and the rare half. Many classes are a line through
    the means of twenty groups by rank, and dots without intervals where these are not too many.
    """
    order = classes.by_count()
    found = [(series, series.mean()[order], _ends(series, order)) for series in losses]
    low = min((np.nanmin(part) for _, *parts in found for part in parts if np.isfinite(part).any()), default=0.0)
    halves = np.array_split(np.arange(len(order)), 2 if len(order) > _MOST_BESIDE else 1)
    ranges = [
        partial(_recalls, found=found, places=places, low=100 * max(0.0, low - 0.04), classes=classes, title=title)
        for places in halves
    ]
    return f"<div>{legend([series.label for series in losses])}{in_panels(ranges, series=False)}</div>"


def _ends(series: Series, order: Indices) -> Array:
    """Return the two ends of the interval of each class; its mean where there is none."""
    ends = beside_mean(series.values, low=0, high=1) or (series.mean(), series.mean())
    return np.stack(ends)[:, order]


def _recalls(
    width: float,
    *,
    found: Sequence[tuple[Series, Array, Array]],
    places: Indices,
    low: float,
    classes: Classes,
    title: str,
) -> str:
    """Return the recall of the classes at some ranks."""
    order = classes.by_count()
    many = len(order) > NAMED_TICKS
    values: dict[str, list[str]] = {}
    with mpl.rc_context(STYLE):
        figure = Figure((width, 3.6), layout="constrained")
        axes = figure.subplots()
        offsets = np.linspace(-0.28, 0.28, len(found)) if len(found) > 1 else np.zeros(1)
        for i, (series, means, ends) in enumerate(found):
            colour, marker = look(i)
            group, label = f"series-{i}", shown(series.label, 40)
            known = places[np.isfinite(means[places])]
            texts = [f"{label}, {shown(classes.names[order[k]])}: {100 * means[k]:.1f}%" for k in known]
            dots: dict[str, Any] = {"color": colour, "gid": f"{group}-points"}
            if many:  # the classes as faint dots, means over groups of neighbouring ranks as a line
                if len(order) * len(found) <= _MOST_DOTS and len(found) <= _MOST_CLOUDS:
                    axes.plot(known, 100 * means[known], ".", ms=3, alpha=0.4, **dots)
                    values[f"{group}-points"] = texts
                groups = [g for g in np.array_split(places, 10) if np.isfinite(means[g]).any()]
                x, y = [g.mean() for g in groups], [100 * np.nanmean(means[g]) for g in groups]
                axes.plot(x, y, color=colour, lw=1.6, marker=marker, ms=5, gid=group)
                continue
            x = known + offsets[i]
            if len(series.values) > 1:
                axes.vlines(x, *(100 * ends[:, known]), color=colour, lw=1.1, gid=group)
            axes.plot(x, 100 * means[known], marker, ms=5.5, **dots)
            values[f"{group}-points"] = texts
        axes.set_ylabel("recall, %")
        axes.set_ylim(low, 100)
        axes.set_xlim(places[0] - 0.6, places[-1] + 0.6)
        for drawn in axes.lines:  # markers at 100 stand on the frame, whole
            drawn.set_clip_on(False)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        class_axis(axes, classes, order, width=width, places=places)
        return svg(figure, f"recall-{places[0]}", title, values)


def confusion_figure(confusions: Sequence[tuple[str, Array]], classes: Classes, *, title: str) -> str:
    """Return the mean confusion of each loss as SVGs, rows the true class; one square-root colour scale.

    Where all classes are too many, those with the largest mean probability given to others are shown.
    """
    order = _confused(confusions, classes)
    cut = len(order) < len(classes.names)
    note = f"; the {len(order)} of {len(classes.names)} classes most confused" if cut else ""
    columns = max(2, min(4 if len(order) <= 20 else 2, len(confusions)))
    room = max(12, int(7 * min(WIDE / columns, 5.6)))
    titles = [wrapped(shown(label, 40), room) for label, _ in confusions]
    lines = max(text.count("\n") for text in titles)
    names = [shown(classes.names[k], 12) for k in order]
    ticks = np.arange(len(order))
    if len(order) > NAMED_TICKS:
        ticks, names = ticks[:: max(1, len(order) // 8)], names[:: max(1, len(order) // 8)]

    def panel(i: int, width: float) -> str:
        side = min(width, 5.6)
        with mpl.rc_context(STYLE):
            layout = ConstrainedLayoutEngine(h_pad=0.1)  # a reader's font may be taller than ours
            figure = Figure((width, side * 0.98 + 0.35 * lines), layout=layout)
            axes = figure.subplots()
            axes.set_gid(f"series-{i}")
            part = np.ma.masked_invalid(confusions[i][1][np.ix_(order, order)])
            # one pixel a cell, which the page enlarges without blur: few bytes, and page.js finds the cell
            image = axes.imshow(part, cmap=_MAP, norm=PowerNorm(0.5, 0, 1), interpolation="none")
            image.set_gid(f"cells-{i}")
            axes.set_facecolor(LINE)
            axes.set_aspect("equal")
            axes.set_title(titles[i] + "\n" * (lines - titles[i].count("\n")))
            size = 8 if len(names) <= 12 else 6.5
            axes.set_xticks(ticks, names, rotation=90, fontsize=size)
            axes.set_yticks(ticks, names, fontsize=size)
            return svg(figure, f"confusion-{i}", f"{title}: {shown(confusions[i][0], 40)}")

    drawn = in_panels([partial(panel, i) for i in range(len(confusions))], columns=columns)
    scale = _colour_scale(f"mean probability of the column's class; rows are true classes{note}")
    return f"<div>{drawn}{scale}</div>"


def _colour_scale(text: str) -> str:
    """Return the colours of probabilities from 0 to 1 as the page draws them, on a square-root scale."""
    colours = ", ".join(to_hex(colour) for colour in mpl.colormaps[_MAP](np.linspace(0, 1, 17)))
    marks = "".join(f'<span style="left:{100 * p**0.5:.1f}%">{p:g}</span>' for p in (0, 0.01, 0.1, 0.25, 0.5, 1))
    bar = f'<div style="background:linear-gradient(90deg, {colours})"></div>'
    return f'<div class="scale">{bar}{marks}<p>{text}</p></div>'


def confusion_cells(confusions: Sequence[tuple[str, Array]], classes: Classes) -> dict[str, object]:
    """Return the numbers of a confusion figure for page.js: the names of its classes and its panels, in order.

    Numbers are whole, in units of 0.0001, for few bytes; a class without samples has None.
    """
    order = _confused(confusions, classes)
    panels = []
    for label, P in confusions:
        rows = [[None if np.isnan(v) else round(1e4 * v) for v in row] for row in P[np.ix_(order, order)]]
        panels.append({"label": shown(label, 40), "values": rows})
    cut = len(order) < len(classes.names)
    note = f"of the {len(order)} classes most confused" if cut else ""
    return {"names": [shown(classes.names[k], 40) for k in order], "panels": panels, "note": note}


def _confused(confusions: Sequence[tuple[str, Array]], classes: Classes) -> Indices:
    """Return the classes of a confusion figure, frequent ones first: the most confused, where all are too many."""
    order = classes.by_count()
    most = math.isqrt(_MOST_CELLS // len(confusions))
    if len(order) <= min(_MOST_APART, most):
        return order
    filled = [np.nan_to_num(P) for _, P in confusions]
    wrong = sum(P.sum(0) + P.sum(1) - 2 * P.diagonal() for P in filled)
    chosen = set(np.argsort(-np.asarray(wrong))[: min(50, most)].tolist())
    return np.asarray([k for k in order if k in chosen])


def drawn_in_groups(classes: int, laws: int) -> bool:
    """Return whether a balance figure has too many classes to draw each."""
    return classes > _MOST_APART or classes * laws > _MOST_DOTS


def balance_figure(laws: Sequence[tuple[str, Array, Array]], classes: Classes, *, title: str) -> str:
    """Return SVGs of pull against push of each class under each loss, and beneath them the relative residual.

    Args:
        laws: label, (K,) pull up, (K,) push down.
        classes: names and counts.
        title: for readers who cannot see it.
    """
    groups = drawn_in_groups(len(classes.names), len(laws))
    parts = [
        partial(_balance_panel, law=law, i=i, classes=classes, groups=groups, title=title)
        for i, law in enumerate(laws)
    ]
    return in_panels(parts)


def _balance_panel(
    width: float, *, law: tuple[str, Array, Array], i: int, classes: Classes, groups: bool, title: str
) -> str:
    label, pull, push = law
    order = classes.by_count()
    # laws add up: of very many points, sums over groups of neighbouring classes say the same
    parts = [np.array([k]) for k in order]
    if groups:
        parts = np.array_split(order, min(len(order), 40))
    x = np.array(
        [part.mean() for part in np.split(np.arange(len(order)), np.cumsum([len(p) for p in parts])[:-1])]
    )
    values: dict[str, list[str]] = {}
    with mpl.rc_context(STYLE):
        figure = Figure((width, 3.5), layout="constrained")
        colour, _ = look(i)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.5])
        size = 5 if len(parts) <= NAMED_TICKS else 2.4
        up, down = (np.array([side[part].sum() for part in parts]) for side in (pull, push))
        gap = np.full(len(x), np.nan)
        sides = np.concatenate([up, down])
        log = bool((sides >= 0).all() and (sides > 0).any())
        upper.plot(np.column_stack([x, x, x]).ravel(), np.column_stack([up, down, gap]).ravel(), color=SOFT, lw=1)
        for what, side, look_of in (
            ("pull up", up, {"marker": "^", "color": colour}),
            ("push down", down, {"marker": "v", "color": INK, "mfc": "none"}),
        ):
            gid = f"{what[:4].strip()}-{i}"
            if log:  # what is 0 has no place on a logarithmic axis, and no marker
                side = np.where(side > 0, side, np.nan)
            upper.plot(x, side, ls="", ms=size + 1, label=what, gid=gid, **look_of)
            if len(parts) <= NAMED_TICKS:
                values[gid] = [
                    f"{shown(classes.names[part[0]])}, {what}: {value:.3g}"
                    for part, value in zip(parts, side, strict=True)
                    if np.isfinite(value)
                ]
        if log:
            log_axis(upper)
        upper.set_title(shown(label, 40))
        upper.grid(axis="y")
        if i == 0:
            upper.legend(loc="best", fontsize=8.5, handletextpad=0.2)
        total = np.abs(up) + np.abs(down)
        residual = np.divide(up - down, total, out=np.zeros_like(up), where=total > 0)
        zero = np.zeros(len(x))
        lower.plot(
            np.column_stack([x, x, x]).ravel(),
            np.column_stack([zero, residual, gap]).ravel(),
            color=colour,
            lw=max(1.0, 0.45 * 72 * width / len(x)),
            solid_capstyle="butt",
        )
        lower.axhline(0, color=SOFT, lw=0.8)
        reach = max(0.05, float(np.abs(residual).max()) * 1.1)
        lower.set_ylim(-reach, reach)
        lower.set_ylabel("relative\nresidual", fontsize=8.5)
        lower.grid(axis="y")
        for axes in (upper, lower):
            axes.set_axisbelow(True)
            axes.set_gid(f"series-{i}")
        class_axis(lower, classes, order, counts=False, width=width)
        return svg(figure, f"balance-{i}", f"{title}: {shown(label, 40)}", values)


@both_widths
def weights_figure(
    width: float,
    values: Array,
    log_error: Array | None,
    classes: Classes,
    *,
    label: str,
    reference: bool,
    title: str,
) -> str:
    """Return an SVG of a positive number for each class, logarithmic, with 95% intervals, classes by frequency.

    Args:
        width: of the figure, in inches.
        values: (K,), NaN where not known.
        log_error: (K,) standard errors of their logarithms, or None.
        classes: names and counts.
        label: of the axis.
        reference: whether all should be 1, where a line is drawn.
        title: for readers who cannot see it.
    """
    order = classes.by_count()
    few = len(order) <= NAMED_TICKS
    with mpl.rc_context(STYLE):
        figure = Figure((width, 3.4), layout="constrained")
        axes = figure.subplots()
        x, y = np.arange(len(order)), values[order]
        known = np.isfinite(y) & (y > 0)
        if log_error is not None:
            half = QUANTILE * log_error[order]
            sure = known & np.isfinite(half)
            low, high = y[sure] * np.exp(-half[sure]), y[sure] * np.exp(half[sure])
            gap = np.full(len(low), np.nan)
            places = np.column_stack([x[sure]] * 3).ravel()
            axes.plot(places, np.column_stack([low, high, gap]).ravel(), color=SOFT, lw=1.2 if few else 0.6)
        axes.plot(x[known], y[known], "o", color=look(0)[0], ms=6 if few else 2.5, gid="weights")
        values_of = {"weights": [f"{shown(classes.names[k])}: {values[k]:.3g}" for k in order[known]]}
        if reference:
            axes.axhline(1, color=look(1)[0], lw=1)
        if known.any():
            log_axis(axes)
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
            # intervals of classes that the samples hardly determine reach far: the values decide the view
            span = max(1.5, float(y[known].max() / y[known].min()) ** 0.5)
            middle = float(np.exp(np.log(y[known]).mean()))
            axes.set_ylim(min(y[known].min(), 1 if reference else middle) / span, max(y[known].max(), 1) * span)
        axes.set_ylabel(label)
        axes.grid(axis="y", which="both")
        axes.set_axisbelow(True)
        class_axis(axes, classes, order, width=width)
        return svg(figure, "weights", title, values_of)
