"""Data that people have: what a loader finds in them, what it fits on which rows, and what it refuses."""

import json
import re

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from steelyard.data import load_dataset, split_validation
from steelyard.report.results import Comparison
from tests.helpers import assert_finite, run_command

N = 48


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


def frame(**more):
    """48 rows of everything; `kind` is the label."""
    rng = np.random.default_rng(0)
    age = rng.normal(40, 9, N)
    age[5] = np.nan
    return pd.DataFrame(
        {
            "id": np.arange(N),
            "age": age,
            "size": rng.integers(1, 9, N),
            "color": ["red", "blue", None] * (N // 3),
            "adult": rng.random(N) < 0.5,
            "name": [f"n{i}" for i in range(N)],
            "note": [f"this is note number {i} of many" for i in range(N)],
            "when": pd.date_range("2020-01-01", periods=N),
            "patient": np.repeat(np.arange(N // 4), 4),
            "kind": ["ant", "bee"] * (N // 2),
        }
        | more
    )


def inputs(data, fitted_on=None):
    """The inputs of both splits, as fitted on all training rows or on some."""
    rows = torch.arange(len(data.train_target)) if fitted_on is None else fitted_on
    made = data.prepare(rows)
    return made.inputs("train", torch.arange(len(data.train_target))), made.inputs(
        "test", torch.arange(len(data.test_target))
    )


# Tables ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "parquet", "csv.gz"])
def test_a_table_says_what_it_holds(kind):
    frame().to_parquet("t.parquet") if kind == "parquet" else frame().to_csv(f"t.{kind}", index=False)
    data = load_dataset(f"t.{kind}", target="kind", group="patient")
    assert data.reading == (
        f"t.{kind}: numbers: age, size, adult; categories: color; texts, as TF-IDF of at most 4,096 words: note; "
        "missing, taken as the median: age (1); label: kind; groups: patient; "
        "left out: id (like an id: another number in every row), name (like an id: another text in most rows), "
        "when (neither numbers nor text); 2 classes of 24 to 24 samples; "
        "no test split: 12 of 48 rows are set aside for it, stratified, groups kept whole, seed 0"
    )
    assert data.class_names == ("ant", "bee")
    for part in inputs(data):
        assert part.dtype == torch.float32
        assert_finite(part)


def test_columns_that_are_named_are_taken_whatever_they_are_like():
    frame().to_csv("t.csv", index=False)
    data = load_dataset("t.csv", target="kind", features="id,a*")
    assert "numbers: age, id, adult" in data.reading or "numbers: id, age, adult" in data.reading
    assert "left out: size, color, name" in data.reading


def test_numbers_are_scaled_and_filled_by_the_rows_trained_on():
    values = np.arange(40.0)
    values[:4] = np.nan
    pd.DataFrame({"x": values, "y": [0, 1] * 20}).to_csv("t.csv", index=False)
    data = load_dataset("t.csv")
    raw = torch.from_numpy(values)
    rows = _rows_of(data, "t.csv")
    fitted_on = (~raw[rows["train"]].isnan()).nonzero()[:, 0][:10]
    train, test = inputs(data, fitted_on)
    seen = raw[rows["train"]][fitted_on]
    for split, found in (("train", train), ("test", test)):
        filled = raw[rows[split]].nan_to_num(seen.median().item())
        if len(seen) % 2 == 0:
            filled = torch.where(raw[rows[split]].isnan(), torch.tensor(np.median(seen.numpy())), filled)
        expected = (filled - seen.mean()) / seen.std(correction=0)
        assert torch.allclose(found[:, 0].double(), expected, atol=1e-6), split


def _rows_of(data, file):
    """Which rows of the file are in each split: told by a column that is not an input here."""
    table = pd.read_csv(file)
    rest, aside = split_validation(torch.tensor(table["y"].to_numpy()), 0.25, seed=0)
    assert torch.equal(torch.tensor(table["y"].to_numpy())[rest], data.train_target)
    return {"train": rest, "test": aside}


def test_nothing_is_fitted_on_rows_that_are_not_trained_on():
    """Whatever stands in the other rows, in training and test split, the inputs of the rows trained on are the same."""
    frame().to_parquet("t.parquet")
    data = load_dataset("t.parquet", target="kind")
    fitted_on = torch.arange(10, 25)
    table = frame()
    rest, aside = split_validation(torch.tensor((table["kind"] == "bee").to_numpy().astype(int)), 0.25, seed=0)
    others = np.setdiff1d(np.arange(N), rest[fitted_on].numpy())
    table.loc[others, "age"] = 1e6
    table.loc[others, "color"] = "green"
    table.loc[others, "note"] = [f"words that nobody ever saw before {i}" for i in others]
    table.to_parquet("t.parquet")
    changed = load_dataset("t.parquet", target="kind")
    before, after = (d.prepare(fitted_on).inputs("train", fitted_on) for d in (data, changed))
    assert torch.equal(before, after)
    assert len(aside) + len(rest) == N


def test_an_unknown_category_is_none_of_the_known():
    colors = ["red"] * 12 + ["blue"] * 12
    pd.DataFrame({"c": colors, "y": [0, 1] * 12}).to_csv("train_t.csv", index=False)
    pd.DataFrame({"c": ["red", "pink"], "y": [0, 1]}).to_csv("t.csv", index=False)
    train, test = inputs(load_dataset("train_t.csv"))
    assert train.sum(1).tolist() == [1] * 24
    assert test.tolist() == [[0, 1], [0, 0]]


def test_what_float32_does_not_hold_is_refused():
    pd.DataFrame({"x": [1.5, 2.5] * 6, "y": [0, 1] * 6}).to_csv("train_t.csv", index=False)
    pd.DataFrame({"x": [1.5, 1e300], "y": [0, 1]}).to_csv("t.csv", index=False)
    data = load_dataset("train_t.csv").prepare(torch.arange(12))
    with pytest.raises(ValueError, match="must be finite in float32 once scaled, got none in row 1, input 0"):
        data.inputs("test", torch.arange(2))


def test_inputs_that_need_fitting_are_not_given_before():
    frame().to_csv("t.csv", index=False)
    data = load_dataset("t.csv", target="kind")
    with pytest.raises(ValueError, match=r"are made by what is fitted on training rows: prepare\(rows\) first"):
        data.inputs("train", torch.arange(2))
    with pytest.raises(ValueError, match="train_indices must name at least one row, got none"):
        data.prepare(torch.arange(0))
    with pytest.raises(IndexError, match="indices must be from 0 to 35 in split train, got 36"):
        data.prepare(torch.tensor([36]))


def test_images_are_themselves_whatever_they_are_prepared_for():
    data = load_dataset("digits")
    assert data.prepare(torch.arange(3)) is data


@pytest.mark.parametrize(
    ("more", "options", "message"),
    [
        (
            {},
            {},
            r"t.csv must have one column of labels \(target, label, .*got none; name it as target: its columns",
        ),
        ({}, {"target": "sort"}, "t.csv must have the column 'sort', its columns are id, age"),
        ({}, {"target": "kind", "features": "weight"}, "t.csv has no column 'weight', its columns are id, age"),
        ({}, {"target": "kind", "group": "ward"}, "has no column 'ward' for group: it has id, age"),
        ({}, {"target": "age"}, "column 'age' must hold a value in every row, got none in 1, such as row 5"),
        (
            {},
            {"target": "kind", "features": "kind"},
            "column 'kind' is the label, it cannot be one of the features",
        ),
        ({}, {"target": "kind", "features": "when"}, "column 'when' must hold numbers or text, got null"),
        ({}, {"target": "name"}, "column 'name' must hold classes, got 48 different values in 48 rows"),
        ({"age": np.arange(N) / 2}, {"target": "age"}, r"must hold classes .*, got 0.5 in row 1"),
        ({"age": [np.inf] * N}, {"target": "kind"}, "column 'age' must hold finite numbers, got inf in row 0"),
        (
            {"kind": ["cat", "cat", *["ant", "bee"] * 23]},
            {"target": "kind"},
            r"has no test split, and every class needs 3 samples or more for .*, got fewer of class 'cat' \(2\)",
        ),
        ({"kind": ["ant"] * N}, {"target": "kind"}, "must hold at least two classes, got ant"),
        (
            {},
            {"target": "kind", "image_size": 8},
            "is no folder of images; image_mode and image_size do not apply",
        ),
    ],
)
def test_a_table_that_cannot_be_used_gets_one_sentence(more, options, message):
    frame(**more).to_csv("t.csv", index=False)
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        load_dataset("t.csv", **options)
    assert "\n" not in str(caught.value)


def test_a_test_table_lies_beside(tmp_path):
    frame()[["age", "kind"]].to_csv("train_t.csv", index=False)
    frame()[["age", "kind"]][:6].to_csv("t.csv", index=False)
    data = load_dataset(str(tmp_path / "train_t.csv"), target="kind")
    assert (len(data.train_target), len(data.test_target)) == (48, 6)
    assert "test: t.csv" in data.reading
    frame(kind=["ant", "cow"] * 24)[["age", "kind"]][:6].to_csv("t.csv", index=False)
    with pytest.raises(
        ValueError, match="split test, column 'kind' must hold one of the classes ant and bee, got 'cow'"
    ):
        load_dataset("train_t.csv", target="kind")
    frame()[["size", "kind"]].to_csv("t.csv", index=False)
    with pytest.raises(ValueError, match="split test has no column 'age', which the other has"):
        load_dataset("train_t.csv", target="kind")


def test_files_of_features_that_we_write_are_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"target": [0, 1, 2] * 8, "features": np.random.default_rng(0).normal(size=(24, 5)).tolist()})
    for name in ("train_features.parquet", "features.parquet"):
        pq.write_table(table.replace_schema_metadata({"steelyard.class_names": "a\x1fb\x1fc"}), name)
    data = load_dataset("train_features.parquet")
    assert data.class_names == ("a", "b", "c")
    assert "features: features (5); label: target; test: features.parquet" in data.reading
    assert inputs(data)[0].shape == (24, 5)


def test_a_file_that_is_none():
    with pytest.raises(FileNotFoundError, match=r"dataset file nothing\.csv does not exist"):
        load_dataset("nothing.csv")
    with open("t.npy", "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match=r"must be of a known kind \(\.parquet, .*\.npz\), got '\.npy'"):
        load_dataset("t.npy")


# Groups ----------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(2, 5), st.sampled_from([0.1, 0.25, 0.5, 0.75]))
def test_no_group_stands_on_both_sides(seed, classes, fraction):
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randint(8 * classes, (160,), generator=generator)
    target = torch.randint(classes, (160,), generator=generator)
    rest, aside = split_validation(target, fraction, seed=seed, groups=groups)
    assert torch.equal(torch.cat([rest, aside]).sort().values, torch.arange(160))
    assert not set(groups[rest].tolist()) & set(groups[aside].tolist())
    assert set(target[rest].tolist()) == set(target[aside].tolist()) == set(range(classes))
    assert abs(len(aside) / 160 - fraction) < 0.15


def test_groups_stay_whole_in_every_split_of_a_table():
    frame().to_csv("t.csv", index=False)
    data = load_dataset("t.csv", target="kind", group="patient", features="size,patient,age")
    assert "numbers: size, age" in data.reading
    assert (len(data.train_target), len(data.test_target), len(data.groups)) == (36, 12, 36)
    of_group = [number for number in torch.bincount(data.groups).tolist() if number]
    assert of_group == [4] * 9  # of 12 groups of four rows three are in the test split
    rest, held_out = split_validation(data.train_target, 0.2, seed=0, groups=data.groups)
    assert not set(data.groups[rest].tolist()) & set(data.groups[held_out].tolist())


def test_a_class_of_one_group_cannot_be_split():
    target, groups = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 2, 3, 3, 3])
    with pytest.raises(ValueError, match="no split of whole groups does; class 'b' stands in 1"):
        split_validation(target, 0.3, seed=0, groups=groups, class_names=["a", "b"])


def test_a_group_of_both_parts_is_refused():
    frame().to_csv("train_t.csv", index=False)
    frame().to_csv("t.csv", index=False)
    with pytest.raises(ValueError, match=r"must stand on one side of a split, got '0\.0' in training and test"):
        load_dataset("train_t.csv", target="kind", group="patient")


# Arrays, texts, functions -----------------------------------------------------------------------------------


def test_arrays_are_found_by_their_names():
    rng = np.random.default_rng(0)
    np.savez("a.npz", X=rng.normal(size=(30, 4)), y=np.array(list("abc") * 10), more=np.zeros(2))
    data = load_dataset("a.npz")
    assert data.reading.startswith(
        "a.npz: 4 features: X; label: y; left out: more; 3 classes of 10 to 10 samples; no"
    )
    train, test = inputs(data)
    assert (train.shape, test.shape, train.dtype) == ((24, 4), (6, 4), torch.float32)
    pixels = rng.integers(0, 255, (12, 9, 8, 3), dtype=np.uint8)
    np.savez("b.npz", x_train=pixels, y_train=[[0], [1]] * 6, x_test=pixels[:4], y_test=[1, 0, 1, 0])
    data = load_dataset("b.npz")
    assert "images of 3 x 9 x 8: x_train; label: y_train" in data.reading
    assert torch.equal(data.inputs("test", torch.tensor([2]))[0].permute(1, 2, 0), torch.from_numpy(pixels[2]))
    assert data.test_target.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"a": np.zeros((9, 2)), "y": np.arange(9) % 2},
            r"must have one entry of inputs \(x, .*\), got none; name it",
        ),
        (
            {"X": np.zeros((9, 2)), "y": np.arange(8) % 2},
            "X must have one label .and group, and time. a row, got 8 and 9",
        ),
        (
            {"X": np.zeros((9, 2, 2)), "y": np.arange(9) % 2},
            r"X must be numbers .N, D., .*got float64 of shape \(9,",
        ),
        (
            {"X": np.zeros((9, 2)), "y": np.zeros((9, 2))},
            r"y must be a label for each row \(N,\), got float64 of sha",
        ),
        (
            {"X": np.zeros((9, 2)), "y": np.arange(9) % 2, "x_test": np.zeros(3)},
            "inputs and labels of a test split",
        ),
        ({"X": np.array([{}] * 9), "y": np.arange(9) % 2}, "array 'X' cannot be read: .* holds Python objects"),
        ({"X": np.array(3), "y": np.arange(9) % 2}, "X must hold rows, got ndarray"),
        ({"X": np.full((9, 2), np.inf), "y": np.arange(9) % 2}, "X must hold finite numbers, got inf in row 0"),
    ],
)
def test_arrays_that_cannot_be_used_get_one_sentence(arrays, message):
    np.savez("a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_dataset("a.npz")


def test_texts_are_words_of_the_rows_trained_on():
    texts = ["a good day", "a bad day"] * 8
    pd.DataFrame({"text": texts, "label": [1, 0] * 8}).to_csv("t.csv", index=False)
    data = load_dataset("t.csv")
    train, test = inputs(data)
    assert train.shape == (12, 3)  # bad, day, good
    assert torch.allclose(train.norm(dim=1), torch.ones(12))
    assert ((train[:, 2] > 0) == (data.train_target == 1)).all()
    assert ((test[:, 2] > 0) == (data.test_target == 1)).all()
    only = data.prepare((data.train_target == 1).nonzero()[:, 0])
    assert only.inputs("test", torch.arange(4)).shape == (4, 2)  # day, good


def test_texts_without_words_are_refused():
    pd.DataFrame({"text": ["?!", "."] * 8, "label": [1, 0] * 8}).to_csv("t.csv", index=False)
    data = load_dataset("t.csv")
    with pytest.raises(ValueError, match="texts in text have no words of two letters or more"):
        data.prepare(torch.arange(4))


OWN = """
import numpy as np
import pandas as pd

def arrays():
    return np.arange(40.0).reshape(20, 2), ["a", "b"] * 10

def frame():
    return pd.DataFrame({"x": range(0, 40, 2), "c": ["u", "v"] * 10, "sort": ["a", "b"] * 10})

def grouped():
    return {"X": frame()[["x", "c"]], "y": ["a", "b"] * 10, "groups": np.repeat(range(5), 4)}

def number():
    return 3

some = 4
"""


@pytest.mark.parametrize(
    ("name", "options", "reading"),
    [
        ("arrays", {}, "2 features: X; label: y"),
        ("frame", {"target": "sort"}, "numbers: x; categories: c; label: sort"),
        ("grouped", {}, "numbers: x; categories: c; label: y; groups: groups"),
    ],
)
def test_a_function_of_yours(here, name, options, reading):
    (here / "own_data_of_a_test.py").write_text(OWN)
    data = load_dataset(f"own_data_of_a_test:{name}", **options)
    assert data.reading.startswith(f"own_data_of_a_test:{name}: {reading}; 2 classes of 10 to 10 samples; no test")
    assert inputs(data)[0].shape[1] == (2 if name == "arrays" else 3)
    assert (data.groups is not None) == (name == "grouped")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("number", TypeError, r"must return \(X, y\), a mapping of X and y, or a frame, got int"),
        ("some", TypeError, "must be a function, got int"),
        ("none", ImportError, "module own_data_of_a_test has nothing that is called none"),
    ],
)
def test_a_function_that_makes_no_data(here, name, error, message):
    (here / "own_data_of_a_test.py").write_text(OWN)
    with pytest.raises(error, match=message):
        load_dataset(f"own_data_of_a_test:{name}")
    with pytest.raises(ImportError, match="module nowhere_at_all cannot be imported"):
        load_dataset("nowhere_at_all:make")


