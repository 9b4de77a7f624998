"""A report prints short, shows in notebooks, and is saved whole or not at all."""

import csv
import json
import re

import numpy as np
import pytest
import torch

from steelyard.auditing import audit, save
from steelyard.balance import TrainingSetup

WEIGHTS = torch.tensor([1.0, 2.0, 4.0, 8.0])


def _report(names=("a", "b", "c", "d"), **statement):
    generator = torch.Generator().manual_seed(0)
    target = torch.multinomial(torch.tensor([8.0, 4, 2, 1]), 400, replacement=True, generator=generator)
    logits = 2 * torch.eye(4)[target] + torch.randn(400, 4, generator=generator)
    return audit(logits, target, TrainingSetup(**statement), class_names=list(names))


def test_implied_over_stated_has_geometric_mean_one_in_each_group():
    report = _report(class_weights=WEIGHTS)
    ratio = report.implied_over_stated
    torch.testing.assert_close(ratio.log().mean().exp().item(), 1.0)
    torch.testing.assert_close(ratio, report.implied_weights.ratio_to(WEIGHTS))
    # without stated weights it is what is implied
    plain = _report().implied_over_stated
    torch.testing.assert_close(
        plain / plain[0], report.implied_weights.weights / report.implied_weights.weights[0]
    )


def test_implied_over_stated_of_one_vs_all_is_of_the_positive_weight():
    implied = _report(loss="logistic").implied_over_stated
    law = _report(loss="logistic").residual
    torch.testing.assert_close(implied, law.push_down / law.pull_up)
    stated = _report(loss="logistic", pos_weight=WEIGHTS)
    torch.testing.assert_close(stated.implied_over_stated, implied / WEIGHTS)
    assert _report(loss="lgl-inr").implied_over_stated is None


def test_text_of_a_report_is_short():
    report = _report(class_weights=WEIGHTS)
    lines = str(report).splitlines()
    assert 2 <= len(lines) <= 8
    assert lines[0] == report.headline
    assert lines[1] == "Audit of the softmax loss with class weights, 400 samples, 4 classes."
    assert lines[2].startswith("SY010 weights: ")
    assert all(len(line) < 400 for line in lines)


def test_notebooks_get_escaped_text_without_script():
    page = _report(names=("<script>x</script>", "b&b", "c\x07", "d"))._repr_html_()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "\x07" not in page
    assert len(page) < 10_000
    assert not re.search(r"(src|href)=", page)


def test_saved_files_hold_the_report(tmp_path):
    report = _report(class_weights=WEIGHTS)
    assert report.save(tmp_path / "audit") == tmp_path / "audit"
    assert {p.name for p in (tmp_path / "audit").iterdir()} == {"audit.json", "classes.csv", "mean_confusion.npz"}
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert found["name"] == "audit"
    assert found["findings"] == json.loads(json.dumps([f.to_dict() for f in report.findings]))
    np.testing.assert_array_equal(
        np.load(tmp_path / "audit" / "mean_confusion.npz")["mean_confusion"], report.mean_confusion
    )
    with (tmp_path / "audit" / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["a", "b", "c", "d"]


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds something already; name another folder"):
        _report().save(tmp_path)
    with pytest.raises(FileExistsError, match="holds something already"):
        _report().save(tmp_path / "notes.txt")
    _report().save(tmp_path / "audit")
    with pytest.raises(FileExistsError, match="holds something already"):
        _report().save(tmp_path / "audit")


@pytest.mark.parametrize("step", ["write_atomically", "write_json", "page"])
def test_a_folder_that_was_left_unfinished_is_completed(tmp_path, monkeypatch, step):
    report, folder = _report(), tmp_path / "audit"

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        if step != "page":
            patched.setattr(save, step, full)
        with pytest.raises(OSError, match="No space left"):
            report.save(folder, page=full if step == "page" else None)
    (folder / ".0123456789abcdef.tmp").write_text("{")
    report.save(folder)
    assert {p.name for p in folder.iterdir()} == {"audit.json", "classes.csv", "mean_confusion.npz"}
