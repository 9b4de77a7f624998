"""Implied weights: read back from models trained with known weights, and from chains with known answers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steelyard.balance import implied_weights, mean_confusion
from steelyard.losses.functional import softmax_loss
from tests.balance.test_laws import COUNTS, WEIGHTS, _fit


def test_trained_models_give_their_weights_back():
    logits, target = _fit(lambda z, y: softmax_loss(z, y, weight=WEIGHTS))
    P, counts = mean_confusion(logits, target, link="softmax")
    implied = implied_weights(P, counts)
    assert implied.groups == ((0, 1, 2, 3),)
    torch.testing.assert_close(implied.ratio_to(WEIGHTS), torch.ones(4, dtype=torch.float64), rtol=1e-5, atol=0)
    assert (implied.weights * COUNTS).sum() / COUNTS.sum() == pytest.approx(1)
    assert implied.degrees_of_freedom == 9
    assert (implied.ratio_to(torch.ones(4)) - 1).abs().max() > 0.5


@given(st.integers(2, 12), st.integers(0, 10**6))
def test_stationary_distribution_of_any_chain(size, seed):
    generator = torch.Generator().manual_seed(seed)
    P = torch.rand(size, size, generator=generator, dtype=torch.float64) ** 6 + 1e-5
    P = P / P.sum(1, keepdim=True)
    counts = torch.randint(1, 1000, (size,), generator=generator)
    a = implied_weights(P, counts).weights * counts
    torch.testing.assert_close(a @ P, a, rtol=1e-10, atol=0)


def test_groups_that_never_meet_do_not_compare():
    """Blocks {0, 2} and {1, 3}: each gives its own weights, and weights across them have no effect."""
    P = torch.zeros(4, 4, dtype=torch.float64)
    P[0, 0], P[0, 2], P[2, 0], P[2, 2] = 0.9, 0.1, 0.2, 0.8
    P[1, 1], P[1, 3], P[3, 1], P[3, 3] = 0.7, 0.3, 0.3, 0.7
    implied = implied_weights(P, torch.tensor([100, 10, 50, 10]))
    assert implied.groups == ((0, 2), (1, 3))
    assert implied.leaks == (0, 0)
    assert implied.gaps == pytest.approx((0.3, 0.6))
    torch.testing.assert_close(implied.weights, torch.ones(4, dtype=torch.float64))
    scaled = torch.tensor([5.0, 1.0, 5.0, 1.0])
    torch.testing.assert_close(implied.ratio_to(scaled), torch.ones(4, dtype=torch.float64))


def test_tolerance_parts_groups_and_the_leak_says_what_it_cut():
    P = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.8 - 1e-7, 1e-7], [0.0, 1e-7, 1 - 1e-7]], dtype=torch.float64)
    counts = torch.tensor([5, 5, 5])
    parted = implied_weights(P, counts)
    assert parted.groups == ((0, 1), (2,))
    assert parted.leaks == pytest.approx((1e-7, 1e-7))
    assert parted.gaps[1] == 1
    whole = implied_weights(P, counts, tolerance=1e-9)
    assert whole.groups == ((0, 1, 2),)
    assert whole.gaps[0] < 1e-6  # one chain, and next to nothing determined across it
    torch.testing.assert_close(
        whole.weights / whole.weights[0], torch.tensor([1, 0.5, 0.5], dtype=torch.float64), rtol=1e-6, atol=0
    )


def test_class_without_samples_is_not_observed():
    P = torch.tensor([[0.9, 0.05, 0.05], [torch.nan] * 3, [0.3, 0.0, 0.7]])
    implied = implied_weights(P, torch.tensor([30, 0, 10]))
    assert implied.groups == ((0, 2),)
    assert implied.weights[1].isnan()
    assert implied.leaks[0] == pytest.approx(0.05)
    assert implied.to_dict()["weights"][1] is None


@pytest.mark.parametrize(
    ("P", "counts", "message"),
    [
        (torch.full((2, 2), 0.6), torch.ones(2), "rows that sum to 1, got 1.2; one-vs-all sigmoids have no"),
        (torch.ones(2, 3), torch.ones(2), r"must have shape \(K, K\) and class_counts \(K,\), got \(2, 3\)"),
        (torch.eye(2), torch.ones(3), r"got \(2, 2\) and \(3,\)"),
    ],
)
def test_bad_input(P, counts, message):
    with pytest.raises(ValueError, match=message):
        implied_weights(P, counts)