# Folders ---------------------------------------------------------------------------------------------------


def test_a_folder_of_class_folders(here):
    for k, kind in enumerate(("cat", "dog")):
        (here / "set" / kind).mkdir(parents=True)
        for i in range(5):
            Image.new("L", (8, 8), 100 * k + i).save(here / "set" / kind / f"{i}.png")
    data = load_dataset("./set")
    assert data.class_names == ("cat", "dog")
    assert data.reading.endswith(
        "5 to 5 samples; no test split: 2 of 10 rows are set aside for it, stratified, seed 0"
    )
    for split, target in (("train", data.train_target), ("test", data.test_target)):
        assert torch.equal(data.inputs(split, torch.arange(len(target)))[:, 0, 0, 0] // 100, target)


@pytest.mark.parametrize("several", [False, True])
def test_what_save_to_disk_wrote(several):
    table = datasets.Dataset.from_pandas(frame()[["age", "kind"]]).class_encode_column("kind")
    (datasets.DatasetDict(train=table, test=table.select(range(6))) if several else table).save_to_disk("set")
    data = load_dataset("./set")
    assert data.class_names == ("ant", "bee")
    assert (len(data.train_target), len(data.test_target)) == ((48, 6) if several else (36, 12))
    assert "numbers: age; missing, taken as the median: age (1); label: kind" in data.reading


def test_what_save_to_disk_wrote_leads_nowhere_else(here):
    datasets.Dataset.from_pandas(frame()[["age", "kind"]]).save_to_disk("set")
    (here / "set" / "data-00000-of-00001.arrow").rename(here / "other.arrow")
    state = json.loads((here / "set" / "state.json").read_text())
    state["_data_files"] = [{"filename": "../other.arrow"}]
    (here / "set" / "state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match=r"file .*other\.arrow' lies outside .*set, and no such file is read"):
        load_dataset("./set", target="kind")


def test_a_folder_of_tables_in_splits(here):
    (here / "set").mkdir()
    frame()[["note", "age", "kind"]].to_csv(here / "set" / "train.csv", index=False)
    frame()[["note", "age", "kind"]][:6].to_csv(here / "set" / "test.csv", index=False)
    data = load_dataset("./set", target="kind")
    assert "numbers: age; texts, as TF-IDF of at most 4,096 words: note" in data.reading
    assert (len(data.train_target), len(data.test_target)) == (48, 6)


def test_options_of_columns_do_not_apply_to_what_is_built_in():
    with pytest.raises(ValueError, match="'digits' is built in; target and group do not apply"):
        load_dataset("digits", target="y", group="g")


# From the command line --------------------------------------------------------------------------------------

COMPARE = ("compare", "--backbone", "mlp", "--losses", "softmax", "--seeds", "1", "--epochs", "1", "--learning-rates", "0.1")  # fmt: skip


def test_a_table_is_compared_and_told_on_standard_error(here, capsys):
    frame().to_csv("t.csv", index=False)
    given = (*COMPARE, "--dataset", "t.csv", "--target", "kind", "--group", "patient", "--out", "run")
    code, _, told = run_command(capsys, *given)
    assert (code, told.splitlines()[0][:48]) == (0, "t.csv: numbers: age, size, adult; categories: co")
    results = Comparison.read(here / "run")
    assert results.data.reading == told.splitlines()[0]
    assert results.data.class_names == ["ant", "bee"]
    assert sum(results.data.test_counts) == 12
    assert "like an id" in (here / "run" / "report.html").read_text()
    (record,) = (here / "run").glob("softmax/seed-0/result.json")
    frame(age=np.arange(N)).to_csv("t.csv", index=False)  # other data under the same name
    (here / "run" / "results.json").unlink()
    code, _, told = run_command(capsys, *given, "--resume")
    assert code == 2
    assert re.search(rf"{record.relative_to(here)} .*data.*; remove the file to do the job again", told), told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--backbone", "small-cnn"],
            r"backbone small-cnn takes images \(N, C, H, W\), got features \(\d+, \d+\); linear, mlp",
        ),
        (["--augmentation", "crop"], r"augmentation crop takes images \(N, C, H, W\), got features"),
    ],
)
def test_networks_and_changes_of_images_refuse_features(here, capsys, options, message):
    frame().to_csv("t.csv", index=False)
    code, _, told = run_command(
        capsys, *COMPARE, "--dataset", "t.csv", "--target", "kind", "--out", "run", *options
    )
    assert code == 2
    assert re.search(message, told)
    assert not (here / "run").exists()


