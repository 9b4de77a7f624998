"""One page that leads to the pages of the folders in a folder."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path

from steelyard.report.advise_page import advice_headline
from steelyard.report.audit_page import audit_headline
from steelyard.report.cards import Headline
from steelyard.report.claim_page import claim_headline
from steelyard.report.compare_findings import compare_headline
from steelyard.report.family import Page, pages_of, write_page
from steelyard.report.forecast_page import forecast_headline
from steelyard.report.html import render_template
from steelyard.report.results import AdviceResults, Audit, Claim, Comparison, ForecastResults
from steelyard.report.results.records import Results
from steelyard.report.style import shown


def write_index(folder: str | PathLike[str]) -> Path:
    """Write `index.html` into a folder of finished runs: the answer of each and a link to its page.

    The pages of the runs get a link to the index and to one another.

    Returns:
        The path of the index.

    Raises:
        FileNotFoundError: there is no folder in it that holds results and their page.
        ValueError: the results of one are not ours, or were cut off or edited; the sentence names the file.
    """
    folder = Path(folder)
    pages = [page for page in pages_of(folder) if page.kind and page.file.parent != folder]
    if not pages:
        raise FileNotFoundError(f"{folder} holds no finished run, and no folder in it holds one with its page")
    text = render_template(
        "index.html.j2", name=shown(folder.resolve().name, 80), pages=[_entry(p) for p in pages]
    )
    return write_page(folder / "index.html", text)


def _entry(page: Page) -> dict[str, object]:
    return {
        "title": page.title,
        "link": page.link_from(page.file.parent.parent),
        "head": _headline(page.file.parent),
    }


def _headline(folder: Path) -> Headline | None:
    readers: list[tuple[type[Results], Callable[..., Headline]]] = [
        (Comparison, compare_headline),
        (Audit, audit_headline),
        (Claim, claim_headline),
        (ForecastResults, forecast_headline),
        (AdviceResults, advice_headline),
    ]
    for results, headline in readers:
        if (folder / results.FILE).is_file():
            return headline(results.read(folder))
    return None
