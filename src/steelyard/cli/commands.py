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
from steelyard.cli.opening import open_page
from steelyard.cli.options import CLASS_NAMES, names_of, no_rows, stated, tell
from steelyard.cli.progress import Display
from steelyard.cli.tables import print_audit, print_forecast, print_table, print_weights


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(steelyard.__version__, prog_name="steelyard")
def commands() -> None:
    """For classifiers on imbalanced data: which loss, which weights, and what did they do?"""


commands.add_command(correct)
commands.add_command(decide)
commands.add_command(advise)
commands.add_command(open_page)


_BACKBONES = (
    "Network: mlp, one hidden layer, for features and images; for images also small-cnn; resnet32 (32 x 32); or a "
    "model of another library: timm:NAME, torchvision:NAME, transformers:NAME."
)
_LEARNER = (
    "What is trained: network (see --backbone), mlp, linear, hist-gradient-boosting, xgboost, lightgbm, or a "
    "function of yours, module:function, which is run.  [default: network]"
)
_ROUNDS = "Rounds of boosting; results are those of the last.  [default: 100]"
_AUGMENTATION = (
    "Augmentation of training images: none, crop (shift by up to 4 pixels) or crop-flip (mirror them too)."
)
_PRECISION = "Precision of training: 32-true, 16-mixed (not on CPUs) or bf16-mixed."


def _of_columns(command: Any) -> Any:
    """Add the options that name columns of a data set."""
    for option, help_text in (
        (
            "--time",
            "Column of times, numbers or dates: test rows are the latest, validation rows the latest before them.",
        ),
        ("--group", "Column of groups: rows with the same value stay on one side of every split."),
        (
            "--features",
            "Columns that are inputs, comma-separated; patterns such as 'f*' are allowed.  "
            "[default: all others but those like an id]",
        ),
        ("--target", "Label column.  [default: target, label, labels, y, y_true or label_ids]"),
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
    help="YAML file of the options below; options on the command line win.",
)
@click.option(
    "--dataset",
    help="A table or arrays in a file (.csv, .parquet, .npz ...), a folder, a function of yours (module:function, "
    "which is run), a Hugging Face hub name, or a built-in data set.  [default: digits, built in]",
)
@_of_columns
@click.option(
    "--imbalance",
    help="Imbalance of the training split: none, exponential:RATIO or step:RATIO[:FRACTION].  [default: none]",
)
@click.option(
    "--losses",
    help="Losses, comma-separated, each NAME[:SCHEME[@VALUE]][:OPTION=VALUE][:from=EPOCH], "
    "such as softmax:inverse or lgl-inr:beta=5; `steelyard losses` lists the names.  "
    "[required, here or in --config]",
)
@click.option("--seeds", type=int, help="How many seeds to train each loss with.  [default: 3]")
@click.option("--epochs", type=int, help="Epochs of a training; results are those of the last.  [default: 30]")
@click.option("--batch-size", type=int, help="Training samples per step.  [default: 64]")
@click.option(
    "--learning-rates",
    help="One rate; or several, comma-separated, of which each loss gets the best on a validation split.  "
    "[default: 0.03,0.1,0.3]",
)
@click.option("--momentum", type=float, help="Momentum of SGD, from 0 to below 1.  [default: 0.9]")
@click.option("--weight-decay", type=float, help="Weight decay of SGD; biases do not decay.  [default: 0.0005]")
@click.option(
    "--validation-fraction",
    type=float,
    help="Share of the training samples set aside to choose the learning rate.  [default: 0.1]",
)
@click.option("--learner", help=_LEARNER)
@click.option("--rounds", type=int, help=_ROUNDS)
@click.option(
    "--penalties",
    help="Of a linear learner, as --learning-rates.  [default: 0.001,0.01,0.1]",
)
@click.option("--backbone", help=f"{_BACKBONES}  [default: small-cnn]")
@click.option("--augmentation", help=f"{_AUGMENTATION}  [default: none]")
@click.option("--precision", help=f"{_PRECISION}  [default: 32-true]")
@click.option(
    "--initial-bias",
    help="First bias of the head: zero, or prior, the best constant of the loss for the class counts.  "
    "[default: zero]",
)
@click.option("--image-mode", help="Convert every image to L (grey) or RGB.")
@click.option("--image-size", type=int, help="Resize every image to this height and width.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [default: a new one in runs/]")
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with an unfinished run: in --out, else the latest with these options.",
)
@click.option(
    "--accelerator",
    default="auto",
    show_default=True,
    help="What to train on, as Lightning names it: auto, cpu, gpu, mps.",
)
@click.option(
    "--devices",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many devices train one network together, each on its share of every batch.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many trainings run at a time, each in a process of its own; they share the CPU's threads.",
)
@no_rows
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
    **options: Any,
) -> None:
    """Train a model under each loss and compare the losses.

    Trains with every loss and seed, prints a table, and writes a report.
    """
    from steelyard.experiments import compare as run
    from steelyard.experiments.config import make_config, read_config
    from steelyard.experiments.runs import latest_folder, next_folder

    given = {key: value for key, value in options.items() if value is not None}
    if "losses" in given:
        given["losses"] = [part.strip() for part in given["losses"].split(",") if part.strip()]
    for key in ("learning_rates", "penalties"):
        if key in given:
            given[key] = [_number(part) for part in given[key].split(",")]
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
    print_table(results)
    for label, reason in results.diverged.items():
        click.echo(f"left out: {label}, of which some seed diverged at every learning rate ({reason})")
    click.echo(f"report: {folder / 'report.html'}")


