"""What SECURITY.md promises is held by tests that are there."""

import re
from pathlib import Path

import steelyard.report

ROOT = Path(__file__).parents[1]


def test_every_promise_names_tests_that_are_there():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    promises = re.split(r"\n\*\*", text.partition("## What is promised")[2].partition("\n## ")[0])[1:]
    assert len(promises) >= 7
    for promise in promises:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", promise)
        assert named, f"no test holds the promise {promise[:60]!r}"
        for file, name in named:
            assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"there is no {file}::{name}"


def test_pages_run_no_script_but_ours_and_request_nothing():
    templates = {
        file.name: file.read_text() for file in (Path(steelyard.report.__file__).parent / "templates").iterdir()
    }
    base = templates["base.html.j2"]
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^>]*)">', base)[1]
    assert policy == (
        "default-src 'none'; script-src {{ script_hashes | join(\" \") | safe }}; "
        "style-src 'unsafe-inline'; img-src data:"
    )
    pages = {name for name, text in templates.items() if "<!doctype" in text or "{% extends" in text}
    assert "compare.html.j2" in pages
    for name, text in templates.items():
        if name in pages - {"base.html.j2"}:
            assert text.startswith('{% extends "base.html.j2" %}'), name
        # a script only through script(), an address only from a list that test_page.py checks
        found = re.search(
            r"<script|<iframe|<form|\bon\w+=[\"']|@import|url\(|(src|href)=[\"'](?!#|data:|[a-z_]+\.(json|csv|npz)[\"']|\{\{ one\.link \}\})",
            text,
        )
        assert found is None, f"{name} has {found}"
        if name.endswith(".js"):
            found = re.search(
                r"\beval\b|\bFunction\(|innerHTML|outerHTML|insertAdjacentHTML|document\.write|fetch\(", text
            )
            assert found is None, f"{name} makes code or markup from text: {found}"
