"""What all figures share: style, and class names on an axis."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from steelyard.report.svg import COLOURS, INK, LINE, SOFT, WIDE

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Indices = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and read aloud
    "text.parse_math": False,  # a class may be named $x$
    "font.family": ["sans-serif"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",  # the page's own ground
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": SOFT,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "legend.frameon": False,
}
_LONGEST_NAME = 18
NAMED_TICKS = 30  # more classes than this are numbered by rank, not named


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
        """Return the indices from the most to the least frequent."""
        return np.argsort(-np.asarray(self.counts), kind="stable")


def shown(name: str, longest: int = _LONGEST_NAME) -> str:
    """Return a name as figures show it: control characters replaced, the end of a long one left out."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(name))
    return clean if len(clean) <= longest else clean[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"


def wrapped(text: str, room: int) -> str:
    """Return a text in lines of at most `room` characters, broken after spaces and the signs of a loss.

    A word is broken where it alone is longer than a line.
    """
    lines = [""]
    for piece in re.findall(r"[^\s:,;@=_+/-]*[\s:,;@=_+/-]+|[^\s:,;@=_+/-]+", text):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > room:
            lines.append("")
        lines[-1] += piece
        while len(lines[-1].rstrip()) > room:
            lines[-1:] = [lines[-1][:room], lines[-1][room:]]
    return "\n".join(line.rstrip() for line in lines)


def class_axis(
    axes: Axes, classes: Classes, order: Indices, *, width: float, label: bool = True, counts: bool = True
) -> None:
    """Name the classes under an axis of that width in inches, or number them by rank where there are many."""
    if len(order) <= NAMED_TICKS:
        names = [shown(classes.names[k]) + (f"\n{classes.counts[k]}" if counts else "") for k in order]
        longest = max(len(name.split("\n")[0]) for name in names)
        turned = (
            longest * len(order) > 9 * width or max(len(str(n)) for n in classes.counts) * len(order) > 9 * width
        )
        axes.set_xticks(np.arange(len(order)), names, rotation=90 if turned else 0, fontsize=8.5)
        text = "class, with its training samples" if counts else "class, from frequent to rare"
    else:
        places = np.linspace(0, len(order) - 1, 9 if width > 6 else 5).round().astype(int)
        axes.set_xticks(places, [f"{i + 1}\n({classes.counts[order[i]]})" for i in places], fontsize=8.5)
        text = "classes ranked from frequent to rare (training samples)"
    if label:
        axes.set_xlabel(text)


def log_axis(axes: Axes) -> None:
    """A logarithmic vertical axis with plain numbers: formulas are not parsed here."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def look(index: int) -> tuple[str, str]:
    """Colour and marker of the series of that number; from the ninth on a colour comes with another marker."""
    turn = index // len(COLOURS)
    return COLOURS[index % len(COLOURS)], _MARKERS[(index + 3 * turn) % len(_MARKERS)]


def legend_above(figure: Figure, number: int, width: float, **look_of: float) -> None:
    """A legend above the axes, whose entries page.js hides with their series."""
    legend = figure.legend(loc="outside upper left", ncols=min(4 if width == WIDE else 2, number), **look_of)
    for i, (handle, text) in enumerate(zip(legend.legend_handles, legend.get_texts(), strict=True)):
        for part in (handle, text):
            if part is not None:
                part.set_gid(f"series-{i}")
