"""The rows of the benchmark as tables in Markdown: what wins against what, and every setting."""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from undoing.judging import (
    AS_TRAINING,
    EQUAL,
    PLAIN,
    PLAIN_S,
    PLAIN_T,
    POWER,
    POWER_T,
    UNDONE,
    UNDONE_T,
    WEIGHTED,
    WEIGHTED_S,
)  # fmt: skip

Row = dict[str, object]
Key = tuple[str, str, str]
SHOWN = (PLAIN, PLAIN_T, WEIGHTED, WEIGHTED_S, UNDONE, UNDONE_T, POWER, POWER_T)
SHIFTED = (PLAIN, PLAIN_T, WEIGHTED, UNDONE, POWER, POWER_T)
CALIBRATED = (PLAIN_T, WEIGHTED, UNDONE, POWER, POWER_T)
AT_OPTIMUM = ("logistic regression", "logistic regression, no penalty", "TF-IDF, logistic regression")
# (use, what, against what, as a column)
COMPARED = (
    (AS_TRAINING, UNDONE, WEIGHTED, "weighted"),
    (AS_TRAINING, POWER, WEIGHTED, "weighted"),
    (AS_TRAINING, UNDONE, PLAIN, "plain"),
    (AS_TRAINING, POWER, PLAIN, "plain"),
    (AS_TRAINING, WEIGHTED_S, PLAIN_T, "plain_temperature"),
    (AS_TRAINING, PLAIN_S, PLAIN_T, "plain_temperature"),
    (AS_TRAINING, UNDONE_T, PLAIN_T, "plain_temperature"),
    (AS_TRAINING, POWER_T, PLAIN_T, "plain_temperature"),
    (EQUAL, WEIGHTED, PLAIN_T, "plain_temperature"),
    (EQUAL, POWER_T, PLAIN_T, "plain_temperature"),
)


class Gap(NamedTuple):
    """How much larger an NLL is than a rival's on the same rows, and its standard error."""

    mean: float
    error: float

    @property
    def verdict(self) -> int:
        """Return -1 for better and 1 for worse, by more than two standard errors; else 0."""
        return 0 if abs(self.mean) <= 2 * self.error else -1 if self.mean < 0 else 1

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ± {self.error:.3f}"


class Setting:
    """All rows of one model, data set and treatment: means over seeds."""

    def __init__(self, key: Key, rows: Sequence[Row]) -> None:
        self.key, self.rows = key, rows

    def of(self, use: str, variant: str) -> list[Row]:
        return [row for row in self.rows if (row["use"], row["variant"]) == (use, variant)]

    def has(self, use: str, variant: str) -> bool:
        return bool(self.of(use, variant))

    def mean(self, column: str, use: str = AS_TRAINING, variant: str = WEIGHTED) -> float:
        return statistics.fmean(_number(row, column) for row in self.of(use, variant))

    def gap(self, use: str, variant: str, rival: str) -> Gap:
        """Return the difference; its error is that over rows or that over seeds, the larger one."""
        rows = self.of(use, variant)
        gaps = [_number(row, f"nll_over_{rival}") for row in rows]
        by_rows = math.hypot(*(_number(row, f"error_over_{rival}") for row in rows)) / len(rows)
        by_seeds = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
        return Gap(statistics.fmean(gaps), max(by_rows, by_seeds))

    def ece(self, variant: str) -> str:
        """Return the calibration error in percent, with its interval."""
        rows = self.of(AS_TRAINING, variant)
        mean = statistics.fmean(_number(row, "ece") for row in rows)
        below, above = (
            math.hypot(*(_number(row, "ece") - _number(row, end) for row in rows)) / len(rows)
            for end in ("ece_low", "ece_high")
        )
        return f"{100 * mean:.1f} ({100 * max(0.0, mean - below):.1f} to {100 * (mean + above):.1f})"


def settings(rows: Sequence[Row]) -> list[Setting]:
    """Return the settings, in the order of the rows."""
    grouped: dict[Key, list[Row]] = {}
    for row in rows:
        grouped.setdefault((str(row["model"]), str(row["data"]), str(row["treatment"])), []).append(row)
    return [Setting(key, mine) for key, mine in grouped.items()]


