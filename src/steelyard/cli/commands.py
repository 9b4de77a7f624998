"""Commands: parse, call, print. Tables go to standard output, everything else to standard error."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import steelyard
from steelyard.cli.advising import advise
from steelyard.cli.deciding import correct, decide
from steelyard.cli.layout import Group
from steelyard.cli.opening import open_page
from steelyard.cli.options import CLASS_NAMES, as_text_or_json, names_of, no_rows, stated, tell, tell_place
from steelyard.cli.progress import Display
from steelyard.cli.tables import print_audit, print_forecast, print_table, print_weights


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(steelyard.__version__, prog_name="steelyard")
def commands() -> None:
    """For classifiers on imbalanced data: which loss, which weights, and what did they do?"""


commands.add_command(correct)
commands.add_command(decide)
commands.add_command(advise)
commands.add_command(open_page)


_BACKBONES = "mlp, small-cnn, resnet32, timm:NAME ..."
_LEARNER = "linear, mlp, xgboost, module:function ...  [default: network]"
_ROUNDS = "Rounds of boosting.  [default: 100]"
_AUGMENTATION = "Of images: none, crop or crop-flip."
_PRECISION = "32-true, bf16-mixed or 16-mixed."


def _of_columns(command: Any) -> Any:
    """Add the options that name columns of a data set."""
    for option, help_text in (
        ("--time", "Test rows are the latest."),
        ("--group", "Groups stay whole."),
        (
            "--features",
            "Inputs: a,b or patterns as 'f*'.  [default: no ids]",
        ),
        ("--target", "Label column.  [default: target, label, y ...]"),
    ):
        command = click.option(option, metavar="COLUMNS" if option == "--features" else "COLUMN", help=help_text)(
            command
        )
    return command


@commands.command()
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="YAML file of options; those given here win.",
)
@click.option(
    "--dataset",
    help="File, folder, module:function, or built in.  [default: digits]",
)
@_of_columns
@click.option(
    "--imbalance",
    help="none, exponential:RATIO or step:RATIO[:FRACTION].  [default: none]",
)
@click.option(
    "--losses",
    help="Comma-separated.  [required, here or in --config]",
)
@click.option("--seeds", type=int, help="Trainings of each loss.  [default: 3]")
@click.option("--epochs", type=int, help="Epochs of a training.  [default: 30]")
@click.option("--batch-size", type=int, help="Training samples per step.  [default: 64]")
@click.option(
    "--learning-rates",
    help="Each loss gets its best.  [default: 0.03,0.1,0.3]",
)
@click.option("--momentum", type=float, help="Momentum of SGD.  [default: 0.9]")
@click.option("--weight-decay", type=float, help="Weight decay of SGD.  [default: 0.0005]")
@click.option(
    "--validation-fraction",
    type=float,
    help="Share to choose rates by.  [default: 0.1]",
)
@click.option("--learner", help=_LEARNER)
@click.option("--rounds", type=int, help=_ROUNDS)
@click.option(
    "--penalties",
    help="Of linear learners.  [default: 0.001,0.01,0.1]",
)
@click.option("--backbone", help=f"{_BACKBONES}  [default: small-cnn]")
@click.option("--augmentation", help=f"{_AUGMENTATION}  [default: none]")
@click.option("--precision", help=f"{_PRECISION}  [default: 32-true]")
@click.option(
    "--initial-bias",
    help="First bias: zero, or prior.  [default: zero]",
)
@click.option("--image-mode", help="Make images L (grey) or RGB.")
@click.option("--image-size", type=int, help="This high and wide.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [default: a new one in runs/]")
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with an unfinished run of these options.",
)
@click.option(
    "--accelerator",
    default="auto",
    show_default=True,
    help="auto, cpu, gpu or mps.",
)
@click.option(
    "--devices",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Devices that share one network.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Trainings at a time.",
)
@no_rows
@as_text_or_json
@click.pass_obj
def compare(
    command: str,
    /,
    config_file: Path | None,
    out: Path | None,
    resume: bool,
    accelerator: str,
    devices: int,
    workers: int,
    rows: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a model under each loss and compare the losses."""
    from steelyard._common.files import to_json
    from steelyard.experiments import compare as run
    from steelyard.experiments.config import make_config, read_config
    from steelyard.experiments.runs import latest_folder, next_folder

    given = {key: value for key, value in options.items() if value is not None}
    if "losses" in given:
        given["losses"] = [part.strip() for part in given["losses"].split(",") if part.strip()]
    for key in ("learning_rates", "penalties"):
        if key in given:
            given[key] = [_number(part, key.replace("_", "-")) for part in given[key].split(",")]
    config = make_config(**given) if config_file is None else read_config(config_file, **given)

    stem = "-".join((Path(config.dataset).name.replace(":", "-") or "data", *config.imbalance.split(":")))
    if out is not None:
        folder = out
    elif resume:
        found = latest_folder(Path("runs"), stem, config, say=tell)
        if found is None:
            raise ValueError(f"nothing to resume: no folder runs/{stem}* holds a run of these options")
        folder = found
    else:
        folder = next_folder(Path("runs"), stem)
    with Display() as display:
        results = run(
            config,
            folder,
            resume=resume,
            command=command,
            accelerator=accelerator,
            devices=devices,
            workers=workers,
            rows=rows,
            progress=display,
        )
    if as_json:
        click.echo(to_json(results.to_dict()))
    else:
        print_table(results)
        for label, reason in results.diverged.items():
            click.echo(f"left out: {label}, of which some seed diverged at every learning rate ({reason})")
    tell_place(f"report: {folder / 'report.html'}", as_json)


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
        ignore=[part.strip() for text in ignore for part in text.split(",") if part.strip()],
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
        losses=[part.strip() for part in losses.split(",") if part.strip()],
        weights=[part.strip() for part in weights.split(",") if part.strip()],
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
    from steelyard.commands.weights import weights_of_file

    found = weights_of_file(file, target=target, scheme=scheme)  # type: ignore[arg-type]
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        print_weights(found)


