"""Weights that nobody stated are named where the law without weights fails, and not where training left a little."""

import pytest
import torch

from steelyard import audit, class_weights

COUNTS = torch.tensor([6000, 2000, 1000, 20])


def report(shift):
    """The audit of a log posterior with these logarithms of weights added."""
    target = torch.repeat_interleave(torch.arange(4), COUNTS)
    x = 2 * torch.eye(4)[target] + torch.randn(len(target), 4, generator=torch.Generator().manual_seed(0))
    return audit(2 * x + COUNTS.log() + shift, target, "softmax")


def names(found):
    return [finding.name for finding in found.findings if finding.name.startswith("weights")]


def test_a_rare_class_that_is_off_within_what_training_leaves_is_no_warning():
    found = report(torch.tensor([0, 0, 0, 1.0]))  # 2.7 times; on shuttle a plain training leaves as much
    assert found.numbers.hypotheses[0].misfit < 0.1
    assert names(found) == ["weights_unclear"]
    assert "in balance without weights, as far as a training comes" in str(found)
    assert not [finding for finding in found.findings if finding.severity != "note"]


@pytest.mark.parametrize(
    "shift",
    [
        class_weights(COUNTS).log(),
        0.5 * class_weights(COUNTS).log(),
        torch.tensor([0, 0.7, 0, 0]),  # of a class that is frequent
        torch.tensor([0, 0, 0, 2.0]),  # goes like a power of the counts
    ],
)
def test_weights_that_break_the_law_are_named(shift):
    assert names(report(shift)) == ["weights_unstated"]


def test_without_weights_nothing_is_said():
    assert names(report(torch.zeros(4))) == []
