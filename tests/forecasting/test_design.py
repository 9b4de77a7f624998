"""Weights for a wish: met when they are given, refused when no shift can meet it."""

import itertools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.forecasting import design_weights
from tests.helpers import assert_at_least


def _samples(classes=5, rows=500, spread=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    share = torch.logspace(0, -1, classes)
    target = torch.multinomial(share, rows, replacement=True, generator=generator)
    target[:classes] = torch.arange(classes)
    return spread * torch.eye(classes)[target] + torch.randn(rows, classes, generator=generator), target


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("spread", [0.0, 2.0, 40.0])
def test_wanted_prior_is_met(classes, spread):
    logits, target = _samples(classes, spread=spread)
    wanted = torch.arange(1.0, classes + 1) / sum(range(1, classes + 1))
    design = design_weights(logits, target, prior=wanted)
    torch.testing.assert_close(design.prior, wanted.double(), rtol=0, atol=1e-7)
    assert design.logit_shift.mean().abs() < 1e-12
    assert design.class_weights.mean() == pytest.approx(1)


def test_weights_are_those_used_times_the_shift():
    logits, target = _samples()
    used = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    design = design_weights(logits, target, min_recall=0.5, class_weights=used)
    expected = used * design.logit_shift.exp()
    torch.testing.assert_close(design.class_weights, expected / expected.mean())
    json.dumps(design.to_dict(), allow_nan=False)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.05, 0.95), st.integers(2, 6))
def test_wanted_recall_is_met_or_refused(seed, wanted, classes):
    logits, target = _samples(classes, 120, seed=seed)
    try:
        design = design_weights(logits, target, min_recall=wanted)
    except ValueError:
        return
    assert_at_least(design.recall, wanted - 1e-12)
    taken = (logits.double() + design.logit_shift).argmax(1)
    for k in range(classes):
        assert (taken[target == k] == k).double().mean() == pytest.approx(float(design.recall[k]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.3, 0.5, 0.6, 0.7, 0.8]))
def test_refusals_are_right(seed, wanted):
    """Three classes, few samples: against every order in which shifts can cut the samples, by brute force."""
    logits, target = _samples(3, 14, spread=1.0, seed=seed)
    z = logits.double()
    # between two classes the cuts are at z_a - z_b; a shift is a cut for classes 0 and 1 and one for 0 and 2
    first, second = ((z[:, 0] - z[:, k]).sort().values for k in (1, 2))
    third = (z[:, 1] - z[:, 2]).sort().values

    def between(cuts):
        ends = torch.cat([cuts[:1] - 1, cuts, cuts[-1:] + 1])
        return ((ends[1:] + ends[:-1]) / 2).tolist()

    def met(s):
        taken = (z + torch.tensor(s, dtype=torch.float64)).argmax(1)
        return all((taken[target == k] == k).double().mean() >= wanted for k in range(3))

    candidates = [(0.0, a, b) for a, b in itertools.product(between(first), between(second))]
    candidates += [(0.0, a, a + c) for a, c in itertools.product(between(first), between(third))]
    candidates += [(0.0, b - c, b) for b, c in itertools.product(between(second), between(third))]
    possible = any(met(s) for s in candidates)
    try:
        design_weights(logits, target, min_recall=wanted)
        found = True
    except ValueError:
        found = False
    assert found or not possible


@pytest.mark.parametrize("wish", [{"prior": torch.tensor([0.5, 0.5])}, {"min_recall": torch.tensor([0.5, 0.9])}])
def test_one_output_is_two_classes(wish):
    logits, target = _samples(2)
    one = (logits[:, 1] - logits[:, 0]).double()
    used = torch.tensor([1.0, 3.0])
    two = design_weights(logits, target, class_weights=used, **wish)
    for same in (
        design_weights(one, target, class_weights=used, **wish),
        design_weights(one[:, None], target, class_weights=used, **wish),
    ):
        for name, values in vars(two).items():
            torch.testing.assert_close(getattr(same, name), values, rtol=0, atol=1e-5)


def test_two_classes_at_the_edge():
    logits = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0], [0.0, 2.5], [0.0, 4.0]])
    target = torch.tensor([0, 0, 0, 1, 1])
    design = design_weights(logits, target, min_recall=torch.tensor([2 / 3, 1.0]))
    assert design.recall.tolist() == pytest.approx([2 / 3, 1])
    with pytest.raises(ValueError, match="min_recall cannot be met by any shift of these logits"):
        design_weights(logits, target, min_recall=1.0)


def test_overlapping_classes_cannot_all_have_it():
    logits, target = _samples(spread=0.5)
    with pytest.raises(ValueError, match=r"class \d had a recall of 0\.\d+, not 0.99"):
        design_weights(logits, target, min_recall=0.99)


def test_classes_without_samples_ask_for_nothing():
    logits, target = _samples()
    design = design_weights(logits, torch.where(target == 3, -100, target), min_recall=0.4)
    assert design.recall[3].isnan()
    assert_at_least(design.recall[[0, 1, 2, 4]], 0.4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "exactly one of prior and min_recall must be given"),
        ({"min_recall": 0.5, "prior": torch.full((5,), 0.2)}, "exactly one of prior and min_recall"),
        ({"min_recall": 1.5}, r"min_recall must be a finite number in \[0, 1\], got 1.5"),
        ({"min_recall": torch.full((5,), 2.0)}, r"min_recall must lie in \[0, 1\], got 2"),
        ({"prior": torch.ones(5)}, "prior must be positive and sum to 1"),
        ({"prior": torch.ones(4) / 4}, r"prior must have shape \(5,\), got \(4,\)"),
        ({"min_recall": 0.5, "logits": torch.full((500, 5), torch.nan)}, "logits must be finite, got row 0"),
        ({"min_recall": 0.5, "logits": torch.zeros(500, 1)}, "target must hold labels from 0 to 1"),
        ({"min_recall": 0.5, "logits": torch.zeros(500, 2, 2)}, r"logits must have shape \(N, K\), or \(N,\) for one output, N >= 1"),
    ],
)  # fmt: skip
def test_bad_input(change, message):
    logits, target = _samples()
    with pytest.raises(ValueError, match=message):
        design_weights(**({"logits": logits, "target": target} | change))