@commands.command()
@click.argument("claim", metavar="{c1|c2|c3|c4|leaderboard|all}")
@click.option("--dataset", help="As for compare; of leaderboard several.")
@_of_columns
@click.option("--full", is_flag=True, help="At the paper's scale, with the hub and a GPU.")
@click.option("--losses", help="As for compare; for c3, c4 and leaderboard.")
@click.option("--imbalance", help="As for compare; of c4 several.")
@click.option("--epochs", type=int, help="As for compare.")
@click.option("--seeds", type=int, help="As for compare.")
@click.option("--learner", help="As for compare; for c4 and leaderboard.")
@click.option("--rounds", type=int, help=_ROUNDS)
@click.option("--backbone", help=_BACKBONES)
@click.option("--augmentation", help=_AUGMENTATION)
@click.option("--limit-train", type=int, help="At most this many training samples.")
@click.option("--precision", help=_PRECISION)
@click.option("--image-mode", help="Make images L (grey) or RGB.")
@click.option("--image-size", type=int, help="This high and wide.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    show_default="one per GPU, else one per core",
    help="Trainings at a time.",
)
@click.option("--engine", default="local", show_default=True, help="local, ray or dask.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder, one in it for each claim.  [default: in runs/claims]",
)
@as_text_or_json
@click.pass_obj
def reproduce(
    command: str,
    /,
    claim: str,
    full: bool,
    dataset: str | None,
    losses: str | None,
    imbalance: str | None,
    workers: int | None,
    engine: str,
    out: Path | None,
    as_json: bool,
    **changes: Any,
) -> None:
    """Run the paper's claims, or a leaderboard of losses.

    all stands for c1 to c4. Each claim gets a folder with a page. Options change the configuration that ships with
    the claim. An unfinished run goes on.
    """
    from steelyard._common.files import to_json
    from steelyard.claims import claim_folder, read_claim_config
    from steelyard.claims import reproduce as run
    from steelyard.experiments.grid import default_workers

    claims = ["c1", "c2", "c3", "c4"] if claim == "all" else [claim]
    if "c1" in claims and (imbalance or losses):
        raise ValueError("c1 has imbalances and a loss of its own, got --imbalance or --losses")
    if "c2" in claims and losses:
        raise ValueError("c2 has a loss of its own, got --losses")
    if claim != "c4" and imbalance is not None and len(_parts(imbalance)) > 1:
        raise ValueError(f"only c4 takes several imbalances, got {imbalance} for {claim}")
    given = dict(changes)
    if dataset is not None:
        given |= {"tasks": _parts(dataset)} if claim == "leaderboard" else {"dataset": dataset}
    if imbalance is not None:
        given |= {"imbalances": _parts(imbalance), "imbalance": _parts(imbalance)[0]}
    if losses is not None:
        given |= {"losses": _parts(losses)}
    configs = {name: read_claim_config(name, full=full, **given) for name in claims}
    found = {}
    with Display() as display:
        for name, config in configs.items():
            folder = claim_folder(Path("runs/claims"), name, config, say=tell) if out is None else out / name
            result = run(
                name,
                config,
                folder,
                workers=default_workers() if workers is None else workers,
                engine=engine,  # type: ignore[arg-type]
                command=command,
                on_plan=display.plan,
                on_data=display.data,
                on_done=lambda job, outcome, name=name: display.end(f"{name} {job}", outcome),  # type: ignore[misc]
            )
            held = {"yes": "held", "no": "did not hold", "partly": "held in part", "undecided": "is not decided"}[
                result.held
            ]
            found[name] = result.to_dict()
            if not as_json:
                click.echo(f"{name} {held}. {result.verdict}")
            tell_place(f"report: {folder / 'report.html'}", as_json)
    if as_json:
        click.echo(to_json(found))


def _parts(text: str) -> list[str]:
    """Of a list with commas, of which there is one at least."""
    return [part.strip() for part in text.split(",") if part.strip()] or [text]


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


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} must be numbers, comma-separated, got {text!r}") from None
