"""What stands beside a mean over seeds: its interval, or, of few seeds, the seeds' own values."""

import math
from collections.abc import Sequence

import numpy as np

from steelyard.report.style import Array

FEWEST = 4
"""Seeds from which on a mean has an interval. Half of it is 12.7 standard errors of two seeds and 4.3 of three: it
would tell more of the t distribution than of the seeds."""


def beside_mean(values: Array, *, low: float = -math.inf, high: float = math.inf) -> tuple[Array, Array] | None:
    """Return two ends for the mean over seeds, or None for a single seed.

    From four seeds on they are those of the 95% Student interval of the mean, as far as values can be there. Of
    two or three seeds they are the least and the largest value.

    Args:
        values: (seeds, ...) numbers.
        low, high: between which every value lies by its definition.
    """
    seeds = len(values)
    if seeds < 2:
        return None
    if seeds < FEWEST:
        return np.asarray(values.min(0)), np.asarray(values.max(0))
    mean, half = values.mean(0), half_interval(values)
    return np.maximum(mean - half, low), np.minimum(mean + half, high)


def half_interval(values: Array, comparisons: int = 1) -> Array:
    """Return half the 95% Student interval of the mean over at least two seeds, values (seeds, ...); of each of
    several comparisons, half the interval of a level at which all are right together in 95% of cases."""
    from scipy import stats

    seeds = len(values)
    spread = values.std(0, ddof=1) / math.sqrt(seeds)
    return np.asarray(float(stats.t.ppf(1 - 0.025 / comparisons, seeds - 1)) * spread)


def surely_best(
    estimates: Sequence[tuple[float | None, float | None, float | None]], *, higher: bool
) -> int | None:
    """Return the place of the best estimate where its interval overlaps with no other, else None.

    Args:
        estimates: value and ends of the interval. Where a number is not known, or one stands alone, none is best.
        higher: whether a higher value is better.
    """
    sign, ends = (1 if higher else -1), []
    for value, low, high in estimates:
        if value is None or low is None or high is None:
            return None
        ends.append((sign * value, *sorted((sign * low, sign * high))))
    if len(ends) < 2:
        return None
    first = max(range(len(ends)), key=lambda i: ends[i][0])
    return first if all(ends[first][1] > high for i, (_, _, high) in enumerate(ends) if i != first) else None
