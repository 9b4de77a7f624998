"""Forecasts of files: held-out samples beside them, tables, pages that open."""

import csv
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from steelyard._common.files import write_csv
from steelyard.commands import forecast as commands
from steelyard.commands.forecast import forecast_file
from steelyard.data import load_dataset
from steelyard.forecasting import forecast
from steelyard.forecasting.scores import paired_gain
from steelyard.report import write_forecast_page
from steelyard.report.results import ForecastResults
from tests.helpers import NASTY
from tests.report.browser import check_page, check_scripts


def _samples(classes, rows, seed):
    generator = torch.Generator().manual_seed(seed)
    target = torch.multinomial(torch.logspace(0, -1, classes), rows, replacement=True, generator=generator)
    target[:classes] = torch.arange(classes)
    features = torch.nn.functional.one_hot(target, classes) + 0.7 * torch.randn(rows, classes, generator=generator)
    return features, target


def _write(path, features, target, **metadata):
    flat = pa.array(features.reshape(-1).numpy())
    table = pa.table(
        {"target": target.numpy(), "features": pa.FixedSizeListArray.from_arrays(flat, features.shape[1])}
    )
    with path.open("wb") as file:  # pyarrow does not take every name
        pq.write_table(table.replace_schema_metadata({f"steelyard.{k}": v for k, v in metadata.items()}), file)
    return path


def test_the_file_gives_what_the_tensors_give(tmp_path):
    train, held_out = _samples(4, 300, 0), _samples(4, 200, 1)
    file = _write(tmp_path / "train_features.parquet", *train, weight_decay="0.01", class_names="a\x1fb\x1fc\x1fd")
    _write(tmp_path / "features.parquet", *held_out)
    said = []
    found = forecast_file(
        file, losses=["softmax", "logistic"], weights=["none", "inverse"], out=tmp_path / "out", say=said.append
    )
    assert said == [
        "features: features; label: target",
        f"judged by the held-out samples in {tmp_path / 'features.parquet'}",
    ]
    assert found["weight_decay"] == 0.01
    assert found["class_names"] == ["a", "b", "c", "d"]
    assert [(one["loss"], one["name"]) for one in found["forecasts"]] == [
        ("softmax", "none"), ("softmax", "inverse"), ("logistic", "none"), ("logistic", "inverse")
    ]  # fmt: skip
    plain = forecast(*train, class_weights={"none": None}, test=held_out, weight_decay=0.01)[0]
    assert found["forecasts"][0]["recall"] == plain.recall.tolist()
    assert json.loads((tmp_path / "out" / "forecast.json").read_text()) == json.loads(json.dumps(found))
    rows = list(csv.DictReader((tmp_path / "out" / "forecast.csv").read_text().splitlines()))
    assert [row["how"] for row in rows[::4]] == ["no change", "refit", "shift"] * 2
    inverse = found["forecasts"][1]
    assert float(rows[5]["recall"]) == inverse["recall"][1]
    assert float(rows[9]["recall_low"]) == inverse["shift"]["intervals"]["recall"][1][0]
    assert set(np.load(tmp_path / "out" / "mean_confusion.npz").files) == {
        f"{loss}:{way}" for loss in ("softmax", "logistic") for way in (" no change", "inverse", "inverse, shift")
    }


def test_without_held_out_samples_it_is_judged_out_of_fold(tmp_path):
    said = []
    file = _write(tmp_path / "train_features.parquet", *_samples(3, 100, 0))
    found = forecast_file(file, losses=["softmax"], weights=["none"], say=said.append)
    assert "out of fold" in said[1]
    assert (found["judged_by"], found["folds"]) == ("5 folds of the training samples", 5)
    assert found["weight_decay"] == 5e-4
    _write(tmp_path / "features.parquet", *_samples(3, 50, 1))
    assert forecast_file(file, losses=["softmax"], weights=["none"])["judged_by"] == "features.parquet"
    assert forecast_file(file, losses=["softmax"], weights=["none"], folds=3)["folds"] == 3
    with pytest.raises(ValueError, match="folds are for a forecast without held-out samples, got 3 beside a test"):
        forecast_file(file, losses=["softmax"], weights=["none"], folds=3, test=file)


