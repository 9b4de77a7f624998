"""The commands `correct` and `decide`: parse, call, print."""

from pathlib import Path
from typing import Any

import click

from steelyard.cli.options import CLASS_NAMES, names_of, stated, tell
from steelyard.cli.tables import print_correction, print_decisions


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The new file, of a kind as FILE.")
@click.option(
    "--prior",
    metavar="train|uniform|estimate|FILE",
    default="train",
    show_default=True,
    help="Class frequencies that the probabilities are for: those of the training, all the same, those under "
    "which these rows are likeliest, or a CSV file of class,share.",
)
@stated("; labels: the rows of FILE are those of the training.  [default: what the file says]")
@click.option(
    "--targets",
    metavar="classes|multi-hot",
    help="classes: one is right in a row; multi-hot: outputs stand for themselves.  [default: as the labels tell]",
)
@click.option(
    "--temperature",
    metavar="NUMBER|fit|FILE",
    default="1",
    show_default=True,
    help="Divides what is left after the undoing, before --prior: a number; fit: the one under which the labels "
    "of FILE are likeliest, or those of another file of held-out rows.",
)
@click.option(
    "--training-rows",
    type=click.Path(path_type=Path),
    help="File of the rows that the model was trained on, with labels: LGL-INR is undone by their mean confusion.",
)
@click.option(
    "--from",
    "values",
    metavar="logits|probabilities",
    help="What the numbers are.  [default: logits, but if all of them look like probabilities it must be said]",
)
def correct(file: Path, out: Path, **options: Any) -> None:
    """Take what training did out of a file of logits.

    FILE holds logits (or probabilities) as for audit; labels are not needed. The new file has the same rows, with
    corrected_probability_CLASS in place of the logits, and all other columns as they were. What was done stands in
    its metadata (CSV has none), and by these names it is not done twice.
    """
    from steelyard.commands.correct import correct_file

    found = correct_file(file, out, class_names=names_of(options.pop("class_names")), say=tell, **options)
    print_correction(found)
    click.echo(f"written: {out}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--costs",
    type=click.Path(path_type=Path),
    help="CSV of what decisions cost: K rows of K numbers, row the true class and column the decision, with or "
    "without the classes' names; or class,cost: of missing each class.  [default: 1 for each error]",
)
@click.option("--reject-cost", type=float, help="Cost of leaving a row to somebody else.  [default: none is left]")
@click.option(
    "--offsets",
    type=click.Path(path_type=Path),
    help="JSON of thresholds found on held-out rows (Thresholds.to_dict), in place of costs.",
)
@click.option("--class-names", help=CLASS_NAMES)
@click.option(
    "--out", type=click.Path(path_type=Path), help="File of the rows with their decisions.  [default: none]"
)
def decide(file: Path, out: Path | None, **options: Any) -> None:
    """Decide on each row by costs, from corrected probabilities.

    FILE is what `steelyard correct` wrote. Prints how often each class is decided and the expected cost; with
    --out the rows are written with the columns decision and expected_cost behind all others.
    """
    from steelyard.commands.decide import decide_file

    found = decide_file(file, out=out, class_names=names_of(options.pop("class_names")), say=tell, **options)
    print_decisions(found)
    if out is not None:
        click.echo(f"written: {out}")
