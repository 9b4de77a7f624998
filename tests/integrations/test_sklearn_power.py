"""The power of weights in probabilities: found where it is known, and never a loss on the rows it is found on."""

import numpy as np
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from steelyard.integrations.sklearn.power import power_of


def _rows(seed, size, power, classes=3):
    """Log-probabilities that hold weights to a power, the labels drawn from the truth, and the log weights."""
    random = np.random.default_rng(seed)
    truth = log_softmax(random.normal(size=(size, classes)) * 1.5 - np.arange(classes), axis=1)
    codes = (np.exp(truth).cumsum(1) < random.random((size, 1))).sum(1).clip(max=classes - 1)
    log_w = np.broadcast_to(random.normal(size=classes) + np.arange(classes), (size, classes))
    return log_softmax(truth + power * log_w, axis=1), codes, log_w


def _nll(log_p, codes, log_w, g):
    return -log_softmax(log_p - g * log_w, axis=1)[np.arange(len(codes)), codes].sum()


def _most_likely(log_p, codes, log_w):
    """The power of the largest likelihood, with the claim that it is 1, and the gain of each row over no power."""
    best = minimize_scalar(
        lambda g: _nll(log_p, codes, log_w, g) + (g - 1) ** 2 / 2, (-1, 2), options={"xtol": 1e-10}
    ).x
    rows = np.arange(len(codes))
    return best, log_softmax(log_p - best * log_w, axis=1)[rows, codes] - log_p[rows, codes]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), power=st.floats(-1, 2))
def test_the_most_likely_power_is_the_one_in_the_probabilities_within_its_error(seed, power):
    rows = _rows(seed, 2000, power)
    error = power_of(*rows).standard_error
    assert abs(_most_likely(*rows)[0] - power) < 5 * error
    assert error * rows[2][0].std() < 0.2  # weights that are nearly equal by chance tell less


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2, 300), power=st.floats(-1, 2))
@example(seed=99, size=2000, power=0.375)  # weights so near to each other that 2000 rows do not show them
def test_the_most_likely_power_is_taken_where_it_gains_two_standard_errors_and_else_none(seed, size, power):
    rows = _rows(seed, size, power)
    best, gain = _most_likely(*rows)
    least = 2 * np.sqrt(size) * gain.std()
    assume(abs(gain.sum() - least) > 1e-6)
    np.testing.assert_allclose(power_of(*rows).power, best if gain.sum() > least else 0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 50), power=st.floats(-3, 3), shift=st.floats(-50, 50))
def test_it_is_no_worse_than_nothing_and_takes_weights_in_any_unit(seed, size, power, shift):
    log_p, codes, log_w = _rows(seed, size, power)
    g = power_of(log_p, codes, log_w).power
    assert _nll(log_p, codes, log_w, g) <= _nll(log_p, codes, log_w, 0) + 1e-9
    if g != 0:
        assert _nll(log_p, codes, log_w, g) + (g - 1) ** 2 / 2 <= _nll(log_p, codes, log_w, 1) + 1e-9
    np.testing.assert_allclose(power_of(log_p, codes, log_w + shift).power, g, atol=1e-6)


def test_rows_whose_class_has_no_probability_say_nothing():
    log_p, codes, log_w = _rows(0, 500, 0.5)
    impossible = np.full((100, 3), -np.inf)
    impossible[:, 0] = 0.0
    more = power_of(np.r_[log_p, impossible], np.r_[codes, np.ones(100, int)], np.r_[log_w, log_w[:100]])
    np.testing.assert_allclose(more.power, power_of(log_p, codes, log_w).power, atol=1e-9)


def test_rows_that_gain_nothing_keep_their_probabilities_and_without_rows_weights_count_as_stated():
    none = power_of(np.zeros((0, 2)), np.zeros(0, int), np.zeros((0, 2)))
    sure = power_of(np.log([[1.0, 1e-300]] * 9), np.zeros(9, int), np.log([[1.0, 9.0]] * 9))
    for found, power in ((none, 1), (sure, 0)):
        np.testing.assert_allclose((found.power, found.standard_error), (power, 1), atol=1e-9)


def test_noise_is_not_taken_out():
    """Probabilities without weights: what chance would take out costs more than it gains, so nothing is."""
    powers = [power_of(*_rows(seed, 40, 0.0)).power for seed in range(40)]
    assert sum(power == 0 for power in powers) > 25, powers
