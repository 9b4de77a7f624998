"""Results as tables on standard output."""

import os
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # reports need libraries that a table does not
    from steelyard.auditing import AuditReport
    from steelyard.auditing.binary import Ratio
    from steelyard.commands.correct import Correction
    from steelyard.commands.decide import Decisions
    from steelyard.report.results import Comparison, ForecastResults, Summary


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=160)  # a file is as wide as it needs to be
    return console


_MOST_CLASSES = 20


def print_audit(found: "AuditReport") -> None:
    """The answer, the verdicts in words, then the classes that are most off."""
    console = _console()
    console.print(Padding(_plain(found.headline), (0, 0, 1, 0), expand=False), style="bold")
    for verdict in found.verdicts:
        badge = "" if verdict.severity == "note" else f" [{verdict.severity}: {verdict.name.replace('_', ' ')}]"
        console.print(Text(f"{verdict.code} {verdict.topic.upper()}{badge}", style="bold"))
        console.print(Padding(_plain(verdict.text), (0, 0, 1, 2), expand=False))
    if found.ignored_line:
        console.print(Padding(_plain(found.ignored_line), (0, 0, 1, 0), expand=False))
    if found.ratio is not None:
        _print_ratio(console, found, found.ratio)
        return
    rows = found.classes
    kind = "weight" if found.implied_weights is not None else "positive weight"
    titles = ["samples", f"stated {kind}", f"implied {kind}", "relative residual"]
    lines = [
        (
            row.name,
            [
                str(row.samples),
                _significant(row.stated),
                _significant(row.implied) + _between(row.implied_low, row.implied_high),
                "-" if row.relative_residual is None else f"{row.relative_residual:+.2f}",
            ],
        )
        for row in rows[:_MOST_CLASSES]
    ]
    _print_rows(console, "label" if found.numbers.statement.several else "class", titles, lines, None)
    if len(rows) > _MOST_CLASSES:
        click.echo(f"the {_MOST_CLASSES} of {len(rows)} classes that are most off")


def _print_ratio(console: Console, found: "AuditReport", ratio: "Ratio") -> None:
    """Two classes: one line in one unit, the weight of a sample of class 0, and what follows for the threshold."""
    row, other = found.classes
    cells = [
        f"{row.samples} of {row.samples + other.samples}",
        _significant(ratio.stated),
        _significant(ratio.found.value) + _between(ratio.found.low, ratio.found.high),
        "-" if row.relative_residual is None else f"{row.relative_residual:+.2f}",
    ]
    titles = ["samples", f"weight stated ({other.name}: 1)", "weight as it acted", "relative residual"]
    _print_rows(console, "class", titles, [(row.name, cells)], None)
    if ratio.text:
        console.print(_plain(ratio.text))


