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

from steelyard._common.intervals import QUANTILE
from steelyard.report.intervals import beside_mean
from steelyard.report.style import (
    NAMED_TICKS,
    STYLE,
    WIDTH,
    Array,
    Classes,
    class_axis,
    log_axis,
    look,
    shown,
    svg,
)

_LARGEST_HEATMAP = 100


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
    """Return the recall of each class under each loss as an SVG, classes from frequent to rare, with intervals.

    Many classes are dots without intervals, with a line through the means of twenty groups by rank.
    """
    order = classes.by_count()
    many = len(order) > NAMED_TICKS
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 3.9), layout="constrained")
        axes = figure.subplots()
        offsets = np.linspace(-0.28, 0.28, len(losses)) if len(losses) > 1 else np.zeros(1)
        for i, series in enumerate(losses):
            mean, ends = 100 * series.mean()[order], beside_mean(series.values, low=0, high=1)
            colour, marker = look(i)
            if many:  # the classes as faint dots, means over twenty groups of neighbouring ranks as a line
                groups = np.array_split(np.arange(len(order)), 20)
                axes.plot(mean, ".", color=colour, ms=2.5, alpha=0.35)
                x, y = [g.mean() for g in groups], [np.nanmean(mean[g]) for g in groups]
                axes.plot(x, y, color=colour, lw=1.6, marker=marker, ms=5, label=shown(series.label, 40))
                continue
            x = np.arange(len(order)) + offsets[i]
            error = None if ends is None else np.abs(100 * np.stack(ends)[:, order] - mean)
            axes.errorbar(x, mean, error, color=colour, fmt=marker, ms=5.5, lw=1.1, label=shown(series.label, 40))
        axes.set_ylabel("recall, %")
        axes.set_ylim(max(0.0, axes.get_ylim()[0]), 100)
        for drawn in axes.lines:  # markers at 100 stand on the frame, whole
            drawn.set_clip_on(False)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        class_axis(axes, classes, order)
        figure.legend(loc="outside upper left", ncols=min(4, len(losses)))
        return svg(figure, "recall", title)


def confusion_figure(confusions: Sequence[tuple[str, Array]], classes: Classes, *, title: str) -> str:
    """Return the mean confusion of each loss as an SVG, rows the true class; one square-root colour scale.

    Of more than 100 classes the 50 with the largest mean probability given to others are shown.
    """
    order = classes.by_count()
    note = ""
    if len(order) > _LARGEST_HEATMAP:
        wrong = sum(
            np.nan_to_num(P).sum(0) + np.nan_to_num(P).sum(1) - 2 * np.nan_to_num(P.diagonal())
            for _, P in confusions
        )
        chosen = set(np.argsort(-np.asarray(wrong))[:50].tolist())
        note = f"; the 50 of {len(order)} classes most confused"
        order = np.asarray([k for k in order if k in chosen])
    columns = min(4 if len(order) <= 20 else 2, len(confusions))
    rows = -(-len(confusions) // columns)
    side = min(WIDTH / columns, 5.6)
    with mpl.rc_context(STYLE):
        room = max(12, int(7 * side))
        titles = [textwrap.fill(shown(label, 40), room, break_on_hyphens=False) for label, _ in confusions]
        lines = max(title.count("\n") for title in titles)
        layout = ConstrainedLayoutEngine(h_pad=0.1)  # a reader's font may be taller than ours
        figure = Figure((WIDTH, rows * (side * 0.98 + 0.35 * lines) + 1.0), layout=layout)
        grid = figure.subplots(rows, columns, squeeze=False)
        image = None
        for axes, title_of, (_, P) in zip(grid.flat, titles, confusions, strict=False):
            part = P[np.ix_(order, order)]
            # cells as shapes, not a bitmap: sharp at any size and part of the page's own markup
            image = axes.pcolormesh(
                np.ma.masked_invalid(part), cmap="viridis", norm=PowerNorm(0.5, 0, 1), rasterized=len(order) > 40
            )
            axes.set_facecolor("#dddddd")
            axes.invert_yaxis()
            axes.set_aspect("equal")
            axes.set_title(title_of)
            names = [shown(classes.names[k], 12) for k in order]
            ticks = np.arange(len(order)) + 0.5
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
                shrink=0.5,
                aspect=40,
                ticks=[0, 0.01, 0.05, 0.1, 0.25, 0.5, 1],
            )
            bar.set_label(f"mean probability of the column's class (square-root scale){note}")
            bar.outline.set_visible(False)
        return svg(figure, "confusion", title)


