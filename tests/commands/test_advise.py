"""Advice for files: features, logits, data sets with a learner; code that does what it says."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from markupsafe import escape

from steelyard.commands.advise import advise_file
from steelyard.deciding import train_heads
from steelyard.report import write_advise_page
from steelyard.report.explorer import decide_packed, read_rows
from steelyard.report.results import AdviceResults
from tests.helpers import run_command
from tests.report.browser import check_page

pytest.importorskip("sklearn")


def _samples(counts, seed=0, distance=2.0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    features = torch.randn(len(target), 3, generator=generator, dtype=torch.float64)
    features[torch.arange(len(target)), target % 3] += distance
    return features, target


def _write(path, name, values, target, **metadata):
    flat = pa.array(values.reshape(-1).numpy())
    table = pa.table({"target": target.numpy(), name: pa.FixedSizeListArray.from_arrays(flat, values.shape[1])})
    pq.write_table(table.replace_schema_metadata({f"steelyard.{k}": v for k, v in metadata.items()}), path)
    return path


@pytest.fixture
def features(tmp_path):
    return _write(
        tmp_path / "train_features.parquet", "features", *_samples((400, 100, 40)), class_names="a\x1fb\x1fc",
        weight_decay="0.001",
    )  # fmt: skip


def test_a_file_of_features_gives_what_the_tensors_give(features, tmp_path):
    from steelyard.deciding import advise

    said = []
    found = advise_file(features, objective="macro-f1", folds=4, out=tmp_path / "out", say=said.append)
    direct = advise(
        *_samples((400, 100, 40)), objective="macro-f1", folds=4, weight_decay=0.001, class_names=["a", "b", "c"]
    )
    assert said == ["features: features; label: target"]
    assert found["sentence"] == direct.sentence
    for way, same in zip(found["ways"], direct.table, strict=True):
        assert (way["name"], way["value"], way["interval"]) == (same.name, same.value, same.interval)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "advise.json", "advise.csv", "explorer.json", "report.html"
    }  # fmt: skip
    check_page(tmp_path / "out/report.html", figures=0)
    text = (tmp_path / "out/report.html").read_text()
    assert escape(direct.sentence) in text
    assert write_advise_page(tmp_path / "out").read_text() == text
    assert 'id="explorer"' not in write_advise_page(tmp_path / "out", rows=False).read_text()
    read = AdviceResults.read(tmp_path / "out")
    assert AdviceResults.from_dict(read.to_dict()) == read
    rows = read_rows(tmp_path / "out", 3).models[0]
    assert sum(rows.kept) == 540
    decided = decide_packed(rows.unpack(3), np.zeros(3), rows.step)
    own = rows.unpack(3).target
    recall = [(decided[own == k] == k).mean() for k in range(3)]
    assert recall == pytest.approx(direct.table[0].recall.tolist(), abs=rows.rounding * 3 + 1e-9)
    assert json.loads((tmp_path / "out/advise.json").read_text())["chosen"] == direct.chosen.name
    with (tmp_path / "out/advise.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * len(direct.table)
    assert {row["way"] for row in rows if row["chosen"] == "True"} == {direct.chosen.name}
    assert float(rows[0]["value"]) == direct.table[0].value


@pytest.mark.parametrize("objective", ["balanced-accuracy", "cost:costs.csv", "accuracy"])
@pytest.mark.parametrize("chosen", [None, "weights"])
def test_the_code_decides_as_the_advice_does(objective, chosen, features, tmp_path, monkeypatch):
    """Of a model trained as advised; with weights too, which are advised here by leaving all else out."""
    from dataclasses import replace

    from steelyard.commands import advise as commands
    from steelyard.deciding import advise
    from steelyard.notation import parse_objective

    monkeypatch.chdir(tmp_path)
    (tmp_path / "costs.csv").write_text("0,1,1\n1,0,1\n9,9,0\n")
    rows, target = _samples((400, 100, 40))
    found = advise(
        rows, target, objective=parse_objective(objective, ["a", "b", "c"]), class_names=["a", "b", "c"]
    )
    if chosen is not None:
        found = replace(found, chosen=found.table[-1])
        assert found.class_weights is not None
    logits = train_heads(3)(rows, target, found.class_weights)(rows)
    code = commands.code(found)

    class Model:
        classes_ = np.array(["a", "b", "c"])

        def predict_proba(self, X):
            return logits.softmax(1).numpy()

    names = {"logits": logits, "torch": torch, "np": np, "model": Model(), "X": rows}
    decided = {}
    for library, text in code.items():
        exec(text.splitlines()[-1], names)
        decided[library] = names["decided"]
    expected = found.decide(logits)
    assert (decided["torch"] == expected).double().mean() > 0.995  # offsets are printed with six digits
    assert (decided["xgboost"] == expected.numpy()).mean() > 0.995
    assert (decided["scikit-learn"] == np.array(["a", "b", "c"])[expected.numpy()]).mean() > 0.995
    assert ("weight=torch.tensor" in code["torch"]) == (found.class_weights is not None)


def test_logits_are_undone_by_the_loss_that_the_file_names(tmp_path):
    """Logits of a weighted training and those of a plain one stand for the same posterior, and get one advice."""
    generator = torch.Generator().manual_seed(0)
    target = torch.repeat_interleave(torch.arange(2), torch.tensor([900, 100]))
    x = torch.randn(1000, generator=generator, dtype=torch.float64) + 2 * target
    plain = torch.stack([torch.zeros_like(x), 2 * x - 2 - np.log(9)], 1)
    weighted = plain + torch.tensor([0.0, np.log(9)])
    one = _write(tmp_path / "plain.parquet", "logits", plain, target, loss="softmax", split="test")
    two = _write(
        tmp_path / "weighted.parquet", "logits", weighted, target, loss="softmax:inverse", class_counts="900 100"
    )
    found, same = (advise_file(path, values="logits") for path in (one, two))
    assert found["chosen"] == same["chosen"] == "shift by inverse"
    assert found["ways"][1]["value"] == same["ways"][1]["value"]
    assert found["notes"][0].startswith("Weights were not tried: ")


def test_one_logit_and_probabilities(tmp_path):
    target = torch.repeat_interleave(torch.arange(2), torch.tensor([900, 100]))
    x = torch.randn(1000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 2 * target[:, None]
    logit = 2 * x - 2 - np.log(9)
    said = []
    one = advise_file(_write(tmp_path / "a.parquet", "logits", logit, target), values="logits", say=said.append)
    p = torch.cat([torch.sigmoid(-logit), torch.sigmoid(logit)], 1)
    two = advise_file(_write(tmp_path / "b.parquet", "probabilities", p, target), values="probabilities")
    assert [way["value"] for way in one["ways"]] == [way["value"] for way in two["ways"]]
    assert said[1] == "loss: logistic, as nobody says which it was; --loss states another"


def test_logits_of_training_rows_are_warned_of(tmp_path):
    said = []
    rows, target = _samples((400, 100, 40))
    file = _write(tmp_path / "t.parquet", "logits", rows, target, split="train", loss="softmax")
    advise_file(file, values="logits", say=said.append)
    assert said[1].startswith("WARNING: ")
    assert "advice needs logits of held-out ones" in said[1]


@pytest.mark.parametrize(("split", "warned"), [("train", True), ("test", False)])
def test_features_of_rows_that_the_network_was_trained_on_are_warned_of(tmp_path, split, warned):
    target = torch.arange(60) % 3
    rows = torch.eye(3)[target] + torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    file, said = _write(tmp_path / "t.parquet", "feature", rows, target, split=split), []
    advise_file(file, objective="accuracy", schemes=["inverse"], say=said.append)
    assert any("WARNING: the network was trained on the rows" in text for text in said) == warned


@pytest.mark.parametrize("learner", ["linear", "hist-gradient-boosting"])
def test_a_table_with_a_learner(learner, tmp_path):
    features, target = _samples((300, 60, 24))
    lines = ["x,y,word,kind"] + [
        f"{a:.4f},{b:.4f},{'even' if i % 2 else 'odd'},{'abc'[k]}"
        for i, ((a, b, _), k) in enumerate(zip(features.tolist(), target.tolist(), strict=True))
    ]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    found = advise_file(
        tmp_path / "rows.csv", target="kind", learner=learner, rounds=10, schemes=["inverse"], folds=3
    )
    assert found["class_names"] == ["a", "b", "c"]
    assert sum(found["samples"]) == 288  # a quarter is the test split
    assert learner in found["model"]
    names = [way["name"] for way in found["ways"]]
    assert names == ["plain", "shift by inverse", "thresholds", "weights inverse", "weights inverse + thresholds"]
    by = {way["name"]: way for way in found["ways"]}
    assert by["weights inverse"]["recall"][2] > by["plain"]["recall"][2]


def test_a_learner_sees_nothing_of_the_rows_that_judge_it(tmp_path, monkeypatch):
    """A category that stands in one fold alone is unknown to what is fitted on the others."""
    from steelyard.data.dataset import Dataset

    prepared = []
    prepare = Dataset.prepare
    monkeypatch.setattr(Dataset, "prepare", lambda self, rows: prepared.append(len(rows)) or prepare(self, rows))
    features, target = _samples((200, 40))
    lines = ["x,kind"] + [
        f"{a:.4f},{'ab'[k]}" for (a, *_), k in zip(features.tolist(), target.tolist(), strict=True)
    ]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    advise_file(tmp_path / "rows.csv", target="kind", learner="linear", schemes=["inverse"], folds=3)
    assert prepared == [120, 120, 120]  # two thirds of 180, once a fold


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"values": "logits", "schemes": ["inverse"]},
            "logits cannot be weighted again: schemes need features or a",
        ),
        ({"rate": 0.1}, "rate is of a learner, and there is none, got 0.1"),
        ({"learner": "linear", "loss": "softmax"}, "a learner is given a data set"),
        ({"loss": "softmax"}, "loss is that of logits"),
        ({"values": "margins"}, "from must be one of"),
        ({"schemes": ["inverted"]}, "unknown weight scheme 'inverted'"),
        ({"objective": "recall"}, "unknown objective 'recall'"),
    ],
)
def test_bad_options_are_one_sentence(options, said, features):
    with pytest.raises(ValueError, match=said):
        advise_file(features, **options)


def test_the_command_prints_the_advice_the_table_and_the_code(capsys, features, tmp_path):
    code, out, err = run_command(capsys, "advise", str(features), "--out", str(tmp_path / "out"))
    assert (code, err) == (0, "features: features; label: target\n")
    assert out.startswith("Train without class weights and ")
    assert "weights inverse + thresholds" in out
    assert "decided = " in out
    assert out.strip().endswith(f"report: {tmp_path / 'out' / 'report.html'}")
    code, out, _ = run_command(capsys, "advise", str(features), "--json", "--schemes", "inverse,power@0.3")
    found = json.loads(out)
    assert code == 0
    assert [way["name"] for way in found["ways"]][:4] == [
        "plain", "shift by inverse", "shift by power@0.3", "thresholds"
    ]  # fmt: skip
    assert set(found["code"]) == {"torch", "scikit-learn", "xgboost"}
    code, _, err = run_command(capsys, "advise", str(features), "--out", str(tmp_path / "out"))
    assert (code, err.count("\n")) == (2, 1)
