"""A page in headless Chromium: what any report must be there."""

import functools
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import steelyard.report

TEMPLATES = Path(steelyard.report.__file__).parent / "templates"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_UNFOLD = "document.querySelectorAll('details').forEach(part => { part.open = true; })"
_MARKS = """figure => [...figure.querySelectorAll('svg path, svg circle, svg rect, svg use, svg image')]
    .filter(e => { const b = e.getBoundingClientRect(); return b.width > 0 || b.height > 0; }).length"""


# One browser for all tests of a process, as starting it takes longer than looking at a page. It has a thread of its
# own: Playwright leaves a running event loop in its thread, which other tests must not meet.
_thread = ThreadPoolExecutor(1)


def check_page(path, widths=(360, 1280), least=8, figures=4):
    """No console message, no error, no request but the page itself, at least so many marks in every figure, no
    sideways scroll."""
    _needed()
    _thread.submit(_check, path, widths, least, figures).result()


def check_scripts(text):
    """Every script of a page is a file of ours, or a block of data."""
    ours = {file.read_text() for file in TEMPLATES.glob("*.js")}
    found = re.findall(r"<script([^>]*)>(.*?)</script", text, flags=re.DOTALL)
    assert found
    for attributes, body in found:
        assert body in ours or attributes.startswith(' type="application/json"'), body[:80]
    assert len(found) == text.lower().count("<script")


@contextmanager
def opened(path, width=1400, dark=False):
    """Return a function that runs an expression in the page, or a function of the page of Playwright, and the list
    of what the console said."""
    _needed()
    said, page = [], _thread.submit(_open, path, width, dark).result()
    _thread.submit(_listen, page, said, path).result()
    ask = lambda what: _thread.submit(lambda: what(page) if callable(what) else page.evaluate(what)).result()  # noqa: E731
    try:
        yield ask, said
    finally:
        _thread.submit(page.context.close).result()


def _open(path, width, dark):
    context = _started()[1].new_context(color_scheme="dark" if dark else "light", accept_downloads=True)
    page = context.new_page()
    page.set_viewport_size({"width": width, "height": 900})
    return page


def _listen(page, said, path):
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(path.resolve().as_uri())


def _needed():
    if _chromium() is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs Chromium to open the report")
        pytest.skip("no Chromium on this machine")


def close_browser():
    if _started.cache_info().currsize:
        _thread.submit(_close).result()


def _chromium():
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


@functools.cache
def _started():
    from playwright.sync_api import sync_playwright

    playwright = sync_playwright().start()
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    return playwright, playwright.chromium.launch(executable_path=_chromium(), args=arguments)


def _close():
    playwright, browser = _started()
    browser.close()
    playwright.stop()
    _started.cache_clear()


def _check(path, widths, least, figures):
    said, asked = [], []
    context = _started()[1].new_context()
    for width in widths:
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": 900})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.resolve().as_uri())
        page.evaluate(_UNFOLD)
        found = page.query_selector_all("figure")
        marks = {figure.get_attribute("id"): figure.evaluate(_MARKS) for figure in found}
        assert len(marks) >= figures
        assert all(count >= least for count in marks.values()), marks
        sideways = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert sideways <= 0, f"{sideways} px too wide at {width}"
        assert page.evaluate(
            "new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size"
        ) == page.evaluate("document.querySelectorAll('[id]').length"), "an id stands twice"
    context.close()
    assert said == []
    assert {url for url in asked if not url.startswith("data:")} == {path.resolve().as_uri()}
