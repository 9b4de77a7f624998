"""Independent jobs, side by side: finished ones are skipped, failed ones tried once more."""

import contextlib
import multiprocessing
import os
import re
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Literal

import joblib
import torch
from filelock import FileLock
from joblib import Parallel, delayed, parallel_config

from steelyard._common.files import write_text
from steelyard.experiments.records import read_record, write_record
from steelyard.training.processes import end_with

Engine = Literal["local", "ray", "dask"]
_TRIES = 2


class JobsFailed(RuntimeError):
    """Some jobs failed twice; what is finished is kept."""


def default_workers() -> int:
    """Return one worker a GPU; without any, one a core that this process may use."""
    return torch.cuda.device_count() or joblib.cpu_count()


def run_grid(
    folder: Path,
    jobs: Mapping[str, Any],
    work: Callable[[Any], dict[str, Any]],
    *,
    of: Callable[[Any], Mapping[str, object]] = dict,
    workers: int = 1,
    engine: Engine = "local",
    on_done: Callable[[str, str], None] = lambda name, outcome: None,
) -> dict[str, dict[str, Any]]:
    """Do `work` on every job; its record is `folder/NAME.json`, written aside and renamed by the one who did it.

    A job is done by one worker at a time, whoever started it: one that is done elsewhere is waited for, and its
    record taken. Local workers end with the process that started them, however it ends.

    Args:
        folder: of the records.
        jobs: a name, which is good as a file name (with slashes: in folders), and what `work` is called with,
            for each.
        work: a function of a module, so that other processes find it; returns what JSON can hold.
        of: the settings of a job, as JSON can hold them; a record of others is refused.
        workers: processes at a time; at least 2 for a cluster.
        engine: ``"local"`` processes, or a ``"ray"`` or ``"dask"`` cluster through joblib's backends, with the
            folder, and this one, on a file system that all see. A cluster that is connected to is used; else Ray
            and Dask take the one that their own settings name (``RAY_ADDRESS``, ``DASK_SCHEDULER_ADDRESS``), or
            start one on this machine. Local and Ray's workers have a GPU each where there are several, or share
            them; Dask's have what their cluster gives them (that of dask-cuda: one each).
        on_done: told each name and "done", "was finished" or "failed", as they come (under Ray at the end).

    Returns:
        The records, in the order of the jobs, with the ``seconds`` that each took.

    Raises:
        ImportError: the engine's library is not installed.
        ValueError: no such engine, or one worker for a cluster; a record that was changed since it was written, or
            is of another job.
        JobsFailed: jobs that failed twice; the sentence names the first, `NAME.failed.txt` has each reason.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    finished = [name for name in jobs if record_file(folder, name).exists()]
    for name in finished:  # before any work
        read_record(record_file(folder, name), of(jobs[name]))
    for name in finished:
        on_done(name, "was finished")
    tries = {name: 0 for name in jobs if name not in finished}
    suspects: set[str] = set()  # each of which may have had its worker killed, or another beside it
    with _cluster(engine, workers) as backend:
        while waiting := [name for name in tries if tries[name] < _TRIES]:
            together = [name for name in waiting if name not in suspects] or waiting[:1]
            tasks = {name: (of(jobs[name]), jobs[name]) for name in together}
            for name, outcome in _round(folder, tasks, work, workers, backend):
                if outcome == "done":
                    del tries[name]
                    on_done(name, "done")
                    continue
                if outcome == "killed":
                    suspects.add(name)
                tries[name] += 1
                if tries[name] == _TRIES:
                    on_done(name, "failed")
    if tries:
        first = next(iter(tries))
        reason = _reason(folder, first).read_text(encoding="utf-8").strip().splitlines()[-1]
        raise JobsFailed(f"{len(tries)} of {len(jobs)} jobs failed twice, the first {first} ({reason})")
    return {name: read_record(record_file(folder, name), of(jobs[name])) for name in jobs}


def _round(
    folder: Path,
    jobs: dict[str, tuple[Mapping[str, object], Any]],
    work: Callable[[Any], dict[str, Any]],
    workers: int,
    backend: dict[str, Any],
) -> Iterator[tuple[str, Literal["done", "failed", "killed"]]]:
    """Return what came of each job, by its name; those that were not begun before workers were killed are left
    out."""
    left = dict.fromkeys(jobs)
    returned = "list" if backend["backend"] == "ray" else "generator_unordered"  # Ray's backend has no generators
    here = Path.cwd()
    try:
        # Jobs are many and small: one thread each is faster than all threads for one.
        with parallel_config(**backend, n_jobs=workers):
            outcomes = Parallel(return_as=returned)(
                delayed(_do)(work, folder, here, name, of, job) for name, (of, job) in jobs.items()
            )
            for name, failed in outcomes:
                del left[name]
                yield name, "failed" if failed else "done"
    except BrokenProcessPool as error:
        begun = [name for name in left if _lock(folder, name).exists()] or list(left)
        text = f"its worker was killed, for want of memory perhaps ({str(error).splitlines()[0]})"
        for name in begun:
            killed = not record_file(folder, name).exists()
            if killed:
                write_text(_reason(folder, name), text)
            yield name, "killed" if killed else "done"


def do_once(folder: Path, name: str, of: Mapping[str, object], work: Callable[[], dict[str, Any]]) -> None:
    """Do `work`, a job with the settings `of`, when nobody else does it, and write its record, `folder/NAME.json`.

    Where the record is there by then, nothing is done.
    """
    lock = _lock(folder, name)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        if record_file(folder, name).exists():  # another worker had the job
            return
        began = time.monotonic()
        try:
            found = work() | {"seconds": round(time.monotonic() - began, 2)}
            write_record(record_file(folder, name), of, found)
        finally:
            lock.unlink(missing_ok=True)  # what stays was begun and never ended
        _reason(folder, name).unlink(missing_ok=True)


def clear_locks(folder: Path) -> None:
    """Remove the locks of a folder all of whose records are there."""
    shutil.rmtree(folder / ".locks", ignore_errors=True)


def _do(
    work: Callable[[Any], dict[str, Any]], folder: Path, here: Path, name: str, of: Mapping[str, object], job: Any
) -> tuple[str, bool]:
    """In the worker: the work, then its record or its traceback on disk; the name, and whether it failed."""

    def where_asked() -> dict[str, Any]:
        with contextlib.chdir(here):  # relative names are the caller's
            return work(job)

    try:
        do_once(folder, name, of, where_asked)
    except Exception:
        write_text(_reason(folder, name), traceback.format_exc())
        return name, True
    return name, False


def record_file(folder: Path, name: str) -> Path:
    """Return the file for the record of a job."""
    return folder / f"{name}.json"


def _reason(folder: Path, name: str) -> Path:
    return folder / f"{name}.failed.txt"


def _lock(folder: Path, name: str) -> Path:
    return folder / ".locks" / name


@contextlib.contextmanager
def _cluster(engine: Engine, workers: int) -> Iterator[dict[str, Any]]:
    """Return what joblib is to run jobs with: an engine's backend, made known, with a cluster behind it."""
    if engine not in ("local", "ray", "dask"):
        raise ValueError(f"engine must be local, ray or dask, got {engine!r}")
    if engine != "local" and workers < 2:
        raise ValueError(f"workers must be at least 2 with engine {engine!r}, got {workers}")
    try:
        if engine == "ray":
            import ray
            from ray.util.joblib import register_ray
        elif engine == "dask":
            import dask
            import distributed
    except ImportError:
        raise ImportError(f"engine {engine!r} needs {engine}: pip install 'steelyard[cluster]'") from None
    if engine == "local":
        yield {"backend": "loky", "initializer": _begin_worker, "initargs": (os.getpid(), _gpus())}
    elif engine == "ray":
        register_ray()
        if not ray.is_initialized():
            ray.init()
        gpus = int(ray.cluster_resources().get("GPU", 0))
        # a share that divides a GPU evenly, so that every worker finds its place
        yield {"backend": "ray", "ray_remote_args": {"num_gpus": 1 / -(-workers // gpus) if gpus else 0}}
    else:
        with contextlib.ExitStack() as stack:
            try:
                distributed.get_client()
            except ValueError:  # none yet
                named = dask.config.get("scheduler-address", None) is not None
                local = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
                stack.enter_context(distributed.Client(**({} if named else local)))
            yield {"backend": "dask"}


def _gpus() -> list[str]:
    """Return the GPUs as CUDA_VISIBLE_DEVICES names them; CUDA is left untouched."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (
        list(map(str, range(torch.cuda.device_count()))) if named is None else list(filter(None, named.split(",")))
    )


def _begin_worker(parent: int, gpus: list[str]) -> None:
    """In a new worker, before CUDA starts: workers are numbered on and on, and have the GPUs in turn."""
    end_with(parent)
    if gpus:
        number = int(re.findall(r"\d+", multiprocessing.current_process().name)[-1])
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
