"""Commands: parse, call, print. Tables go to standard output, everything else to standard error."""

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

import steelyard


class _Stopped(BaseException):
    """A signal asked to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exit codes are 0, 1 (the run failed), 2 (it was asked for wrongly), 130 and 143 (stopped)."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a sign shows another
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    given = list(sys.argv[1:] if arguments is None else arguments)
    comparing = given[:1] == ["compare"]
    resume = " with --resume" if comparing else ""
    try:
        commands.main(args=given, standalone_mode=False, obj=shlex.join(["steelyard", *given]))
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except (ValueError, TypeError, FileNotFoundError, FileExistsError, ImportError) as error:
        _fail(str(error), 2)
    except (ArithmeticError, ConnectionError) as error:
        _fail(str(error), 1)
    except OSError as error:
        _fail(f"{error.filename or 'the run folder'}: {error.strerror or error}; finished results are kept", 1)
    except (MemoryError, RuntimeError) as error:
        if type(error).__name__ == "JobsFailed":
            _fail(f"{error}; the same command goes on with the rest", 1)
        if not isinstance(error, MemoryError) and "memory" not in str(error).lower():
            raise
        lower = "--batch-size or --image-size" if comparing else "what is done at a time"
        _fail(f"out of memory; lower {lower} (finished results are kept, the same command{resume} goes on)", 1)
    except _Stopped as stopped:
        _fail(f"stopped; the same command{resume} goes on", 128 + stopped.number)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(steelyard.__version__, prog_name="steelyard")
def commands() -> None:
    """Which loss, which weights, and what did they do: classifiers on imbalanced data."""


_BACKBONES = (
    "small-cnn; resnet32, for images of 32 x 32; mlp, one hidden layer; or a model of another library: "
    "timm:NAME, torchvision:NAME, transformers:NAME."
)


@commands.command()
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="YAML file of the options below; those given here win.",
)
@click.option("--dataset", help="digits (built in), a folder, or a Hugging Face hub name.  [default: digits]")
@click.option("--imbalance", help="none, exponential:RATIO or step:RATIO[:FRACTION].  [default: none]")
@click.option(
    "--losses",
    help="Comma-separated, each NAME[:SCHEME[@VALUE]][:OPTION=VALUE][:from=EPOCH], "
    "such as softmax:inverse or lgl-inr:beta=5.",
)
@click.option("--seeds", type=int, help="How many seeds.  [default: 3]")
@click.option("--epochs", type=int, help="Epochs; results are those of the last.  [default: 30]")
@click.option("--batch-size", type=int, help="[default: 64]")
@click.option(
    "--learning-rates",
    help="One fixes it; several, comma-separated, are tried for every loss on a validation split.  "
    "[default: 0.03,0.1,0.3]",
)
@click.option("--momentum", type=float, help="[default: 0.9]")
@click.option("--weight-decay", type=float, help="Not applied to biases.  [default: 0.0005]")
@click.option("--validation-fraction", type=float, help="[default: 0.1]")
@click.option("--backbone", help=f"{_BACKBONES}  [default: small-cnn]")
@click.option("--augmentation", help="none, crop (by up to 4 pixels) or crop-flip.  [default: none]")
@click.option("--precision", help="32-true, 16-mixed (not on CPUs) or bf16-mixed.  [default: 32-true]")
@click.option("--initial-bias", help="zero, or prior: the log (odds) of the class counts.  [default: zero]")
@click.option("--image-mode", help="L or RGB: convert every image.")
@click.option("--image-size", type=int, help="Resize every image to this height and width.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [default: a new one in runs/]")
@click.option(
    "--resume", is_flag=True, help="Go on with an unfinished run: --out, or the latest of these options."
)
@click.option(
    "--accelerator", default="auto", show_default=True, help="As Lightning takes it: auto, cpu, gpu, mps."
)
@click.option(
    "--devices",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many of them train together, each on its share of every batch.",
)
@click.pass_obj
def compare(
    command: str,
    /,
    config_file: Path | None,
    out: Path | None,
    resume: bool,
    accelerator: str,
    devices: int,
    **options: Any,
) -> None:
    """Train a small network under each loss and seed, print a table, write a report."""
    from steelyard.experiments import compare as run
    from steelyard.experiments.config import make_config, read_config
    from steelyard.experiments.runs import latest_folder, next_folder

    given = {key: value for key, value in options.items() if value is not None}
    if "losses" in given:
        given["losses"] = [part.strip() for part in given["losses"].split(",") if part.strip()]
    if "learning_rates" in given:
        given["learning_rates"] = [_number(part) for part in given["learning_rates"].split(",")]
    base = read_config(config_file).model_dump() if config_file is not None else {}
    config = make_config(**(base | given))

    stem = "-".join((Path(config.dataset).name or "data", *config.imbalance.split(":")))
    if out is not None:
        folder = out
    elif resume:
        found = latest_folder(Path("runs"), stem, config)
        if found is None:
            raise ValueError(f"nothing to resume: no folder runs/{stem}* holds a run of these options")
        folder = found
    else:
        folder = next_folder(Path("runs"), stem)
    with _Display() as display:
        results = run(
            config,
            folder,
            resume=resume,
            command=command,
            accelerator=accelerator,
            devices=devices,
            progress=display,
        )
    _print_table(results)
    for label, reason in results.get("diverged", {}).items():
        click.echo(f"left out: {label}, of which some seed diverged at every learning rate ({reason})")
    click.echo(f"report: {folder / 'report.html'}")


_WEIGHTS = "a scheme such as inverse or power@0.5, K comma-separated numbers, or a JSON file"


@commands.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--link", help="softmax, or logistic for one-vs-all outputs.  [default: what the file says]")
@click.option(
    "--weights", help=f"Class weights said to be in the loss: {_WEIGHTS}.  [default: what the file says]"
)
@click.option("--pos-weights", help="Weights said to be on each output's positives, alike; for logistic.")
@click.option("--sampler", help="How often the sampler draws a sample of each class, alike.")
@click.option("--corrected", help="Weights taken out of the logits after training, alike.")
@click.option("--beta", type=float, help="The loss was LGL-INR of this beta.  [default: what the file says]")
@click.option("--detach-weights", is_flag=True, help="Of LGL-INR.")
@click.option(
    "--batch-size", type=int, help="Of LGL-INR, which balances the classes of each batch.  [default: alike]"
)
@click.option("--counts", help="Training samples of each class.  [default: those of the file]")
@click.option("--class-names", help="K names, comma-separated.  [default: what the file says]")
@click.option("--target", help="Label column; for .npy the file of labels.  [default: target, label, labels or y]")
@click.option(
    "--from", "values", default="logits", show_default=True, help="What the numbers are: logits or probabilities."
)
@click.option("--drop-invalid", is_flag=True, help="Leave out rows with NaN or infinite numbers.")
@click.option(
    "--tolerance", type=float, default=1e-9, show_default=True, help="Mean probabilities that are no confusion."
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for report.html, audit.json, classes.csv.")
@click.pass_obj
def audit(command: str, /, file: Path, out: Path | None, counts: str | None, **options: Any) -> None:
    """Say what class weights did to a trained model, from its predictions on its training samples.

    FILE holds logits and labels: parquet, Arrow, CSV, NPZ or NPY.
    """
    from steelyard.experiments.audits import audit_file

    names = options.pop("class_names")
    given = None if names is None else [name.strip() for name in names.split(",")]
    _, found = audit_file(
        file,
        out=out,
        class_counts=counts,
        class_names=given,
        command=command,
        say=lambda text: click.echo(text, err=True),
        **options,
    )
    _print_audit(found)
    if out is not None:
        click.echo(f"report: {out / 'report.html'}")


@commands.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--losses", default="softmax", show_default=True, help="softmax, logistic, or both, comma-separated."
)
@click.option(
    "--weights",
    default="none,sqrt_inverse,inverse",
    show_default=True,
    help="Comma-separated: schemes such as inverse or power@0.5, or JSON files.",
)
@click.option(
    "--test",
    type=click.Path(path_type=Path),
    help="Features of held-out samples to judge by.  [default: for train_NAME the file NAME beside it]",
)
@click.option(
    "--weight-decay", type=float, help="Of the head's matrix.  [default: what the file says, else 0.0005]"
)
@click.option("--target", help="Label column.  [default: target, label, labels or y]")
@click.option("--class-names", help="K names, comma-separated.  [default: what the file says]")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for report.html, forecast.json, forecast.csv."
)
@click.pass_obj
def forecast(command: str, /, file: Path, losses: str, weights: str, out: Path | None, **options: Any) -> None:
    """Say what other class weights would do, before anything is trained again.

    FILE holds the features of the training samples, what the network's linear head multiplies, and their labels.
    """
    from steelyard.experiments.forecasts import forecast_file

    names = options.pop("class_names")
    found = forecast_file(
        file,
        losses=[part.strip() for part in losses.split(",") if part.strip()],
        weights=[part.strip() for part in weights.split(",") if part.strip()],
        class_names=None if names is None else [name.strip() for name in names.split(",")],
        out=out,
        command=command,
        say=lambda text: click.echo(text, err=True),
        **options,
    )
    _print_forecast(found)
    if out is not None:
        click.echo(f"report: {out / 'report.html'}")


@commands.command()
@click.argument("claim", metavar="{c1|c2|c3|c4|leaderboard|all}")
@click.option("--dataset", help="As for compare; for leaderboard several, comma-separated.")
@click.option("--full", is_flag=True, help="At the paper's scale: data from the hub, larger networks, for GPUs.")
@click.option("--losses", help="As for compare; for c3, c4 and leaderboard.")
@click.option(
    "--imbalance", help="none, exponential:RATIO or step:RATIO[:FRACTION]; for c4 several, comma-separated."
)
@click.option("--epochs", type=int)
@click.option("--seeds", type=int)
@click.option("--backbone", help=_BACKBONES)
@click.option("--augmentation", help="none, crop (by up to 4 pixels) or crop-flip.")
@click.option("--limit-train", type=int, help="At most so many training samples, before imbalance.")
@click.option("--precision", help="32-true, 16-mixed (not on CPUs) or bf16-mixed.")
@click.option("--image-mode", help="L or RGB: convert every image.")
@click.option("--image-size", type=int, help="Resize every image to this height and width.")
@click.option("--workers", type=int, show_default="one a GPU, else one a core", help="Trainings at a time.")
@click.option("--engine", default="local", show_default=True, help="local, ray or dask.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of claims.  [default: runs/claims, where each run has its own]",
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
    """Run the paper's claims (all: c1 to c4) or a leaderboard of losses; each gets a folder and a page in OUT.

    What an option does not change is in the configuration that ships with the claim. An unfinished run goes on.
    """
    from steelyard.experiments.claims import claim_folder, read_claim_config
    from steelyard.experiments.claims import reproduce as run
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
    with _Display() as display:
        for name, config in configs.items():
            folder = claim_folder(Path("runs/claims"), name, config) if out is None else out / name
            result = run(
                name,
                config,
                folder,
                workers=default_workers() if workers is None else workers,
                engine=engine,  # type: ignore[arg-type]
                command=command,
                on_plan=display.plan,
                on_done=lambda job, outcome, name=name: display.end(f"{name} {job}", outcome),  # type: ignore[misc]
            )
            held = {"yes": "held", "no": "did not hold", "partly": "held in part"}[result["held"]]
            click.echo(f"{name} {held}. {result['verdict']}\nreport: {folder / 'report.html'}")


def _parts(text: str) -> list[str]:
    """Of a list with commas, of which there is one at least."""
    return [part.strip() for part in text.split(",") if part.strip()] or [text]


@commands.command()
@click.argument("folder", type=click.Path(path_type=Path))
def report(folder: Path) -> None:
    """Make the report of a finished run, audit, forecast or claim anew from its files."""
    from steelyard.report import write_audit_page, write_claim_page, write_forecast_page, write_report

    write = write_report
    for name, other in (
        ("audit.json", write_audit_page),
        ("forecast.json", write_forecast_page),
        ("claim.json", write_claim_page),
    ):
        if (folder / name).is_file():
            write = other
    click.echo(f"report: {write(folder)}")


@commands.command()
def losses() -> None:
    """List the losses."""
    click.echo("\n".join(steelyard.list_losses()))


class _Display:
    """Progress on standard error: a live bar on a terminal, a line for each finished training elsewhere."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.runs = self.bar.add_task("trainings", total=0)
        self.epochs = self.bar.add_task("", total=None, visible=False)

    def __enter__(self) -> "_Display":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def plan(self, runs: int) -> None:
        self.bar.update(self.runs, total=(self.bar.tasks[0].total or 0) + runs)

    def start(self, title: str, epochs: int) -> None:
        self.bar.reset(self.epochs, description=title, total=epochs, visible=True)

    def epoch(self, row: dict[str, float]) -> None:
        self.bar.update(self.epochs, completed=row["epoch"])

    def end(self, title: str, outcome: str) -> None:
        self.bar.advance(self.runs)
        self.bar.update(self.epochs, visible=False)
        if not self.console.is_terminal:
            click.echo(f"{title}: {outcome}", err=True)


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=160)  # a file is as wide as it needs to be
    return console