def test_a_run_without_features_is_named(tmp_path):
    (tmp_path / "results.json").touch()
    options = {"losses": ["softmax"], "weights": ["none"]}
    with pytest.raises(
        ValueError, match=r"is a run of compare: name the train_features.parquet of one of its seeds"
    ):
        forecast_file(tmp_path, **options)
    seed = tmp_path / "seed-0"
    seed.mkdir()
    (seed / "train_predictions.parquet").touch()
    for path in (seed, seed / "train_features.parquet"):
        with pytest.raises(
            ValueError, match=r"seed-0 holds no train_features.parquet: its model has no linear head"
        ):
            forecast_file(path, **options)
    (seed / "train_features.parquet").touch()
    with pytest.raises(ValueError, match=r"holds more than features: name .*train_features.parquet"):
        forecast_file(seed, **options)


def test_two_classes_have_their_closed_form(tmp_path):
    train = _samples(2, 300, 0)
    n = torch.bincount(train[1]).tolist()
    found = forecast_file(_write(tmp_path / "f.parquet", *train), losses=["softmax"], weights=["none", "inverse"])
    assert found["forecasts"][0]["binary_ratio"] == pytest.approx(n[1] / n[0])
    assert found["forecasts"][1]["binary_ratio"] == pytest.approx(1)
    for one in found["forecasts"]:
        assert one["misfit"] < 1e-6


@pytest.mark.parametrize(
    "names",
    [["no", "yes"], NASTY, pytest.param([f"class number {k}" for k in range(60)], marks=pytest.mark.slow)],
)
def test_page_opens_without_a_word(tmp_path, names):
    classes = len(names)
    file = _write(tmp_path / "f.parquet", *_samples(classes, 20 * classes + 50, 0), class_names="\x1f".join(names))
    forecast_file(file, losses=["softmax"], weights=["none", "inverse"], out=tmp_path / "out", command="<c>")
    page = tmp_path / "out" / "report.html"
    check_page(page, figures=2)
    text = page.read_text()
    check_scripts(text)
    assert "&lt;c&gt;" in text
    assert write_forecast_page(tmp_path / "out").read_text() == text
    assert 'id="explorer-data"' in text
    assert 'id="explorer"' not in write_forecast_page(tmp_path / "out", rows=False).read_text()


def test_gains_are_paired_and_decide_what_is_advised(tmp_path):
    """A shift is advised where it surely gains and no refit surely gains more, and its rows are the same samples."""
    file = _write(tmp_path / "train_f.parquet", *_samples(3, 900, 0))
    _write(tmp_path / "f.parquet", *(part := _samples(3, 900, 1)))
    out = tmp_path / "out"
    found = forecast_file(file, losses=["softmax"], weights=["none", "inverse"], out=out, rows=False)
    assert not (out / "explorer.json").exists()
    gains = {(one["row"], one["over"]): one for one in found["gains"]}
    shift = gains["softmax:inverse, shift", "softmax: no change"]
    same, other = found["no_change"][0], found["forecasts"][1]
    assert shift["gain"] == pytest.approx(other["shift"]["balanced_accuracy"] - same["balanced_accuracy"])
    assert gains["softmax:inverse", "softmax:inverse, shift"]["low"] < 0
    assert shift["low"] > 0
    text = (out / "report.html").read_text()
    assert "Add the log of the weights inverse (softmax) to the logits" in text
    assert f"{100 * shift['gain']:.1f} points [{100 * shift['low']:.1f}, {100 * shift['high']:.1f}] more" in text
    assert len(part[1]) == 900


def test_an_interval_of_a_paired_gain_holds_what_it_promises():
    """Of many draws of rows on which the true gain is known, the interval covers it in about 95%."""
    random, held = torch.Generator().manual_seed(0), 0
    target = torch.repeat_interleave(torch.arange(3), torch.tensor([200, 60, 20]))
    rates = torch.tensor([[0.9, 0.85], [0.6, 0.7], [0.4, 0.6]])  # of class k: right by the one, by the other
    true = float((rates[:, 1] - rates[:, 0]).mean())
    for _ in range(400):
        luck = torch.rand(len(target), generator=random)  # the same for both, so that they agree on many rows
        one, other = (torch.where(luck < rates[target, way], target, (target + 1) % 3) for way in (1, 0))
        gain, low, high = paired_gain(one, other, target, 3, folds=False)
        assert low < gain < high
        held += low <= true <= high
    assert 370 <= held <= 396
    wide = paired_gain(one, other, target, 3, folds=True, comparisons=5)
    assert wide[0] == gain
    assert wide[2] - wide[1] > high - low


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2], "has none with label 0: it has 2 labels, the largest is 2 in row 1"),
        ([0, 2], "has none with label 1: it has 2 labels, the largest is 2 in row 1"),
        ([0, 1, 20_000_000], "has none with label 2: it has 3 labels, the largest is 20000000 in row 2"),
        ([0, 10**12, 1], "has none with label 2: it has 3 labels, the largest is 1000000000000 in row 1"),
        ([0, 0], "has none with label 1: it has 1 labels"),
        ([0, -1], "must hold integer labels from 0 on, got -1 in row 1"),
    ],
)
def test_labels_without_samples_are_refused_at_once(tmp_path, labels, message):
    labels = torch.tensor(labels).repeat(20)
    file = _write(tmp_path / "f.parquet", torch.randn(len(labels), 3), labels)
    with pytest.raises(ValueError, match=message):
        forecast_file(file, losses=["softmax"], weights=["none"])
    if max(labels) == 2:  # with names, a class may be empty
        found = forecast_file(file, losses=["softmax"], weights=["none"], class_names=["a", "b", "c"])
        assert found["class_counts"] == torch.bincount(labels).tolist()