def curves_figure(losses: Sequence[tuple[str, Array, Array]], *, title: str) -> str:
    """Return learning curves as an SVG: validation balanced accuracy, and each loss's own training loss, by epoch.

    Args:
        losses: label, (seeds, epochs) balanced accuracy, (seeds, epochs) training loss.
        title: for readers who cannot see it.
    """
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
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
                )
                if len(values) > 1:
                    axes.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.13, lw=0)
        left.set_title("validation balanced accuracy, %")
        right.set_title("training loss, each in its own units (log scale)")
        log_axis(right)
        for axes in (left, right):
            axes.set_xlabel("epoch")
            axes.grid()
            axes.set_axisbelow(True)
        figure.legend(loc="outside upper left", ncols=min(4, len(losses)))
        return svg(figure, "curves", title)


def balance_figure(laws: Sequence[tuple[str, Array, Array]], classes: Classes, *, title: str) -> str:
    """Return an SVG of pull against push of each class under each loss, and beneath it the relative residual.

    Args:
        laws: label, (K,) pull up, (K,) push down.
        classes: names and counts.
        title: for readers who cannot see it.
    """
    order = classes.by_count()
    columns = min(2, len(laws))
    rows = -(-len(laws) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 3.5 * rows), layout="constrained")
        panels = figure.subfigures(rows, columns, squeeze=False)
        for i, (panel, (label, pull, push)) in enumerate(zip(panels.flat, laws, strict=False)):
            colour, _ = look(i)
            upper, lower = panel.subplots(2, 1, sharex=True, height_ratios=[3, 1.5])
            x = np.arange(len(order))
            size = 5 if len(order) <= NAMED_TICKS else 2.4
            up, down = pull[order], push[order]
            upper.vlines(x, np.minimum(up, down), np.maximum(up, down), color="#b5b5b5", lw=1.2)
            upper.plot(x, up, "^", color=colour, ms=size + 1, label="pull up")
            upper.plot(x, down, "v", color="#555555", ms=size + 1, mfc="none", label="push down")
            positive = np.concatenate([up[up > 0], down[down > 0]])
            if len(positive) and (up >= 0).all() and (down >= 0).all():
                log_axis(upper)
            upper.set_title(shown(label, 40))
            upper.grid(axis="y")
            if i == 0:
                upper.legend(loc="best", fontsize=8.5, handletextpad=0.2)
            total = np.abs(up) + np.abs(down)
            residual = np.divide(up - down, total, out=np.zeros_like(up), where=total > 0)
            lower.bar(x, residual, color=colour, width=0.7)
            lower.axhline(0, color="#8a8a8a", lw=0.8)
            reach = max(0.05, float(np.abs(residual).max()) * 1.1)
            lower.set_ylim(-reach, reach)
            lower.set_ylabel("relative\nresidual", fontsize=8.5)
            lower.grid(axis="y")
            for axes in (upper, lower):
                axes.set_axisbelow(True)
            class_axis(lower, classes, order, label=i >= len(laws) - columns, counts=False)
        for panel in panels.flat[len(laws) :]:
            panel.set_visible(False)
        return svg(figure, "balance", title)


