"""The learning rate of a loss: the best of those tried, and of others where that one lies at an edge."""

from collections.abc import Callable, Mapping, Sequence

RATES = (1e-4, 30.0)
"""The least and the largest learning rate that is tried beyond those that are given."""
LARGEST_DECAY = 0.1
"""The largest weight decay that is tried beyond those that are given."""


def best_rate(
    rates: Sequence[float], score: Callable[[float], float | None]
) -> tuple[float, dict[float, float | None]]:
    """Return the learning rate with the highest score, and the score of every rate tried.

    Of equal scores the lowest rate is taken. Which rates are tried: :func:`rates_to_try`.

    Args:
        rates: to try at least, in rising order. A single one is taken untried.
        score: a rate's; None where training diverged.

    Example:
        >>> best_rate([0.1, 0.3], {0.1: 0.5, 0.3: 0.6, 0.9: 0.7, 2.7: None}.get)
        (0.9, {0.1: 0.5, 0.3: 0.6, 0.9: 0.7, 2.7: None})
    """
    scores: dict[float, float | None] = {}
    while untried := rates_to_try(rates, scores):
        scores |= {rate: score(rate) for rate in untried}
    return by_score(scores)[0] if scores else rates[0], dict(sorted(scores.items()))


def rates_to_try(
    rates: Sequence[float], scores: Mapping[float, float | None], limits: tuple[float, float] = RATES
) -> list[float]:
    """Return the rates whose scores the search needs next; none where it is at its end.

    First all of `rates`. Then, where the best is the least or the largest so far, the next rate at the ratio of
    the first two, to two digits, within `limits`: so that no loss is judged at the edge of a grid that was made
    for another. A rate of 0 has no ratio: then nothing beyond `rates` is tried.

    Args:
        rates: to try at least, in rising order. A single one needs no score.
        scores: of the rates tried so far; None where training diverged.
        limits: the least and the largest that is tried beyond `rates`.

    Example:
        >>> rates_to_try([0.1, 0.3], {0.1: 0.5, 0.3: 0.6})
        [0.9]
    """
    if len(rates) == 1:
        return []
    if untried := [rate for rate in rates if rate not in scores]:
        return untried
    if rates[0] == 0:
        return []
    factor = rates[1] / rates[0]
    best, least, largest = by_score(scores)[0], min(scores), max(scores)
    beyond = float(f"{least / factor if best == least else largest * factor if best == largest else best:.2g}")
    return [] if beyond in scores or not limits[0] <= beyond <= limits[1] else [beyond]


def by_score(scores: Mapping[float, float | None]) -> list[float]:
    """Return the rates by falling score, of equal ones the lowest first, those that diverged last."""
    return sorted(scores, key=lambda rate: (1.0 if (value := scores[rate]) is None else -value, rate))