@commands.command()
@click.argument("file", type=click.Path(path_type=Path))
@stated(".  [default: what the file says, else counted from its labels]")
@click.option(
    "--from", "values", default="logits", show_default=True, help="What the numbers are: logits or probabilities."
)
@click.option("--drop-invalid", is_flag=True, help="Leave out rows with missing, NaN or infinite numbers.")
@click.option(
    "--tolerance",
    type=float,
    default=1e-9,
    show_default=True,
    help="Mean probabilities up to this number count as 0.",
)
@click.option(
    "--ignore",
    multiple=True,
    metavar="CODES",
    help="Findings to set aside, by code or name, comma-separated or repeated, such as SY012.",
)
@click.option(
    "--fail-on",
    default="never",
    show_default=True,
    help="Exit with code 3 where there is a finding that bad: fault, warning (or fault), or never.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the audit as JSON, and nothing else on standard output."
)
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

    FILE holds the model's logits on its training samples, and their labels: parquet, Arrow, CSV, NPZ or NPY. A
    folder or a quoted glob of tables is one data set. The command says which columns it reads as what, and leaves
    out the others.
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
        click.echo(f"report: {page if page.exists() else out}", err=as_json)
    if failing := report.failing(fail_on):  # type: ignore[arg-type]
        named = ", ".join(f"{finding.code} {finding.name.replace('_', ' ')}" for finding in failing)
        tell(f"steelyard: --fail-on {fail_on}: {named}")
        sys.exit(3)


