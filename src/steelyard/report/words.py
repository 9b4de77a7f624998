"""What the documentation says of findings and words, for pages that open without it."""

import functools
import json
import re
from importlib.resources import files
from typing import TypedDict

from markupsafe import Markup, escape


class FindingWords(TypedDict):
    """What the page of a finding in docs/findings says: what it means, the law behind it, and what to do."""

    meaning: str
    law: str
    mend: list[str]


class Words(TypedDict):
    """What words.json holds: findings by code, and the glossary."""

    findings: dict[str, FindingWords]
    glossary: dict[str, str]


def finding_words(code: str) -> FindingWords | None:
    """Return what the documentation says of a finding, or None for a code that it does not have."""
    return _words()["findings"].get(code)


def glossary(*words: str) -> list[tuple[str, str]]:
    """Return words and their meanings in the glossary's order; all of them where none is named.

    Raises:
        KeyError: a word is not in the glossary.
    """
    entries = _words()["glossary"]
    for word in words:
        entries[word]
    return [(word, meaning) for word, meaning in entries.items() if not words or word in words]


def marked(text: str) -> Markup:
    """Return a text as HTML, with what stands between backticks as code."""
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(text.split("`"))
    )


def read_documentation(findings: dict[str, str], words: str) -> Words:
    """Return what words.json holds, from the texts of the pages of docs/findings by code, and of the glossary.

    A link becomes its text: a page that was moved has no other page beside it.
    """
    return {
        "findings": {
            code: {
                "meaning": _line(re.search(r"\n\*\*\w+\.\*\* (.*?)\n\n", text, re.DOTALL)),
                "law": _line(re.search(r"## The law behind it\n\n(.*?)\n\n##", text, re.DOTALL)),
                "mend": _items(text.partition("## How to mend it\n\n")[2].partition("\n## ")[0]),
            }
            for code, text in sorted(findings.items())
        },
        "glossary": {
            entry[1]: _line(re.match(r"(.*)", entry[2], re.DOTALL))
            for entry in re.finditer(r"^\*\*(.+?)\.\*\* (.*?)(?=\n\n|\Z)", words, re.DOTALL | re.MULTILINE)
        },
    }


def _items(text: str) -> list[str]:
    """Return the entries of a list, or the one paragraph that stands in its place."""
    found = re.finditer(r"^- (.*?)(?=\n- |\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
    return [_line(item) for item in found] or [_line(re.match(r"(.*)", text, re.DOTALL))]


def _line(found: re.Match[str] | None) -> str:
    if found is None:
        raise ValueError("the documentation has another form than this reads")
    return re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", " ".join(found[1].split()))


@functools.cache
def _words() -> Words:
    found: Words = json.loads(files("steelyard.report").joinpath("words.json").read_text(encoding="utf-8"))
    return found
