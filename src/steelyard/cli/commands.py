"""Commands: parse, call, print. Tables go to standard output, everything else to standard error."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import steelyard
from steelyard.cli.advising import advise
from steelyard.cli.comparing import compare, reproduce
from steelyard.cli.deciding import correct, decide
from steelyard.cli.layout import Group
from steelyard.cli.opening import open_page
from steelyard.cli.options import (
    CLASS_NAMES,
    as_text_or_json,
    names_of,
    no_rows,
    parts_of,
    stated,
    tell,
    tell_place,
)
from steelyard.cli.tables import print_audit, print_forecast, print_weights


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(steelyard.__version__, prog_name="steelyard")
def commands() -> None:
    """For classifiers on imbalanced data: which loss, which weights, and what did they do?"""


commands.add_command(compare)
commands.add_command(reproduce)
commands.add_command(correct)
commands.add_command(decide)
commands.add_command(advise)
commands.add_command(open_page)


@commands.command()
@click.argument("file", type=click.Path(path_type=Path))
@stated(".  [default: as FILE says, else counted]")
@click.option(
    "--from", "values", default="logits", show_default=True, help="logits or probabilities: what FILE holds."
)
@click.option("--drop-invalid", is_flag=True, help="Leave out rows with numbers that are none.")
@click.option(
    "--tolerance",
    type=float,
    default=1e-9,
    show_default=True,
    help="Mean probabilities up to this are 0.",
)
@click.option(
    "--ignore",
    multiple=True,
    metavar="CODES",
    help="Findings to set aside, such as SY012,SY042.",
)
@click.option(
    "--fail-on",
    default="never",
    show_default=True,
    help="Exit with 3 on a fault, a warning (or fault), or never.",
)
@as_text_or_json
@click.option("--out", type=click.Path(path_type=Path), help="Folder for report.html, audit.json, classes.csv.")
@click.pass_obj
def audit(
    command: str,
    /,
    file: Path,
    out: Path | None,
    ignore: tuple[str, ...],
    fail_on: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Say what class weights did to a trained model.

    FILE holds its logits on its training samples, and their labels: parquet, Arrow, CSV, NPZ, NPY, a folder or a
    quoted glob of tables. WEIGHTS are a scheme such as inverse, K comma-separated numbers, or a JSON file.
    """
    from steelyard._common.checks import check_choice
    from steelyard._common.files import to_json
    from steelyard.auditing.report import FAIL_ON
    from steelyard.commands.audit import audit_file

    check_choice("fail-on", fail_on, FAIL_ON)
    report = audit_file(
        file,
        out=out,
        class_names=names_of(options.pop("class_names")),
        ignore=[part for text in ignore for part in parts_of(text)],
        command=command,
        say=tell,
        **options,
    )
    if as_json:
        click.echo(to_json(report.to_dict()))
    else:
        print_audit(report)
    if out is not None:
        page = out / "report.html"
        tell_place(f"report: {page if page.exists() else out}", as_json)
    if failing := report.failing(fail_on):  # type: ignore[arg-type]
        named = ", ".join(f"{finding.code} {finding.name.replace('_', ' ')}" for finding in failing)
        click.echo(f"steelyard: --fail-on {fail_on}: {named}", err=True)
        sys.exit(3)


