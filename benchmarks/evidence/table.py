"""The rows of the evidence as tables in Markdown: what was found by plant and family, the bounds, the coverage."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from evidence.cases import DRAWN

Row = dict[str, str]
FAMILIES = ("linear", "boosting", "networks", "forest")
LEAST = {"linear": 0.95, "boosting": 0.95, "networks": 0.90}
RIGHT = ("exact", "clean")
COLUMNS = ("wrong_class_order", "score_flipped")


def markdown(rows: Sequence[Row]) -> str:
    """Return the tables."""
    audits = [row for row in rows if row["plant"] != DRAWN]
    trainings = len({row["training"] for row in audits})
    first = (
        f"{len(audits)} audits of {trainings} trainings. Cells: how many were named exactly, with a 95% interval."
    )
    parts = [first, _plants(audits), _bounds(audits), _coverage(rows)]
    return "\n\n".join(parts) + "\n"


def wilson(right: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share."""
    share, spread = right / of, z * z / of
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / of + spread / (4 * of))
    middle = (share + spread / 2) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def counted(right: int, of: int) -> str:
    """Return "19 of 20 (76-99%)"."""
    if not of:
        return "-"
    low, high = wilson(right, of)
    return f"{right} of {of} ({100 * low:.0f}-{100 * high:.0f}%)"


def _plants(rows: Sequence[Row]) -> str:
    lines = [["planted", "expected", *FAMILIES, "otherwise"]]
    for plant, expected in dict.fromkeys((row["plant"], row["expected"]) for row in _sorted(rows)):
        mine = [row for row in rows if (row["plant"], row["expected"]) == (plant, expected)]
        cells = [_right(row for row in mine if row["family"] == family) for family in FAMILIES]
        wrong = Counter(_wrong(row) for row in mine if row["outcome"] not in RIGHT)
        other = ", ".join(f"{words} {n}" for words, n in wrong.most_common(4))
        lines.append([plant, f"`{expected}`" if expected else "no fault", *cells, other])
    return _table(lines)


def _sorted(rows: Sequence[Row]) -> list[Row]:
    """Return healthy models first, then the plants in alphabetical order of what is expected."""
    return sorted(rows, key=lambda row: (row["expected"], row["plant"]))


def _wrong(row: Row) -> str:
    named = row["faults"].replace(" ", " + ")
    return named or "nothing"


def _right(rows: Iterable[Row]) -> str:
    outcomes = [row["outcome"] in RIGHT for row in rows]
    return counted(sum(outcomes), len(outcomes))


def _bounds(rows: Sequence[Row]) -> str:
    lines = [["bound", "found", "met"]]

    def bound(words: str, kept: Callable[[Row], bool], least: float, right: Callable[[Row], bool]) -> None:
        outcomes = [right(row) for row in rows if kept(row)]
        if outcomes:
            met = sum(outcomes) / len(outcomes) >= least
            lines.append([words, counted(sum(outcomes), len(outcomes)), "yes" if met else "no"])

    def exact(row: Row) -> bool:
        return row["outcome"] in RIGHT

    bound("healthy: no fault in 95%", lambda row: not row["expected"], 0.95, exact)
    for family in FAMILIES:
        bound(
            f"healthy, {family}: 95%",
            lambda row, f=family: not row["expected"] and row["family"] == f,
            0.95,
            exact,
        )
    for family, least in LEAST.items():
        planted = f"planted, {family}: named exactly in {100 * least:.0f}%"
        bound(planted, lambda row, f=family: bool(row["expected"]) and row["family"] == f, least, exact)
    bound("wrong order and flipped score: 100%", lambda row: row["expected"] in COLUMNS, 1, exact)
    never = "weights_not_applied"
    bound(
        "never applied: never called applied",
        lambda row: row["expected"] == never,
        1,
        lambda row: row["called_applied"] == "0",
    )
    for family, least in LEAST.items():
        mine = [row for row in rows if row["family"] == family and row["expected"]]
        if not mine:
            continue
        short = []
        for plant in sorted({row["plant"] for row in mine}):
            outcomes = [exact(row) for row in mine if row["plant"] == plant]
            if sum(outcomes) / len(outcomes) < least:
                short.append(plant)
        words = f"each plant, {family}: named exactly in {100 * least:.0f}%"
        lines.append([words, "short: " + ", ".join(short) if short else "all", "no" if short else "yes"])
    return _table(lines)


def _coverage(rows: Sequence[Row]) -> str:
    lines = [["95% intervals", "family", "power inside", "implied weights inside"]]
    for words, drawn in (("of another sample of rows", True), ("of another training", False)):
        for family in FAMILIES:
            mine = [row for row in rows if row["family"] == family and (row["plant"] == DRAWN) is drawn]
            power = [row for row in mine if row["low"] and row["true_power"]]
            inside = sum(float(r["low"]) <= float(r["true_power"]) <= float(r["high"]) for r in power)
            implied, of = (sum(int(row[name]) for row in mine) for name in ("implied_inside", "implied_of"))
            if of or power:
                lines.append([words, family, counted(inside, len(power)), counted(implied, of)])
    return _table(lines)


def _table(lines: Sequence[Sequence[str]]) -> str:
    head, *body = ("| " + " | ".join(line) + " |" for line in lines)
    return "\n".join([head, "|" + "---|" * len(lines[0]), *body])
