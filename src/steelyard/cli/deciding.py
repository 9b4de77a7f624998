"""The commands `correct` and `decide`: parse, call, print."""

from pathlib import Path
from typing import Any

import click

from steelyard.cli.layout import Command
from steelyard.cli.options import CLASS_NAMES, as_text_or_json, names_of, stated, tell, tell_place
from steelyard.cli.tables import print_correction, print_decisions


@click.command(cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The new file, of a kind as FILE.")
@click.option(
    "--prior",
    metavar="PRIOR",
    default="train",
    show_default=True,
    help="Class frequencies of use: train, uniform, estimate, or a CSV file of class,share.",
)
@stated(", or labels: count those of FILE.  [default: as FILE says]")
@click.option(
    "--targets",
    metavar="TARGETS",
    help="classes or multi-hot.  [default: as the labels tell]",
)
@click.option(
    "--temperature",
    metavar="T",
    default="1",
    show_default=True,
    help="Divides what is left, before --prior: a number; fit, for the one by which the labels of FILE are "
    "likeliest; or another file of held-out rows, to fit it to.",
)
@click.option(
    "--training-rows",
    type=click.Path(path_type=Path),
    help="The training rows, with labels: LGL-INR is undone by their mean confusion.",
)
@click.option(
    "--from",
    "values",
    metavar="KIND",
    help="logits or probabilities: what FILE holds, where it may be both.  [default: logits]",
)
@as_text_or_json
def correct(file: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Take what training did out of a file of logits.

    FILE holds logits as for audit; labels are not needed. The new file has corrected_probability_CLASS in place of
    the logits, and all else as it was. WEIGHTS are a scheme such as inverse, K numbers, or a JSON file.
    """
    from steelyard._common.files import to_json
    from steelyard.commands.correct import correct_file

    found = correct_file(file, out, class_names=names_of(options.pop("class_names")), say=tell, **options)
    if as_json:
        prior = None if found.prior is None else found.prior.tolist()
        estimate = None if found.estimate is None else found.estimate.to_dict()
        click.echo(to_json(vars(found) | {"prior": prior, "estimate": estimate}))
    else:
        print_correction(found)
    tell_place(f"written: {out}", as_json)


@click.command(cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--costs",
    type=click.Path(path_type=Path),
    help="CSV of K costs for each true class, or of class,cost of missing it.  [default: 1 an error]",
)
@click.option("--reject-cost", type=float, help="Cost of leaving a row to somebody else.")
@click.option(
    "--offsets",
    type=click.Path(path_type=Path),
    help="JSON of steelyard.thresholds, in place of costs.",
)
@click.option("--class-names", help=CLASS_NAMES)
@click.option("--out", type=click.Path(path_type=Path), help="File of the rows with their decisions.")
@as_text_or_json
def decide(file: Path, out: Path | None, as_json: bool, **options: Any) -> None:
    """Decide on each row by costs, from corrected probabilities.

    FILE is what `steelyard correct` wrote. Prints how often each class is decided and the expected cost; with
    --out the rows are written with the columns decision and expected_cost behind all others.
    """
    from steelyard._common.files import to_json
    from steelyard.commands.decide import decide_file

    found = decide_file(file, out=out, class_names=names_of(options.pop("class_names")), say=tell, **options)
    if as_json:
        click.echo(to_json(vars(found)))
    else:
        print_decisions(found)
    if out is not None:
        tell_place(f"written: {out}", as_json)
