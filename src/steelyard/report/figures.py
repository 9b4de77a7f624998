"""Figures as SVG text from plain numbers; shared by every report. Readable from 2 classes to 1000."""

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Indices = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

# Okabe and Ito's colours, which most colour-blind readers tell apart; markers tell them apart in print too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and read aloud
    "text.parse_math": False,  # a class may be named $x$
    "font.family": ["sans-serif"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8a8a",
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
}
_WIDTH = 9.2  # inches; the page scales it
_LONGEST_NAME = 18
_NAMED_TICKS = 30  # more classes than this are numbered by rank, not named
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

    def half_interval(self) -> Array | None:
        """Half the 95% Student interval over seeds, or None for one seed."""
        seeds = len(self.values)
        if seeds < 2:
            return None
        from scipy import stats

        spread = self.values.std(0, ddof=1) / np.sqrt(seeds)
        return np.asarray(float(stats.t.ppf(0.975, seeds - 1)) * spread)


@dataclass(frozen=True)
class Classes:
    """Names and training counts, in the order of the columns of every array.

    Attributes:
        names: K.
        counts: K training samples.
    """

    names: Sequence[str]
    counts: Sequence[int]

    def by_count(self) -> Indices:
        """Indices from the most to the least frequent."""
        return np.argsort(-np.asarray(self.counts), kind="stable")


