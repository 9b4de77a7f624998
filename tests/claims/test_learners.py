"""Claims over learners other than networks: what they take, what they refuse, and what their pages say."""

import re

import numpy as np
import pandas as pd
import pytest

from steelyard.claims import read_claim_config, reproduce
from steelyard.report.results import Claim
from tests.helpers import run_command

LEARNERS = {
    "linear": ("a linear classifier, to the optimum of the loss over all training rows", "penalty"),
    "hist-gradient-boosting": ("5 rounds of gradient boosting (hist-gradient-boosting)", "learning rate"),
    "xgboost": ("5 rounds of gradient boosting (xgboost)", "learning rate"),
}
LOSSES = ["softmax", "softmax:inverse"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    kind = np.repeat(["ant", "bee", "cat"], [60, 40, 20])
    x = rng.normal(size=(120, 3)) + 2 * np.eye(3)[np.unique(kind, return_inverse=True)[1]]
    pd.DataFrame(x, columns=["a", "b", "c"]).assign(kind=kind).to_csv("t.csv", index=False)
    return tmp_path


def config_of(claim, learner):
    if learner == "xgboost":
        pytest.importorskip(learner)
    changes = {"dataset": "t.csv", "tasks": ["t.csv"], "target": "kind", "learner": learner, "seeds": 2}
    if learner != "linear":
        changes["rounds"] = 5
    return read_claim_config(claim, **changes, losses=LOSSES, imbalance="step:2", imbalances=["none"])


@pytest.mark.parametrize(
    ("claim", "learner"), [("leaderboard", "linear"), ("leaderboard", "hist-gradient-boosting"), ("c4", "xgboost")]
)
def test_a_claim_says_what_it_trained(here, claim, learner):
    words, tuned = LEARNERS[learner]
    reproduce(claim, config_of(claim, learner), here / "run")
    found = Claim.read(here / "run")
    assert (found.learner.words, found.learner.tuned) == (words, tuned)
    assert sorted(row.loss for row in found.tables[0].rows) == LOSSES
    page = (here / "run" / "report.html").read_text().partition("<main")[2]
    assert f"What was trained is {words}." in page
    assert f">{tuned}</th>" in page
    assert not re.search("small-cnn|backbone|epoch", page)


def test_a_second_run_in_a_process_reads_what_is_there_then(here):
    numbers = []
    for run in ("first", "second"):
        reproduce("leaderboard", config_of("leaderboard", "linear"), here / run)
        numbers.append([row.balanced_accuracy[0] for row in Claim.read(here / run).tables[0].rows])
        table = pd.read_csv("t.csv")
        table.assign(a=0, b=0, c=np.arange(len(table)) % 2).to_csv(
            "t.csv", index=False
        )  # says nothing of the kind
    assert min(numbers[0]) > 0.6
    assert max(numbers[1]) < 0.5, "the second run took the data of the first"


@pytest.mark.parametrize("claim", ["c1", "c2", "c3"])
def test_a_claim_about_a_network_is_refused_for_other_learners(claim, capsys):
    code, _, told = run_command(capsys, "reproduce", claim, "--learner", "linear")
    assert (code, told) == (2, f"steelyard: {claim} trains networks, got learner linear\n")


def test_a_loss_that_a_learner_cannot_train_is_refused_before_anything_is_written(here, capsys):
    options = "--target kind --learner hist-gradient-boosting --imbalance none --workers 1 --out runs"
    losses = ("--losses", "softmax,logistic")
    code, _, told = run_command(capsys, "reproduce", "c4", "--dataset", "t.csv", *options.split(), *losses)
    assert code == 2
    assert "learner hist-gradient-boosting cannot train logistic; it takes softmax with class weights" in told
    assert not (here / "runs" / "c4" / "config.json").exists()


@pytest.mark.slow
def test_a_leaderboard_on_a_local_dask_cluster(here):
    """A thread of this process: tests/experiments/test_learners.py has a cluster of processes."""
    distributed = pytest.importorskip("distributed")
    config = config_of("leaderboard", "linear")
    alone = reproduce("leaderboard", config, here / "alone")
    with distributed.Client(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"):
        found = reproduce("leaderboard", config, here / "cluster", workers=2, engine="dask")
    assert found.tables == alone.tables
    assert "engine dask" in found.environment.machine
