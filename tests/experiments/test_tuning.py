"""The search for a learning rate: over the edge of what was asked for, and no further than makes sense."""

import pytest

from steelyard.experiments.tuning import best_rate


def test_one_rate_is_taken_untried():
    assert best_rate([0.5], pytest.fail) == (0.5, {})


def test_a_best_rate_within_ends_the_search():
    scores = {0.1: 0.1, 0.2: 0.9, 0.4: 0.2}
    assert best_rate(list(scores), scores.__getitem__) == (0.2, scores)


@pytest.mark.parametrize(("peak", "expected"), [(1.7, 1.8), (0.011, 0.011)])
def test_it_goes_on_beyond_an_edge_until_the_score_falls(peak, expected):
    best, scores = best_rate([0.1, 0.3, 0.6], lambda rate: 1 - abs(rate - peak) / (rate + peak))
    assert best == expected
    assert min(scores) < best < max(scores)
    assert list(scores) == sorted(scores)


def test_rates_end_at_the_limits():
    assert max(best_rate([1, 10], lambda rate: rate)[1]) == 10
    assert min(best_rate([1e-3, 1e-2], lambda rate: -rate)[1]) == 1e-4


def test_divergence_is_the_worst_score_and_no_end():
    assert best_rate([0.1, 0.3], {0.1: 0.0, 0.3: None, 0.033: None}.get) == (
        0.1,
        {0.033: None, 0.1: 0.0, 0.3: None},
    )


def test_of_equal_scores_the_lowest_rate_is_taken():
    assert best_rate([0.1, 0.3, 0.9], lambda rate: 0.5 if rate >= 0.1 else 0.4)[0] == 0.1


def test_rates_that_two_digits_do_not_tell_apart():
    assert best_rate([1.0, 1.001], lambda rate: rate)[0] == 1.001
