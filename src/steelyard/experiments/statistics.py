"""Means, intervals and tests over seeds."""

import math
from collections.abc import Sequence
from typing import Any

from scipy import stats


def differences(values: list[float | None], others: list[float | None]) -> list[float]:
    """Seed by seed, of the seeds in which neither diverged."""
    return [a - b for a, b in zip(values, others, strict=True) if a is not None and b is not None]


def p_value(found: list[float]) -> float:
    """Of a paired t-test, or a sign test where differences are equal; 1 for fewer than two."""
    if len(found) < 2:
        return 1.0
    if len(set(found)) == 1:
        return 1.0 if found[0] == 0 else 2.0 ** (1 - len(found))
    return float(stats.ttest_1samp(found, 0).pvalue)


def holm(rows: list[dict[str, Any]]) -> None:
    """Correct the p-values of one family of tests for their number, by Holm's method."""
    tested = sorted((row for row in rows if row["p"] is not None), key=lambda row: row["p"])
    highest = 0.0
    for i, row in enumerate(tested):
        highest = max(highest, min(1.0, row["p"] * (len(tested) - i)))
        row["p"] = highest


def mean_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean, and the ends of its 95% Student interval; none for one value."""
    found = summary(values)
    if found is None or found["mean"] is None:
        raise ValueError("values must not be empty")
    return found["mean"], found["low"], found["high"]


def in_words(number: tuple[float, float | None, float | None], style: str) -> str:
    """A mean and its interval in words, each number in a style of :func:`format`."""
    mean, low, high = number
    return f"{mean:{style}}" + ("" if low is None or high is None else f" [{low:{style}}, {high:{style}}]")


def summary(values: Sequence[float | None]) -> dict[str, float | int | None] | None:
    """Mean and 95% Student interval over seeds; no interval for one seed, None where there are no values."""
    known = [v for v in values if v is not None]
    if not known:
        return None
    mean = math.fsum(known) / len(known)
    if len(known) == 1:
        return {"mean": mean, "low": None, "high": None, "n": 1}
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in known) / (len(known) - 1) / len(known))
    half = float(stats.t.ppf(0.975, len(known) - 1)) * spread
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": len(known)}
