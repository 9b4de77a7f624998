"""Splits by time: nothing that is trained on is later than what it is judged by."""

import datetime as dt
import re

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from steelyard.data import load_dataset, split_validation
from steelyard.data.times import moments
from steelyard.report.results import Comparison
from tests.helpers import run_command

N = 40


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def frame(**more):
    """40 rows in no order: `day` counts four rows a day, `size` is the day too, so that a test sees the order."""
    day = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 4))
    when = pd.Timestamp("2026-01-01") + pd.to_timedelta(day, "D")
    return pd.DataFrame({"size": day + 0.5, "day": day, "when": when, "kind": ["ant", "bee"] * (N // 2)} | more)


def days(data):
    """The days of training and test rows, of the only feature, which is scaled but in order."""
    rows = torch.arange(len(data.train_target))
    fitted = data.prepare(rows)
    train, test = fitted.inputs("train", rows), fitted.inputs("test", torch.arange(len(data.test_target)))
    return train[:, 0], test[:, 0]


@given(
    st.lists(st.integers(0, 8), min_size=2, max_size=40).filter(lambda v: len(set(v)) > 1),
    st.sampled_from([0.1, 0.25, 0.5, 0.9]),
)
def test_the_latest_rows_are_set_aside_and_no_tie_is_cut(values, fraction):
    times = torch.tensor(values)
    rest, aside = split_validation(torch.zeros(len(values)).long(), fraction, seed=0, times=times)
    assert torch.equal(torch.cat([rest, aside]).sort().values, torch.arange(len(values)))
    assert times[rest].max() < times[aside].min()
    shares = [sum(v >= cut for v in values) / len(values) for cut in sorted(set(values))[1:]]
    assert abs(len(aside) / len(values) - fraction) == pytest.approx(min(abs(s - fraction) for s in shares))


@pytest.mark.parametrize(
    ("target", "times", "more", "message"),
    [
        ([0, 1, 0, 1], [3, 3, 3, 3], {}, "times must differ for a split by time, got one time in all 4 rows"),
        (
            [0, 0, 0, 1],
            [1, 2, 3, 4],
            {},
            "every class must have a row before the 1 latest of 4 .* class 1 has none",
        ),
        ([0, 1], [1, 2], {"groups": torch.tensor([0, 1])}, "groups and times cannot both be given"),
    ],
)
def test_a_split_by_time_refuses(target, times, more, message):
    with pytest.raises(ValueError, match=message):
        split_validation(torch.tensor(target), 0.25, seed=0, times=torch.tensor(times), **more)


@pytest.mark.parametrize("column", ["day", "when"])
@pytest.mark.parametrize("kind", ["t.csv", "t.parquet", "folder", "frame", "npz"])
def test_every_kind_of_data_is_split_by_its_time(here, kind, column):
    given = frame()
    other = "when" if column == "day" else "day"
    name, more = f"./{kind}", {}
    if kind == "t.csv":
        given.drop(columns=other).to_csv(kind, index=False)
    elif kind == "t.parquet":
        given.drop(columns=other).to_parquet(kind)
    elif kind == "folder":
        (here / kind).mkdir()
        given.drop(columns=other).to_csv(f"{kind}/data.csv", index=False)
    elif kind == "npz":
        name = "a.npz"
        np.savez(name, X=given[["size"]], y=given["kind"].to_numpy(str), **{column: given[column].to_numpy()})
    else:
        given.drop(columns=other).to_pickle("t.pickle")
        (here / "own_times_of_a_test.py").write_text(
            "import pandas as pd\n\n\ndef make():\n    return pd.read_pickle('t.pickle')\n"
        )
        name = "own_times_of_a_test:make"
    if kind != "npz":
        more = {"target": "kind"}
    data = load_dataset(name, time=column, **more)
    train, test = days(data)
    assert (len(train), len(test)) == (28, 12)  # of ten days of four rows the last three are nearest to a quarter
    assert train.max() < test.min()
    cut = {"day": "7", "when": "2026-01-08"}[column]
    assert f"time: {column}" in data.reading
    assert data.reading.endswith(f"12 of 40 rows are set aside for it, the latest, from {cut} on")
    rest, aside = data.set_aside(0.1)
    assert train[rest].max() < train[aside].min()
    assert len(aside) == 4
    assert torch.equal(data.set_aside(0.1)[1], aside)


def test_images_are_split_by_their_time(here):
    rows = {"image": [], "label": [], "taken": []}
    for i in np.random.default_rng(0).permutation(20):
        rows["image"].append(Image.new("L", (4, 4), int(10 * i)))
        rows["label"].append(int(i) % 2)
        rows["taken"].append(dt.datetime(2026, 1, 1, int(i), tzinfo=dt.UTC))
    datasets.Dataset.from_dict(rows).save_to_disk("set")
    data = load_dataset("./set", time="taken")
    assert "time: taken" in data.reading
    assert data.reading.endswith("the latest, from 2026-01-01 15:00 on")
    shown = [data.inputs(s, torch.arange(n))[:, 0, 0, 0] for s, n in (("train", 15), ("test", 5))]
    assert shown[0].max() == 140
    assert shown[1].min() == 150
    with pytest.raises(ValueError, match="has no column 'shot' for time, only image, label, taken"):
        load_dataset("./set", time="shot")


def test_test_rows_that_come_along_are_later():
    frame().to_csv("train_t.csv", index=False)
    later = frame()
    later["day"] += 10
    later.to_csv("t.csv", index=False)
    data = load_dataset("train_t.csv", target="kind", time="day")
    assert (len(data.train_target), len(data.test_target), len(data.times)) == (40, 40, 40)
    with pytest.raises(
        ValueError, match="must be later than all training rows, got 2026-01-01 in test and 2026-01"
    ):
        load_dataset("train_t.csv", target="kind", time="when")


def test_a_class_that_the_test_split_lacks_is_named():
    early = frame(kind=["ant", "bee"] * (N // 2))
    early.loc[early.day >= 7, "kind"] = "ant"
    early.to_csv("t.csv", index=False)
    assert load_dataset("t.csv", target="kind", time="day").reading.endswith("from 7 on, none of class bee")


@pytest.mark.parametrize(
    ("more", "options", "message"),
    [
        ({}, {"time": "hour"}, "has no column 'hour' for time: it has size, day, when, kind"),
        ({}, {"time": "kind"}, "time must be a column of its own in dataset 't.csv', got 'kind'"),
        ({}, {"time": "day", "group": "when"}, "group and time cannot both be given: .* got 'when' and 'day'"),
        (
            {"day": [None, *range(N - 1)]},
            {"time": "day"},
            "split train, must hold a value in every row, got none in 1",
        ),
        ({"when": ["soon"] * N}, {"time": "when"}, r"'when' must hold numbers, or dates .*, got 'soon' in row 0"),
        ({"day": [1.0] * (N - 1) + [np.inf]}, {"time": "day"}, "must hold finite times, got inf in row 39"),
        ({"day": 1}, {"time": "day"}, "times must differ for a split by time"),
        ({"day": [True, False] * (N // 2)}, {"time": "day"}, "must hold numbers, or dates .*, got bool"),
        ({"when": ["2026-01-02"] * (N - 1) + ["2.1.2026"]}, {"time": "when"}, "got '2.1.2026' in row 39"),
    ],
)
def test_times_that_cannot_be_used_get_one_sentence(more, options, message):
    frame(**more).to_csv("t.csv", index=False)
    with pytest.raises(ValueError, match=message) as caught:
        load_dataset("t.csv", target="kind", **options)
    assert "\n" not in str(caught.value)


def test_texts_are_times_of_one_form():
    days = ["2026-01-31", " 2026-02-01 12:30", "1999-12-31T23:59:59.5"]
    assert (np.argsort(moments("t", np.array(days))) == [2, 0, 1]).all()
    zones = moments("t", ["2026-01-01T00:00:00+02:00", "2025-12-31T23:00:00Z"])
    assert zones[1] - zones[0] == np.timedelta64(1, "h")
    assert moments("t", pa.array(["2020", "2019"]).dictionary_encode()).tolist() == [2020, 2019]
    with pytest.raises(ValueError, match="got '2026-01-01' in row 1"):
        moments("t", ["2026-01-01T00:00:00Z", "2026-01-01"])
    with pytest.raises(ValueError, match="must hold numbers, or dates"):
        moments("t", [dt.timedelta(1), dt.timedelta(2)])
    with pytest.raises(ValueError, match="must hold numbers, or dates"):
        moments("t", [1, "a"])


def test_a_comparison_by_time(here, capsys):
    frame().to_csv("t.csv", index=False)
    options = (
        "--backbone",
        "mlp",
        "--losses",
        "softmax",
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--learning-rates",
        "0.1",
    )
    code, _, told = run_command(
        capsys, "compare", "--dataset", "t.csv", "--target", "kind", "--time", "day", *options, "--out", "run"
    )
    assert code == 0, told
    assert re.search("time: day; .*the latest, from 7 on", told.splitlines()[0])
    data = Comparison.read(here / "run").data
    assert [sum(c) for c in (data.train_counts, data.validation_counts, data.test_counts)] == [24, 4, 12]
    code, _, told = run_command(
        capsys, "forecast", "t.csv", "--inputs", "--target", "kind", "--time", "day", "--weights", "none"
    )
    assert code == 0, told
    assert "the latest, from 7 on" in told
    code, _, told = run_command(capsys, "forecast", "t.csv", "--target", "kind", "--time", "day")
    assert (code, "time is of a data set of inputs, say --inputs too, got 'day'" in told) == (2, True), told
