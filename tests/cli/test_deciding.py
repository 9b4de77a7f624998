"""From file to decision at the command line: what is printed, what is written, exit codes."""

import numpy as np
import pandas as pd

from tests.helpers import run_command


def _scores(folder):
    z = np.linspace(-3, 5, 40)
    pd.DataFrame({"score": z, "y": (z > 2).astype(int)}).to_csv(folder / "scores.csv", index=False)
    return z


def test_from_scores_to_decisions(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    z = _scores(tmp_path)
    given = ("correct", "scores.csv", "--target", "y", "--pos-weights", "100", "--out", "honest.csv")
    code, out, err = run_command(capsys, *given)
    assert code == 0
    assert "40 rows: undone is binary logistic loss with positive weights" in out
    assert out.strip().endswith("written: honest.csv")
    assert "logits: score; label: y\n" in err
    found = pd.read_csv("honest.csv")
    assert list(found.columns) == ["corrected_probability", "y"]
    np.testing.assert_allclose(found["corrected_probability"], 1 / (1 + 100 * np.exp(-z)), rtol=1e-9)
    code, out, err = run_command(capsys, *given)
    assert (code, out, err) == (2, "", "steelyard: honest.csv exists already; name another file\n")
    code, out, err = run_command(capsys, "correct", "honest.csv", "--target", "y", "--out", "twice.csv")
    assert code == 2
    assert "honest.csv holds corrected probabilities, which `steelyard correct` made" in err
    (tmp_path / "costs.csv").write_text("class,cost\n0,1\n1,50\n")
    code, out, err = run_command(capsys, "decide", "honest.csv", "--costs", "costs.csv", "--reject-cost", "0.1")
    assert code == 0
    assert "rejected" in out
    assert "expected cost of a row: " in out
    code, out, err = run_command(capsys, "decide", "honest.csv", "--costs", "costs.csv", "--out", "decided.csv")
    assert (code, out.strip().endswith("written: decided.csv")) == (0, True)
    decided = pd.read_csv("decided.csv")["decision"]
    assert decided.tolist() == (50 * found["corrected_probability"] > 1 - found["corrected_probability"]).tolist()


def test_a_prior_is_estimated_and_printed_with_its_interval(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _scores(tmp_path)
    given = ("correct", "scores.csv", "--target", "y", "--prior", "estimate", "--out", "honest.csv")
    code, out, err = run_command(capsys, *given)
    assert (code, out) == (2, "")
    assert "a prior needs the counts of the training, which scores.csv does not say: give --counts" in err
    code, out, err = run_command(capsys, *given, "--class-counts", "900,100")
    assert code == 0
    assert "share, estimated [95% interval]" in out
    code, _, err = run_command(capsys, "audit", "scores.csv", "--class-counts", "900,100")
    assert code == 0


def test_probabilities_must_be_said_to_be_some(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"score": [0.1, 0.9], "y": [0, 1]}).to_csv("scores.csv", index=False)
    given = ("correct", "scores.csv", "--pos-weights", "3", "--out", "honest.csv")
    code, _, err = run_command(capsys, *given)
    assert code == 2
    assert "say --from probabilities or --from logits" in err
    assert run_command(capsys, *given, "--from", "probabilities")[0] == 0
    p = np.array([0.1, 0.9])
    np.testing.assert_allclose(
        pd.read_csv("honest.csv")["corrected_probability"], p / (p + 3 * (1 - p)), rtol=1e-9
    )


def test_files_of_a_comparison_are_corrected_as_they_are(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compare = (
        "compare",
        "--losses",
        "softmax:inverse",
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--learning-rates",
        "0.1",
    )
    assert run_command(capsys, *compare, "--imbalance", "exponential:20", "--out", "run")[0] == 0
    file = "run/softmax-inverse/seed-0/predictions.parquet"
    code, _, err = run_command(capsys, "correct", file, "--prior", "uniform", "--out", "honest.parquet")
    assert code == 0
    assert "class weights inverse, from the loss that the file names: softmax:inverse" in err
    before, after = pd.read_parquet(file), pd.read_parquet("honest.parquet")
    # inverse weights and equal classes cancel: nothing changes
    z = np.stack(before["logits"]).astype(float)
    expected = np.exp(z - np.log(np.exp(z).sum(1, keepdims=True)))
    np.testing.assert_allclose(np.stack(after["corrected_probabilities"]), expected, rtol=1e-5)
    assert run_command(capsys, "decide", "honest.parquet")[0] == 0