_MOST_CLASSES = 20


def _print_audit(found: dict[str, Any]) -> None:
    """The verdicts in words, then the classes that are most off."""
    from steelyard.report import class_rows

    console = _console()
    for verdict in found["verdicts"]:
        fault = "" if verdict["fault"] is None else f" [{verdict['fault'].replace('_', ' ')}]"
        console.print(Text(verdict["topic"].upper() + fault, style="bold"))
        console.print(Padding(_plain(verdict["text"]), (0, 0, 1, 2)))
    rows = class_rows(found)
    kind = "weight" if found["implied_weights"] is not None else "positive weight"
    titles = ["samples", f"stated {kind}", f"implied {kind}", "relative residual"]
    lines = [
        (
            row["name"],
            [
                str(row["samples"]),
                _significant(row["stated"]),
                _significant(row["implied"]) + _between(row["implied_low"], row["implied_high"]),
                "-" if row["relative_residual"] is None else f"{row['relative_residual']:+.2f}",
            ],
        )
        for row in rows[:_MOST_CLASSES]
    ]
    _print_rows(console, "class", titles, lines, None)
    if len(rows) > _MOST_CLASSES:
        click.echo(f"the {_MOST_CLASSES} of {len(rows)} classes that are most off")


def _print_forecast(found: dict[str, Any]) -> None:
    """The metrics of each weighting, the recall of its classes from frequent to rare, and what is guaranteed."""
    console = _console()
    binary = len(found["class_names"]) == 2
    titles = ["Accuracy, %", "Balanced accuracy, %", "NLL", "ECE, %"] + (["P0/(1-P1), law"] if binary else [])
    lines = []
    for one in found["forecasts"]:
        cells = [f"{100 * one['accuracy']:.1f}", f"{100 * one['balanced_accuracy']:.1f}"]
        cells += [f"{one['nll']:.3f}", f"{100 * one['ece']:.1f}"]
        cells += [_significant(one["binary_ratio"])] if binary else []
        lines.append((f"{one['loss']}:{one['name']}", cells))
    judged = found["judged_by"] or "the training samples, which flatters"
    _print_rows(console, "loss and weights", titles, lines, _plain(f"judged by {judged}"))
    counts = found["class_counts"]
    order = sorted(range(len(counts)), key=lambda k: -counts[k])
    rarest = order[-_MOST_CLASSES:]
    lines = [
        (
            f"{found['class_names'][k]} ({counts[k]})",
            ["-" if one["recall"][k] is None else f"{100 * one['recall'][k]:.1f}" for one in found["forecasts"]],
        )
        for k in rarest
    ]
    titles = [f"{one['loss']}:{one['name']}" for one in found["forecasts"]]
    which = (
        "recall of each class, %"
        if len(order) == len(rarest)
        else f"recall of the {len(rarest)} rarest classes, %"
    )
    _print_rows(console, "class (training samples)", titles, lines, _plain(which))
    console.print(_plain(found["guarantee"]))


