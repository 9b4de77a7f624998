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


def test_pages_forbid_scripts_and_requests():
    templates = {
        file.name: file.read_text() for file in (Path(steelyard.report.__file__).parent / "templates").iterdir()
    }
    base = templates.pop("base.html.j2")
    assert (
        """http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">"""
        in base
    )
    for name, text in {**templates, "base": base}.items():
        assert name == "base" or text.startswith('{% extends "base.html.j2" %}'), name
        found = re.search(r"<script|<iframe|<form|\bon\w+=|@import|(src|href)=[\"'](?!#|data:)", text)
        assert found is None, f"{name} has {found}"