def test_an_id_is_no_feature(tmp_path):
    features, target = _samples(4, 300, 0)
    order = target.argsort()
    columns = {"id": range(300)} | {f"f{k}": features[order, k].numpy() for k in (3, 1, 0, 2)}
    pq.write_table(pa.table(columns | {"y": target[order].numpy()}), tmp_path / "f.parquet")
    said = []
    found = forecast_file(tmp_path / "f.parquet", losses=["softmax"], weights=["none"], say=said.append)
    assert said[0] == "features: f0, f1, f2, f3; label: y; left out: id"
    plain = forecast(features[order], target[order], class_weights={"none": None})[0]
    assert found["forecasts"][0]["recall"] == plain.recall.tolist()
    again = forecast_file(tmp_path / "f.parquet", losses=["softmax"], weights=["none"], features="f?")
    assert again["forecasts"] == found["forecasts"]


def test_held_out_features_are_the_same_columns(tmp_path):
    features, target = _samples(4, 300, 0)
    columns = {name: features[:, k].numpy() for k, name in enumerate(["age", "income", "size", "x"])}
    pq.write_table(pa.table(columns | {"y": target.numpy()}), tmp_path / "train_f.parquet")
    with pytest.raises(ValueError, match=r"does not say which columns are its features: .* --features age,income"):
        forecast_file(tmp_path / "train_f.parquet", losses=["softmax"], weights=["none"])
    other = dict(reversed(columns.items())) | {"more": columns["age"], "y": target.numpy()}
    pq.write_table(pa.table(other), tmp_path / "f.parquet")
    options = {"losses": ["softmax"], "weights": ["none"], "features": "age,income,size,x"}
    found = forecast_file(tmp_path / "train_f.parquet", **options)
    same = forecast_file(tmp_path / "train_f.parquet", test=tmp_path / "train_f.parquet", **options)
    assert found["forecasts"][0]["recall"] == same["forecasts"][0]["recall"]
    del other["size"]
    pq.write_table(pa.table(other), tmp_path / "f.parquet")
    with pytest.raises(ValueError, match=r"f.parquet has no column 'size', its columns are x, income, age, more"):
        forecast_file(tmp_path / "train_f.parquet", **options)
    other = columns | {"y": target.numpy() + 1}
    pq.write_table(pa.table(other), tmp_path / "f.parquet")
    with pytest.raises(ValueError, match=r"f.parquet, column 'y' must hold labels from 0 to 3, got 4 in row"):
        forecast_file(tmp_path / "train_f.parquet", **options)


def test_npy_has_one_file_of_labels(tmp_path):
    features, target = _samples(3, 100, 0)
    np.save(tmp_path / "train_x.npy", features.numpy())
    np.save(tmp_path / "x.npy", features.numpy())
    np.save(tmp_path / "y.npy", target.numpy())
    options = {"losses": ["softmax"], "weights": ["none"], "target": str(tmp_path / "y.npy")}
    assert forecast_file(tmp_path / "train_x.npy", **options)["folds"] == 5
    with pytest.raises(
        ValueError, match=r"has its labels in another file, of which there is one: save .* as .npz"
    ):
        forecast_file(tmp_path / "train_x.npy", test=tmp_path / "x.npy", **options)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"losses": ["lgl-inr"]}, ValueError, r"losses of a forecast must be sums over samples, got 'lgl-inr'"),
        ({"losses": ["sofmax"]}, ValueError, "unknown loss 'sofmax'"),
        ({"weights": ["inverze"]}, ValueError, "unknown weight scheme 'inverze'"),
        ({"weights": []}, ValueError, "losses and weights must name at least one each"),
    ],
)
def test_bad_input(tmp_path, change, error, message):
    file = _write(tmp_path / "f.parquet", *_samples(3, 50, 0))
    with pytest.raises(error, match=message):
        forecast_file(file, **({"losses": ["softmax"], "weights": ["none"]} | change))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").touch()
    with pytest.raises(FileExistsError, match="holds something already; name another folder"):
        forecast_file(file, losses=["softmax"], weights=["none"], out=tmp_path / "out")


