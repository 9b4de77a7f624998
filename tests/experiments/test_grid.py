"""Jobs side by side: skipped when finished, tried twice when they fail, and never lost."""

import pytest

from steelyard.experiments.grid import JobsFailed, run_grid
from steelyard.experiments.runs import read_json


def square(job):
    return {"value": job["x"] ** 2}


def fail_once(job):
    """Fails where it has not failed before."""
    if not job["mark"].exists():
        job["mark"].touch()
        raise ValueError("the first time")
    return {"value": 1}


def fail(job):
    if job["x"] == 2:
        raise ValueError("two is not\naccepted")
    return {"value": job["x"]}


JOBS = {f"job-{x}": {"x": x} for x in range(5)}


@pytest.mark.parametrize("workers", [1, 2])
def test_records_come_in_the_order_of_the_jobs(tmp_path, workers):
    told = []
    records = run_grid(tmp_path, JOBS, square, workers=workers, on_done=lambda *outcome: told.append(outcome))
    assert [r["value"] for r in records.values()] == [0, 1, 4, 9, 16]
    assert list(records) == list(JOBS)
    assert sorted(told) == [(name, "done") for name in JOBS]
    assert {p.name for p in tmp_path.iterdir()} == {f"{name}.json" for name in JOBS}


def test_finished_jobs_are_skipped(tmp_path):
    run_grid(tmp_path, JOBS, square)
    (tmp_path / "job-3.json").unlink()
    (tmp_path / "job-1.json").write_text('{"value": "kept"}')
    told = {}
    records = run_grid(tmp_path, JOBS, square, on_done=told.__setitem__)
    assert told == dict.fromkeys(JOBS, "was finished") | {"job-3": "done"}
    assert records["job-1"]["value"] == "kept"
    assert records["job-3"]["value"] == 9


def test_a_job_that_fails_is_tried_once_more(tmp_path):
    told = {}
    jobs = {"a": {"mark": tmp_path / "mark"}}
    records = run_grid(tmp_path / "jobs", jobs, fail_once, on_done=told.__setitem__)
    assert records == {"a": {"value": 1}}
    assert told == {"a": "done"}
    assert not (tmp_path / "jobs" / "a.failed.txt").exists()


def test_what_fails_twice_is_reported_and_the_rest_is_kept(tmp_path):
    told = {}
    with pytest.raises(JobsFailed, match="1 of 5 jobs failed twice, the first job-2"):
        run_grid(tmp_path, JOBS, fail, on_done=told.__setitem__)
    assert told["job-2"] == "failed"
    assert "two is not" in (tmp_path / "job-2.failed.txt").read_text()
    assert read_json(tmp_path / "job-4.json") == {"value": 4}
    assert run_grid(tmp_path, JOBS, square)["job-2"] == {"value": 4}
    assert not (tmp_path / "job-2.failed.txt").exists()


def test_engine_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="engine must be local, ray or dask, got 'slurm'"):
        run_grid(tmp_path, JOBS, square, engine="slurm")


@pytest.mark.slow
def test_a_local_ray_cluster(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        records = run_grid(tmp_path, JOBS, square, workers=2, engine="ray")
    finally:
        ray.shutdown()
    assert [r["value"] for r in records.values()] == [0, 1, 4, 9, 16]


@pytest.mark.slow
def test_a_local_dask_cluster(tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.Client(n_workers=2, threads_per_worker=1, dashboard_address=None):
        records = run_grid(tmp_path, JOBS, square, workers=2, engine="dask")
    assert [r["value"] for r in records.values()] == [0, 1, 4, 9, 16]
