"""What all figures share: style, and class names on an axis."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from steelyard.report.svg import COLOURS, INK, LINE, SOFT

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Indices = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

# matplotlib's markers, as they look in a legend
_SHAPES = {
    "o": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "s": "M-4-4h8v8h-8z",
    "^": "M0-5 5 4H-5z",
    "D": "M0-5 5 0 0 5-5 0z",
    "v": "M0 5 5-4H-5z",
    "P": "M-1.6-5h3.2v3.4H5v3.2H1.6V5h-3.2V1.6H-5v-3.2h3.4z",
    "X": "M-2.4-4.7 0-2.3 2.4-4.7 4.7-2.4 2.3 0 4.7 2.4 2.4 4.7 0 2.3-2.4 4.7-4.7 2.4-2.3 0-4.7-2.4z",
    "*": "M0-5.5 1.5-1.8 5.5-1.7 2.4.8 3.4 4.6 0 2.4-3.4 4.6-2.4.8-5.5-1.7-1.5-1.8z",
}
_MARKERS = tuple(_SHAPES)
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
    axes: Axes,
    classes: Classes,
    order: Indices,
    *,
    width: float,
    counts: bool = True,
    places: Indices | None = None,
) -> None:
    """Name the classes under an axis of that width in inches, or number them by rank where there are many.

    The axis shows the ranks `places`, or all.
    """
    places = np.arange(len(order)) if places is None else places
    if len(order) <= NAMED_TICKS:
        here = order[places]
        names = [shown(classes.names[k]) + (f"\n{classes.counts[k]}" if counts else "") for k in here]
        longest = max(len(name.split("\n")[0]) for name in names)
        most = max(longest, *(len(str(classes.counts[k])) for k in here))
        turned = most * len(here) > 9 * width
        axes.set_xticks(places, names, rotation=90 if turned else 0, fontsize=8.5)
        text = "class, with its training samples" if counts else "class, from frequent to rare"
    else:
        ranks = places[np.linspace(0, len(places) - 1, 9 if width > 6 else 5).round().astype(int)]
        axes.set_xticks(ranks, [f"{i + 1}\n({classes.counts[order[i]]})" for i in ranks], fontsize=8.5)
        text = "classes ranked from frequent to rare (training samples)"
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


def legend(labels: Sequence[str]) -> str:
    """Return what the colours and markers of series stand for, as HTML: a page's text is as large in every window.

    An entry is hidden by page.js with its series.
    """
    entries = []
    for i, label in enumerate(labels):
        colour, marker = look(i)
        sign = f'<path d="{_SHAPES[marker]}" fill="var(--c{COLOURS.index(colour)})"/>'
        sign = f'<svg viewBox="-6 -6 12 12" aria-hidden="true">{sign}</svg>'
        entries.append(f'<li data-series="{i}">{sign}{escape(shown(label, 60))}</li>')
    return f'<ul class="legend">{"".join(entries)}</ul>'
