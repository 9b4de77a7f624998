"""Forecasts of files: held-out samples beside them, tables, pages that open."""

import csv
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from steelyard.commands import forecast as commands
from steelyard.commands.forecast import forecast_file
from steelyard.forecasting import forecast
from steelyard.report import write_forecast_page
from steelyard.report.results import ForecastResults
from tests.helpers import NASTY
from tests.report.browser import check_page


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
    pq.write_table(table.replace_schema_metadata({f"steelyard.{k}": v for k, v in metadata.items()}), path)
    return path


def test_the_file_gives_what_the_tensors_give(tmp_path):
    train, held_out = _samples(4, 300, 0), _samples(4, 200, 1)
    file = _write(tmp_path / "train_features.parquet", *train, weight_decay="0.01", class_names="a\x1fb\x1fc\x1fd")
    _write(tmp_path / "features.parquet", *held_out)
    said = []
    found = forecast_file(
        file, losses=["softmax", "logistic"], weights=["none", "inverse"], out=tmp_path / "out", say=said.append
    )
    assert said == [f"judged by the held-out samples in {tmp_path / 'features.parquet'}"]
    assert found["weight_decay"] == 0.01
    assert found["class_names"] == ["a", "b", "c", "d"]
    assert [(one["loss"], one["name"]) for one in found["forecasts"]] == [
        ("softmax", "none"), ("softmax", "inverse"), ("logistic", "none"), ("logistic", "inverse")
    ]  # fmt: skip
    plain = forecast(*train, class_weights={"none": None}, test=held_out, weight_decay=0.01)[0]
    assert found["forecasts"][0]["recall"] == plain.recall.tolist()
    assert json.loads((tmp_path / "out" / "forecast.json").read_text()) == json.loads(json.dumps(found))
    rows = list(csv.DictReader((tmp_path / "out" / "forecast.csv").read_text().splitlines()))
    assert len(rows) == 16
    assert float(rows[5]["recall"]) == found["forecasts"][1]["recall"][1]
    assert set(np.load(tmp_path / "out" / "mean_confusion.npz").files) == {
        "softmax:none", "softmax:inverse", "logistic:none", "logistic:inverse"
    }  # fmt: skip


def test_without_held_out_samples_it_says_that_it_flatters(tmp_path):
    said = []
    file = _write(tmp_path / "train_features.parquet", *_samples(3, 100, 0))
    found = forecast_file(file, losses=["softmax"], weights=["none"], say=said.append)
    assert "which flatters" in said[0]
    assert found["judged_by"] is None
    assert found["weight_decay"] == 5e-4


def test_two_classes_have_their_closed_form(tmp_path):
    train = _samples(2, 300, 0)
    n = torch.bincount(train[1]).tolist()
    found = forecast_file(_write(tmp_path / "f.parquet", *train), losses=["softmax"], weights=["none", "inverse"])
    assert found["forecasts"][0]["binary_ratio"] == pytest.approx(n[1] / n[0])
    assert found["forecasts"][1]["binary_ratio"] == pytest.approx(1)
    for one in found["forecasts"]:
        assert one["misfit"] < 1e-6


@pytest.mark.parametrize("names", [["no", "yes"], NASTY, [f"class number {k}" for k in range(100)]])
def test_page_opens_without_a_word(tmp_path, names):
    classes = len(names)
    file = _write(tmp_path / "f.parquet", *_samples(classes, 20 * classes + 50, 0), class_names="\x1f".join(names))
    forecast_file(file, losses=["softmax"], weights=["none", "inverse"], out=tmp_path / "out", command="<c>")
    page = tmp_path / "out" / "report.html"
    check_page(page, figures=2)
    text = page.read_text()
    assert "<script>" not in text
    assert "&lt;c&gt;" in text
    assert write_forecast_page(tmp_path / "out").read_text() == text


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
    assert names == {"forecast.json", "forecast.csv", "mean_confusion.npz", "report.html"}
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
