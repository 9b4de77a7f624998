"""Figures as SVG text for a page: its colours, its widths, values under the pointer, and few bytes."""

import functools
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Concatenate, ParamSpec
from xml.sax.saxutils import escape, quoteattr

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

Given = ParamSpec("Given")

# Okabe and Ito's colours, which most colour-blind readers tell apart; markers tell them apart in print too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333", "#8c6d31")
INK, SOFT, LINE = "#1d2126", "#8a8a8a", "#dfe3e7"
WIDE, NARROW = 9.2, 4.5  # inches, which a page of 1000 and of 390 pixels shows about as they are
# matplotlib takes no variables: each colour stands for one of page.css, which follows the reader's theme
_VARIABLES = {colour: f"var(--c{i})" for i, colour in enumerate(COLOURS)} | {
    INK: "var(--ink)",
    "#000000": "var(--ink)",
    SOFT: "var(--soft)",
    LINE: "var(--line)",
    "#ffffff": "var(--ground)",
}


def both_widths(draw: Callable[Concatenate[float, Given], str]) -> Callable[Given, str]:
    """Return a function that draws a figure twice, for wide and narrow windows; page.css shows one of them.

    Args:
        draw: takes the width in inches before its other arguments, and returns an SVG.
    """

    @functools.wraps(draw)
    def both(*args: Given.args, **named: Given.kwargs) -> str:
        wide, narrow = draw(WIDE, *args, **named), draw(NARROW, *args, **named)
        return f'<div><div class="wide-figure">{wide}</div><div class="narrow-figure">{narrow}</div></div>'

    return both


def in_panels(parts: Sequence[Callable[[float], str]], *, columns: int = 2, series: bool = True) -> str:
    """Return several figures beside one another, each drawn once; page.css puts them into fewer columns where the
    window is narrow.

    Args:
        parts: draw an SVG of a width in inches.
        columns: of a wide window, at least 2: a figure as wide as that could not be read in a narrow one.
        series: whether each part is a series, which page.js can hide.
    """
    width = WIDE / columns
    named = [f' data-series="{i}"' if series else "" for i in range(len(parts))]
    inside = "".join(f"<div{name}>{part(width)}</div>" for name, part in zip(named, parts, strict=True))
    return f'<div class="panels" style="--columns:{columns};--least:{72 * width:.0f}px">{inside}</div>'


def svg(figure: Figure, name: str, title: str, values: Mapping[str, Sequence[str]] | None = None) -> str:
    """Return the figure as one SVG element whose ids no other figure on the page has.

    A group of the figure whose gid is ``series-3`` or ``series-3-points`` gets the class ``series-3``, by which
    page.js hides it.

    Args:
        figure: what to show.
        name: of the figure, for its ids.
        title: for readers who cannot see it.
        values: by gid, the text of each marker of that line, which a browser shows under the pointer.
    """
    if figure.get_figwidth() < WIDE:
        name += "-narrow"
    with mpl.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        # Measured in matplotlib's font, shown in the reader's, which may well have the sign.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    for gid, texts in (values or {}).items():
        text = _with_values(text, gid, texts)
    text = re.sub(r'<g id="(series-\d+)(?:-points)?">', r'<g class="\1">', text)
    text = _own_ids(text, name)
    text = _in_tags(text, "#[0-9a-f]{6}", lambda found: _VARIABLES.get(found[0], found[0]))
    text = _smaller(text)
    # width and height are the page's business; the view box keeps the shape
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label={quoteattr(title)}', 1)


def _with_values(text: str, gid: str, texts: Sequence[str]) -> str:
    """Put a title into each marker of one line."""
    before, start, rest = text.partition(f'<g id="{gid}">')
    inside, end, after = rest.partition("<g id=")
    told = iter(texts)
    inside, found = re.subn(
        r"(<use [^>]*?)/>", lambda use: f"{use[1]}><title>{escape(next(told, ''))}</title></use>", inside
    )
    if found != len(texts):
        raise ValueError(f"the line {gid} must have a marker for each of its {len(texts)} values, got {found}")
    return before + start + inside + end + after


def _own_ids(text: str, name: str) -> str:
    """Name the ids that something refers to after the figure, and drop the others."""
    number, ids = count(), {}

    def refer(found: re.Match[str]) -> str:
        if found[2] not in ids:
            ids[found[2]] = f"{name}-{next(number)}"
        return found[1] + ids[found[2]]

    text = _in_tags(text, r'(xlink:href="#|url\(#)([^")]+)', refer)
    return _in_tags(text, r' id="([^"]+)"', lambda found: f' id="{ids[found[1]]}"' if found[1] in ids else "")


def _smaller(text: str) -> str:
    """Round coordinates to a hundredth of a point, and state once what neighbouring markers share."""
    text = _in_tags(
        text,
        r' (?:d|x|y)="[^"]*"',
        lambda found: re.sub(r"\d+\.\d{3,}", lambda n: f"{float(n[0]):.2f}", found[0]),
    )
    text = re.sub(
        r'((?:<use [^>]*? style="([^"]*)"(?:/>|>.*?</use>)\s*)(?:<use [^>]*? style="\2"(?:/>|>.*?</use>)\s*)+)',
        lambda run: f'<g style="{run[2]}">' + run[1].replace(f' style="{run[2]}"', "") + "</g>",
        text,
    )
    return re.sub(r">\s*\n\s*", ">\n", text)


def _in_tags(text: str, pattern: str, put: Callable[[re.Match[str]], str]) -> str:
    """Replace a pattern within tags alone: what a reader sees, such as the name of a class, stays."""
    return re.sub("<[^>]*>", lambda tag: re.sub(pattern, put, tag[0]), text)
