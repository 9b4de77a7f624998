"""The command `advise`: parse, call, print."""

from pathlib import Path
from typing import Any

import click

from steelyard.cli.options import no_rows
from steelyard.cli.tables import print_advice


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--objective",
    default="balanced-accuracy",
    show_default=True,
    help="What is to be best: accuracy, balanced-accuracy, macro-f1, f1 (of the second of two classes), "
    "cost:FILE.csv (rows: true class, columns: decision) or min-recall:CLASS=0.9, the best precision of a class "
    "at no less than that recall.",
)
@click.option(
    "--learner",
    help="FILE is a data set as for compare, on which this is trained: hist-gradient-boosting, xgboost, lightgbm, "
    "linear, mlp, network, or a function of yours, module:function, which is run.  [default: FILE holds numbers "
    "of one model]",
)
@click.option(
    "--from",
    "values",
    default="features",
    show_default=True,
    help="What FILE holds: features (what the last linear layer takes, or margins of trees), or logits or "
    "probabilities of held-out rows, for which weights cannot be tried.",
)
@click.option(
    "--features",
    "--logits",
    "columns",
    metavar="COLUMNS",
    help="Columns of these numbers, comma-separated; patterns such as 'f*' are allowed.  "
    "[default: by their names]",
)
@click.option(
    "--target", metavar="COLUMN", help="Label column.  [default: target, label, labels, y, y_true or label_ids]"
)
@click.option(
    "--schemes",
    help="Class weights to try, comma-separated: schemes such as inverse or power@0.3, or JSON files.  "
    "[default: every scheme]",
)
@click.option("--folds", type=int, default=5, show_default=True, help="Folds of the rows.")
@click.option(
    "--group", metavar="COLUMN", help="Rows with the same value of it stay in one fold.  [default: none]"
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of folds, draws and trainings.")
@click.option(
    "--rate", type=float, help="Learning rate of a learner, or penalty of linear.  [default: 0.1, or 0.01]"
)
@click.option("--rounds", type=int, default=100, show_default=True, help="Rounds of boosting.")
@click.option("--epochs", type=int, default=30, show_default=True, help="Epochs of networks.")
@click.option(
    "--weight-decay",
    type=float,
    help="Weight decay of heads on features.  [default: what the file says, else 0.0005]",
)
@click.option("--loss", help="That the logits come from.  [default: what the file says, else softmax or logistic]")
@click.option("--class-names", help="K class names, comma-separated, in the order of the classes.")
@click.option("--json", "as_json", is_flag=True, help="Print all as JSON.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for report.html, advise.json, advise.csv.")
@no_rows
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

    That is class weights, a shift of the logits, thresholds, or nothing.

    FILE holds the features of the training samples and their labels. All is tried on rows that the model was not
    trained on; the network itself is not trained again.
    """
    from steelyard._common.files import to_json
    from steelyard.commands.advise import advise_file

    found = advise_file(
        file,
        schemes=[part.strip() for part in (schemes or "").split(",") if part.strip()],
        class_names=None if class_names is None else [name.strip() for name in class_names.split(",")],
        out=out,
        command=command,
        say=lambda text: click.echo(text, err=True),
        **options,
    )
    if as_json:
        click.echo(to_json(found))
    else:
        print_advice(found)
    if out is not None:
        click.echo(f"report: {out / 'report.html'}", err=as_json)
