"""What goes wrong with class weights in keras, replayed: the audit names each.

The trainings run in a process of their own: keras on torch brings in jax where that is installed, and warns.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from steelyard import TrainingSetup, audit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="needs keras"),
]
PROGRAM = Path(__file__).with_name("keras_incidents.py")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras")
    settings = {**os.environ, "KERAS_HOME": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, PROGRAM, folder / "logits.npz"], env=settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(folder / "logits.npz") as file:
        return {name: file[name] for name in file.files}


def _report(trained, name, weights=True, shift=None):
    stated = trained["weights"] if weights else None
    setup = TrainingSetup("softmax", class_weights=stated, logit_shift=shift)
    logits = trained[name] if shift is None else trained[name] + shift
    return audit(logits, trained["target"], setup)


def _names(report):
    return [f.name for f in report.findings if f.severity != "note"]


def test_class_weight_by_number_acts_as_stated(trained):
    assert _names(_report(trained, "right")) == []


def test_class_weight_by_name_never_acts(trained):
    """`class_weight={"0": 1.0, "1": 3.0}`: keras looks for numbers, and weighs what it does not find by 1."""
    assert _names(_report(trained, "named")) == ["weights_not_applied"]


def test_class_weight_counted_from_one_is_found(trained):
    """`class_weight={1: 1.0, 2: 3.0}` for labels from 0: each class has the weight of the one before, so that 1 : 1 :
    3 : 9 acts. Beside 1 : 3 : 9 : 22.5 that is one class, the first, which weighs too much."""
    report = _report(trained, "from_one")
    assert report.faults == ("class_weight_off",)
    assert [item.classes for item in report.findings[0].items] == [(0,)]


@pytest.mark.parametrize("name", ["in_loss_too", "in_sampler_too"])
def test_class_weight_beside_other_weights_acts_twice(trained, name):
    """A loss that weighs, or batches that are drawn by weights, beside `class_weight`."""
    assert _names(_report(trained, name)) == ["weights_applied_twice"]


def test_weights_left_on_by_a_shared_call_are_found_unstated(trained):
    report = _report(trained, "right", weights=False)
    assert _names(report) == ["weights_unstated"]
    implied = report.implied_weights.weights
    assert (implied / implied[0]).tolist() == pytest.approx(trained["weights"].tolist(), rel=0.35)


def test_a_prior_correction_with_the_wrong_sign_doubles_the_weights(trained):
    taken = -np.log(trained["weights"])
    assert _names(_report(trained, "right", shift=taken)) == []
    setup = TrainingSetup("softmax", class_weights=trained["weights"], logit_shift=taken)
    assert _names(audit(trained["right"] - taken, trained["target"], setup)) == ["weights_unstated"]