def print_weights(found: dict[str, Any]) -> None:
    """The weights of each class by scheme, what each does and cannot do, what holds for all, code."""
    console = _console()
    schemes = found["schemes"]
    titles = ["samples", *(one["scheme"] for one in schemes)]
    frequent = sorted(range(len(found["classes"])), key=lambda k: -found["counts"][k])
    shown = (
        frequent
        if len(frequent) <= _MOST_CLASSES
        else frequent[: _MOST_CLASSES // 2] + frequent[-_MOST_CLASSES // 2 :]
    )
    lines = [
        (
            str(found["classes"][k]),
            [str(found["counts"][k]), *(_significant(one["weights"][k]) for one in schemes)],
        )
        for k in shown
    ]
    _print_rows(console, found["label"], titles, lines, None)
    if len(shown) < len(frequent):
        half = _MOST_CLASSES // 2
        console.print(_plain(f"the {half} most and the {half} least frequent of {len(frequent)} classes"))
    if found["rows_without_label"]:
        console.print(_plain(f"{found['rows_without_label']} rows without a label are left out"))
    for title, sentences in [
        *((one["scheme"], one["says"]) for one in schemes),
        ("under any scheme", found["notes"]),
    ]:
        console.print(Text(f"\n{title}", style="bold"))
        for sentence in sentences:
            console.print(Padding(_plain(sentence), (0, 0, 0, 2), expand=False))
    for library, text in found["code"].items():
        console.print(Text(f"\n{library}, {found['code_scheme']}", style="bold"))
        click.echo("\n".join(f"  {line}" for line in text.splitlines()))  # not wrapped: to paste


def print_advice(found: dict[str, Any]) -> None:
    """What to do, what everything that was tried is worth, code."""
    console = _console()
    console.print(Padding(_plain(found["sentence"]), (0, 0, 1, 0), expand=False), style="bold")
    for note in found["notes"]:
        console.print(_plain(note))
    minimum = found["minimum"]
    titles = [
        *([f"recall of {minimum['class']}"] if minimum else []),
        found["value"],
        "gain over plain",
        "95%, all together",
    ]
    lines = [
        (
            ("> " if way["name"] == found["chosen"] else "  ") + way["name"],
            [
                *([f"{way['recall'][minimum['position']]:.3f}"] if minimum else []),
                f"{way['value']:.4f}",
                f"{way['gain']:+.4f}",
                f"{way['interval'][0]:+.4f} to {way['interval'][1]:+.4f}",
            ],
        )
        for way in found["ways"]
    ]
    _print_rows(
        console, "way", titles, lines, _plain(f"{found['model']}; {found['folds']} folds, out-of-fold rows")
    )
    for library, text in found["code"].items():
        console.print(Text(f"\n{library}", style="bold"))
        click.echo("\n".join(f"  {line}" for line in text.splitlines()))  # not wrapped: to paste


def print_forecast(found: "ForecastResults") -> None:
    """The metrics of each weighting and of its rivals, the recall of classes, and what is guaranteed."""
    console = _console()
    binary = len(found.class_names) == 2
    titles = ["Accuracy, %", "Balanced accuracy, %", "NLL", "ECE, %"] + (["P0/(1-P1), law"] if binary else [])
    lines = []
    for row in found.tables:
        one, ends = row.scores, row.scores.intervals
        cells = [_share(one.accuracy, ends.accuracy), _share(one.balanced_accuracy, ends.balanced_accuracy)]
        low, high = ends.nll
        between = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
        cells += ["-" if one.nll is None else f"{one.nll:.3f}{between}", _share(one.ece, ends.ece)]
        cells += [_significant(row.of.binary_ratio if row.of and row.how != "shift" else None)] if binary else []
        lines.append((row.label, cells))
    _print_rows(console, "loss and weights", titles, lines, _plain(f"judged by {found.judged_by}"))
    console.print(_plain("shift: the head without weights, with log w added to its logits; [95% interval]"))
    counts = found.class_counts
    order = sorted(range(len(counts)), key=lambda k: -counts[k])
    rarest = order[-_MOST_CLASSES:]
    lines = [
        (
            f"{found.class_names[k]} ({counts[k]})",
            ["-" if (r := row.scores.recall[k]) is None else f"{100 * r:.1f}" for row in found.tables],
        )
        for k in rarest
    ]
    titles = [row.label for row in found.tables]
    which = (
        "recall of each class, %"
        if len(order) == len(rarest)
        else f"recall of the {len(rarest)} rarest classes, %"
    )
    _print_rows(console, "class (training samples)", titles, lines, _plain(which))
    console.print(_plain(found.guarantee))
    console.print(_plain(f"{found.size_of_head} {found.caution}"))


def _share(value: float, ends: tuple[float | None, float | None]) -> str:
    low, high = ends
    between = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * value:.1f}{between}"


def print_correction(found: "Correction") -> None:
    """What was taken out of how many rows, and the class frequencies that the probabilities are for."""
    console = _console()
    console.print(_plain(f"{found.rows} rows: undone is {found.setup}"))
    if found.temperature != 1:
        console.print(_plain(f"temperature: {found.temperature:.4g}"))
    if found.without:
        console.print(
            _plain(
                f"{found.without} rows have no probabilities, and empty cells: numbers are missing or infinite, "
                "or no posterior has their logits"
            )
        )
    if found.prior is None:
        console.print(_plain("class frequencies: those of the training"))
        return
    interval = None if found.estimate is None else found.estimate.interval.tolist()
    order = sorted(range(len(found.class_names)), key=lambda k: -float(found.prior[k]))  # type: ignore[index]
    lines = [
        (
            found.class_names[k],
            [_significant(float(found.prior[k])) + ("" if interval is None else _between(*interval[k]))],
        )
        for k in order[:_MOST_CLASSES]
    ]
    title = "share" if interval is None else "share, estimated [95% interval]"
    _print_rows(console, "class", [title], lines, None)
    if len(order) > _MOST_CLASSES:
        console.print(_plain(f"the {_MOST_CLASSES} most frequent of {len(order)} classes"))


