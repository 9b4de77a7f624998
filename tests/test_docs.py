"""What the documentation says that the code can say by itself.

python -m tests.test_docs       # after a change of the audit's words: puts them into docs/findings
"""

import doctest
import re
import textwrap
from pathlib import Path

import pytest

from steelyard.auditing.catalogue import KINDS
from steelyard.losses.registry import LOSSES
from steelyard.losses.table import loss_table

DOCS = Path(__file__).parents[1] / "docs"
FINDINGS = DOCS / "findings"
QUOTE = re.compile(r"(?<=## How it looks\n\n)(?:>.*\n)+")


def told(name: str) -> str:
    """Run the example of a finding's page, and return what the audit says of the finding there."""
    path, wrong = FINDINGS / f"{KINDS[name].code}.md", []
    example = doctest.DocTestParser().get_doctest(path.read_text(encoding="utf-8"), {}, path.name, str(path), 0)
    results = doctest.DocTestRunner(verbose=False).run(example, out=wrong.append, clear_globs=False)
    assert results.attempted > 0, f"{path.name} has no example"
    assert results.failed == 0, "".join(wrong)
    return next(verdict.text for verdict in example.globs["report"].verdicts if verdict.name == name)


def quoted(text: str) -> str:
    return "".join(f"{line}\n" for line in textwrap.wrap(text, 150, initial_indent="> ", subsequent_indent="> "))


def test_table_of_losses_is_that_of_the_registry():
    """After a change: replace what stands between the marks by `steelyard losses --markdown`."""
    text = (DOCS / "losses.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- losses -->\n(.*?)\n<!-- /losses -->", text, re.DOTALL)
    assert found is not None
    assert found[1].strip() == loss_table()


def test_every_weight_of_a_loss_is_among_the_names():
    text = (DOCS / "losses.md").read_text(encoding="utf-8")
    names = re.search(r"^### Names\n(.*?)^#", text, re.DOTALL | re.MULTILINE)
    assert names is not None
    explained = set(re.findall(r"^\| `(\w+)`", names[1], re.MULTILINE))
    weights = {key for loss in LOSSES.values() for key, one in loss.options.items() if one.kind == "vector"}
    assert weights - {"logit_adjustment"} <= explained  # which has a section


@pytest.mark.parametrize("name", KINDS)
def test_finding_has_a_page_that_says_what_the_audit_says(name):
    kind = KINDS[name]
    page = (FINDINGS / f"{kind.code}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {kind.code} {name}\n\n**{kind.severity.capitalize()}.** ")
    found = QUOTE.search(page)
    assert found is not None, f"{kind.code}.md quotes no audit"
    assert found[0] == quoted(told(name)), "the audit has other words: run python -m tests.test_docs"


def test_every_finding_is_in_the_index():
    index = (FINDINGS / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"\| \[(SY\d+)\]\((SY\d+)\.md\) \| `(\w+)` \| (\w+) \| \S", index)
    assert rows == sorted((kind.code, kind.code, name, kind.severity) for name, kind in KINDS.items())
    assert {path.stem for path in FINDINGS.glob("SY*.md")} == {kind.code for kind in KINDS.values()}


if __name__ == "__main__":
    from steelyard._common.files import write_text

    for name, kind in KINDS.items():
        path = FINDINGS / f"{kind.code}.md"
        write_text(path, QUOTE.sub(lambda _, name=name: quoted(told(name)), path.read_text(encoding="utf-8")))
