"""Metrics of a run and intervals over seeds."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, log_loss

from steelyard.experiments.metrics import log_probabilities, run_metrics, uniform_accuracy
from steelyard.experiments.statistics import mean_interval, summary
from steelyard.report.results import Summary
from tests.helpers import batch

GROUPS = {"many": [0, 1], "medium": [], "few": [2, 4]}


def test_metrics_agree_with_scikit_learn():
    logits, target = batch(200, 5)[0], torch.arange(200) % 5
    metrics = run_metrics(logits, target, "softmax", GROUPS)
    assert metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(target, logits.argmax(1)))
    assert metrics["nll"] == pytest.approx(log_loss(target, logits.softmax(1), labels=range(5)))
    assert metrics["recall_medium"] is None
    right = logits.argmax(1) == target
    few = [right[target == k].double().mean().item() for k in (2, 4)]
    assert metrics["recall_few"] == pytest.approx(sum(few) / 2)


def test_a_group_without_test_samples_has_no_recall():
    """As after a split by time, where the rarest classes may end before it."""
    logits, target = torch.eye(3)[torch.tensor([0, 1, 0])], torch.tensor([0, 1, 1])
    metrics = run_metrics(logits, target, "softmax", {"many": [0], "medium": [1, 2], "few": [2]})
    assert (metrics["recall_many"], metrics["recall_medium"], metrics["recall_few"]) == (1.0, 0.5, None)


def test_one_vs_all_probabilities_are_sigmoids_normalised():
    logits, _ = batch(20, 5)
    p = torch.sigmoid(logits)
    torch.testing.assert_close(log_probabilities(logits, "logistic").exp(), p / p.sum(1, keepdim=True))
    extreme = log_probabilities(torch.tensor([[-800.0, -801.0]]), "logistic")
    torch.testing.assert_close(
        extreme.exp(), torch.tensor([[0.7311, 0.2689]], dtype=torch.float64), rtol=1e-3, atol=0
    )


def test_calibration_error_of_a_coin_that_claims_to_know():
    logits = torch.tensor([[10.0, -10.0]]).expand(100, 2)
    metrics = run_metrics(logits, torch.arange(100) % 2, "softmax", {"many": [0, 1], "medium": [], "few": []})
    assert metrics["ece"] == pytest.approx(0.5, abs=1e-3)


def test_interval_is_students_from_four_seeds_on():
    value = summary([0.3, 0.4, 0.5, 0.4])
    half = 3.182446305284263 * math.sqrt(0.02 / 3) / math.sqrt(4)
    assert value.to_dict() == {
        "mean": pytest.approx(0.4),
        "low": pytest.approx(0.4 - half),
        "high": pytest.approx(0.4 + half),
        "n": 4,
    }
    mean, low, high = mean_interval([0.1, 0.2, 0.6])  # of differences, which decide, it always is
    half = 4.302652729911275 * math.sqrt(0.07) / math.sqrt(3)
    assert (mean, low, high) == (pytest.approx(0.3), pytest.approx(0.3 - half), pytest.approx(0.3 + half))
    assert mean_interval([0.5, None]) == (0.5, None, None)
    with pytest.raises(ValueError, match="values must not be empty"):
        mean_interval([None])


def test_two_or_three_seeds_have_their_least_and_largest_value():
    assert summary([0.7, 0.853], high=1) == Summary(pytest.approx(0.7765), 0.7, 0.853, 2)
    assert summary([0.6, None, 0.1, 0.2]) == Summary(pytest.approx(0.3), 0.1, 0.6, 3)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.sampled_from([1.0, math.inf]))
def test_what_stands_beside_a_mean_is_around_it_and_where_values_can_be(values, high):
    found = summary(values, high=high)
    assert 0 <= found.low <= found.high <= high
    assert found.low - 1e-12 <= found.mean <= found.high + 1e-12


def test_one_seed_has_nothing_beside_it():
    assert summary([0.5]).to_dict() == {"mean": 0.5, "low": None, "high": None, "n": 1}
    assert summary([None, None]) is None


@given(
    st.integers(2, 4).flatmap(
        lambda k: st.lists(
            st.tuples(st.lists(st.integers(-3, 3), min_size=k, max_size=k), st.integers(0, k - 1)), min_size=1
        )
    )
)
def test_uniform_accuracy_is_that_of_the_best_threshold(samples):
    """Whole numbers, so that logits tie: every threshold is as good as one of these."""
    logits = torch.tensor([row for row, _ in samples]).float()
    target = torch.tensor([y for _, y in samples])
    right = []
    for threshold in range(-4, 4):
        above = logits > threshold
        right.append(sum(bool(row[y]) and int(row.sum()) == 1 for row, y in zip(above, target, strict=True)))
    assert uniform_accuracy(logits, target) == max(right) / len(samples)
    assert uniform_accuracy(logits, target) <= (logits.argmax(1) == target).double().mean()


def test_intervals_of_several_comparisons_are_wider():
    values = [0.1, 0.4, 0.2, 0.3, 0.25]
    mean, low, high = mean_interval(values, comparisons=10)
    one = mean_interval(values)
    assert mean == one[0]
    assert (high - mean) / (one[2] - mean) == pytest.approx(
        5.5976 / 2.7764, rel=1e-4
    )  # quantiles 0.9975 and 0.975 of t, 4
    assert mean - low == pytest.approx(high - mean)
