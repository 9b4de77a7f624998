"""Figures of classes as SVG text from plain numbers, readable from 2 classes to 1000."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.colors import PowerNorm
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
    legend_above,
    log_axis,
    look,
    shown,
    wrapped,
)
from steelyard.report.svg import INK, LINE, SOFT, WIDE, both_widths, svg

_LARGEST_HEATMAP = 100
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


@both_widths
def recall_figure(width: float, losses: Sequence[Series], classes: Classes, *, title: str) -> str:
    """Return the recall of each class under each loss as an SVG, classes from frequent to rare, with intervals.

    Many classes are dots without intervals, with a line through the means of twenty groups by rank.
    """
    order = classes.by_count()
    many = len(order) > NAMED_TICKS
    dots = len(order) * len(losses) <= _MOST_DOTS and width == WIDE
    values: dict[str, list[str]] = {}
    with mpl.rc_context(STYLE):
        figure = Figure((width, 3.9), layout="constrained")
        axes = figure.subplots()
        offsets = np.linspace(-0.28, 0.28, len(losses)) if len(losses) > 1 else np.zeros(1)
        for i, series in enumerate(losses):
            mean, ends = 100 * series.mean()[order], beside_mean(series.values, low=0, high=1)
            error = None if ends is None else np.abs(100 * np.stack(ends)[:, order] - mean)
            colour, marker = look(i)
            group, label = f"series-{i}", shown(series.label, 40)
            known = np.flatnonzero(np.isfinite(mean))
            texts = [f"{label}, {shown(classes.names[order[k]])}: {mean[k]:.1f}%" for k in known]
            if many:  # the classes as faint dots, means over twenty groups of neighbouring ranks as a line
                groups = [g for g in np.array_split(np.arange(len(order)), 20) if np.isfinite(mean[g]).any()]
                if dots:
                    axes.plot(known, mean[known], ".", color=colour, ms=3, alpha=0.4, gid=f"{group}-points")
                    values[f"{group}-points"] = texts
                x, y = [g.mean() for g in groups], [np.nanmean(mean[g]) for g in groups]
                axes.plot(x, y, color=colour, lw=1.6, marker=marker, ms=5, label=label, gid=group)
                continue
            if error is not None:
                bars = axes.errorbar(
                    known + offsets[i], mean[known], error[:, known], color=colour, fmt="none", lw=1.1
                )
                for part in bars.lines[2]:
                    part.set_gid(group)
            axes.plot(
                known + offsets[i], mean[known], marker, color=colour, ms=5.5, label=label, gid=f"{group}-points"
            )
            values[f"{group}-points"] = texts
        axes.set_ylabel("recall, %")
        axes.set_ylim(max(0.0, axes.get_ylim()[0]), 100)
        for drawn in axes.lines:  # markers at 100 stand on the frame, whole
            drawn.set_clip_on(False)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        class_axis(axes, classes, order, width=width)
        legend_above(figure, len(losses), width)
        return svg(figure, "recall", title, values)


@both_widths
def confusion_figure(
    width: float, confusions: Sequence[tuple[str, Array]], classes: Classes, *, title: str
) -> str:
    """Return the mean confusion of each loss as an SVG, rows the true class; one square-root colour scale.

    Of more than 100 classes the 50 with the largest mean probability given to others are shown.
    """
    order = _confused(confusions, classes)
    cut = len(order) < len(classes.names)
    note = f"; the {len(order)} of {len(classes.names)} classes most confused" if cut else ""
    most = 4 if len(order) <= 20 else 2
    columns = min(most if width == WIDE else most // 2, len(confusions))
    rows = -(-len(confusions) // columns)
    side = min(width / columns, 5.6)
    with mpl.rc_context(STYLE):
        room = max(12, int(7 * side))
        titles = [wrapped(shown(label, 40), room) for label, _ in confusions]
        lines = max(title.count("\n") for title in titles)
        layout = ConstrainedLayoutEngine(h_pad=0.1)  # a reader's font may be taller than ours
        figure = Figure((width, rows * (side * 0.98 + 0.35 * lines) + 1.0), layout=layout)
        grid = figure.subplots(rows, columns, squeeze=False)
        image = None
        for i, (axes, title_of, (_, P)) in enumerate(zip(grid.flat, titles, confusions, strict=False)):
            axes.set_gid(f"series-{i}")
            part = np.ma.masked_invalid(P[np.ix_(order, order)])
            # one pixel a cell, which the page enlarges without blur: few bytes, and page.js finds the cell
            image = axes.imshow(part, cmap="viridis", norm=PowerNorm(0.5, 0, 1), interpolation="none")
            image.set_gid(f"cells-{i}")
            axes.set_facecolor(LINE)
            axes.set_aspect("equal")
            axes.set_title(title_of)
            names = [shown(classes.names[k], 12) for k in order]
            ticks = np.arange(len(order))
            if len(order) > NAMED_TICKS:
                ticks, names = ticks[:: max(1, len(order) // 8)], names[:: max(1, len(order) // 8)]
            size = 8 if len(names) <= 12 else 6.5
            axes.set_xticks(ticks, names, rotation=90, fontsize=size)
            axes.set_yticks(ticks, names, fontsize=size)
            if axes in grid[:, 0]:
                axes.set_ylabel("true class")
        used, spare = grid.flat[: len(confusions)], grid.flat[len(confusions) :]
        for axes in spare:
            axes.remove()
        if image is not None:
            bar = figure.colorbar(
                image,
                ax=list(used),
                location="bottom",
                shrink=0.5 if width == WIDE else 0.95,
                aspect=40,
                ticks=[0, 0.01, 0.05, 0.1, 0.25, 0.5, 1],
            )
            bar.set_label(
                wrapped(f"mean probability of the column's class (square-root scale){note}", int(14 * width))
            )
            bar.ax.tick_params(rotation=90 if width < WIDE else 0)
            bar.outline.set_visible(False)
        return svg(figure, "confusion", title)


def confusion_cells(confusions: Sequence[tuple[str, Array]], classes: Classes) -> dict[str, object]:
    """Return the numbers of a confusion figure for page.js: the names of its classes and its panels, in order.

    Numbers have three digits; a class without samples has None.
    """
    order = _confused(confusions, classes)
    panels = []
    for label, P in confusions:
        rows = [[None if np.isnan(v) else float(f"{v:.3g}") for v in row] for row in P[np.ix_(order, order)]]
        panels.append({"label": shown(label, 40), "values": rows})
    cut = len(order) < len(classes.names)
    note = f"of the {len(order)} classes most confused" if cut else ""
    return {"names": [shown(classes.names[k], 40) for k in order], "panels": panels, "note": note}


def _confused(confusions: Sequence[tuple[str, Array]], classes: Classes) -> Indices:
    """Return the classes of a confusion figure from frequent to rare: of more than 100 the 50 most confused."""
    order = classes.by_count()
    if len(order) <= _LARGEST_HEATMAP:
        return order
    filled = [np.nan_to_num(P) for _, P in confusions]
    wrong = sum(P.sum(0) + P.sum(1) - 2 * P.diagonal() for P in filled)
    chosen = set(np.argsort(-np.asarray(wrong))[:50].tolist())
    return np.asarray([k for k in order if k in chosen])


def drawn_in_groups(classes: int, laws: int) -> bool:
    """Return whether a balance figure has too many classes to draw each."""
    return classes * laws > _MOST_DOTS


@both_widths
def balance_figure(width: float, laws: Sequence[tuple[str, Array, Array]], classes: Classes, *, title: str) -> str:
    """Return an SVG of pull against push of each class under each loss, and beneath it the relative residual.

    Args:
        width: of the figure, in inches.
        laws: label, (K,) pull up, (K,) push down.
        classes: names and counts.
        title: for readers who cannot see it.
    """
    order = classes.by_count()
    columns = min(2 if width == WIDE else 1, len(laws))
    rows = -(-len(laws) // columns)
    # laws add up: of very many points, sums over groups of neighbouring classes say the same
    parts = [np.array([k]) for k in order]
    few = not drawn_in_groups(len(order), len(laws)) and (width == WIDE or len(order) <= NAMED_TICKS)
    if not few:
        parts = np.array_split(order, min(len(order), 40))
    x = np.array(
        [part.mean() for part in np.split(np.arange(len(order)), np.cumsum([len(p) for p in parts])[:-1])]
    )
    values: dict[str, list[str]] = {}
    with mpl.rc_context(STYLE):
        figure = Figure((width, 3.5 * rows), layout="constrained")
        panels = figure.subfigures(rows, columns, squeeze=False)
        for i, (panel, (label, pull, push)) in enumerate(zip(panels.flat, laws, strict=False)):
            colour, _ = look(i)
            upper, lower = panel.subplots(2, 1, sharex=True, height_ratios=[3, 1.5])
            size = 5 if len(parts) <= NAMED_TICKS else 2.4
            up, down = (np.array([side[part].sum() for part in parts]) for side in (pull, push))
            gap = np.full(len(x), np.nan)
            sides = np.concatenate([up, down])
            log = bool((sides >= 0).all() and (sides > 0).any())
            upper.plot(
                np.column_stack([x, x, x]).ravel(), np.column_stack([up, down, gap]).ravel(), color=SOFT, lw=1
            )
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
                lw=max(1.0, 0.45 * 72 * width / columns / len(x)),
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
            last = i >= len(laws) - columns
            class_axis(lower, classes, order, label=last, counts=False, width=width / columns)
        for panel in panels.flat[len(laws) :]:
            panel.set_visible(False)
        return svg(figure, "balance", title, values)


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