def _significant(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:.2g}, {high:.2g}]"


def _print_rows(
    console: Console, first: str, titles: list[str], rows: list[tuple[str, list[str]]], title: Text | None
) -> None:
    """A table, or a list where the terminal is too narrow for one."""
    if console.width < 100:
        for label, cells in rows:
            console.print(_plain(label))
            for name, cell in zip(titles, cells, strict=True):
                console.print(f"  {name:21s} {cell}")
        return
    table = Table(title=title)
    table.add_column(first, no_wrap=True)
    for name in titles:
        table.add_column(name, justify="right")
    for label, cells in rows:
        table.add_row(_plain(label), *cells)
    console.print(table)


def _print_table(results: dict[str, Any]) -> None:
    """The metrics of each loss."""
    console = _console()
    groups = results["data"]["groups"]
    metrics = [m for m in results["metrics"] if groups.get(m["key"].removeprefix("recall_"), True)]
    titles = [m["title"] + (f", {m['unit']}" if m["unit"] else "") for m in metrics]
    sign = "±" if console.encoding.startswith("utf") else "+/-"
    rows = [
        (loss["label"], [_cell(loss["summary"][m["key"]], 100 if m["unit"] == "%" else 1, sign) for m in metrics])
        for loss in results["losses"]
    ]
    title = _plain(f"{results['config']['dataset']}, imbalance {results['config']['imbalance']}")
    _print_rows(console, "loss", titles, rows, title)
    seeds = results["config"]["seeds"]
    click.echo(f"mean over {seeds} seeds {sign} half the 95% interval" if seeds > 1 else "one seed: no intervals")


def _cell(value: dict[str, Any] | None, scale: int, sign: str) -> str:
    if value is None:
        return "-"
    digits = 1 if scale == 100 else 3
    text = f"{value['mean'] * scale:.{digits}f}"
    return text if value["low"] is None else f"{text} {sign} {(value['high'] - value['mean']) * scale:.{digits}f}"


def _plain(text: str) -> Text:
    """Text that is shown as it is: no markup, no control characters."""
    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"learning-rates must be numbers, comma-separated, got {text!r}") from None


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped(number)


def _fail(message: str, code: int) -> None:
    line = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    click.echo(f"steelyard: {line}", err=True)
    sys.exit(code)