def markdown(rows: Sequence[Row]) -> str:
    """Return the tables, each with a line above that says what is in it."""
    found = settings(rows)
    seeds = sorted({int(str(row["seed"])) for row in rows})
    first = (
        f"{len(found)} settings, {len({(one.key, row['seed']) for one in found for row in one.rows})} trainings "
        f"with weights, seeds {', '.join(map(str, seeds))}."
    )
    return "\n\n".join(
        [
            first,
            _table(_comparisons(found)),
            "\n".join(_bounds(found)),
            "**NLL, classes as frequent as in training.**",
            _table(_nll(found, AS_TRAINING, SHOWN, (POWER, "weighted"), (POWER_T, "plain_temperature"))),
            "**NLL, all classes equally frequent.** Weighted is as trained; all others are shifted.",
            _table(_nll(found, EQUAL, SHIFTED, (WEIGHTED, "plain_temperature"), (POWER_T, "plain_temperature"))),
            "**Brier score** (from 0 to 2, lower is better), classes as frequent as in training.",
            _table(_brier(found)),
            "**ECE, %**, with its 95% interval, classes as frequent as in training.",
            _table([["model", "data", "trained with", *CALIBRATED], *_eces(found)]),
        ]
    )


def _comparisons(found: Sequence[Setting]) -> list[list[str]]:
    lines = [["classes are", "NLL of", "against", "better", "neither", "worse"]]
    for use, variant, rival, column in COMPARED:
        verdicts = [one.gap(use, variant, column).verdict for one in found if one.has(use, variant)]
        if verdicts:
            lines.append([use, variant, rival, *(str(verdicts.count(v)) for v in (-1, 0, 1))])
    return lines


def _bounds(found: Sequence[Setting]) -> Iterator[str]:
    gaps = [(one, one.gap(AS_TRAINING, POWER, "weighted")) for one in found]
    yield _bound(
        "By power is worse than weighted by more than one standard error", gaps, lambda gap: gap.mean > gap.error
    )
    gaps = [(one, one.gap(AS_TRAINING, POWER, "plain")) for one in found if one.key[0] in AT_OPTIMUM]
    yield _bound(
        "For logistic regression, by power differs from plain by more than two standard errors",
        gaps,
        lambda gap: gap.verdict != 0,
    )
    gaps = [(one, one.gap(AS_TRAINING, POWER_T, "plain_temperature")) for one in found]
    yield _bound(
        "By power and temperature is worse than plain and temperature by more than two standard errors",
        gaps,
        lambda gap: gap.verdict > 0,
    )


def _bound(words: str, gaps: Sequence[tuple[Setting, Gap]], failed: Callable[[Gap], bool]) -> str:
    those = [f"    - {', '.join(one.key)}: {gap}" for one, gap in gaps if failed(gap)]
    return "\n".join([f"- {words} in {len(those)} of {len(gaps)} settings" + (":" if those else "."), *those])


def _nll(
    found: Sequence[Setting], use: str, variants: Sequence[str], *compared: tuple[str, str]
) -> Iterator[list[str]]:
    titles = [f"{variant} - {rival.replace('_', ', ')}" for variant, rival in compared]
    yield ["model", "data", "trained with", "g", *variants, *titles]
    for one in found:
        cells = _least([one.mean("nll", use, v) if one.has(use, v) else None for v in variants])
        yield [*one.key, f"{one.mean('power'):.2f}", *cells, *(str(one.gap(use, *pair)) for pair in compared)]


def _brier(found: Sequence[Setting]) -> Iterator[list[str]]:
    yield ["model", "data", "trained with", *SHOWN]
    for one in found:
        means = [one.mean("brier", AS_TRAINING, v) if one.has(AS_TRAINING, v) else None for v in SHOWN]
        yield [*one.key, *_least(means)]


def _eces(found: Sequence[Setting]) -> Iterator[list[str]]:
    for one in found:
        yield [*one.key, *map(one.ece, CALIBRATED)]


def _least(values: Sequence[float | None]) -> list[str]:
    """Return three digits of each, the least in bold."""
    least = min(value for value in values if value is not None)
    return ["-" if value is None else f"**{value:.3f}**" if value == least else f"{value:.3f}" for value in values]


def _number(row: Row, column: str) -> float:
    return float(str(row[column]))


def _table(lines: Sequence[Sequence[str]] | Iterator[Sequence[str]]) -> str:
    head, *body = ("| " + " | ".join(line) + " |" for line in lines)
    return "\n".join([head, "|" + "---|" * head.count(" | ") + "---|", *body])
