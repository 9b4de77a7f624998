"""Figures of losses, hypotheses and points as SVG text from plain numbers."""

import textwrap
from collections.abc import Sequence
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from steelyard._common.intervals import QUANTILE
from steelyard.report.style import STYLE, Array, legend, log_axis, look, shown
from steelyard.report.svg import INK, SOFT, WIDE, both_widths, in_panels, svg


def curves_figure(losses: Sequence[tuple[str, Array, Array]], *, title: str) -> str:
    """Return learning curves as SVGs: validation balanced accuracy, and each loss's own training loss, by epoch.

    Args:
        losses: label, (seeds, epochs) balanced accuracy, (seeds, epochs) training loss.
        title: for readers who cannot see it.
    """
    accuracy = [100 * values for _, values, _ in losses]
    parts = [
        partial(_curves, name="accuracy", values=accuracy, said="validation balanced accuracy, %", title=title),
        partial(
            _curves, name="loss", values=[values for _, _, values in losses],
            said="training loss, each in its own units (log scale)", log=True, title=title,
        ),
    ]  # fmt: skip
    return f"<div>{legend([label for label, _, _ in losses])}{in_panels(parts, series=False)}</div>"


def _curves(width: float, *, name: str, values: Sequence[Array], said: str, log: bool = False, title: str) -> str:
    with mpl.rc_context(STYLE):
        figure = Figure((width, 3.4), layout="constrained")
        axes = figure.subplots()
        for i, part in enumerate(values):
            colour, marker = look(i)
            epochs = np.arange(1, part.shape[1] + 1)
            every = max(1, len(epochs) // 8)
            own: dict[str, Any] = {"color": colour, "gid": f"series-{i}"}
            axes.plot(epochs, part.mean(0), lw=1.5, marker=marker, ms=4.5, markevery=every, **own)
            if len(part) > 1:
                axes.fill_between(epochs, part.min(0), part.max(0), alpha=0.13, lw=0, **own)
        axes.set_title(said)
        if log:
            log_axis(axes)
        axes.set_xlabel("epoch")
        axes.grid()
        axes.set_axisbelow(True)
        return svg(figure, f"curves-{name}", f"{title}: {said}")


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
    """Return SVGs of the points of several series, for wide and narrow windows, with a legend.

    Args:
        series: label and (n, 2) points each.
        name: of the figure, for its ids.
        x, y: labels of the axes.
        log: both axes logarithmic.
        diagonal: draw the line on which both are equal.
        title: for readers who cannot see it.
        ticks: names of the values 0, 1, 2, ... of x, where the series are then drawn side by side.
    """
    drawn = _points(series, name=name, x=x, y=y, log=log, diagonal=diagonal, title=title, ticks=ticks)
    return f"<div>{legend([label for label, _ in series])}{drawn}</div>"


@both_widths
def _points(
    width: float,
    series: Sequence[tuple[str, Array]],
    *,
    name: str,
    x: str,
    y: str,
    log: bool,
    diagonal: bool,
    title: str,
    ticks: Sequence[str] | None,
) -> str:
    with mpl.rc_context(STYLE):
        figure = Figure((width, 4.4), layout="constrained")
        axes = figure.subplots()
        for i, (_, points) in enumerate(series):
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
            names = [shown(tick, 24) for tick in ticks]
            turned = max(map(len, names)) * len(names) > 11 * width
            axes.set_xticks(range(len(ticks)), names, rotation=90 if turned else 0)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(axis="both" if ticks is None else "y")
        axes.set_axisbelow(True)
        return svg(figure, name, title)