def test_a_configuration_does_not_say_which_function_is_run(here, capsys):
    (here / "own_data_of_a_test.py").write_text("open('mark', 'w')\n" + OWN)
    (here / "c.yaml").write_text(
        "dataset: own_data_of_a_test:arrays\nlosses: [softmax]\nbackbone: mlp\nepochs: 1\n"
    )
    code, _, told = run_command(capsys, "compare", "--config", "c.yaml", "--out", "run")
    assert code == 2
    assert (
        "configuration c.yaml names a function that would be run, own_data_of_a_test:arrays; to run it, say"
        in told
    )
    assert not (here / "mark").exists()


def test_the_leaderboard_takes_the_same_data(here, capsys):
    frame().to_csv("t.csv", index=False)
    given = (
        "reproduce",
        "leaderboard",
        "--dataset",
        "t.csv",
        "--target",
        "kind",
        "--losses",
        "softmax",
        "--epochs",
        "1",
    )
    given = (*given, "--seeds", "1", "--imbalance", "none", "--workers", "1", "--out", "runs")
    code, _, told = run_command(capsys, *given, "--backbone", "small-cnn")
    assert (code, "backbone small-cnn takes images (N, C, H, W), got features" in told) == (2, True)
    code, printed, told = run_command(capsys, *given, "--backbone", "mlp")
    assert (code, told.startswith("t.csv: numbers: age, size")) == (0, True), told
    assert "report: runs/leaderboard/report.html" in printed
