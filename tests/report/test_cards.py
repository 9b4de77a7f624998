"""The top of a page: what to do, and numbers that say what they count."""

from dataclasses import replace

import pytest
import torch

from steelyard import audit
from steelyard.auditing.catalogue import KINDS
from steelyard.report import write_audit_page
from steelyard.report.audit_page import _UNITS, render_audit
from steelyard.report.compare_findings import compare_headline
from steelyard.report.intervals import surely_best
from steelyard.report.results import Audit, Comparison, Summary
from steelyard.report.results.audit import VerdictResult
from tests.report.test_page import make_run


@pytest.mark.parametrize(
    ("estimates", "higher", "best"),
    [
        ([(0.5, 0.4, 0.6), (0.8, 0.7, 0.9)], True, 1),
        ([(0.5, 0.4, 0.7), (0.8, 0.7, 0.9)], True, None),  # they touch
        ([(0.5, 0.4, 0.6), (0.8, 0.7, 0.9)], False, 0),
        ([(-0.5, -0.6, -0.4), (0.8, 0.7, 0.9)], False, 0),
        ([(0.5, 0.4, 0.6), (0.8, None, None)], True, None),
        ([(0.5, 0.4, 0.6), (None, None, None)], True, None),
        ([(0.8, 0.7, 0.9)], True, None),
        ([], True, None),
    ],
)
def test_best_is_what_its_interval_tells(estimates, higher, best):
    assert surely_best(estimates, higher=higher) == best


@pytest.mark.parametrize(
    ("balanced", "text"),
    [
        ([(0.8, 0.02), (0.7, 0.02), (0.6, 0.02)], "softmax is best by balanced accuracy: 80.0% (78.0% to 82.0%), before"),
        (
            [(0.8, 0.02), (0.79, 0.02), (0.6, 0.02)],
            "Choose among softmax and softmax:inverse: softmax leads by balanced accuracy, 80.0% (78.0% to 82.0%), but "
            "its interval overlaps with that of softmax:inverse.",
        ),
        (
            [(0.8, 0.02), (0.79, 0.02), (0.81, 0.02)],
            "Choose among lgl-inr, softmax and softmax:inverse: lgl-inr leads by balanced accuracy, 81.0% (79.0% to "
            "83.0%), but its interval overlaps with those of softmax and softmax:inverse.",
        ),
    ],
)  # fmt: skip
def test_a_headline_says_what_to_do(tmp_path, balanced, text):
    results = Comparison.read(make_run(tmp_path, ["a", "b"], seeds=4))
    losses = [
        replace(loss, summary=loss.summary | {"balanced_accuracy": Summary(mean, mean - half, mean + half, 4)})
        for loss, (mean, half) in zip(results.losses, balanced, strict=True)
    ]
    head = compare_headline(replace(results, losses=losses))
    assert head.text.startswith(text)
    assert head.todo


def test_a_headline_needs_every_seed(tmp_path):
    results = Comparison.read(make_run(tmp_path, ["a", "b"], seeds=4, losses=("softmax", "lgl-inr")))
    first, second = results.losses
    losses = [
        replace(first, summary=first.summary | {"balanced_accuracy": Summary(0.8, 0.79, 0.81, 4)}),
        replace(second, summary=second.summary | {"balanced_accuracy": Summary(0.2, 0.19, 0.21, 3)}),
    ]
    head = compare_headline(replace(results, losses=losses))
    assert head.badge == "warning"
    assert "softmax leads by balanced accuracy, 80.0% (79.0% to 81.0%), but some seeds have no value" in head.text


def test_every_number_of_an_audit_says_what_it_counts(tmp_path):
    target = torch.arange(3).repeat_interleave(100)
    logits = torch.randn(300, 3, generator=torch.Generator().manual_seed(0)) + 2 * torch.eye(3)[target]
    folder = audit(logits, target, "softmax").save(tmp_path / "audit", page=write_audit_page)
    found = Audit.read(folder)
    for verdict in found.verdicts:
        assert verdict.value is None or verdict.topic == "trades" or verdict.name in {*_UNITS, "weights_unclear"}
    assert set(_UNITS) < set(KINDS)
    for name, value, unit in (("groups", 1.0, "group"), ("groups", 3.0, "groups"), ("in_balance", 0.1, "misfit"),
                              ("weights_unclear", 2.0, "times as much or as little, at most")):  # fmt: skip
        verdict = VerdictResult(name, KINDS[name].code, "note", KINDS[name].topic, "Text.", value, 0.05, 4.0)
        text = render_audit(replace(found, verdicts=[verdict]), torch.eye(3).numpy())
        assert f'<div class="number">{value:.3g} <small>{unit}' in text
        assert "95% interval 0.05 to 4</small>" in text
