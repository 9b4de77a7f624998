"""The frame of every page: its policy, its scripts and its blocks of data."""

import base64
import hashlib
import json
import re

import jinja2
import pytest

from steelyard.report import html
from tests.helpers import NASTY
from tests.report.browser import opened

_PAGE = """{% extends "base.html.j2" %}{% block title %}t{% endblock %}{% block main %}<h1>h</h1><p id="said"></p>
{{ data("numbers", numbers) }}{{ script("page.js") }}{% endblock %}"""


@pytest.fixture
def render(monkeypatch):
    """Render a page from a text beside our templates."""
    ours = jinja2.PackageLoader("steelyard.report")

    def render(text, **values):
        both = jinja2.ChoiceLoader([jinja2.DictLoader({"page.html.j2": text}), ours])
        monkeypatch.setattr(html.jinja2, "PackageLoader", lambda _: both)
        return html.render_template("page.html.j2", **values)

    return render


def test_the_policy_names_exactly_the_scripts_of_the_page(render):
    text = render(_PAGE, numbers=[])
    bodies = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(b.encode()).digest()).decode()}'" for b in bodies}
    assert len(bodies) == 3  # of the theme, page.js of the test and of the frame
    assert set(re.search(r"script-src ([^;]*);", text)[1].split()) == hashes


def test_data_come_back_as_they_were_and_end_no_element(render):
    value = {"names": [*NASTY, "</script><b>&amp;", "\u2028"], "numbers": [0.1, None, 3]}
    text = render(_PAGE, numbers=value)
    block = re.search(r'<script type="application/json" id="numbers">(.*?)</script>', text, flags=re.DOTALL)[1]
    assert not set("<>&") & set(block)
    assert json.loads(block) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        render(_PAGE, numbers=float("nan"))


def test_a_script_that_is_not_ours_does_not_run(render, tmp_path):
    foreign = '<script>document.getElementById("said").textContent = "ran"</script>'
    page = tmp_path / "page.html"
    page.write_text(render(_PAGE, numbers=[]).replace("</main>", f"</main>{foreign}"))
    with opened(page) as (tab, said):
        assert tab("document.getElementById('said').textContent") == ""
        assert "Content Security Policy" in said[0]
