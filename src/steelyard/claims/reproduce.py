"""From a claim's name to its page: configuration, jobs, numbers, verdict."""

import datetime
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import resources
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
import yaml
from pydantic import ValidationError

import steelyard
from steelyard._common.checks import check_same
from steelyard._common.files import held_folder, read_json, to_json, write_csv, write_json
from steelyard.claims import c1, c2, c3, c4, leaderboard
from steelyard.claims.config import ClaimConfig
from steelyard.data import parse_imbalance
from steelyard.experiments.config import candidates, one_sentence
from steelyard.experiments.grid import Engine, record_file, run_grid
from steelyard.experiments.runs import check_new, environment, next_folder, numbered_folders, read_finished
from steelyard.experiments.trainings import dataset, forget_data, known_by, ranked_counts, setting
from steelyard.notation import check_comparable, parse_loss, parse_losses
from steelyard.report import write_claim_page
from steelyard.report.results import Claim, ComparedLearner, Conclusion
from steelyard.report.results.claim import Claimed
from steelyard.training.learners import NAMES, find_learner, learner_settings

CLAIMS: dict[str, ModuleType] = {"c1": c1, "c2": c2, "c3": c3, "c4": c4, "leaderboard": leaderboard}


def read_claim_config(claim: str, *, full: bool = False, **changes: Any) -> ClaimConfig:
    """Return the configuration that ships for a claim, with changes.

    Args:
        claim: one of ``CLAIMS``.
        full: at the paper's scale, which wants GPUs, not at that of two cores.
        **changes: settings of :class:`ClaimConfig`; None leaves what ships.

    Raises:
        ValueError: an unknown claim, or a value that its configuration does not accept.
    """
    if claim not in CLAIMS:
        raise ValueError(f"claim must be one of {', '.join(CLAIMS)} or all, got {claim!r}")
    text = resources.files("steelyard.claims").joinpath(f"{claim}.yaml").read_text(encoding="utf-8")
    shipped = yaml.safe_load(text)
    larger = shipped.pop("full")
    values = (
        shipped | (larger if full else {}) | {key: value for key, value in changes.items() if value is not None}
    )
    try:
        config = ClaimConfig(**values)
    except ValidationError as error:
        raise ValueError(one_sentence(error, ClaimConfig)) from None
    for imbalance in (config.imbalance, *config.imbalances):
        parse_imbalance(imbalance)
    if config.learner != "network" and claim not in ("c4", "leaderboard"):
        raise ValueError(f"{claim} trains networks, got learner {config.learner}")
    check_comparable(parse_losses(",".join(config.losses)), config.epochs)
    all_rows = claim == "leaderboard" and config.imbalance == "none"
    if all_rows and config.seeds > 1 and not find_learner(config.learner).in_batches:
        raise ValueError(
            f"seeds must be 1 for learner {config.learner} without an imbalance, under which all seeds train on "
            f"the same rows, got {config.seeds}"
        )
    return config


def reproduce(
    claim: str,
    config: ClaimConfig,
    folder: str | PathLike[str],
    *,
    workers: int = 1,
    engine: Engine = "local",
    command: str | None = None,
    on_done: Callable[[str, str], None] = lambda name, outcome: None,
    on_plan: Callable[[int], None] = lambda number: None,
    on_data: Callable[[str], None] = lambda reading: None,
) -> Claim:
    """Run a claim's jobs into a folder, those that are not finished, and write its page.

    Args:
        claim: ``c1`` to ``c4``.
        config: see :func:`read_claim_config`.
        folder: of this claim and configuration; an unfinished run goes on.
        workers, engine: see :func:`run_grid`.
        command: the command line to show on the page.
        on_done, on_plan, on_data: told each job's outcome, how many there are, and what was found in the data.

    Returns:
        What claim.json holds; beside it rows.csv, jobs/ with a record each, and report.html.

    Raises:
        ValueError: the folder is of another configuration, or another process works in it.
        JobsFailed: jobs that failed twice; finished ones are kept.
    """
    folder = Path(folder)
    module: Any = CLAIMS[claim]
    with held_folder(folder):
        given = _given(claim, config)
        file = folder / "config.json"
        if file.exists():
            check_same(f"run folder {folder}", _configuration(file), given)
        started = time.monotonic()
        forget_data()
        jobs = module.jobs(config)
        if not file.exists():
            check_new(folder)
            _check_data(jobs, on_data)  # before anything is written, and any job fails for it
            write_json(file, given)
        on_plan(len(jobs))
        ran = 0

        def tell(name: str, outcome: str) -> None:
            nonlocal ran
            ran += outcome != "was finished"
            on_done(name, outcome)

        records_are_there = all(record_file(folder / "jobs", name).exists() for name in jobs)
        again = records_are_there and (folder / Claim.FILE).exists()
        records = run_grid(
            folder / "jobs",
            jobs,
            module.work,
            of=dict if again else known_by,  # to write a page again takes no data
            workers=workers,
            engine=engine,
            on_done=tell,
        )
        conclusion: Conclusion = module.conclude(list(records.values()), config)
        result = Claim(
            claim=claim,
            title=module.TITLE,
            statement=module.STATEMENT,
            config=cast(Claimed, given),
            environment=environment(f"{workers} workers, engine {engine}", _commit()),
            finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - started, 1),
            command=command,
            learner=_learner(claim, config, next(iter(jobs.values()))),
            **vars(conclusion),
        )
        if ran == 0 and (folder / Claim.FILE).exists():  # nothing is new but the page: when and where it ran stays
            earlier = read_finished(Claim, folder, given)
            keys = ("environment", "finished", "seconds", "command")
            result = replace(result, **{key: getattr(earlier, key) for key in keys})
        _write_rows(folder / "rows.csv", list(records.values()))
        write_json(folder / Claim.FILE, result.to_dict())
        write_claim_page(folder)
        return result