@commands.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--losses",
    default="softmax",
    show_default=True,
    help="Comma-separated: softmax, focal:gamma=1 ...",
)
@click.option(
    "--weights",
    default="none,sqrt_inverse,inverse",
    show_default=True,
    help="Comma-separated: inverse, power@0.5, FILE.json ...",
)
@click.option(
    "--test",
    type=click.Path(path_type=Path),
    help="File of held-out samples to judge by.  [default: for train_NAME the file NAME, else out of fold]",
)
@click.option(
    "--folds",
    type=int,
    help="Judge out of fold, in so many folds.  [default: 5]",
)
@click.option(
    "--weight-decay",
    type=float,
    help="Of the head.  [default: as FILE says, else 0.0005]",
)
@click.option(
    "--features",
    metavar="COLUMNS",
    help="Features, comma-separated, or patterns such as 'f*'.  [default: by their names]",
)
@click.option("--target", metavar="COLUMN", help="Label column.  [default: target, label, y ...]")
@click.option(
    "--inputs",
    is_flag=True,
    help="FILE is a data set as for compare, of which a linear model is forecast.",
)
@click.option("--group", metavar="COLUMN", help="With --inputs, groups that stay whole.")
@click.option("--time", metavar="COLUMN", help="Test rows are the latest.")
@click.option("--class-names", help=CLASS_NAMES)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for report.html, forecast.json, forecast.csv."
)
@no_rows
@as_text_or_json
@click.pass_obj
def forecast(
    command: str, /, file: Path, losses: str, weights: str, out: Path | None, as_json: bool, **options: Any
) -> None:
    """Say what other class weights would do, before training again.

    FILE holds what the last linear layer takes of the training samples, and their labels; it may be a folder or a
    quoted glob of tables. Each loss is refitted under each kind of weights.
    """
    from steelyard._common.files import to_json
    from steelyard.commands.forecast import forecast_file
    from steelyard.report.results import ForecastResults

    found = forecast_file(
        file,
        losses=parts_of(losses),
        weights=parts_of(weights),
        class_names=names_of(options.pop("class_names")),
        out=out,
        command=command,
        say=tell,
        **options,
    )
    if as_json:
        click.echo(to_json(found))
    else:
        print_forecast(ForecastResults.from_dict(found))
    if out is not None:
        tell_place(f"report: {out / 'report.html'}", as_json)


@commands.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--target", help="Column or array of the labels.  [default: target, label, y, ...]")
@click.option("--scheme", default="inverse", show_default=True, help="Scheme of the weights in the code.")
@as_text_or_json
def weights(file: Path, target: str | None, scheme: str, as_json: bool) -> None:
    """Print class weights, what they will do, and code to paste.

    FILE is a table or an array archive, as for audit, of which the labels alone are read.
    """
    from steelyard._common.files import to_json
    from steelyard.commands.weights import weights_of_file

    found = weights_of_file(file, target=target, scheme=scheme)  # type: ignore[arg-type]
    if as_json:
        click.echo(to_json(found))
    else:
        print_weights(found)


@commands.command()
@click.argument("folder", type=click.Path(path_type=Path))
@no_rows
def report(folder: Path, rows: bool) -> None:
    """Write the report of a finished run again, from its files.

    FOLDER holds a comparison, an audit, a forecast, advice or a claim. If it holds folders of these, it gets an
    index page that leads to their pages.
    """
    from functools import partial

    from steelyard.report import (
        write_advise_page,
        write_audit_page,
        write_claim_page,
        write_forecast_page,
        write_index,
        write_report,
    )

    folders = folder.iterdir() if folder.is_dir() else ()
    write: Callable[[Path], Path] = (
        write_index if any((one / "report.html").is_file() for one in folders) else write_report
    )
    for name, other in (
        ("results.json", partial(write_report, rows=rows)),
        ("audit.json", write_audit_page),
        ("forecast.json", partial(write_forecast_page, rows=rows)),
        ("advise.json", partial(write_advise_page, rows=rows)),
        ("claim.json", write_claim_page),
    ):
        if (folder / name).is_file():
            write = other
    click.echo(f"report: {write(folder)}")


@commands.command()
@click.option("--markdown", is_flag=True, help="Print Markdown tables of what each loss takes and gives.")
def losses(markdown: bool) -> None:
    """List the names of the losses and presets.

    Give these names to --losses, or to create_loss in Python.
    """
    from steelyard.losses.table import loss_table

    click.echo(loss_table() if markdown else "\n".join(steelyard.list_losses()))
