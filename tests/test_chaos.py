"""A few of the faults of `make chaos`, which has more of each."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_few_faults():
    command = [sys.executable, "-m", "tests.chaos", "--kills", "6", "--rounds", "1", "--seed", "1"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-1000:]
