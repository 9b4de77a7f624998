"""What a reader does with a page: sort, search, hide, download, in both themes and at both widths."""

import csv
import io
import json
from importlib.resources import files

import pytest
import torch

from steelyard import audit
from steelyard.report import write_audit_page, write_index, write_report
from tests.report.browser import opened
from tests.report.test_page import make_run

_NAMES = ["=1+1", *(f"class {k}" for k in range(1, 39)), "last"]
_COLUMN = "[...document.querySelectorAll('#classes tbody tr:not([hidden])')].map(r => r.cells[{}].firstChild.textContent)"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_report(make_run(tmp_path_factory.mktemp("run"), _NAMES, seeds=5))


def test_a_click_and_a_key_sort_and_the_third_goes_back(page):
    with opened(page) as (tab, said):
        first = tab(_COLUMN.format(3))
        tab(lambda p: p.click("#classes th:nth-child(4) button"))
        numbers = [float(text) for text in tab(_COLUMN.format(3)) if text != "–"]
        assert numbers == sorted(numbers, reverse=True)
        assert tab(_COLUMN.format(3))[-1] == "–", "what is not known must stand last"
        assert tab("document.querySelector('#classes th:nth-child(4)').getAttribute('aria-sort')") == "descending"
        tab(lambda p: p.keyboard.press("Enter"))  # the button has the focus
        assert [float(text) for text in tab(_COLUMN.format(3)) if text != "–"] == numbers[::-1]
        assert tab("document.querySelectorAll('[aria-sort]').length") == 1
        tab(lambda p: p.keyboard.press("Space"))
        assert tab(_COLUMN.format(3)) == first
        assert tab("document.querySelectorAll('[aria-sort]').length") == 0
        assert said == []


def test_a_class_is_found_by_its_name(page):
    with opened(page, width=390) as (tab, said):
        tab(lambda p: p.fill("input[type=search]", "CLASS 3"))
        found = tab(_COLUMN.format(0))
        assert sorted(found) == sorted(["class 3", *(f"class {k}" for k in range(30, 39))])
        assert tab("document.querySelector('output').textContent") == "10 of 40 rows"
        tab(lambda p: p.fill("input[type=search]", ""))
        assert len(tab(_COLUMN.format(0))) == 40
        assert said == []


def test_a_hidden_loss_is_nowhere(page):
    visible = "[...document.querySelectorAll('svg .series-1, [data-series=\"1\"]')].filter(e => e.getClientRects().length).length"
    column = "document.querySelector('#classes tbody').rows[0].cells[4].hidden"
    with opened(page) as (tab, said):
        tab("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        assert tab(visible) > 10
        tab(lambda p: p.uncheck("label:has-text('softmax:inverse') input"))
        assert tab(visible) == 0
        assert tab(column)
        tab(lambda p: p.check("label:has-text('softmax:inverse') input"))
        assert tab(visible) > 10
        assert not tab(column)
        assert said == []


def test_tables_download_whole_and_no_cell_is_a_formula(page):
    def download(tab, name):
        def get(p):
            with p.expect_download() as found:
                p.click(f"button[aria-label='{name}']")
            return found.value.path().read_text()

        return tab(get)

    with opened(page) as (tab, said):
        tab(lambda p: p.fill("input[type=search]", "last"))  # a filter leaves no row out of a file
        rows = list(csv.reader(io.StringIO(download(tab, "Download the table classes as CSV"))))
        assert len(rows) == 41
        assert rows[1][0] == "'=1+1"
        records = json.loads(download(tab, "Download the table results as JSON"))
        written = json.loads((page.parent / "results.json").read_text())["losses"][0]["summary"]["accuracy"]
        assert records[0]["loss"] == "softmax"
        assert records[0]["accuracy"] == pytest.approx(100 * written["mean"], rel=1e-5)
        assert records[0]["accuracy_low"] == pytest.approx(100 * written["low"], rel=1e-5)
        assert said == []


def test_a_pointer_gets_the_value(page):
    with opened(page) as (tab, said):
        titles = tab("[...document.querySelectorAll('#recall title')].map(e => e.textContent)")
        assert len(titles) == 3 * 39  # the first class had no samples
        tab("document.getElementById('part-confusion').open = true")
        box = tab(
            "(() => { const b = document.querySelector('#confusion image').getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; })()"
        )
        tab(lambda p: p.evaluate("y => scrollBy(0, y - 200)", box[1]))
        tab(lambda p: p.mouse.move(box[0] + box[2] * 1.5 / 40, 200 + box[3] * 0.5 / 40))
        values = json.loads(tab("document.getElementById('confusion-data').textContent"))["panels"][0]["values"]
        assert (
            tab("document.querySelector('.tip').textContent")
            == f"softmax: P[=1+1, class 1] = {values[0][1] / 1e4:g}"
        )
        assert said == []


def test_a_link_opens_the_part_that_it_leads_to(page):
    with opened(page) as (tab, said):
        assert not tab("document.getElementById('part-words').open")
        tab(lambda p: p.click("a[href='#word-nll']"))
        assert tab(lambda p: p.wait_for_function("document.getElementById('part-words').open") is not None)
        assert said == []


@pytest.mark.parametrize(("dark", "other"), [(False, "rgb(20, 23, 27)"), (True, "rgb(255, 255, 255)")])
def test_colours_follow_the_system_and_the_button(page, dark, other):
    ground = "getComputedStyle(document.body).backgroundColor"
    with opened(page, dark=dark) as (tab, said):
        before, text = tab(ground), tab("getComputedStyle(document.querySelector('svg text')).fill")
        tab(lambda p: p.click("#theme"))
        assert tab(ground) == other != before
        assert tab("getComputedStyle(document.querySelector('svg text')).fill") != text
        tab(lambda p: p.reload())
        assert tab(ground) == other, "the choice must be kept"
        assert said == []


def test_axe_finds_nothing_on_a_small_page(tmp_path):
    assert violations(write_report(make_run(tmp_path, ["no", "yes"], seeds=4)), 390, True) == []


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1400, False), (390, True)])
def test_axe_finds_nothing(page, tmp_path, width, dark):
    assert violations(page, width, dark) == []
    target = torch.arange(4).repeat_interleave(100)
    logits = torch.randn(400, 4, generator=torch.Generator().manual_seed(0)) + 2 * torch.eye(4)[target]
    folder = audit(logits, target, "softmax").save(tmp_path / "audit", page=write_audit_page)
    assert violations(folder / "report.html", width, dark) == []
    assert violations(write_index(tmp_path), width, dark) == []


def violations(page, width, dark, tags=None):
    """Return what axe-core finds on a page whose parts are all open, a line each; by rules of some tags, or all."""
    pytest.importorskip("axe_playwright_python")
    axe = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    with opened(page, width, dark) as (tab, _):
        tab("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        tab(lambda p: p.evaluate(axe))
        found = tab(
            f"axe.run({json.dumps({'runOnly': tags} if tags else {})}).then(r => r.violations.map(v => [v.id, v.nodes.length, v.nodes[0].html.slice(0, 200)]))"
        )
    return [f"{name} ({count}): {example}" for name, count, example in found]
