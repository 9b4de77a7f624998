"""Means, intervals and tests over seeds."""

import math
from collections.abc import Sequence

import numpy as np

from steelyard.report.intervals import beside_mean, half_interval
from steelyard.report.results import Estimate, Summary
from steelyard.report.style import Array


def differences(values: list[float | None], others: list[float | None]) -> list[float]:
    """Return the differences seed by seed, of the seeds in which neither diverged."""
    return [a - b for a, b in zip(values, others, strict=True) if a is not None and b is not None]


def p_value(found: list[float]) -> float:
    """Return the p-value of a paired t-test, of a sign test if all differences are equal; 1 for fewer than two."""
    if len(found) < 2:
        return 1.0
    if len(set(found)) == 1:
        return 1.0 if found[0] == 0 else 2.0 ** (1 - len(found))
    from scipy import stats  # most of a second to import

    return float(stats.ttest_1samp(found, 0).pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return the p-values of one family of tests, corrected for their number by Holm's method; None is no test."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected, highest = list(p_values), 0.0
    for rank, (p, i) in enumerate(tested):
        highest = max(highest, min(1.0, p * (len(tested) - rank)))
        corrected[i] = highest
    return corrected


def mean_interval(
    values: Sequence[float | None], *, low: float = -math.inf, high: float = math.inf, comparisons: int = 1
) -> Estimate:
    """Return the mean of what is not None and the ends of its 95% Student interval, None for one value.

    Args:
        values: at least one that is not None.
        low, high: between which every value lies by its definition, and so the interval.
        comparisons: how many such intervals are to be right together, all of them in 95% of cases, by Bonferroni's
            correction.
    """
    known = _known(values)
    if not len(known):
        raise ValueError("values must not be empty")
    mean = math.fsum(known) / len(known)
    half = None if len(known) == 1 else float(half_interval(known, comparisons))
    return mean, None if half is None else max(mean - half, low), None if half is None else min(mean + half, high)


def in_words(number: Estimate, style: str) -> str:
    """Return a mean and its interval in words, each number in a style of :func:`format`."""
    mean, low, high = number
    return f"{mean:{style}}" + ("" if low is None or high is None else f" [{low:{style}}, {high:{style}}]")


def summary(values: Sequence[float | None], *, high: float = math.inf) -> Summary | None:
    """Return the mean over seeds of values from 0 to `high`, and what stands beside it; None without values.

    See :func:`steelyard.report.intervals.beside_mean`.
    """
    known = _known(values)
    if not len(known):
        return None
    ends = beside_mean(known, low=0, high=high)
    low, top = (None, None) if ends is None else (float(end) for end in ends)
    return Summary(math.fsum(known) / len(known), low, top, len(known))


def _known(values: Sequence[float | None]) -> Array:
    return np.asarray([value for value in values if value is not None], dtype=np.float64)
