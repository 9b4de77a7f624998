"""The pages of one run, and the links between them.

A run is a folder with a page, together with the folders in it that have pages: the audit of a comparison belongs
into its folder. A folder whose index page :func:`steelyard.report.write_index` wrote is a run, too.
"""

import re
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from steelyard._common.files import write_text
from steelyard.report.style import shown

KINDS = {
    "results.json": "Comparison",
    "audit.json": "Audit",
    "forecast.json": "Forecast",
    "advise.json": "Advice",
    "claim.json": "Claim",
}
"""What a page is of, by the file that makes it; in the order of the links."""
_PAGES = ("report.html", "index.html")
_NAV = re.compile(r'<nav aria-label="Pages of this run">.*?</nav>', re.DOTALL)


@dataclass(frozen=True)
class Page:
    """A page of a run.

    Attributes:
        file: where it is.
        kind: what it is of, an entry of :data:`KINDS`; empty for an index.
        title: of the link that leads to it.
    """

    file: Path
    kind: str
    title: str

    def link_from(self, folder: Path) -> str:
        """Return the address of the page for a page in a folder of the same run."""
        parts = (
            [".."]
            if folder != self.file.parent and folder.parent in (self.file.parent, self.file.parent.parent)
            else []
        )
        parts += [self.file.parent.name] if self.file.parent not in (folder, folder.parent) else []
        return quote("/".join([*parts, self.file.name]))


def page_of(folder: Path) -> Page | None:
    """Return the page of a folder, or None where there is none of ours."""
    for name in _PAGES:
        file = folder / name
        if file.is_file() and not file.is_symlink():
            kind = next((kind for held, kind in KINDS.items() if (folder / held).is_file()), "")
            return Page(file, kind, f"{kind}: {shown(folder.name, 40)}" if kind else "Overview")
    return None


def page_in(folder: str | PathLike[str]) -> Path:
    """Return the path of the page that a folder holds.

    Raises:
        FileNotFoundError: it is no folder, or holds no page; the sentence says how to get one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: name the folder of a run, such as runs/digits")
    page = page_of(folder)
    if page is not None:
        return page.file
    if any((folder / held).is_file() for held in KINDS):
        raise FileNotFoundError(f"{folder} holds results and no page: `steelyard report {folder}` writes it")
    raise FileNotFoundError(f"{folder} holds no page: there is no report.html and no index.html")


def pages_of(folder: Path) -> list[Page]:
    """Return the pages of the run that a folder belongs to, the overview first, then by kind and name."""
    root = folder.parent if page_of(folder) is not None and page_of(folder.parent) is not None else folder
    folders = [root, *(one for one in root.iterdir() if one.is_dir() and not one.is_symlink())]
    found = [page for one in folders if (page := page_of(one)) is not None]
    order = ["", *KINDS.values()]
    return sorted(found, key=lambda page: (order.index(page.kind), page.file.parent != root, page.title))


def write_page(file: Path, text: str) -> Path:
    """Write a page, put links to it into the other pages of its run, and links to those into it."""
    write_text(file, text)
    folder = file.parent.resolve()
    pages = pages_of(folder)
    for page in pages:
        before = page.file.read_text(encoding="utf-8", errors="replace")
        nav = str(_nav(pages, page)) if len(pages) > 1 else str(_nav([], page))
        after = _NAV.sub(lambda _, nav=nav: nav, before, count=1)  # type: ignore[misc]
        if after != before:
            write_text(page.file, after)
    return file


def _nav(pages: list[Page], current: Page) -> Markup:
    links = [
        Markup('<a aria-current="page" href="#">{}</a>').format(page.title)
        if page.file == current.file
        else Markup('<a href="{}">{}</a>').format(page.link_from(current.file.parent), page.title)
        for page in pages
    ]
    return Markup('<nav aria-label="Pages of this run">{}</nav>').format(Markup("\n").join(links))
