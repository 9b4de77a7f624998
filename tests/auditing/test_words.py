"""Findings hold codes and numbers alone; words are made of them in one file."""

import ast
import inspect
import re

import pytest
import torch

from steelyard.auditing import audit, judge, words
from steelyard.auditing.catalogue import KINDS
from steelyard.balance import TrainingSetup


def _report(**statement):
    generator = torch.Generator().manual_seed(0)
    target = torch.multinomial(torch.logspace(0, -1, 5), 500, replacement=True, generator=generator)
    logits = 2 * torch.eye(5)[target] + torch.randn(500, 5, generator=generator)
    return audit(logits, target, TrainingSetup(**statement), class_names=list("abcde"))


def test_every_kind_of_finding_is_judged_and_has_words_and_a_code_of_its_own():
    tree = ast.parse(inspect.getsource(judge))
    names = {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    notes = {"collected_in_evaluation", "collected_with_dropout"}  # which come with the samples
    assert set(KINDS) - notes <= names
    assert set(words._TEXTS) == set(KINDS)
    assert len({kind.code for kind in KINDS.values()}) == len(KINDS)


def test_the_judge_writes_no_sentence():
    tree = ast.parse(inspect.getsource(judge))
    documented = [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))]
    said = {ast.get_docstring(node, clean=False) for node in documented}
    texts = [
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert not any(re.search(r"\w [a-z]+ \w", text) for text in texts if text not in said)
    assert not any(isinstance(node, ast.JoinedStr) for node in ast.walk(tree))


@pytest.mark.parametrize(
    "statement",
    [{}, {"class_weights": torch.arange(1.0, 6)}, {"loss": "logistic", "pos_weight": torch.arange(1.0, 6)}],
)
def test_a_verdict_is_made_of_its_finding_alone(statement):
    report = _report(**statement)
    for finding, verdict in zip(report.findings, report.verdicts, strict=True):
        assert verdict == words.tell(finding, report.numbers)
        assert (verdict.name, verdict.code, verdict.severity) == (finding.name, finding.code, finding.severity)
        assert verdict.value == (None if finding.measure is None else finding.measure.value)
    assert report.faults == tuple(v.name for v in report.verdicts if v.severity == "fault")


def test_findings_name_classes_by_index():
    trades = next(f for f in _report().findings if f.name == "trades")
    verdict = words.tell(trades, _report().numbers)
    for item in trades.items:
        giver, taker = ('"' + "abcde"[k] + '"' for k in item.classes)
        assert f"{giver} gives {taker} {item.measures[0].value:.2g}%" in verdict.text


def test_a_sentence_does_not_end_within_a_name():
    assert words.sentence('These cannot be the rows: "St. Bernard" has 3. More.') == (
        'These cannot be the rows: "St. Bernard" has 3.'
    )
    assert words.sentence("It is 0.5 of all, class 3 too. More. More.") == "It is 0.5 of all, class 3 too."
    assert words.sentence("No stop") == "No stop"


@pytest.mark.parametrize(
    ("value", "style", "shown"),
    [
        (99.7, ".2g", "100"),
        (99.7, ".3g", "99.7"),
        (0.0025, ".3g", "0.0025"),
        (1234.6, ".3g", "1235"),
        (0.0005, ".2g", "<0.001"),
        (-0.0005, ".2g", ">-0.001"),
        (0.0, ".2g", "0"),
        (0.073, ".2g", "0.073"),
    ],
)
def test_numbers_have_no_exponent(value, style, shown):
    assert words._number(value, style) == shown


def test_weights_of_positives_that_are_reversed_have_words():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6000, 2, dtype=torch.float64, generator=generator)
    target = (torch.rand(6000, 2, dtype=torch.float64, generator=generator) < torch.sigmoid(2 * x - 1)).long()
    logits = 2 * x - 1 - torch.tensor([4.0, 3.0], dtype=torch.float64).log()
    setup = TrainingSetup("logistic", pos_weight=[4.0, 3.0], targets="multi-hot")
    report = audit(logits, target, setup)
    assert "reverse" in str(report)