def misfit_figure(hypotheses: Sequence[tuple[str, float, float | None]], *, title: str) -> str:
    """Return an SVG of how badly each hypothesis fits, from 0 (its law holds) to 1; the first is the stated one.

    Args:
        hypotheses: text, misfit, standard error or None.
        title: for readers who cannot see it.
    """
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 0.9 + 0.36 * len(hypotheses)), layout="constrained")
        axes = figure.subplots()
        for y, (_, misfit, error) in enumerate(hypotheses):
            colour = look(0)[0] if y == 0 else "#9aa4ae"
            axes.barh(y, misfit, color=colour, height=0.62)
            if error is not None:
                low, high = max(0.0, misfit - QUANTILE * error), min(1.0, misfit + QUANTILE * error)
                axes.plot([low, high], [y, y], color="#222222", lw=1.1, marker="|", ms=6)
            axes.text(max(misfit, 0) + 0.008, y - 0.36, f"{misfit:.2f}", fontsize=8, va="center")
        axes.set_yticks(range(len(hypotheses)), [shown(text, 62) for text, _, _ in hypotheses])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.04)
        axes.set_xlabel("misfit")
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        return svg(figure, "misfit", title)


def weights_figure(
    values: Array, log_error: Array | None, classes: Classes, *, label: str, reference: bool, title: str
) -> str:
    """Return an SVG of a positive number for each class, logarithmic, with 95% intervals, classes by frequency.

    Args:
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
        figure = Figure((WIDTH, 3.4), layout="constrained")
        axes = figure.subplots()
        x, y = np.arange(len(order)), values[order]
        known = np.isfinite(y) & (y > 0)
        if log_error is not None:
            half = QUANTILE * log_error[order]
            sure = known & np.isfinite(half)
            low, high = y[sure] * np.exp(-half[sure]), y[sure] * np.exp(half[sure])
            axes.vlines(x[sure], low, high, color="#9aa4ae", lw=1.2 if few else 0.6)
        axes.plot(x[known], y[known], "o", color=look(0)[0], ms=6 if few else 2.5)
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
        class_axis(axes, classes, order)
        return svg(figure, "weights", title)


def trades_figure(trades: Sequence[tuple[str, str, float, float]], *, title: str) -> str:
    """Return an SVG of what pairs of classes give each other, in percent; what comes back to the left.

    Args:
        trades: first class, second class, what the first gives the second, what it gets back.
        title: for readers who cannot see it.
    """
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 1.1 + 0.36 * max(len(trades), 2)), layout="constrained")
        axes = figure.subplots()
        for y, (_, _, there, back) in enumerate(trades):
            axes.barh(y, there, color=look(0)[0], height=0.62, label="gives" if y == 0 else None)
            axes.barh(y, -back, color=look(4)[0], height=0.62, label="gets back" if y == 0 else None)
        names = [f"{shown(first)} \N{RIGHTWARDS ARROW} {shown(second)}" for first, second, _, _ in trades]
        axes.set_yticks(range(len(trades)), names)
        axes.invert_yaxis()
        axes.axvline(0, color="#555555", lw=0.8)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value):g}"))
        axes.set_xlabel("percent of all misplaced weighted probability")
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        if trades:
            axes.legend(loc="lower right", fontsize=8.5)
        return svg(figure, "trades", title)


def points_figure(
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
        series: label and (n, 2) points each.
        name: of the figure, for its ids.
        x, y: labels of the axes.
        log: both axes logarithmic.
        diagonal: draw the line on which both are equal.
        title: for readers who cannot see it.
        ticks: names of the values 0, 1, 2, ... of x, where the series are then drawn side by side.
    """
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 4.4), layout="constrained")
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
                )
        if log:
            axes.set_xscale("log")
            log_axis(axes)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        if diagonal:
            low = max(axes.get_xlim()[0], axes.get_ylim()[0])
            high = min(axes.get_xlim()[1], axes.get_ylim()[1])
            axes.plot([low, high], [low, high], color="#8a8a8a", lw=1, zorder=0)
        if ticks is not None:
            axes.set_xticks(range(len(ticks)), [shown(tick, 24) for tick in ticks])
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(axis="both" if ticks is None else "y")
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper left", ncols=min(4, max(1, len(series))), fontsize=8.5)
        return svg(figure, name, title)
