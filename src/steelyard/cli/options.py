"""Options that several commands have."""

from collections.abc import Callable
from typing import Any

import click

WEIGHTS = "a scheme such as inverse or power@0.5, K comma-separated numbers, or a JSON file"
CLASS_NAMES = "K class names, comma-separated, in the order of the classes.  [default: what the file says]"

_OF_TRAINING: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (
        ("--loss",),
        {
            "help": "The loss as for compare: softmax:inverse, logistic (one-vs-all), focal:gamma=1 ...  "
            "[default: what the file says, else softmax, or logistic for one output]"
        },
    ),
    (("--weights",), {"help": f"Class weights said to be in the loss: {WEIGHTS}.  [default: as --loss says]"}),
    (
        ("--pos-weights",),
        {
            "help": "Weights said to be on each output's positives, in the same form; for logistic losses.  For "
            "one output one number: how many times a positive weighs a negative."
        },
    ),
    (("--sampler",), {"help": "How often the sampler drew a sample of each class, in the same form."}),
    (("--corrected",), {"help": "Weights taken out of the logits after training, in the same form."}),
    (
        ("--batch-size",),
        {
            "type": int,
            "help": "Samples per batch in training, for LGL-INR, which balances each batch.  "
            "[default: what the file says]",
        },
    ),
)
_OF_FILE: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("--class-names",), {"help": CLASS_NAMES}),
    (
        ("--logits",),
        {
            "metavar": "COLUMNS",
            "help": "Columns of logits or probabilities, comma-separated; patterns such as 'logit_*' are "
            "allowed.  [default: by their names]",
        },
    ),
    (
        ("--target",),
        {
            "metavar": "COLUMN",
            "help": "Label column; for .npy the file of labels.  Several, comma-separated, or patterns such as "
            "'label_*' for outputs that stand for themselves.  [default: target, label, labels, y, y_true or "
            "label_ids]",
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
        help="Leave the explorer and its held-out logits out of the page.",
    )(command)


def stated(counts: str) -> Callable[[Any], Any]:
    """Add the options that say how a model was trained and which columns a file of predictions has.

    `counts` says what the training counts are by default.
    """
    of_counts = (
        ("--counts", "--class-counts", "class_counts"),
        {"help": f"Training samples of each class: K comma-separated numbers, or a JSON file{counts}"},
    )

    def add(command: Any) -> Any:
        for names, settings in reversed((*_OF_TRAINING, of_counts, *_OF_FILE)):
            command = click.option(*names, **settings)(command)
        return command

    return add


def names_of(text: str | None) -> list[str] | None:
    """Return the names of a list with commas; None where none is given."""
    return None if text is None else [name.strip() for name in text.split(",")]


def tell(text: str) -> None:
    """Print a line to standard error."""
    click.echo(text, err=True)