def print_decisions(found: "Decisions") -> None:
    """How often each class is decided, and what the decisions are expected to cost."""
    console = _console()
    decided = max(found.rows - found.without, 1)
    order = sorted(found.counts.items(), key=lambda item: -item[1])
    lines = [(name, [str(count), f"{100 * count / decided:.1f}"]) for name, count in order[:_MOST_CLASSES]]
    _print_rows(console, "decision", ["rows", "%"], lines, None)
    if len(order) > _MOST_CLASSES:
        console.print(_plain(f"the {_MOST_CLASSES} most frequent of {len(order)} decisions"))
    if found.without:
        console.print(_plain(f"{found.without} rows have no probabilities, and no decision"))
    if found.expected_cost is not None:
        console.print(
            _plain(
                f"expected cost of a row: {found.expected_cost:.6g}; "
                f"{found.cost_of_likeliest:.6g} if the likeliest class was decided"
            )
        )


def _significant(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"


def _print_rows(
    console: Console, first: str, titles: list[str], rows: list[tuple[str, list[str]]], title: Text | None
) -> None:
    """A table, or a list where the terminal is too narrow for one."""
    longest = max((len(label) for label, _ in rows), default=0)
    names = max(len(first), min(longest, console.width // 3))
    widths = [
        max(map(len, (*name.split(), *column)))
        for name, *column in zip(titles, *(cells for _, cells in rows), strict=True)
    ]
    if console.width < max(100, names + sum(widths) + 3 * len(widths) + 4):
        for label, cells in rows:
            console.print(_plain(label))
            for name, cell in zip(titles, cells, strict=True):
                console.print(_plain(f"  {name:21s} {cell}"))
        return
    table = Table(title=title)
    table.add_column(
        first, overflow="fold", max_width=names
    )  # a long name takes more lines, not the numbers' place
    for name, width in zip(titles, widths, strict=True):
        table.add_column(name, justify="right", min_width=width)
    for label, cells in rows:
        table.add_row(_plain(label), *map(_plain, cells))
    console.print(table)


def print_table(results: "Comparison") -> None:
    """The metrics of each loss."""
    from steelyard.report.intervals import FEWEST

    console = _console()
    metrics = [metric for metric, classes in results.groups_of() if classes != 0]
    titles = [m.title + (f", {m.unit}" if m.unit else "") for m in metrics]
    rows = [
        (loss.label, [_cell(loss.summary[m.key], 100 if m.unit == "%" else 1) for m in metrics])
        for loss in results.losses
    ]
    title = _plain(f"{results.config['dataset']}, imbalance {results.config['imbalance']}")
    _print_rows(console, "loss", titles, rows, title)
    seeds = results.config["seeds"]
    beside = "95% interval" if seeds >= FEWEST else "least, largest"
    if seeds > 1 and not results.seeds_differ:
        click.echo(f"all {seeds} seeds gave the same numbers: nothing in these trainings is random")
    else:
        click.echo(f"mean over {seeds} seeds [{beside}]" if seeds > 1 else "one seed: no intervals")


def _cell(value: "Summary | None", scale: int) -> str:
    if value is None:
        return "-"
    digits = 1 if scale == 100 else 3
    text = f"{value.mean * scale:.{digits}f}"
    if value.low is None or value.high is None:
        return text
    return f"{text} [{value.low * scale:.{digits}f}, {value.high * scale:.{digits}f}]"


def _plain(text: str) -> Text:
    """Text that is shown as it is: no markup, no control characters."""
    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))
