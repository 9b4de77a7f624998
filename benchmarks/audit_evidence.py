"""What does the audit say of models that people train, where it is known what was done to them?

    python benchmarks/audit_evidence.py --out docs/results/audit-evidence.csv

First several hundred small trainings, each into a file of a cache (what is there is not trained again); then the
audits of each under one or several statements, one row an audit.
"""

import argparse
import os
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from joblib import Parallel, delayed

from evidence.trainings import Job, jobs, train

FIRST_SEED = 100


def timed(job: Job, cache: Path, tables: Path | None) -> tuple[str, float, str]:
    """Train, and return the name, the seconds, and what went wrong."""
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            train(job, cache, tables)
    except Exception as error:  # one training must not end the others
        return job.name, time.perf_counter() - started, f"{type(error).__name__}: {error}"
    return job.name, time.perf_counter() - started, ""


def train_all(chosen: list[Job], cache: Path, tables: Path | None, workers: int) -> list[str]:
    """Train what the cache does not hold, and return what failed."""
    missing = [job for job in chosen if not (cache / f"{job.name}.npz").exists()]
    print(f"{len(chosen)} trainings, {len(missing)} to do", flush=True)
    failed, started = [], time.perf_counter()
    work = (delayed(timed)(job, cache, tables) for job in missing)
    for done, (name, seconds, error) in enumerate(Parallel(workers, return_as="generator")(work), 1):
        if error:
            failed.append(f"{name}: {error}")
        rest = (time.perf_counter() - started) / done * (len(missing) - done)
        print(f"{done}/{len(missing)} {name} {seconds:.1f} s {error} ({rest / 60:.0f} min left)", flush=True)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="CSV file, one row an audit")
    parser.add_argument("--cache", type=Path, help="folder of the trainings; default: runs/audit-evidence")
    parser.add_argument("--seeds", type=int, default=4, help="trainings of each kind")
    parser.add_argument("--only", default="", help="part of the names of trainings")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tables", type=Path, help="folder of CSV files with a header and the label last")
    arguments = parser.parse_args()
    cache = arguments.cache or Path("runs/audit-evidence")
    tables = [] if arguments.tables is None else sorted(path.name for path in arguments.tables.glob("*.csv"))
    seeds = list(range(FIRST_SEED, FIRST_SEED + arguments.seeds))
    chosen = [job for job in jobs(seeds, tables) if arguments.only in job.name]
    failed = train_all(chosen, cache, arguments.tables, arguments.workers)
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
