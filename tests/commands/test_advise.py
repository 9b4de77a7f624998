"""Advice for files: features, logits, data sets with a learner; code that does what it says."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from markupsafe import escape

from steelyard.commands.advise import advise_file
from steelyard.data import grouped_folds
from steelyard.deciding import train_heads
from steelyard.report import write_advise_page
from steelyard.report.advise_page import _marks
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
    first, second = str(direct).split("\n")
    assert first == direct.sentence
    assert second.startswith(f"{len(direct.table)} ways tried on 540 rows of 3 classes, judged out of fold in ")
    assert write_advise_page(tmp_path / "out").read_text() == text
    assert 'id="explorer"' not in write_advise_page(tmp_path / "out", rows=False).read_text()
    read = AdviceResults.read(tmp_path / "out")
    assert AdviceResults.from_dict(read.to_dict()) == read
    rows = read_rows(tmp_path / "out", 3).models[0]
    assert sum(rows.kept) == 540
    decided = decide_packed(rows, rows.unpack(3), np.zeros(3))
    own = rows.unpack(3).target
    recall = [(decided[own == k] == k).mean() for k in range(3)]
    assert recall == pytest.approx(direct.table[0].recall.tolist(), abs=rows.rounding * 3 + 1e-9)
    assert json.loads((tmp_path / "out/advise.json").read_text())["chosen"] == direct.chosen.name
    with (tmp_path / "out/advise.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * len(direct.table)
    assert {row["way"] for row in rows if row["chosen"] == "True"} == {direct.chosen.name}
    assert float(rows[0]["value"]) == direct.table[0].value


@pytest.mark.parametrize(
    ("objective", "chosen"),
    [
        ("cost:costs.csv", "weights"),
        ("balanced-accuracy", None),
        *(
            pytest.param(objective, chosen, marks=pytest.mark.slow)
            for objective, chosen in [
                ("balanced-accuracy", "weights"),
                ("cost:costs.csv", None),
                ("accuracy", None),
                ("accuracy", "weights"),
            ]
        ),
    ],
)
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
    rows, target = _samples((400, 100, 40))
    file = _write(tmp_path / "t.parquet", "logits", rows, target, split="train", loss="softmax")
    found = advise_file(file, values="logits")
    assert found["notes"][0].endswith("Advice needs logits of held-out ones.")


@pytest.mark.parametrize(("split", "warned"), [("train", True), ("test", False)])
def test_features_of_rows_that_the_network_was_trained_on_are_warned_of(tmp_path, split, warned):
    target = torch.arange(60) % 3
    rows = torch.eye(3)[target] + torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    file, out = _write(tmp_path / "t.parquet", "feature", rows, target, split=split), tmp_path / "advice"
    found = advise_file(file, objective="accuracy", schemes=["inverse"], out=out)
    told = "The network was trained on these rows"
    assert any(note.startswith(told) for note in found["notes"]) == warned
    assert (told in (out / "report.html").read_text(encoding="utf-8")) == warned


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


def _grouped(path, suffix=".parquet"):
    """Twenty groups of rows that are the same but for a little noise."""
    features, target = _samples((20, 20, 20))
    rows = torch.arange(60).repeat_interleave(10)
    noise = 0.01 * torch.randn(600, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values, labels = features[rows] + noise, target[rows]
    table = pa.table(
        {f"feature_{k}": values[:, k].numpy() for k in range(3)}
        | {"target": labels.numpy(), "patient": [f"p{k}" for k in rows.tolist()], "visit": np.arange(600) % 10}
    )
    file = path / f"rows{suffix}"
    (pq.write_table if suffix == ".parquet" else pa.csv.write_csv)(table, file)
    return file, values, labels, rows


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_groups_stay_in_one_fold(tmp_path, suffix):
    from steelyard.deciding import advise

    file, values, labels, groups = _grouped(tmp_path, suffix)
    found = advise_file(file, group="patient", schemes=["1,1,5"], class_names=["a", "b", "c"])
    order = torch.from_numpy(np.unique([f"p{k}" for k in groups.tolist()], return_inverse=True)[1])
    weights = {"1,1,5": [1.0, 1, 5]}
    direct = advise(
        values,
        labels,
        schemes=weights,
        folds=grouped_folds(labels, order, 5, seed=0),
        groups=order,
        class_names=["a", "b", "c"],
    )
    assert [way["value"] for way in found["ways"]] == pytest.approx([way.value for way in direct.table])
    free = advise_file(file, schemes=["1,1,5"], class_names=["a", "b", "c"])
    assert found["ways"][0]["value"] < free["ways"][0]["value"] - 0.05, "rows of a group told each other"


def test_groups_of_a_learner_are_those_of_the_data_set(tmp_path, monkeypatch):
    from steelyard.commands import advise as commands

    file, *_ = _grouped(tmp_path, ".csv")
    seen = {}
    monkeypatch.setattr(commands, "advise", lambda *a, **options: seen.update(options) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        advise_file(file, learner="linear", target="target", group="patient")
    assert len(seen["groups"].unique()) > 40


@pytest.mark.parametrize("group", ["nobody", "feature_0", "target"])
def test_a_column_that_is_no_group_is_refused(tmp_path, group):
    file, *_ = _grouped(tmp_path)
    with pytest.raises(ValueError, match=f"has no column '{group}' for group, only patient, visit"):
        advise_file(file, group=group)


def test_a_class_of_one_group_cannot_be_learned_and_judged(tmp_path):
    features, target = _samples((40, 40))
    pq.write_table(
        pa.table({"features": features.tolist(), "target": target.numpy(), "g": (target * 9 % 7).numpy()}),
        tmp_path / "x.parquet",
    )
    with pytest.raises(ValueError, match="no draw of groups does for class 0, which stands in 1 of them"):
        advise_file(tmp_path / "x.parquet", group="g")


@pytest.mark.parametrize("values", ["features", "logits"])
def test_outputs_that_stand_for_themselves_are_refused(tmp_path, values):
    features, target = _samples((40, 40, 40))
    labels = {f"label_{k}": (target == k).long().numpy() for k in range(3)}
    name = "feature" if values == "features" else "logit"
    columns = {f"{name}_{k}": features[:, k].numpy() for k in range(3)}
    pq.write_table(pa.table(columns | labels), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"one (class|label) a row, got"):
        advise_file(tmp_path / "x.parquet", values=values, target="label_*")


def test_groups_and_folds_of_tensors_must_fit():
    from steelyard.deciding import advise

    features, target = _samples((20, 20, 20))
    groups = torch.arange(60) // 2
    for folds, groups_of, message in [
        (5, groups, "keep them whole, and folds are given by their number"),
        (torch.arange(60) % 3, groups, "keep them whole, and folds tear some apart"),
        (target, None, "rows of each class in two at least"),
        (torch.arange(60) % 3 * 2, None, "from 0 on, two at least and none left out"),
        (torch.arange(59) % 3, None, "must have shape"),
        (torch.rand(60), None, "must be a tensor of integers"),
    ]:
        with pytest.raises((ValueError, TypeError), match=message):
            advise(features, target, folds=folds, groups=groups_of)


def test_marks_of_the_page_stay_in_bounds(tmp_path):
    target = torch.repeat_interleave(torch.arange(3), torch.tensor([40, 15, 5]))
    rows = torch.eye(3)[target]  # all are told right
    advise_file(
        _write(tmp_path / "t.parquet", "feature", rows, target), objective="accuracy", out=tmp_path / "out"
    )
    marks = _marks(AdviceResults.read(tmp_path / "out"))
    assert marks
    assert all(0 <= low <= value <= high <= 1 for value, low, high in (mark.accuracy for mark in marks))
