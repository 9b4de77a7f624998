"""The learning rate of a loss: the best of those tried, and of others where that one lies at an edge."""

from collections.abc import Callable, Sequence

_LIMITS = (1e-4, 30.0)


def best_rate(
    rates: Sequence[float], score: Callable[[float], float | None]
) -> tuple[float, dict[float, float | None]]:
    """The learning rate with the highest score (of equals the lowest), and the score of every one tried.

    Where the best is the least or the largest so far the next is tried too, at the ratio of the first two, to two
    digits, from 0.0001 to 30: so that no loss is judged at the edge of a grid that was made for another.

    Args:
        rates: to try at least, in rising order. A single one is taken untried.
        score: a rate's; None where training diverged.

    Example:
        >>> best_rate([0.1, 0.3], {0.1: 0.5, 0.3: 0.6, 0.9: 0.7, 2.7: None}.get)
        (0.9, {0.1: 0.5, 0.3: 0.6, 0.9: 0.7, 2.7: None})
    """
    if len(rates) == 1:
        return rates[0], {}
    factor = rates[1] / rates[0]
    scores = {rate: score(rate) for rate in rates}
    while True:
        best = max(scores, key=lambda rate: (-1.0 if (value := scores[rate]) is None else value, -rate))
        least, largest = min(scores), max(scores)
        beyond = float(f"{least / factor if best == least else largest * factor if best == largest else best:.2g}")
        if beyond in scores or not _LIMITS[0] <= beyond <= _LIMITS[1]:
            return best, dict(sorted(scores.items()))
        scores[beyond] = score(beyond)
