"""Figures as SVG text from plain numbers; shared by every report. Readable from 2 classes to 1000."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator

from steelyard.report.intervals import beside_mean
from steelyard.report.style import (
    NAMED_TICKS,
    STYLE,
    Array,
    Classes,
    Indices,
    class_axis,
    log_axis,
    look,
    shown,
)
from steelyard.report.svg import INK, LINE, SOFT, WIDE, both_widths, svg

QUANTILE = 2.131  # 97.5% point of Student's t with 15 degrees of freedom, for the 16 folds of an audit
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
        _legend(figure, len(losses), width)
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
        titles = [textwrap.fill(shown(label, 40), room, break_on_hyphens=False) for label, _ in confusions]
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
                textwrap.fill(f"mean probability of the column's class (square-root scale){note}", int(14 * width))
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
def curves_figure(width: float, losses: Sequence[tuple[str, Array, Array]], *, title: str) -> str:
    """Return learning curves as an SVG: validation balanced accuracy, and each loss's own training loss, by epoch.

    Args:
        width: of the figure, in inches.
        losses: label, (seeds, epochs) balanced accuracy, (seeds, epochs) training loss.
        title: for readers who cannot see it.
    """
    with mpl.rc_context(STYLE):
        wide = width == WIDE
        figure = Figure((width, 3.6 if wide else 6.2), layout="constrained")
        left, right = figure.subplots(*((1, 2) if wide else (2, 1)))
        for i, (label, accuracy, training) in enumerate(losses):
            colour, marker = look(i)
            epochs = np.arange(1, accuracy.shape[1] + 1)
            every = max(1, len(epochs) // 8)
            for axes, values in ((left, 100 * accuracy), (right, training)):
                axes.plot(
                    epochs,
                    values.mean(0),
                    color=colour,
                    lw=1.5,
                    marker=marker,
                    ms=4.5,
                    markevery=every,
                    label=shown(label, 40) if axes is left else None,
                    gid=f"series-{i}",
                )
                if len(values) > 1:
                    low, high = values.min(0), values.max(0)
                    axes.fill_between(epochs, low, high, color=colour, alpha=0.13, lw=0, gid=f"series-{i}")
        left.set_title("validation balanced accuracy, %")
        right.set_title("training loss, each in its own units (log scale)")
        log_axis(right)
        for axes in (left, right):
            axes.set_xlabel("epoch")
            axes.grid()
            axes.set_axisbelow(True)
        _legend(figure, len(losses), width)
        return svg(figure, "curves", title)


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
            upper.plot(
                np.column_stack([x, x, x]).ravel(), np.column_stack([up, down, gap]).ravel(), color=SOFT, lw=1
            )
            for what, side, look_of in (
                ("pull up", up, {"marker": "^", "color": colour}),
                ("push down", down, {"marker": "v", "color": INK, "mfc": "none"}),
            ):
                gid = f"{what[:4].strip()}-{i}"
                upper.plot(x, side, ls="", ms=size + 1, label=what, gid=gid, **look_of)
                if len(parts) <= NAMED_TICKS:
                    values[gid] = [
                        f"{shown(classes.names[part[0]])}, {what}: {value:.3g}"
                        for part, value in zip(parts, side, strict=True)
                        if np.isfinite(value)
                    ]
            positive = np.concatenate([up[up > 0], down[down > 0]])
            if len(positive) and (up >= 0).all() and (down >= 0).all():
                log_axis(upper)
                # what is 0 has no place on a logarithmic axis, and no marker
                for gid, side in ((f"pull-{i}", up), (f"push-{i}", down)):
                    if gid in values:
                        values[gid] = [text for text, value in zip(values[gid], side, strict=True) if value > 0]
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
def misfit_figure(width: float, hypotheses: Sequence[tuple[str, float, float | None]], *, title: str) -> str:
    """Return an SVG of how badly each hypothesis fits, from 0 (its law holds) to 1; the first is the stated one.

    Args:
        width: of the figure, in inches.
        hypotheses: text, misfit, standard error or None.
        title: for readers who cannot see it.
    """
    with mpl.rc_context(STYLE):
        room = 62 if width == WIDE else 26
        names = [textwrap.fill(shown(text, 62), room) for text, _, _ in hypotheses]
        figure = Figure((width, 0.9 + 0.36 * sum(n.count("\n") * 0.5 + 1 for n in names)), layout="constrained")
        axes = figure.subplots()
        for y, (_, misfit, error) in enumerate(hypotheses):
            colour = look(0)[0] if y == 0 else SOFT
            axes.barh(y, misfit, color=colour, height=0.62)
            if error is not None:
                low, high = max(0.0, misfit - QUANTILE * error), min(1.0, misfit + QUANTILE * error)
                axes.plot([low, high], [y, y], color=INK, lw=1.1, marker="|", ms=6)
            axes.text(max(misfit, 0) + 0.008, y - 0.36, f"{misfit:.2f}", fontsize=8, va="center")
        axes.set_yticks(range(len(hypotheses)), names, fontsize=10 if width == WIDE else 8.5)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.04)
        axes.set_xlabel("misfit")
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        return svg(figure, "misfit", title)


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


@both_widths
def trades_figure(width: float, trades: Sequence[tuple[str, str, float, float]], *, title: str) -> str:
    """Return an SVG of what pairs of classes give each other, in percent; what comes back to the left.

    Args:
        width: of the figure, in inches.
        trades: first class, second class, what the first gives the second, what it gets back.
        title: for readers who cannot see it.
    """
    with mpl.rc_context(STYLE):
        figure = Figure((width, 1.1 + 0.36 * max(len(trades), 2)), layout="constrained")
        axes = figure.subplots()
        for y, (_, _, there, back) in enumerate(trades):
            axes.barh(y, there, color=look(0)[0], height=0.62, label="gives" if y == 0 else None)
            axes.barh(y, -back, color=look(4)[0], height=0.62, label="gets back" if y == 0 else None)
        most = 18 if width == WIDE else 11
        names = [
            f"{shown(first, most)} \N{RIGHTWARDS ARROW} {shown(second, most)}" for first, second, _, _ in trades
        ]
        axes.set_yticks(range(len(trades)), names)
        axes.invert_yaxis()
        axes.axvline(0, color=INK, lw=0.8)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value):g}"))
        axes.set_xlabel("percent of all misplaced weighted probability")
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        if trades:
            axes.legend(loc="lower right", fontsize=8.5)
        return svg(figure, "trades", title)


@both_widths
def points_figure(
    width: float,
    series: Sequence[tuple[str, Array]],
    *,
    name: str,
    x: str,
    y: str,
    log: bool,
    diagonal: bool,
    title: str,
    ticks: Sequence[str] | None = None,
) -> str:
    """Return an SVG of the points of several series.

    Args:
        width: of the figure, in inches.
        series: label and (n, 2) points each.
        name: of the figure, for its ids.
        x, y: labels of the axes.
        log: both axes logarithmic.
        diagonal: draw the line on which both are equal.
        title: for readers who cannot see it.
        ticks: names of the values 0, 1, 2, ... of x, where the series are then drawn side by side.
    """
    with mpl.rc_context(STYLE):
        figure = Figure((width, 4.4), layout="constrained")
        axes = figure.subplots()
        for i, (label, points) in enumerate(series):
            colour, marker = look(i)
            beside = 0.0 if ticks is None or len(series) < 2 else 0.5 * (i / (len(series) - 1) - 0.5)
            if len(points):
                axes.plot(
                    points[:, 0] + beside,
                    points[:, 1],
                    marker,
                    color=colour,
                    ms=4.5,
                    alpha=0.65,
                    label=shown(label, 40),
                    gid=f"series-{i}",
                )
        if log:
            axes.set_xscale("log")
            log_axis(axes)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        if diagonal:
            low = max(axes.get_xlim()[0], axes.get_ylim()[0])
            high = min(axes.get_xlim()[1], axes.get_ylim()[1])
            axes.plot([low, high], [low, high], color=SOFT, lw=1, zorder=0)
        if ticks is not None:
            turned = width < WIDE and sum(len(shown(tick, 24)) for tick in ticks) > 50
            axes.set_xticks(range(len(ticks)), [shown(tick, 24) for tick in ticks], rotation=90 if turned else 0)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(axis="both" if ticks is None else "y")
        axes.set_axisbelow(True)
        _legend(figure, max(1, len(series)), width, fontsize=8.5)
        return svg(figure, name, title)


def _legend(figure: Figure, number: int, width: float, **look_of: float) -> None:
    """A legend above the axes, whose entries page.js hides with their series."""
    legend = figure.legend(loc="outside upper left", ncols=min(4 if width == WIDE else 2, number), **look_of)
    for i, (handle, text) in enumerate(zip(legend.legend_handles, legend.get_texts(), strict=True)):
        for part in (handle, text):
            if part is not None:
                part.set_gid(f"series-{i}")
