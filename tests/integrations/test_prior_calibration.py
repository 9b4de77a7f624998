"""The published comparison of scikit-learn's estimators: the page shows the rows, and none got worse beyond chance."""

import csv
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))
bench = pytest.importorskip("prior_calibration", exc_type=ImportError)  # which needs XGBoost and LightGBM


def _published():
    with (ROOT / "docs/results/prior-calibration.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_estimator_is_judged_on_every_data_set():
    assert {(row["estimator"], row["dataset"]) for row in _published()} == {
        (estimator, dataset) for estimator in bench.ESTIMATORS for dataset in bench.DATASETS
    }


def test_what_is_taken_out_does_not_hurt_beyond_chance():
    for key, _, gain, error in bench.summary(_published()):
        assert gain >= -min(error, 0.001), f"{key}: {gain:+.4f} ± {error:.4f}"


def test_the_page_shows_the_published_rows():
    page = (ROOT / "docs/scikit-learn.md").read_text()
    shown = page.partition("<!-- estimators -->")[2].partition("<!-- /estimators -->")[0]
    assert shown.strip() == bench.markdown(_published())
