"""The decision of least expected cost, against the formula, one row at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard import decide, expected_costs


def _rows(number=200, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(2 * torch.randn(number, classes, generator=generator), 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6))
def test_decisions_are_of_least_expected_cost(seed, classes):
    generator = torch.Generator().manual_seed(seed)
    costs = torch.rand(classes, classes, generator=generator, dtype=torch.float64)
    costs.fill_diagonal_(-0.5)
    rows = _rows(20, classes, seed)
    for row, chosen, found in zip(rows, decide(rows, costs).tolist(), expected_costs(rows, costs), strict=True):
        by_hand = [sum(float(row[k].exp()) * float(costs[k, j]) for k in range(classes)) for j in range(classes)]
        assert found.tolist() == pytest.approx(by_hand, abs=1e-6)
        assert by_hand[chosen] <= min(by_hand) + 1e-6


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100))
def test_equal_costs_are_the_argmax(seed, cost):
    rows = _rows(50, 3, seed)
    for costs in (None, [cost] * 3, cost * (1 - torch.eye(3))):
        assert torch.equal(decide(rows, costs), rows.argmax(1))


def test_a_tie_goes_to_the_first_class():
    assert decide(torch.tensor([[0.4, 0.4, 0.2], [0.0, 0.5, 0.5]]).log()).tolist() == [0, 1]


def test_costs_of_missing_a_class_are_a_row_of_costs():
    rows = _rows()
    matrix = torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None] * (1 - torch.eye(4))
    assert torch.equal(decide(rows, [1, 2, 3, 4]), decide(rows, matrix))
    torch.testing.assert_close(expected_costs(rows, [1, 2, 3, 4]), expected_costs(rows, matrix))


def test_a_class_that_costs_nothing_to_miss_is_never_decided():
    assert 2 not in decide(_rows(), [1, 1, 0, 1]).tolist()


def test_rejected_is_what_no_decision_is_cheap_for():
    rows = _rows()
    chosen = decide(rows, reject_cost=0.3)
    sure = rows.exp().amax(1) >= 0.7
    assert torch.equal(chosen >= 0, sure)
    assert torch.equal(chosen[sure], rows.argmax(1)[sure])
    assert 0 < int(sure.sum()) < len(rows)
    assert torch.equal(decide(rows, reject_cost=1.0), rows.argmax(1))


def test_rare_errors_at_the_end_of_the_range_are_told_apart():
    """Probabilities that are both 1 in float64."""
    logit = torch.tensor([40.0, -40.0, 800.0, -800.0], dtype=torch.float64)
    assert decide(logit).tolist() == [1, 0, 1, 0]
    assert decide(logit, [1.0, 1e19]).tolist() == [1, 1, 1, 0]


def test_one_output_is_two_classes():
    logit = _rows(100, 2)
    one = logit[:, 1] - logit[:, 0]
    for costs in (None, [1, 5], [[0, 1], [5, 0]]):
        assert torch.equal(decide(one, costs), decide(logit, costs))
        assert torch.equal(decide(one[:, None], costs, reject_cost=0.1), decide(logit, costs, reject_cost=0.1))
    assert expected_costs(one).shape == (100, 2)


def test_outputs_of_multi_hot_stand_for_themselves():
    generator = torch.Generator().manual_seed(0)
    z = 3 * torch.randn(50, 3, generator=generator)
    rows = torch.nn.functional.logsigmoid(z)
    chosen = decide(rows, [1, 5], reject_cost=0.5, targets="multi-hot")
    assert chosen.dtype == torch.int64
    for j in range(3):
        assert torch.equal(chosen[:, j], decide(z[:, j], [1, 5], reject_cost=0.5))
    found = expected_costs(rows, [1, 5], targets="multi-hot")
    torch.testing.assert_close(found[:, 1], expected_costs(z[:, 1], [1, 5]), rtol=1e-4, atol=1e-6)


def test_no_rows_are_no_decisions():
    assert decide(torch.zeros(0, 3)).shape == (0,)
    assert decide(torch.zeros(0)).shape == (0,)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (torch.tensor([[0.5, 0.5], [torch.nan, 0.5]]).log(), {}, "log_posterior must hold no NaN, got one in row 1: 1 rows have one"),
        (torch.tensor([0.0, torch.nan]), {}, "log_posterior must hold no NaN, got one in row 1"),
        (torch.tensor([[1.0, 2.0]]), {}, "whose rows sum to 1, got 10.1073 in row 0: see log_posterior"),
        (torch.tensor([[1.0, 2.0]]), {"targets": "multi-hot"}, "at most 0, got 2 in row 0"),
        (torch.zeros(1, 1, 1), {}, r"must have shape \(N, K\), or \(N,\) for one output, got \(1, 1, 1\)"),
        (torch.zeros(3, dtype=torch.long), {}, "must be floating point, got int64"),
        (np.zeros(3), {}, "must be a tensor, got ndarray"),
        (torch.zeros(3), {"targets": "classs"}, "targets must be one of 'classes', 'multi-hot', got 'classs'"),
        (torch.zeros(3), {"costs": [1, 2, 3]}, r"costs must have shape \(2,\), got \(3,\)"),
        (torch.zeros(3), {"costs": [[0, 1]]}, r"costs must have shape \(2, 2\) or \(2,\), got 1 rows"),
        (torch.zeros(3), {"costs": torch.zeros(3, 3)}, r"costs must have shape \(2, 2\) or \(2,\), got \(3, 3\)"),
        (torch.zeros(3), {"costs": [[0, 1], [1, torch.inf]]}, r"costs\[1\] must be finite"),
        (torch.zeros(3), {"costs": [-1, 1]}, "costs must be finite and not negative"),
        (torch.zeros(3), {"costs": [[1, 0], [0, 5]]}, r"costs\[0, 0\], of class 0 told right, .* give costs, not gains"),
        (torch.zeros(3), {"reject_cost": torch.nan}, "reject_cost must be a finite number"),
    ],
)  # fmt: skip
def test_bad_input(rows, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        decide(rows, **options)
