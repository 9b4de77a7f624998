"""Jobs side by side: skipped when finished, tried twice when they fail, and never lost."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from steelyard._common.files import read_json, write_json
from steelyard.experiments.grid import JobsFailed, run_grid
from steelyard.experiments.records import read_record, write_record
from tests.helpers import gone


def square(job):
    return {"value": job["x"] ** 2}


def fail_once(job):
    """Fails where it has not failed before."""
    if not Path(job["mark"]).exists():
        Path(job["mark"]).touch()
        raise ValueError("the first time")
    return {"value": 1}


def fail(job):
    if job["x"] == 2:
        raise ValueError("two is not\naccepted")
    return {"value": job["x"]}


def die_once(job):
    """Is killed where it has not been before, as for want of memory."""
    if job["mark"] is not None and not Path(job["mark"]).exists():
        Path(job["mark"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"value": job["x"]}


def die_first(job):
    if job["x"] == 0:
        time.sleep(0.2)  # another has begun
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.4)
    return {"value": job["x"]}


def note(job):
    """Says that it was done, and by whom, where the caller is."""
    Path(f"done-{job['x']}-{os.getpid()}").touch()
    until = time.monotonic() + job.get("seconds", 0)
    while time.monotonic() < until and not Path("go-on").exists():
        time.sleep(0.02)
    return {"value": job["x"]}


def see_gpus(job):
    """Waits for the others, so that every worker has a job."""
    Path(job["folder"], str(os.getpid())).touch()
    until = time.monotonic() + 30
    while len(list(Path(job["folder"]).iterdir())) < job["workers"] and time.monotonic() < until:
        time.sleep(0.02)
    return {"gpus": os.environ["CUDA_VISIBLE_DEVICES"]}


def note_and_see_gpus(job):
    return note(job) | see_gpus(job)


def tell_process(job):
    return {"value": job["x"], "process": os.getpid()}


JOBS = {f"job-{x}": {"x": x} for x in range(5)}


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_records_come_in_the_order_of_the_jobs(tmp_path, workers):
    told = []
    records = run_grid(tmp_path, JOBS, square, workers=workers, on_done=lambda *outcome: told.append(outcome))
    assert [r["value"] for r in records.values()] == [0, 1, 4, 9, 16]
    assert list(records) == list(JOBS)
    assert sorted(told) == [(name, "done") for name in JOBS]
    assert all(r["seconds"] >= 0 for r in records.values())
    assert {p.name for p in tmp_path.iterdir()} == {".locks", *(f"{name}.json" for name in JOBS)}
    assert list((tmp_path / ".locks").iterdir()) == []


def test_finished_jobs_are_skipped(tmp_path):
    run_grid(tmp_path, JOBS, square)
    (tmp_path / "job-3.json").unlink()
    write_record(tmp_path / "job-1.json", JOBS["job-1"], {"value": "kept"})
    told = {}
    records = run_grid(tmp_path, JOBS, square, on_done=told.__setitem__)
    assert told == dict.fromkeys(JOBS, "was finished") | {"job-3": "done"}
    assert records["job-1"]["value"] == "kept"
    assert records["job-3"]["value"] == 9


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text[:30], r"job-3.json is not JSON: .*; remove the file to do the job again"),
        (lambda text: "", r"job-3.json is not JSON: .*; remove the file to do the job again"),
        (lambda text: '{"value": 9}', r"job-3.json is not the record of a job; remove"),
        (
            lambda text: text.replace('"value": 9', '"value": 8'),
            r"job-3.json was changed since it was written; remove",
        ),
        (
            lambda text: text.replace('"sha256": "', '"sha256": "0'),
            r"job-3.json was changed since it was written; remove",
        ),
    ],
    ids=["cut off", "empty", "another file", "a number", "the checksum"],
)
def test_a_record_that_was_damaged_is_named_before_any_work(tmp_path, edit, message):
    run_grid(tmp_path, JOBS, square)
    (tmp_path / "job-0.json").unlink()
    file = tmp_path / "job-3.json"
    file.write_text(edit(file.read_text()))
    with pytest.raises(ValueError, match=message):
        run_grid(tmp_path, JOBS, square)
    assert not (tmp_path / "job-0.json").exists()
    file.unlink()
    assert [r["value"] for r in run_grid(tmp_path, JOBS, square).values()] == [0, 1, 4, 9, 16]


def test_a_record_of_another_job_is_refused(tmp_path):
    run_grid(tmp_path, JOBS, square)
    with pytest.raises(
        ValueError, match=r"job-2.json is of another run: x is 2, not 7; remove the file to do the job"
    ):
        run_grid(tmp_path, JOBS | {"job-2": {"x": 7}}, square)


def test_a_job_that_fails_is_tried_once_more(tmp_path):
    told = {}
    jobs = {"a": {"mark": str(tmp_path / "mark")}}
    records = run_grid(tmp_path / "jobs", jobs, fail_once, on_done=told.__setitem__)
    assert records["a"]["value"] == 1
    assert told == {"a": "done"}
    assert not (tmp_path / "jobs" / "a.failed.txt").exists()


def test_what_fails_twice_is_reported_and_the_rest_is_kept(tmp_path):
    told = {}
    with pytest.raises(JobsFailed, match="1 of 5 jobs failed twice, the first job-2"):
        run_grid(tmp_path, JOBS, fail, on_done=told.__setitem__)
    assert told["job-2"] == "failed"
    assert "two is not" in (tmp_path / "job-2.failed.txt").read_text()
    assert read_record(tmp_path / "job-4.json", JOBS["job-4"])["value"] == 4
    assert run_grid(tmp_path, JOBS, square)["job-2"]["value"] == 4
    assert not (tmp_path / "job-2.failed.txt").exists()


@pytest.mark.slow
def test_a_job_whose_worker_is_killed_is_tried_once_more(tmp_path):
    told = {}
    jobs = {name: {"x": x, "mark": str(tmp_path / "mark") if x == 1 else None} for x, name in enumerate(JOBS)}
    records = run_grid(tmp_path / "jobs", jobs, die_once, workers=2, on_done=told.__setitem__)
    assert [r["value"] for r in records.values()] == [0, 1, 2, 3, 4]
    assert told == dict.fromkeys(JOBS, "done")


@pytest.mark.slow
def test_a_job_that_kills_every_worker_is_reported_and_those_beside_it_are_not_lost(tmp_path):
    told = {}
    with pytest.raises(JobsFailed, match=r"1 of 5 jobs failed twice, the first job-0 \(its worker was killed"):
        run_grid(tmp_path, JOBS, die_first, workers=2, on_done=told.__setitem__)
    assert told == dict.fromkeys(JOBS, "done") | {"job-0": "failed"}


SLOW_JOBS = {f"job-{x}": {"x": x, "seconds": 0.0 if x < 3 else 60.0} for x in range(6)}
GRID = """
from pathlib import Path
from tests.experiments.test_grid import SLOW_JOBS, note
from steelyard.experiments.grid import run_grid
run_grid(Path("jobs"), SLOW_JOBS, note, workers=2)
"""


@pytest.mark.slow
def test_a_grid_that_is_killed_goes_on_and_no_finished_job_is_done_twice(tmp_path, monkeypatch):
    """Workers end with the grid that started them: what they had begun is begun again, what they had finished stays."""
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, *sys.path])}
    command = [sys.executable, "-c", GRID]
    first = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True)
    until = time.monotonic() + 60
    while len(list(tmp_path.glob("done-*"))) < 5 and time.monotonic() < until:  # two of the slow ones have begun
        time.sleep(0.02)
    first.kill()
    first.wait()
    assert gone(first.pid)
    records = {p.name: p.read_bytes() for p in (tmp_path / "jobs").glob("*.json")}
    assert {f"job-{x}.json" for x in range(3)} == set(records)
    monkeypatch.chdir(tmp_path)
    Path("go-on").touch()
    run_grid(Path("jobs"), SLOW_JOBS, note)
    for x in range(6):
        assert read_json(tmp_path / "jobs" / f"job-{x}.json")["found"]["value"] == x
        assert len(list(tmp_path.glob(f"done-{x}-*"))) <= (1 if f"job-{x}.json" in records else 2)
    for name, text in records.items():
        assert (tmp_path / "jobs" / name).read_bytes() == text


@pytest.mark.slow
def test_local_workers_have_the_gpus_in_turn(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,GPU-1a")
    (tmp_path / "here").mkdir()
    jobs = {f"job-{x}": {"folder": str(tmp_path / "here"), "workers": 3} for x in range(3)}
    records = run_grid(tmp_path / "jobs", jobs, see_gpus, workers=3)
    assert {r["gpus"] for r in records.values()} == {"7", "GPU-1a"}  # one of the two is shared


def test_writers_of_one_file_leave_a_whole_one(tmp_path):
    """Whoever renames last wins; nobody meets half a file, or the other's."""
    values = [{"writer": k, "text": "x" * 10_000} for k in range(2)]
    errors = []

    def write(value):
        try:
            for _ in range(50):
                write_json(tmp_path / "a.json", value)
                json.loads((tmp_path / "a.json").read_text())
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(value,)) for value in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert read_json(tmp_path / "a.json") in values
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("engine", ["ray", "dask"])
def test_one_worker_is_no_cluster(tmp_path, engine):
    with pytest.raises(ValueError, match=f"workers must be at least 2 with engine '{engine}', got 1"):
        run_grid(tmp_path, JOBS, square, engine=engine)


def test_engine_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="engine must be local, ray or dask, got 'slurm'"):
        run_grid(tmp_path, JOBS, square, engine="slurm")


@pytest.mark.slow
def test_a_dask_cluster_that_is_there_does_the_jobs(tmp_path):
    """tests/experiments/test_learners.py has one that is made, and one of Ray's."""
    distributed = pytest.importorskip("distributed")
    with distributed.Client(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"):
        records = run_grid(tmp_path, JOBS, tell_process, workers=2, engine="dask")
    assert [r["value"] for r in records.values()] == [0, 1, 2, 3, 4]
    assert {r["process"] for r in records.values()} == {os.getpid()}  # that cluster has threads of this process
