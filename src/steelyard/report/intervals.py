"""What stands beside a mean over seeds: its interval, or, of few seeds, the seeds' own values."""

import math

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


def half_interval(values: Array) -> Array:
    """Return half the 95% Student interval of the mean over at least two seeds, values (seeds, ...)."""
    from scipy import stats

    seeds = len(values)
    spread = values.std(0, ddof=1) / math.sqrt(seeds)
    return np.asarray(float(stats.t.ppf(0.975, seeds - 1)) * spread)
