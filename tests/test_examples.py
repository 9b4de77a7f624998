"""The examples run, and say what they are there to show; notebooks print what stands in them."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SAID = {
    "audit_xgboost": "trained with class weights that nobody stated: 1 : 9.3",
    "huggingface_trainer": "The weights acted as stated.",
    "lightning_balance": "The weights act twice",
    "skorch_grid_search": "sums of rows: [1.0]",
    "undo_and_decide": "weights taken out        claims 0.900, 0.07",
    "xgboost_objective": "The weights acted as stated.",
}
NOTEBOOKS = ("what_did_my_weights_do", "which_weights")


def test_every_example_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SAID)
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == set(NOTEBOOKS)


@pytest.mark.parametrize("name", SAID)
def test_an_example_says_first_what_one_sees_and_how_to_run_it(name):
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert text.startswith('"""You see ')
    assert f'\n\npython examples/{name}.py\n"""\n' in text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::steelyard.BalanceWarning")
@pytest.mark.parametrize("name", SAID)
def test_example_says_what_it_shows(name, capsys):
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert SAID[name] in capsys.readouterr().out


def _printed(notebook):
    return [
        "".join(output["text"] for output in cell.get("outputs", []) if output.get("name") == "stdout")
        for cell in notebook.cells
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_prints_what_stands_in_it(name):
    import nbformat
    from nbclient import NotebookClient

    path = EXAMPLES / f"{name}.ipynb"
    assert path.stat().st_size < 100_000, "its outputs are too large for a repository"
    notebook = nbformat.read(path, as_version=4)
    before = _printed(notebook)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    assert _printed(notebook) == before