@pytest.mark.parametrize("step", ["write_atomically", "write_csv", "write_json", "write_forecast_page"])
def test_a_folder_that_was_left_unfinished_is_completed(tmp_path, monkeypatch, step):
    file, out = _write(tmp_path / "f.parquet", *_samples(3, 50, 0)), tmp_path / "out"

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(commands, step, full)
        with pytest.raises(OSError, match="No space left"):
            forecast_file(file, losses=["softmax"], weights=["none"], out=out)
    forecast_file(file, losses=["softmax"], weights=["none"], out=out)
    names = {p.name for p in out.iterdir()}
    assert names == {"forecast.json", "forecast.csv", "explorer.json", "mean_confusion.npz", "report.html"}
    with pytest.raises(FileExistsError, match="holds something already; name another folder"):
        forecast_file(file, losses=["softmax"], weights=["none"], out=out)


def test_names_that_are_not_utf8_are_escaped(tmp_path):
    file = _write(tmp_path / "f.parquet", *_samples(3, 50, 0))
    names, out = ["a", os.fsdecode("é".encode()), os.fsdecode(b"\xe9")], tmp_path / os.fsdecode(b"out\xff")
    command = os.fsdecode(b"steelyard forecast f\xff.parquet")
    found = forecast_file(file, losses=["softmax"], weights=["none"], class_names=names, out=out, command=command)
    read = ForecastResults.read(out)
    assert (read.class_names, read.command) == (
        ["a", "é", "\\udce9"], "steelyard forecast f\\udcff.parquet"
    )  # fmt: skip
    assert ForecastResults.from_dict(found) == read  # what the command line prints
    assert "steelyard forecast f\\udcff.parquet" in (out / "report.html").read_text(encoding="utf-8")


def test_a_table_of_inputs_is_forecast_as_a_linear_model_of_them(tmp_path):
    features, target = _samples(3, 200, 0)
    names = np.array(["ant", "bee", "cat"])[target.numpy()]
    file, said = tmp_path / "t.csv", []
    write_csv(
        file, ["a", "b", "c", "kind"], [[*row, name] for row, name in zip(features.tolist(), names, strict=True)]
    )
    found = forecast_file(
        file, losses=["softmax"], weights=["none"], inputs=True, target="kind", weight_decay=0.01, say=said.append
    )
    data = load_dataset(file, target="kind")
    assert said == [data.reading]
    rows, others = torch.arange(len(data.train_target)), torch.arange(len(data.test_target))
    fitted = data.prepare(rows)
    train, test = (fitted.inputs(s, r).double() for s, r in (("train", rows), ("test", others)))
    held_out = test, data.test_target
    plain = forecast(train, data.train_target, class_weights={"none": None}, test=held_out, weight_decay=0.01)[0]
    assert found["class_names"] == ["ant", "bee", "cat"]
    assert found["judged_by"] == "the test split"
    assert found["forecasts"][0]["recall"] == plain.recall.tolist()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digits", {"inputs": True}, r"inputs must be features \(N, D\), got images \(1347, 1, 8, 8\)"),
        (
            "digits",
            {"inputs": True, "test": "t.csv"},
            "inputs have their test split with them or set aside, got a test",
        ),
        ("digits", {"inputs": True, "class_names": ["a"]}, "class_names are those of a file of features"),
        ("t.csv", {"group": "g"}, "group is of a data set of inputs, say --inputs too, got 'g'"),
    ],
)
def test_inputs_that_cannot_be_forecast(name, options, message):
    with pytest.raises(ValueError, match=message):
        forecast_file(name, losses=["softmax"], weights=["none"], **options)


def test_labels_of_several_outputs_are_refused(tmp_path):
    columns = {f"feature_{k}": np.arange(6.0) for k in range(2)} | {
        f"label_{k}": np.arange(6) % 2 for k in range(3)
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="must have one label a row, got 3 labels a row"):
        forecast_file(tmp_path / "x.parquet", losses=["logistic"], weights=["none"], target="label_*")
