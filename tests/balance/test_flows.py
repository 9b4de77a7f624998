"""Pull and push by source class: entries that sum to the laws, and what hides in a sum."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steelyard.balance import hard_classes, ledger, one_vs_all_law, softmax_law, trades


def _chain(size, seed):
    generator = torch.Generator().manual_seed(seed)
    P = torch.rand(size, size, generator=generator, dtype=torch.float64) ** 4
    counts = torch.randint(1, 500, (size,), generator=generator)
    weights = torch.rand(size, generator=generator, dtype=torch.float64) + 0.1
    return P, counts, weights


@given(st.integers(2, 9), st.integers(0, 10**6))
def test_columns_sum_to_the_residual(size, seed):
    P, counts, weights = _chain(size, seed)
    law = one_vs_all_law(P, counts, weights, pos_weight=weights)
    torch.testing.assert_close(ledger(P, counts, weights, pos_weight=weights).sum(0), law.residual)
    rows = P / P.sum(1, keepdim=True)
    torch.testing.assert_close(ledger(rows, counts, weights).sum(0), softmax_law(rows, counts, weights).residual)


@given(st.integers(2, 9), st.integers(0, 10**6))
def test_trades_are_the_largest_pairs(size, seed):
    P, counts, weights = _chain(size, seed)
    found = trades(P, counts, weights, most=3)
    given_mass = (counts * weights / (counts * weights).sum())[:, None] * P
    both = sorted(
        (float(given_mass[i, j] + given_mass[j, i]) for i in range(size) for j in range(i)), reverse=True
    )
    assert [trade.there + trade.back for trade in found] == pytest.approx(both[:3])
    for trade in found:
        k, j = trade.classes
        assert trade.there >= trade.back
        assert trade.there == pytest.approx(float(given_mass[k, j]))


def test_trades_leave_out_pairs_that_give_nothing():
    assert trades(torch.eye(3), torch.ones(3)) == ()


def test_hard_class_behind_many_easy_ones():
    """Ten classes alike but one rare class that is half taken for class 0: the average hardly moves."""
    P = torch.full((10, 10), 0.002, dtype=torch.float64)
    P.fill_diagonal_(0.95)
    counts = torch.full((10,), 1000)
    P[7, 0], counts[7] = 0.5, 2
    column = hard_classes(P, counts)[0]
    assert column.hard == (7,)
    assert column.averaged_away == (7,)
    assert column.average < 0.003
    counts[7] = 1000
    column = hard_classes(P, counts)[0]
    assert column.hard == (7,)
    assert column.averaged_away == ()
    assert hard_classes(P, counts)[1].hard == ()


def test_unobserved_classes_count_for_nothing():
    P = torch.tensor([[0.92, 0.08, 0.0], [torch.nan] * 3, [0.3, 0.0, 0.7]], dtype=torch.float64)
    counts = torch.tensor([30, 0, 10])
    assert not ledger(P, counts).isnan().any()
    assert trades(P, counts)[0].classes == (2, 0)
    assert hard_classes(P, counts)[0].average == pytest.approx(0.3)


def test_bad_input():
    with pytest.raises(ValueError, match=r"factor must be a finite number >= 1, got 0[.]5"):
        hard_classes(torch.eye(2), torch.ones(2), factor=0.5)
    with pytest.raises(ValueError, match="class_counts must have shape"):
        ledger(torch.eye(2), torch.ones(3))
