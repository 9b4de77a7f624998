"""Links between the pages of a run, the index of a folder of runs, and the command that opens a page."""

import re
import webbrowser

import pytest

from steelyard.report import page_in, write_index, write_report
from steelyard.report.cards import Headline
from steelyard.report.family import pages_of
from steelyard.report.index_page import _headline
from tests.helpers import run_command
from tests.report.browser import check_page, check_scripts, opened
from tests.report.test_page import make_run


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two comparisons in a folder, with pages that draw nothing."""
    for name in ("recall_figure", "confusion_figure", "curves_figure", "balance_figure"):
        monkeypatch.setattr(f"steelyard.report.compare_page.{name}", lambda *_, **__: "<svg></svg>")
    for name in ("a", "b & <c>"):
        write_report(make_run(tmp_path / name, ["x", "y"], seeds=4))
    return tmp_path


def links(page):
    return re.findall(
        r"<a (?:href|aria-current)[^>]*>([^<]*)</a>", re.search("<nav.*?</nav>", page.read_text(), re.DOTALL)[0]
    )


def test_the_pages_of_a_run_lead_to_one_another(runs):
    assert links(runs / "a" / "report.html") == []  # other runs in a folder without a page are strangers
    index = write_index(runs)
    names = ["Overview", "Comparison: a", "Comparison: b &amp; &lt;c&gt;"]
    for page in (index, runs / "a" / "report.html", runs / "b & <c>" / "report.html"):
        assert links(page) == names
    check_page(index, figures=0)
    check_scripts(index.read_text())
    with opened(index) as (tab, said):
        for name in ("Comparison: b & <c>", "Comparison: a", "Overview"):  # each is reached from the one before
            tab(lambda p, name=name: p.click(f"nav >> text={name}"))
            assert tab("document.querySelector('nav [aria-current]').textContent") == name
        assert said == []


def test_a_page_in_a_run_is_linked_from_it(runs):
    write_report(make_run(runs / "a" / "audit", ["x", "y"], seeds=4))
    assert links(runs / "a" / "report.html") == ["Comparison: a", "Comparison: audit"]
    assert links(runs / "a" / "audit" / "report.html") == ["Comparison: a", "Comparison: audit"]
    assert 'href="../report.html"' in (runs / "a" / "audit" / "report.html").read_text()


def test_a_page_that_is_a_link_or_not_ours_is_left_alone(runs, tmp_path):
    (runs / "mine").mkdir()
    (runs / "mine" / "report.html").write_text("<p>mine</p>")
    (runs / "link").mkdir()
    (runs / "link" / "report.html").symlink_to(runs / "a" / "report.html")
    write_index(runs)
    assert (runs / "mine" / "report.html").read_text() == "<p>mine</p>"
    assert (runs / "link" / "report.html").is_symlink()
    assert "link" not in {page.file.parent.name for page in pages_of(runs)}


def test_an_index_needs_runs(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no finished run"):
        write_index(tmp_path)


def test_the_answer_of_a_run_stands_in_the_index(runs):
    head = _headline(runs / "a")
    assert isinstance(head, Headline)
    assert head.text in write_index(runs).read_text().replace("&#39;", "'")


def test_the_command_opens_the_page_and_prints_its_path(runs, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(webbrowser, "open", lambda address: not asked.append(address))
    page = runs / "a" / "report.html"
    assert run_command(capsys, "open", str(runs / "a"))[:2] == (0, f"{page}\n")
    assert asked == [page.as_uri()]
    assert run_command(capsys, "open", str(runs / "a"), "--print")[:2] == (0, f"{page}\n")
    assert len(asked) == 1
    monkeypatch.setattr(webbrowser, "open", lambda _: False)
    code, text, told = run_command(capsys, "open", str(runs / "a"))
    assert code == 2
    assert text == f"{page}\n"
    assert "no browser could be started" in told


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "is no folder"),
        (".", "holds no page: there is no report.html"),
        ("results", "holds results and no page"),
    ],
)
def test_where_there_is_no_page_the_sentence_says_so(tmp_path, capsys, name, message):
    make_run(tmp_path / "results", ["x", "y"])
    code, _, told = run_command(capsys, "open", str(tmp_path / name))
    assert code == 2
    assert message in told
    with pytest.raises(FileNotFoundError, match=message):
        page_in(tmp_path / name)
