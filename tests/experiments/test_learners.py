"""Comparisons of learners beside networks: files, resume, workers, clusters, the page, what is refused."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from steelyard.commands.audit import audit_file
from steelyard.experiments import compare
from steelyard.experiments.bench import BenchJob, read_outcome
from steelyard.experiments.config import make_config, read_config
from steelyard.experiments.grid import run_grid
from steelyard.experiments.job import Training
from tests.experiments.test_compare import _numbers
from tests.experiments.test_grid import JOBS, note_and_see_gpus


@pytest.fixture
def table(tmp_path):
    """A table of three classes with two columns that tell them apart a little."""
    generator = np.random.default_rng(0)
    label = np.repeat([0, 1, 2], [150, 60, 30])
    values = generator.normal(size=(240, 3)) + np.eye(3)[label]
    lines = [",".join([*(f"{v:.4f}" for v in row), "abc"[k]]) for row, k in zip(values, label, strict=True)]
    (tmp_path / "table.csv").write_text("\n".join(["x,y,z,kind", *lines]))
    return str(tmp_path / "table.csv")


def config_of(table, learner, **more):
    values = {"losses": ["softmax", "softmax:inverse"], "seeds": 2} | more
    return make_config(dataset=table, target="kind", learner=learner, **values)


@pytest.mark.parametrize("learner", ["linear", "hist-gradient-boosting", "xgboost", "lightgbm"])
def test_a_learner_leaves_what_audit_reads(table, tmp_path, learner):
    rounds = {} if learner == "linear" else {"rounds": 20, "learning_rates": [0.1]}
    results = compare(config_of(table, learner, **rounds), tmp_path / "run")
    run = results.losses[1].runs[0]
    folder = tmp_path / "run" / run.folder
    assert (folder / "features.parquet").exists() == (learner == "linear")
    assert run.history == []
    told = pq.read_schema(folder / "train_predictions.parquet").metadata
    assert told[b"steelyard.learner"].decode() == learner
    assert (b"steelyard.weight_decay" in told) == (learner == "linear")
    report = audit_file(folder / "train_predictions.parquet")
    assert not report.failing("fault")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "epoch" not in page
    assert results.learner.words in page
    fixed = learner in ("linear", "hist-gradient-boosting")  # whose 80% of three columns, rounded up, are all
    assert ("Every seed gave the same numbers" in page) == fixed
    assert results.seeds_differ != fixed


@pytest.mark.slow
def test_a_killed_comparison_goes_on(table, tmp_path):
    config = config_of(table, "xgboost", rounds=10, learning_rates=[0.1])
    whole = compare(config, tmp_path / "whole")
    (tmp_path / "whole" / "results.json").unlink()
    (tmp_path / "whole" / "softmax" / "seed-1" / "result.json").unlink()
    again = compare(config, tmp_path / "whole", resume=True)
    assert _numbers(again.to_dict()) == _numbers(whole.to_dict())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"learner": "xgboost", "epochs": 5},
            "^learner xgboost has no epochs, got 5; it has learning_rates and rounds$",
        ),
        ({"learner": "linear", "learning_rates": [0.5]}, r"^learner linear has no learning_rates, got \[0.5\]"),
        ({"learner": "mlp", "backbone": "resnet32"}, "^learner mlp has no backbone, got resnet32"),
        ({"rounds": 5}, "^learner network has no rounds, got 5"),
        ({"learner": "trees"}, "^learner must be one of network, linear"),
    ],
)
def test_settings_of_another_learner_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        make_config(losses=["softmax"], **values)


def test_a_loss_that_a_learner_cannot_train_is_refused_before_any_training(table, tmp_path):
    config = config_of(table, "hist-gradient-boosting", losses=["softmax", "lgl-inr"])
    with pytest.raises(ValueError, match="cannot train lgl-inr; it takes softmax with class weights"):
        compare(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_configuration_does_not_say_which_learner_is_run(tmp_path):
    (tmp_path / "c.yaml").write_text("losses: [softmax]\nlearner: mine:make\n")
    with pytest.raises(
        ValueError, match=r"names a function that would be run, mine:make; to run it, say .* --learner"
    ):
        read_config(tmp_path / "c.yaml")
    assert read_config(tmp_path / "c.yaml", learner="mine:make").learner == "mine:make"


def _settings(job):
    return {"loss": job.loss, "seed": job.training.seed}


def _train_on(engine, table, folder):
    """Two trainings on a cluster have the numbers that they have here."""
    config = config_of(table, "xgboost", rounds=10, learning_rates=[0.1])
    told = (config.model_dump_json(), str(folder / "jobs"), "cpu", 1, "softmax")
    jobs = {f"seed-{seed}/result": BenchJob(*told, Training(0.1, seed), f"seed-{seed}") for seed in (0, 1)}
    run_grid(folder / "jobs", jobs, BenchJob.work, of=_settings, workers=2, engine=engine)
    torch.set_num_threads(1)
    here = compare(config, folder / "here").losses[0]
    for name, job in jobs.items():
        found = read_outcome(folder / "jobs" / f"{name}.json", _settings(job), tuning=False)
        assert found.metrics == here.runs[job.training.seed].metrics


@pytest.mark.slow
def test_a_dask_cluster_is_made_and_trains_a_table(table, tmp_path):
    pytest.importorskip("distributed")
    _train_on("dask", table, tmp_path)


@pytest.mark.slow
def test_a_local_ray_cluster_shares_gpus_and_trains_a_table(table, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray.init(address="local", num_cpus=3, num_gpus=2, include_dashboard=False, log_to_driver=False)
    try:
        monkeypatch.chdir(tmp_path)  # its workers are elsewhere
        (tmp_path / "here").mkdir()
        jobs = {name: job | {"folder": str(tmp_path / "here"), "workers": 3} for name, job in JOBS.items()}
        records = run_grid(Path("jobs"), jobs, note_and_see_gpus, workers=3, engine="ray")
        _train_on("ray", table, tmp_path / "trained")
    finally:
        ray.shutdown()
    assert [r["value"] for r in records.values()] == [0, 1, 2, 3, 4]
    assert len(list(tmp_path.glob("done-*"))) == 5
    assert {r["gpus"] for r in records.values()} == {"0", "1"}  # one of the two is shared
