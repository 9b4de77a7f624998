"""What does the audit say of models that people train, where it is known what was done to them?

    python benchmarks/audit_evidence.py --out docs/results/audit-evidence.csv

First several hundred small trainings, each into a file of a cache (what is there is not trained again); then the
audits of each under one or several statements, one row an audit.
"""

import argparse
import csv
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from joblib import Parallel, delayed

from evidence.judging import FIELDS, judge
from evidence.table import markdown
from evidence.trainings import Job, jobs, train
from steelyard._common.files import write_csv


def train_one(job: Job, cache: Path, tables: Path | None) -> tuple[str, str]:
    """Train, and return how long it took and what went wrong; one training must not end the others."""
    started, error = time.perf_counter(), ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            train(job, cache, tables)
    except Exception as failure:
        error = f"{type(failure).__name__}: {failure}"
    return f"{job.name} {time.perf_counter() - started:.1f} s", error


def judge_one(job: Job, cache: Path) -> tuple[list[dict[str, object]], str]:
    """Judge, and return the rows and what went wrong."""
    try:
        return judge(cache / f"{job.name}.npz"), ""
    except Exception as failure:
        return [], f"{type(failure).__name__}: {failure}"


def everything(
    function: Callable[..., tuple[Any, str]], chosen: list[Job], workers: int, *more: object
) -> list[Any]:
    """Return the results for all jobs in order.

    Raises:
        SystemExit: what went wrong, after all others are done.
    """
    results, failed, started = [], [], time.perf_counter()
    work = Parallel(workers, return_as="generator")(delayed(function)(job, *more) for job in chosen)
    for job, (result, error) in zip(chosen, work, strict=True):
        results.append(result)
        failed += [f"{job.name}: {error}"] if error else []
        rest = (time.perf_counter() - started) / len(results) * (len(chosen) - len(results)) / 60
        words = result if isinstance(result, str) else job.name
        print(f"{len(results)}/{len(chosen)} {words} {error} ({rest:.0f} min left)", flush=True)
    if failed:
        raise SystemExit("\n".join(failed))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="CSV file, one row an audit")
    parser.add_argument("--cache", type=Path, default=Path("runs/audit-evidence"), help="folder of the trainings")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind")
    parser.add_argument("--first-seed", type=int, default=200, help="the thresholds were set on 100 and 101")
    parser.add_argument("--only", default="", help="part of the names of trainings")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tables", type=Path, help="folder of CSV files with a header and the label last")
    parser.add_argument("--train-only", action="store_true", help="fill the cache and stop")
    parser.add_argument("--table", action="store_true", help="print the tables of the out file and stop")
    arguments = parser.parse_args()
    if not arguments.table:
        tables = [] if arguments.tables is None else sorted(path.name for path in arguments.tables.glob("*.csv"))
        seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        chosen = [job for job in jobs(list(seeds), tables) if arguments.only in job.name]
        cache, workers = arguments.cache, arguments.workers
        missing = [job for job in chosen if not (cache / f"{job.name}.npz").exists()]
        print(f"{len(chosen)} trainings, {len(missing)} to do", flush=True)
        everything(train_one, missing, workers, cache, arguments.tables)
        if arguments.train_only:
            return
        rows = [row for part in everything(judge_one, chosen, workers, cache) for row in part]
        write_csv(arguments.out, FIELDS, ([row[name] for name in FIELDS] for row in rows))
    with arguments.out.open(newline="") as file:
        print(markdown(list(csv.DictReader(file))))


if __name__ == "__main__":
    main()