def claim_folder(
    parent: str | PathLike[str],
    claim: str,
    config: ClaimConfig,
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Return the newest folder of a claim in `parent` with this configuration, or the next that does not exist.

    One whose configuration cannot be read is left out, and `say` is told why.
    """
    parent = Path(parent)
    given = _given(claim, config)
    for _, folder in sorted(numbered_folders(parent, claim).items(), reverse=True):
        file = folder / "config.json"
        try:
            if not file.exists():
                check_new(folder)
                return folder
            if given.items() <= _configuration(file).items():
                return folder
        except (ValueError, OSError) as error:
            say(f"{folder} is left out: {error}")
    return next_folder(parent, claim)


def _learner(claim: str, config: ClaimConfig, job: dict[str, Any]) -> ComparedLearner:
    """Return what the jobs of a claim train."""
    learner = find_learner(config.learner)
    strange = [key for name in NAMES for key in learner_settings(name) if key not in learner.settings]
    tried = candidates(config) if claim in ("c4", "leaderboard") else [config.learning_rate]
    return ComparedLearner(learner.words(setting(job)), learner.tuned, tried, strange)


def _given(claim: str, config: ClaimConfig) -> dict[str, Any]:
    """Return a configuration as a file holds it."""
    given: dict[str, Any] = json.loads(to_json({"claim": claim} | config.model_dump()))
    return given


def _configuration(file: Path) -> dict[str, Any]:
    """Of a run; a setting that a later version added was, before, what its default is."""
    found = read_json(file)
    if not isinstance(found, dict):
        raise ValueError(f"{file} must hold keys and values, got {type(found).__name__}")
    return {"claim": None} | ClaimConfig().model_dump() | found


def _check_data(jobs: dict[str, dict[str, Any]], on_data: Callable[[str], None]) -> None:
    """Open every data set of the jobs, and see that the imbalances leave samples of each class.

    Raises:
        ValueError, OSError: as loading and imbalance do.
    """
    keys = ("dataset", "imbalance", "limit_train")  # the others are the same in all jobs
    for job in {tuple(job.get(key) for key in keys): job for job in jobs.values()}.values():
        data = dataset(job)
        on_data(data.reading)
        first = data.prepare(torch.arange(len(data.train_target))).inputs("train", torch.arange(1))
        learner, how = find_learner(job["learner"]), setting(job)
        learner.check_inputs(first, len(data.class_names), how)
        for other in jobs.values():
            if "loss" in other:
                learner.check(parse_loss(other["loss"]))
        if "imbalance" in job:
            ranked_counts(data.train_target, len(data.class_names), job)


def _commit() -> str | None:
    """Of the source tree that runs, with a + where it has changes; None for an installed package."""
    here = Path(steelyard.__file__).parent
    asked = {
        "commit": [
            "log",
            "-1",
            "--format=%h",
            "--",
            str(here / "__init__.py"),
        ],  # nothing where git has not this file
        "changes": ["status", "--porcelain", "--", str(here)],
        "head": ["rev-parse", "--short", "HEAD"],
    }
    try:
        said = {
            key: subprocess.run(
                ["git", "-C", str(here), *words], capture_output=True, text=True, check=True
            ).stdout
            for key, words in asked.items()
        }
    except (OSError, subprocess.CalledProcessError):
        return None
    return said["head"].strip() + "+" * bool(said["changes"].strip()) if said["commit"].strip() else None


def _write_rows(file: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write the scalars and lists of scalars of every job."""
    rows = [{key: _cell(value) for key, value in record.items()} for record in records]
    keys = [key for key in rows[0] if not isinstance(rows[0][key], list)]
    write_csv(file, keys, [[row.get(key) for key in keys] for row in rows])


def _cell(value: Any) -> Any:
    """Return a scalar as it is; a list of numbers, such as one a seed, with spaces between, and of pairs with
    colons."""
    if isinstance(value, list) and value and all(isinstance(item, int | float | None) for item in value):
        return " ".join("diverged" if item is None else f"{item:.6g}" for item in value)
    if isinstance(value, list) and value and all(isinstance(item, list) for item in value):  # rates tried
        return " ".join(":".join("diverged" if v is None else f"{v:.6g}" for v in item) for item in value)
    return value
