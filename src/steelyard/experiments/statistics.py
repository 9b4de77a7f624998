"""Means, intervals and tests over seeds."""

import math
from collections.abc import Sequence

from scipy import stats

from steelyard.report.results import Estimate, Summary


def differences(values: list[float | None], others: list[float | None]) -> list[float]:
    """Return the differences seed by seed, of the seeds in which neither diverged."""
    return [a - b for a, b in zip(values, others, strict=True) if a is not None and b is not None]


def p_value(found: list[float]) -> float:
    """Return the p-value of a paired t-test, of a sign test if all differences are equal; 1 for fewer than two."""
    if len(found) < 2:
        return 1.0
    if len(set(found)) == 1:
        return 1.0 if found[0] == 0 else 2.0 ** (1 - len(found))
    return float(stats.ttest_1samp(found, 0).pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return the p-values of one family of tests, corrected for their number by Holm's method; None is no test."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected, highest = list(p_values), 0.0
    for rank, (p, i) in enumerate(tested):
        highest = max(highest, min(1.0, p * (len(tested) - rank)))
        corrected[i] = highest
    return corrected


def mean_interval(values: Sequence[float | None]) -> Estimate:
    """Return the mean and the ends of its 95% Student interval; None for one value."""
    found = summary(values)
    if found is None:
        raise ValueError("values must not be empty")
    return found.mean, found.low, found.high


def in_words(number: Estimate, style: str) -> str:
    """Return a mean and its interval in words, each number in a style of :func:`format`."""
    mean, low, high = number
    return f"{mean:{style}}" + ("" if low is None or high is None else f" [{low:{style}}, {high:{style}}]")


def summary(values: Sequence[float | None]) -> Summary | None:
    """Return the mean over seeds with its 95% Student interval; None where there are no values."""
    known = [v for v in values if v is not None]
    if not known:
        return None
    mean = math.fsum(known) / len(known)
    if len(known) == 1:
        return Summary(mean, None, None, 1)
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in known) / (len(known) - 1) / len(known))
    half = float(stats.t.ppf(0.975, len(known) - 1)) * spread
    return Summary(mean, mean - half, mean + half, len(known))
