"""Every benchmark starts: what it imports is there, and it says what it takes."""

import importlib
import runpy
import sys
import warnings
from pathlib import Path

import pytest

from tests import forked

BENCHMARKS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


def _help(file):
    warnings.simplefilter("ignore")  # which are errors in tests
    sys.argv, sys.path = [str(file), "--help"], [str(file.parent), *sys.path]
    runpy.run_path(str(file), run_name="__main__")


@pytest.fixture(scope="module", autouse=True)
def imported():
    """What several benchmarks import, once for all of them."""
    for name in ("matplotlib.figure", "scipy.stats", "sklearn.model_selection", "steelyard.claims"):
        importlib.import_module(name)


@pytest.mark.slow
@pytest.mark.parametrize("file", BENCHMARKS, ids=lambda file: file.stem)
def test_a_benchmark_says_what_it_takes(file):
    done = forked.done(_help, file)
    assert done.returncode == 0, done.stderr[-500:]
    assert f"usage: {file.name}" in done.stdout
