"""The commands `compare` and `reproduce`: parse, call, print."""

from pathlib import Path
from typing import Any

import click

from steelyard.cli.layout import Command
from steelyard.cli.options import as_text_or_json, no_rows, parts_of, tell, tell_place
from steelyard.cli.progress import Display
from steelyard.cli.tables import print_table

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


@click.command(cls=Command)
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
        given["losses"] = parts_of(given["losses"])
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


@click.command(cls=Command)
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
    return parts_of(text) or [text]


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} must be numbers, comma-separated, got {text!r}") from None
