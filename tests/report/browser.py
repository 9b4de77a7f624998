"""A page in headless Chromium: what any report must be there."""

import os
import shutil

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_MARKS = """figure => [...figure.querySelectorAll('svg path, svg circle, svg rect, svg use, svg image')]
    .filter(e => { const b = e.getBoundingClientRect(); return b.width > 0 || b.height > 0; }).length"""


def check_page(path, widths=(360, 1280), least=10, figures=4):
    """No console message, no error, no request but the page itself, at least so many marks in every figure, no
    sideways scroll."""
    chromium = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if chromium is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs Chromium to open the report")
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    said, asked = [], []
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        for width in widths:
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("request", lambda request: asked.append(request.url))
            page.goto(path.resolve().as_uri())
            found = page.query_selector_all("figure")
            marks = {figure.get_attribute("id"): figure.evaluate(_MARKS) for figure in found}
            assert len(marks) >= figures
            assert all(count >= least for count in marks.values()), marks
            sideways = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            assert sideways <= 0, f"{sideways} px too wide at {width}"
            assert page.evaluate(
                "new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size"
            ) == page.evaluate("document.querySelectorAll('[id]').length"), "an id stands twice"
        browser.close()
    assert said == []
    assert {url for url in asked if not url.startswith("data:")} == {path.resolve().as_uri()}
