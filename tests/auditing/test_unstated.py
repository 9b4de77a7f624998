"""Weights that nobody stated are named where the law without weights fails, and not where training left a little."""

import pytest
import torch

from steelyard import TrainingSetup, audit, class_weights, create_loss
from tests.helpers import at_rest

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


@pytest.mark.parametrize("name", ["softmax", "logistic", "focal", "asymmetric", "vs", "cdt"])
def test_weights_are_named_as_they_were_under_every_loss(name):
    counts = torch.tensor([600, 200, 100, 50])
    needed = {"class_counts": counts} if name in ("vs", "cdt") else {}
    logits, target = at_rest(create_loss(name, class_weights=class_weights(counts), **needed))
    found = audit(logits, target, create_loss(name, **needed))
    assert names(found) == ["weights_unstated"]
    named = {item.classes[0]: item.measures[0].value for item in found.findings[0].items}
    assert [named[k] for k in range(4)] == pytest.approx([1, 3, 6, 12], rel=1e-3)  # one over the counts
    assert found.findings[0].measure.value == pytest.approx(12, rel=1e-3)
    assert "class weights that nobody stated: 1 : 3 : 6 : 12 for" in str(found)


@pytest.mark.parametrize(("name", "k"), [("sigmoid-focal", 0), ("focal", 0), ("label-aware-smoothing", 0)])
def test_one_class_that_weighs_more_is_named_and_is_no_other_loss(name, k):
    counts = torch.tensor([600, 200, 100, 50])
    needed = {"class_counts": counts} if name == "label-aware-smoothing" else {}
    acted = torch.where(torch.arange(4) == k, 5.0, 1.0).double()
    logits, target = at_rest(create_loss(name, class_weights=acted, **needed))
    for stated in ({}, {"class_weights": torch.ones(4)}):
        found = audit(logits, target, create_loss(name, **stated, **needed))
        assert (found.faults, names(found)) == ((), ["weights_unstated"])
        assert found.findings[0].measure.value == pytest.approx(5, rel=1e-3)


def test_of_independent_outputs_the_weights_are_those_of_positives():
    u = torch.tensor([4.0, 4.0, 4.0, 4.0], dtype=torch.float64)

    def loss(logits, target):
        return torch.nn.functional.binary_cross_entropy_with_logits(
            logits, torch.eye(4)[target].double(), pos_weight=u
        )

    logits, target = at_rest(loss)
    setup = TrainingSetup("logistic", targets="multi-hot")
    assert "weights of positives that nobody stated: 4 : 4 : 4 : 4 for" in str(
        audit(logits, torch.eye(4)[target], setup)
    )
