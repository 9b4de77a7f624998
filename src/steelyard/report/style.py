"""What all figures share: style, class names on an axis, and SVG text as output."""

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Indices = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

# Okabe and Ito's colours, which most colour-blind readers tell apart; markers tell them apart in print too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE = {
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
WIDTH = 9.2  # inches; the page scales it
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


def class_axis(axes: Axes, classes: Classes, order: Indices, *, label: bool = True, counts: bool = True) -> None:
    """Name the classes under an axis, or number them by rank where there are many."""
    if len(order) <= NAMED_TICKS:
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


def log_axis(axes: Axes) -> None:
    """A logarithmic vertical axis with plain numbers: formulas are not parsed here."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def look(index: int) -> tuple[str, str]:
    """Colour and marker of the series of that number; from the ninth on a colour comes with another marker."""
    turn = index // len(_COLOURS)
    return _COLOURS[index % len(_COLOURS)], _MARKERS[(index + 3 * turn) % len(_MARKERS)]


def svg(figure: Figure, name: str, title: str) -> str:
    """Return the figure as one SVG element whose ids no other figure on the page has."""
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
