"""Options that several commands have."""

from collections.abc import Callable
from typing import Any

import click

CLASS_NAMES = "K names in order, comma-separated.  [default: as FILE says]"

_OF_TRAINING: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (
        ("--loss",),
        {"help": "softmax:inverse, focal ...  [default: of FILE, else softmax]"},
    ),
    (("--weights",), {"metavar": "WEIGHTS", "help": "Class weights in the loss.  [default: as --loss says]"}),
    (("--pos-weights",), {"metavar": "WEIGHTS", "help": "Of each output's positives, in logistic losses."}),
    (("--sampler",), {"metavar": "WEIGHTS", "help": "How often each class was drawn."}),
    (("--corrected",), {"metavar": "WEIGHTS", "help": "What was taken out of the logits already."}),
    (("--batch-size",), {"type": int, "help": "Samples of a batch, for LGL-INR.  [default: as FILE says]"}),
)
_OF_FILE: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("--class-names",), {"help": CLASS_NAMES}),
    (
        ("--logits",),
        {
            "metavar": "COLUMNS",
            "help": "a,b or patterns as 'logit_*'.  [default: by their names]",
        },
    ),
    (
        ("--target",),
        {
            "metavar": "COLUMN",
            "help": "Label column, or file of labels; of multi-label a,b or 'label_*'.  "
            "[default: target, label, y ...]",
        },
    ),
)


def no_rows(command: Any) -> Any:
    """Add the option that leaves held-out rows out of a page."""
    return click.option(
        "--no-rows",
        "rows",
        flag_value=False,
        default=True,
        help="Leave the explorer's logits out of the page.",
    )(command)


def stated(counts: str) -> Callable[[Any], Any]:
    """Add the options that say how a model was trained and which columns a file of predictions has.

    `counts` says what the training counts are by default.
    """
    of_counts = (
        ("--counts", "--class-counts", "class_counts"),
        {"help": f"Training samples of each class{counts}"},
    )

    def add(command: Any) -> Any:
        for names, settings in reversed((*_OF_TRAINING, of_counts, *_OF_FILE)):
            command = click.option(*names, **settings)(command)
        return command

    return add


def parts_of(text: str) -> list[str]:
    """Return what stands between commas, without what is empty."""
    return [part.strip() for part in text.split(",") if part.strip()]


def names_of(text: str | None) -> list[str] | None:
    """Return the names of a list with commas; None where none is given."""
    return None if text is None else [name.strip() for name in text.split(",")]


def as_text_or_json(command: Any) -> Any:
    """Add --json, which prints what was found as JSON and nothing else on standard output, and --quiet."""
    quiet = click.option(
        "--quiet",
        "-q",
        is_flag=True,
        expose_value=False,
        callback=lambda ctx, _, given: ctx.meta.update({_QUIET: given}),
        help="Print no progress, no notes.",
    )
    return click.option("--json", "as_json", is_flag=True, help="Print all as JSON.")(quiet(command))


_QUIET = "steelyard.quiet"


def is_quiet() -> bool:
    """Return whether the command that runs was asked to be."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_QUIET))


def tell(text: str) -> None:
    """Print a line to standard error, unless the command is to be quiet."""
    if not is_quiet():
        click.echo(text, err=True)


def tell_place(text: str, as_json: bool) -> None:
    """Print where something was written: a result beside tables, a note beside JSON."""
    if as_json:
        tell(text)
    else:
        click.echo(text)
