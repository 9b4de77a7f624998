"""Pages say of a finding and of a word what the documentation says.

python -m tests.report.test_words   # after a change of docs/findings or docs/glossary.md
"""

import json
from pathlib import Path

import pytest

import steelyard.report
from steelyard._common.files import to_json, write_text
from steelyard.auditing.catalogue import KINDS
from steelyard.report.words import finding_words, glossary, marked, read_documentation

DOCS = Path(__file__).parents[2] / "docs"
FILE = Path(steelyard.report.__file__).parent / "words.json"


def documented():
    findings = {path.stem: path.read_text(encoding="utf-8") for path in (DOCS / "findings").glob("SY*.md")}
    return read_documentation(findings, (DOCS / "glossary.md").read_text(encoding="utf-8"))


def test_words_are_those_of_the_documentation():
    assert json.loads(FILE.read_text(encoding="utf-8")) == documented(), "run python -m tests.report.test_words"


def test_every_finding_says_what_it_means_and_what_to_do():
    for kind in KINDS.values():
        words = finding_words(kind.code)
        assert words["meaning"].endswith("."), kind.code
        assert words["mend"], kind.code
        assert all(item and "](" not in item for item in words["mend"]), kind.code


def test_a_word_that_the_glossary_lacks_is_an_error():
    assert [word for word, _ in glossary("Misfit", "Interval")] == ["Interval", "Misfit"]
    with pytest.raises(KeyError):
        glossary("Moonshine")


def test_what_is_marked_is_escaped():
    assert marked("<b> `a<b`") == "&lt;b&gt; <code>a&lt;b</code>"


if __name__ == "__main__":
    write_text(FILE, to_json(documented()) + "\n")