def shown(name: str, longest: int = _LONGEST_NAME) -> str:
    """A name as figures show it: control characters replaced, the end of a long one left out."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(name))
    return clean if len(clean) <= longest else clean[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"


def recall_figure(losses: Sequence[Series], classes: Classes, *, title: str) -> str:
    """Recall of each class under each loss, classes from frequent to rare, with intervals over seeds.

    Many classes are dots without intervals, with a line through the means of twenty groups by rank.
    """
    order = classes.by_count()
    many = len(order) > _NAMED_TICKS
    with mpl.rc_context(_STYLE):
        figure = Figure((_WIDTH, 3.9), layout="constrained")
        axes = figure.subplots()
        offsets = np.linspace(-0.28, 0.28, len(losses)) if len(losses) > 1 else np.zeros(1)
        for i, series in enumerate(losses):
            mean, half = 100 * series.mean()[order], series.half_interval()
            colour, marker = _look(i)
            if many:  # the classes as faint dots, means over twenty groups of neighbouring ranks as a line
                groups = np.array_split(np.arange(len(order)), 20)
                axes.plot(mean, ".", color=colour, ms=2.5, alpha=0.35)
                x, y = [g.mean() for g in groups], [np.nanmean(mean[g]) for g in groups]
                axes.plot(x, y, color=colour, lw=1.6, marker=marker, ms=5, label=shown(series.label, 40))
                continue
            x = np.arange(len(order)) + offsets[i]
            error = None if half is None else 100 * half[order]
            axes.errorbar(x, mean, error, color=colour, fmt=marker, ms=5.5, lw=1.1, label=shown(series.label, 40))
        axes.set_ylabel("recall, %")
        axes.set_ylim(max(0.0, axes.get_ylim()[0]), 102)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        _class_axis(axes, classes, order)
        figure.legend(loc="outside upper left", ncols=min(4, len(losses)))
        return _svg(figure, "recall", title)


def confusion_figure(confusions: Sequence[tuple[str, Array]], classes: Classes, *, title: str) -> str:
    """Mean confusion of each loss, rows the true class; square-root colour scale, alike for all.

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
    side = _WIDTH / columns
    with mpl.rc_context(_STYLE):
        figure = Figure((_WIDTH, rows * side * 0.98 + 0.9), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        image = None
        for axes, (label, P) in zip(grid.flat, confusions, strict=False):
            part = P[np.ix_(order, order)]
            # cells as shapes, not a bitmap: sharp at any size and part of the page's own markup
            image = axes.pcolormesh(
                np.ma.masked_invalid(part), cmap="viridis", norm=PowerNorm(0.5, 0, 1), rasterized=len(order) > 40
            )
            axes.set_facecolor("#dddddd")
            axes.invert_yaxis()
            axes.set_aspect("equal")
            axes.set_title(shown(label, 28))
            names = [shown(classes.names[k], 12) for k in order]
            ticks = np.arange(len(order)) + 0.5
            if len(order) > _NAMED_TICKS:
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
        return _svg(figure, "confusion", title)


def curves_figure(losses: Sequence[tuple[str, Array, Array]], *, title: str) -> str:
    """Learning curves: validation balanced accuracy, and each loss's own training loss, by epoch.

    Args:
        losses: label, (seeds, epochs) balanced accuracy, (seeds, epochs) training loss.
        title: for readers who cannot see it.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure((_WIDTH, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for i, (label, accuracy, training) in enumerate(losses):
            colour, marker = _look(i)
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
        _log_axis(right)
        for axes in (left, right):
            axes.set_xlabel("epoch")
            axes.grid()
            axes.set_axisbelow(True)
        figure.legend(loc="outside upper left", ncols=min(4, len(losses)))
        return _svg(figure, "curves", title)


def balance_figure(laws: Sequence[tuple[str, Array, Array]], classes: Classes, *, title: str) -> str:
    """Pull up against push down of each class under each loss, and beneath it the relative residual.

    Args:
        laws: label, (K,) pull up, (K,) push down.
        classes: names and counts.
        title: for readers who cannot see it.
    """
    order = classes.by_count()
    columns = min(2, len(laws))
    rows = -(-len(laws) // columns)
    with mpl.rc_context(_STYLE):
        figure = Figure((_WIDTH, 3.5 * rows), layout="constrained")
        panels = figure.subfigures(rows, columns, squeeze=False)
        for i, (panel, (label, pull, push)) in enumerate(zip(panels.flat, laws, strict=False)):
            colour, _ = _look(i)
            upper, lower = panel.subplots(2, 1, sharex=True, height_ratios=[3, 1.5])
            x = np.arange(len(order))
            size = 5 if len(order) <= _NAMED_TICKS else 2.4
            up, down = pull[order], push[order]
            upper.vlines(x, np.minimum(up, down), np.maximum(up, down), color="#b5b5b5", lw=1.2)
            upper.plot(x, up, "^", color=colour, ms=size + 1, label="pull up")
            upper.plot(x, down, "v", color="#555555", ms=size + 1, mfc="none", label="push down")
            positive = np.concatenate([up[up > 0], down[down > 0]])
            if len(positive) and (up >= 0).all() and (down >= 0).all():
                _log_axis(upper)
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
            _class_axis(lower, classes, order, label=i >= len(laws) - columns, counts=False)
        for panel in panels.flat[len(laws) :]:
            panel.set_visible(False)
        return _svg(figure, "balance", title)


def _class_axis(axes: Axes, classes: Classes, order: Indices, *, label: bool = True, counts: bool = True) -> None:
    """Name the classes under an axis, or number them by rank where there are many."""
    if len(order) <= _NAMED_TICKS:
        names = [shown(classes.names[k]) + (f"\n{classes.counts[k]}" if counts else "") for k in order]
        longest = max(len(name.split("\n")[0]) for name in names)
        turned = longest * len(order) > 80
        axes.set_xticks(np.arange(len(order)), names, rotation=90 if turned else 0, fontsize=8.5)
        text = "class, with its training samples" if counts else "class, from frequent to rare"
    else:
        places = np.linspace(0, len(order) - 1, 9).round().astype(int)
        axes.set_xticks(places, [f"{i + 1}\n({classes.counts[order[i]]})" for i in places], fontsize=8.5)
        text = "classes ranked from frequent to rare (training samples)"
    if label:
        axes.set_xlabel(text)


def _log_axis(axes: Axes) -> None:
    """A logarithmic vertical axis with plain numbers: formulas are not parsed here."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _look(index: int) -> tuple[str, str]:
    return _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]


def _svg(figure: Figure, name: str, title: str) -> str:
    """The figure as one SVG element whose ids no other figure on the page has."""
    with mpl.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        # Measured in matplotlib's font, shown in the reader's, which may well have the sign.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # width and height are the page's business; the view box keeps the shape
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{_attribute(title)}"', 1)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
