"""The examples run, and say what they are there to show."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SAID = {
    "huggingface_trainer": "The weights acted as stated.",
    "lightning_balance": "The weights act twice",
    "skorch_grid_search": "sums of rows: [1.0]",
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::steelyard.BalanceWarning")
@pytest.mark.parametrize("name", SAID)
def test_example_says_what_it_shows(name, capsys):
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert SAID[name] in capsys.readouterr().out