@commands.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--losses",
    default="softmax",
    show_default=True,
    help="Losses, comma-separated: softmax, logistic, focal:gamma=1 ...",
)
@click.option(
    "--weights",
    default="none,sqrt_inverse,inverse",
    show_default=True,
    help="Class weights, comma-separated: schemes such as inverse or power@0.5, or JSON files.",
)
@click.option(
    "--test",
    type=click.Path(path_type=Path),
    help="Features and labels of held-out samples to judge by.  [default: for train_NAME the file NAME beside it, "
    "else the training samples out of fold]",
)
@click.option(
    "--folds",
    type=int,
    help="Judge by the training samples in so many folds, each by heads fitted on the others.  [default: 5 where "
    "there are no held-out samples]",
)
@click.option(
    "--weight-decay",
    type=float,
    help="Weight decay of the head, without its bias.  [default: what the file says, else 0.0005]",
)
@click.option(
    "--features",
    metavar="COLUMNS",
    help="Columns of features, comma-separated; patterns such as 'f*' are allowed.  [default: by their names]",
)
@click.option(
    "--target", metavar="COLUMN", help="Label column.  [default: target, label, labels, y, y_true or label_ids]"
)
@click.option(
    "--inputs",
    is_flag=True,
    help="FILE is a data set as for compare: table, texts, arrays, module:function. A linear model of its inputs "
    "is forecast, and judged by its test split.",
)
@click.option("--group", metavar="COLUMN", help="With --inputs, as for compare.")
@click.option("--time", metavar="COLUMN", help="With --inputs, as for compare.")
@click.option("--class-names", help=CLASS_NAMES)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for report.html, forecast.json, forecast.csv."
)
@no_rows
@click.pass_obj
def forecast(command: str, /, file: Path, losses: str, weights: str, out: Path | None, **options: Any) -> None:
    """Say what other class weights would do, before training again.

    FILE holds the features of the training samples, which are the inputs of the network's linear head, and their
    labels. A folder or a quoted glob of tables is one data set. The command says which columns it reads as what,
    and leaves out the others.
    """
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
    print_forecast(ForecastResults.from_dict(found))
    if out is not None:
        click.echo(f"report: {out / 'report.html'}")


@commands.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--target", help="Column or array of the labels.  [default: target, label, y, ...]")
@click.option("--scheme", default="inverse", show_default=True, help="Scheme of the weights in the code.")
@click.option("--json", "as_json", is_flag=True, help="Print all as JSON.")
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
@click.option("--dataset", help="As for compare; for leaderboard several, comma-separated.")
@_of_columns
@click.option(
    "--full", is_flag=True, help="Run at the paper's scale: data from the hub and larger networks, for GPUs."
)
@click.option("--losses", help="As for compare; for c3, c4 and leaderboard.")
@click.option("--imbalance", help="As for compare; for c4 several, comma-separated.")
@click.option("--epochs", type=int, help="As for compare.")
@click.option("--seeds", type=int, help="As for compare.")
@click.option("--learner", help=f"{_LEARNER} For c4 and leaderboard.")
@click.option("--rounds", type=int, help=_ROUNDS)
@click.option("--backbone", help=_BACKBONES)
@click.option("--augmentation", help=_AUGMENTATION)
@click.option("--limit-train", type=int, help="Use at most this many training samples, before imbalance.")
@click.option("--precision", help=_PRECISION)
@click.option("--image-mode", help="Convert every image to L (grey) or RGB.")
@click.option("--image-size", type=int, help="Resize every image to this height and width.")
@click.option(
    "--workers", type=int, show_default="one per GPU, else one per core", help="How many trainings run at a time."
)
@click.option("--engine", default="local", show_default=True, help="What runs the trainings: local, ray or dask.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the claims, each in its own.  [default: a new one for each configuration in runs/claims]",
)
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
    **changes: Any,
) -> None:
    """Run the paper's claims, or a leaderboard of losses.

    all stands for c1 to c4. Each claim gets a folder with a page. Options change the configuration that ships with
    the claim. An unfinished run goes on.
    """
    from steelyard.claims import claim_folder, read_claim_config
    from steelyard.claims import reproduce as run
    from steelyard.experiments.grid import default_workers

    claims = ["c1", "c2", "c3", "c4"] if claim == "all" else [claim]
    if claim == "c1" and (imbalance or losses):
        raise ValueError("c1 has imbalances and a loss of its own, got --imbalance or --losses")
    if claim == "c2" and losses:
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
            held = {"yes": "held", "no": "did not hold", "partly": "held in part"}[result.held]
            click.echo(f"{name} {held}. {result.verdict}\nreport: {folder / 'report.html'}")


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
@click.option("--markdown", is_flag=True, help="Print a Markdown table of what each loss takes.")
def losses(markdown: bool) -> None:
    """List the names of the losses and presets.

    Give these names to --losses, or to create_loss in Python.
    """
    from steelyard.losses.table import loss_table

    click.echo(loss_table() if markdown else "\n".join(steelyard.list_losses()))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"learning-rates must be numbers, comma-separated, got {text!r}") from None
