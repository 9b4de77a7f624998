"""Independent jobs, side by side: finished ones are skipped, failed ones tried once more."""

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from joblib import Parallel, delayed, parallel_config

from steelyard.experiments.runs import read_json, write_json

Engine = Literal["local", "ray", "dask"]


class JobsFailed(RuntimeError):
    """Some jobs failed twice; what is finished is kept."""


def run_grid(
    folder: Path,
    jobs: Mapping[str, Any],
    work: Callable[[Any], dict[str, Any]],
    *,
    workers: int = 1,
    engine: Engine = "local",
    on_done: Callable[[str, str], None] = lambda name, outcome: None,
) -> dict[str, dict[str, Any]]:
    """Do `work` on every job; its record is `folder/NAME.json`, written aside and renamed by the one who did it.

    Args:
        folder: of the records.
        jobs: a name, which is good as a file name, and what `work` is called with, for each.
        work: a function of a module, so that other processes find it; returns what JSON can hold.
        workers: processes at a time.
        engine: ``"local"`` processes, or a ``"ray"`` or ``"dask"`` cluster through joblib's backends (with the
            folder on a file system that all see).
        on_done: told each name and "done", "was finished" or "failed", as they come (under Ray at the end).

    Returns:
        The records, in the order of the jobs.

    Raises:
        ImportError: the engine's library is not installed.
        JobsFailed: jobs that failed twice; the sentence names the first, `NAME.failed.txt` has each traceback.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waiting = dict(jobs)
    for name in jobs:
        if (folder / f"{name}.json").exists():
            on_done(name, "was finished")
            del waiting[name]
    _register(engine)
    returned = "list" if engine == "ray" else "generator_unordered"  # Ray's backend has no generators
    for attempt in (1, 2):
        failed = {}
        # Jobs are many and small: one thread each is faster than all threads for one.
        with parallel_config(backend={"local": "loky"}.get(engine, engine), n_jobs=workers):
            outcomes = Parallel(return_as=returned)(
                delayed(_do)(work, folder, name, job) for name, job in waiting.items()
            )
            for name, error in outcomes:
                if error is None:
                    on_done(name, "done")
                else:
                    failed[name] = waiting[name]
                    if attempt == 2:
                        on_done(name, "failed")
        waiting = failed
        if not waiting:
            break
    if waiting:
        first = next(iter(waiting))
        reason = (folder / f"{first}.failed.txt").read_text(encoding="utf-8").strip().splitlines()[-1]
        raise JobsFailed(f"{len(waiting)} of {len(jobs)} jobs failed twice, the first {first} ({reason})")
    return {name: read_json(folder / f"{name}.json") for name in jobs}


def _do(work: Callable[[Any], dict[str, Any]], folder: Path, name: str, job: Any) -> tuple[str, str | None]:
    """In the worker: the work, and its record or its traceback on disk."""
    report = folder / f"{name}.failed.txt"
    try:
        write_json(folder / f"{name}.json", work(job))
    except Exception:
        text = traceback.format_exc()
        report.write_text(text, encoding="utf-8")
        return name, text
    report.unlink(missing_ok=True)
    return name, None


def _register(engine: Engine) -> None:
    """Make an engine's joblib backend known."""
    try:
        if engine == "ray":
            from ray.util.joblib import register_ray

            register_ray()
        elif engine == "dask":
            import distributed  # noqa: F401 (registers itself)
        elif engine != "local":
            raise ValueError(f"engine must be local, ray or dask, got {engine!r}")
    except ImportError:
        raise ImportError(f"engine {engine!r} needs {engine}: pip install 'steelyard[cluster]'") from None
