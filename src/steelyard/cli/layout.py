"""How `--help` looks and what a wrong word is told: examples first, common options, then the rest."""

import difflib
import re
from collections.abc import Iterable
from typing import NoReturn

import click

from steelyard._common.text import OTHER_NAMES, plain_name

EXAMPLES = {
    "advise": (
        "steelyard advise train_features.parquet --objective macro-f1",
        "steelyard advise table.csv --target kind --learner xgboost",
    ),
    "audit": (
        "steelyard audit train_predictions.parquet --weights inverse",
        "steelyard audit scores.csv --pos-weights 9 --fail-on fault",
    ),
    "compare": (
        "steelyard compare --losses softmax,softmax:inverse,lgl-inr",
        "steelyard compare --dataset table.csv --losses softmax --learner xgboost",
    ),
    "correct": (
        "steelyard correct scores.csv --pos-weights 9 --out honest.csv",
        "steelyard correct test.parquet --prior estimate --out honest.parquet",
    ),
    "decide": (
        "steelyard decide honest.csv --costs costs.csv",
        "steelyard decide honest.csv --reject-cost 0.2 --out decided.csv",
    ),
    "forecast": (
        "steelyard forecast train_features.parquet",
        "steelyard forecast table.csv --inputs --target kind",
    ),
    "open": ("steelyard open runs/digits-none", "steelyard open audit/"),
    "losses": ("steelyard losses", "steelyard losses --markdown"),
    "report": ("steelyard report runs/digits-none", "steelyard report audit/"),
    "reproduce": ("steelyard reproduce c1", "steelyard reproduce all --workers 4"),
    "weights": (
        "steelyard weights table.csv --target kind",
        "steelyard weights labels.npz --scheme balanced --json",
    ),
}
# Options that most people need; all others stand below them.
COMMON = {
    "advise": {"objective", "learner", "values", "columns", "target", "out"},
    "audit": {"loss", "weights", "pos_weights", "sampler", "logits", "target", "fail_on", "out"},
    "compare": {"dataset", "target", "imbalance", "losses", "seeds", "epochs", "learner", "backbone", "out"},
    "correct": {"out", "prior", "loss", "weights", "pos_weights", "class_counts", "logits"},
    "reproduce": {"dataset", "full", "losses", "seeds", "workers", "out"},
}

# Options of one kind, which stand on one line.
TOGETHER = (("as_json", "quiet"), ("group", "time"), ("image_mode", "image_size"))

_COMMANDS = {
    "balance": "audit",
    "check": "audit",
    "inspect": "audit",
    "train": "compare",
    "fit": "compare",
    "run": "compare",
    "benchmark": "compare",
    "calibrate": "correct",
    "undo": "correct",
    "threshold": "decide",
    "thresholds": "decide",
    "predict": "decide",
    "claims": "reproduce",
    "leaderboard": "reproduce",
    "design": "forecast",
}
_WIDTH = 26
"""Of the column of options; what is wider stands on a line of its own."""


def _refuse(kind: str, word: str, near: Iterable[str]) -> NoReturn:
    found = list(dict.fromkeys(near))
    hint = f" (did you mean {' or '.join(repr(one) for one in found)}?)" if found else ""
    raise click.UsageError(f"no such {kind} {word!r}{hint}; --help lists them")


class Command(click.Command):
    """A command whose help has examples and two groups of options, and which knows what others call an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            known = {name for one in self.params for name in one.opts if name.startswith("--")}
            told = [
                f"--{one}" for one in OTHER_NAMES.get(plain_name(error.option_name), ()) if f"--{one}" in known
            ]
            _refuse(
                "option", error.option_name, told[:1] or difflib.get_close_matches(error.option_name, known, n=1)
            )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        common = COMMON.get(self.name or "")
        first: list[tuple[str, str]] = []
        more: list[tuple[str, str]] = []
        options = {one.name: one for one in self.params if isinstance(one, click.Option)}
        for name in list(options):
            names = next(
                (group for group in TOGETHER if group[0] == name and options.keys() >= set(group)), (name,)
            )
            found = [options.pop(one) for one in names if one in options]
            records = [record for one in found if (record := one.get_help_record(ctx)) is not None]
            if records:
                (first if common is None or name in common else more).append(_joined(records))
        for title, rows in (("Options [and what they are by default]", first), ("More options", more)):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows, col_max=_WIDTH)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_help_text(ctx, formatter)
        if examples := EXAMPLES.get(self.name or ""):
            with formatter.section("Examples"):
                for example in examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")


def _joined(records: list[tuple[str, str]]) -> tuple[str, str]:
    """Return one line for options of one kind: their names, and what each does, with semicolons between."""
    rows = [_short(*record) for record in records]
    if len(rows) == 1:
        return rows[0]
    names = [re.sub(r" [A-Z]+$", "", name) for name, _ in rows]
    values = {row[0].removeprefix(name) for row, name in zip(rows, names, strict=True)}
    first, *others = [text.removesuffix(".") for _, text in rows]
    told = "; ".join([first, *(text[:1].lower() + text[1:] for text in others)])
    return ", ".join(names) + (values.pop() if len(values) == 1 else ""), f"{told}."


def _short(written: str, text: str) -> tuple[str, str]:
    """Return how an option is written, N for a whole number and X for any, and its text with a short default."""
    for long, short in ((" INTEGER RANGE", " N"), (" INTEGER", " N"), (" FLOAT", " X")):
        written = written.removesuffix(long) + short if written.endswith(long) else written
    if len(written) > _WIDTH - 2:
        written = re.sub(r"^(--[\w-]+), --[\w-]+", r"\1", written)  # a second name
    return written, text.replace("; x>=1]", "]").replace("  [default: ", "  [")


class Group(click.Group):
    """Commands that know what others call them."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0]
        if self.get_command(ctx, word) is None and not word.startswith("-"):
            known = self.list_commands(ctx)
            told = _COMMANDS.get(plain_name(word))
            _refuse("command", word, [told] if told else difflib.get_close_matches(word, known, n=1))
        return super().resolve_command(ctx, args)
