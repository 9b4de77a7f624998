"""The command `advise`: parse, call, print."""

from pathlib import Path
from typing import Any

import click

from steelyard.cli.layout import Command
from steelyard.cli.options import as_text_or_json, names_of, no_rows, parts_of, tell, tell_place
from steelyard.cli.tables import print_advice


@click.command(cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--objective",
    default="balanced-accuracy",
    show_default=True,
    help="accuracy, balanced-accuracy, macro-f1, f1 (two classes), cost:FILE.csv, or min-recall:CLASS=0.9.",
)
@click.option(
    "--learner",
    help="Train this on FILE, a data set: linear, mlp, network, xgboost, lightgbm, "
    "hist-gradient-boosting or module:function.",
)
@click.option(
    "--from",
    "values",
    default="features",
    show_default=True,
    help="What FILE holds: features (or margins); or logits or probabilities of held-out rows.",
)
@click.option(
    "--features",
    "--logits",
    "columns",
    metavar="COLUMNS",
    help="a,b or patterns as 'f*'.  [default: by their names]",
)
@click.option("--target", metavar="COLUMN", help="Label column.  [default: target, label, y ...]")
@click.option(
    "--schemes",
    help="Weights to try: inverse, power@0.3, FILE.json ...  [default: every scheme]",
)
@click.option("--folds", type=int, default=5, show_default=True, help="Folds of the rows.")
@click.option("--group", metavar="COLUMN", help="Rows of one group stay in one fold.  [default: none]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of folds, draws and trainings.")
@click.option("--rate", type=float, help="Learning rate, or penalty.  [default: 0.1, or 0.01]")
@click.option("--rounds", type=int, default=100, show_default=True, help="Rounds of boosting.")
@click.option("--epochs", type=int, default=30, show_default=True, help="Epochs of networks.")
@click.option(
    "--weight-decay",
    type=float,
    help="Of heads.  [default: as FILE says, else 0.0005]",
)
@click.option("--loss", help="Of the logits.  [default: as FILE says, else softmax]")
@click.option("--class-names", help="K names in order, comma-separated.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for report.html, advise.json, advise.csv.")
@no_rows
@as_text_or_json
@click.pass_obj
def advise(
    command: str,
    /,
    file: Path,
    schemes: str | None,
    class_names: str | None,
    as_json: bool,
    out: Path | None,
    **options: Any,
) -> None:
    """Say what to do for an objective, on rows out of fold.

    That is class weights, a shift of the logits, thresholds, or nothing. FILE holds features of the training
    samples and their labels, or with --learner a data set.
    """
    from steelyard._common.files import to_json
    from steelyard.commands.advise import advise_file

    found = advise_file(
        file,
        schemes=parts_of(schemes or ""),
        class_names=names_of(class_names),
        out=out,
        command=command,
        say=tell,
        **options,
    )
    if as_json:
        click.echo(to_json(found))
    else:
        print_advice(found)
    if out is not None:
        tell_place(f"report: {out / 'report.html'}", as_json)
