"""Tables in several files: what stands in a file is what is read, whatever the files before it hold."""

import json

import datasets
import pandas as pd
import pytest
import torch

from steelyard.data import load_dataset
from steelyard.data.hub import from_hugging_face
from steelyard.data.local import open_folder
from steelyard.data.tabular import Asked


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    return tmp_path


def write(files):
    """Write files into the folder: texts, or rows as lines of JSON."""
    for name, rows in files.items():
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        with open(f"set/{name}", "w") as file:
            file.write(text)


def read(here, files, split="train"):
    write(files)
    return open_folder(here / "set")[split][:]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_text_survives_as_text_whichever_file_comes_first(here, order):
    texts = ["code,n\n007,1\n08,2\n", "n,code\n,A1\n3,1.0\n"]
    found = read(here, {f"train-{place}.csv": texts[i] for place, i in enumerate(order)})
    rows = dict(zip(found["code"], found["n"], strict=True))
    assert rows == {"007": 1, "08": 2, "A1": None, "1.0": 3}


def test_a_split_is_read_as_the_other(here):
    write({"train.csv": "code,y\n" + "A,0\n007,1\n" * 4, "test.csv": "y,code\n0,007\n1,7\n"})
    data = load_dataset("./set", target="y", features="code").prepare(torch.arange(8))
    assert data.inputs("train", torch.arange(2)).tolist() == [[0, 1], [1, 0]]
    assert data.inputs("test", torch.arange(2)).tolist() == [[1, 0], [0, 0]], (
        "007 is the category of training, 7 none"
    )


def test_a_test_file_beside_is_read_as_the_file_of_training(here):
    pd.DataFrame({"code": ["A", "007"] * 4, "y": [0, 1] * 4}).to_csv("train_t.csv", index=False)
    pd.DataFrame({"code": ["007", "7"], "y": [0, 1]}).to_csv("t.csv", index=False)
    data = load_dataset("train_t.csv", features="code").prepare(torch.arange(8))
    assert data.inputs("test", torch.arange(2)).tolist() == [[1, 0], [0, 0]]


def test_a_folder_is_read_as_the_same_rows_in_one_file(here):
    rows = ["1,NA,x,true", "2,null,,false", ",1.0,?,true", "4,1,None,true"]
    (here / "one").mkdir()
    (here / "one" / "train.csv").write_text("\n".join(["a,b,c,d", *rows]))
    alone = open_folder(here / "one")["train"][:]
    several = read(here, {f"train-{i}.csv": f"a,b,c,d\n{row}\n" for i, row in enumerate(rows)})
    assert alone == several
    assert alone == {
        "a": [1, 2, None, 4],
        "b": [None, None, 1, 1],
        "c": ["x", None, None, "None"],
        "d": [True, False, True, True],
    }


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train-0.csv": "a,y\n1,0\n", "train-1.csv": "a,z\n1,0\n"}, "must have the columns of .*train-0.csv, and 'y' is only in one"),
        ({"train-0.csv": "a\n2.5\n", "train-1.csv": "a\nfalse\n"}, "column 'a' must hold numbers as in .*train-0.csv, got true and false"),
        ({"train-0.jsonl": [{"a": 1}], "train-1.jsonl": [{"a": "007"}]}, "train-1.jsonl, column 'a' must hold numbers as in .*train-0.jsonl, got texts"),
        ({"train-0.jsonl": [{"a": "007"}], "train-1.jsonl": [{"a": 7}]}, "column 'a' must hold texts as in .*, got numbers"),
        ({"train-0.jsonl": [{"a": 1}], "train-1.jsonl": [{"a": True}]}, "column 'a' must hold numbers as in .*, got true and false"),
        ({"train.jsonl": [{"a": 1}], "test.jsonl": [{"a": "1"}]}, "column 'a' must hold"),
    ],
)  # fmt: skip
def test_files_that_do_not_agree_are_refused(here, files, message):
    with pytest.raises(ValueError, match=message):
        read(here, files)


def test_later_rows_of_json_are_not_turned_into_what_the_first_were(here):
    rows = [{"a": i, "b": "x" * 999} for i in range(20_000)] + [
        {"a": "007", "b": "x"}
    ]  # more than the library looks at
    write({"train.jsonl": [row | {"y": i % 2} for i, row in enumerate(rows)]})
    with pytest.raises(ValueError, match=r"column 'a' must hold numbers or text, got extension<arrow\.json>"):
        load_dataset("./set", target="y", features="a")


def test_json_may_leave_out_what_is_missing_and_go_on_with_fractions(here):
    found = read(here, {"train-0.jsonl": [{"a": 1, "b": None}], "train-1.jsonl": [{"b": "NA", "a": 1.5}, {}]})
    assert found == {"a": [1, 1.5, None], "b": [None, "NA", None]}


def test_files_of_parquet_agree(here):
    pd.DataFrame({"a": [1, 2]}).to_parquet("set/train-0.parquet")
    pd.DataFrame({"a": ["007", "8"]}).to_parquet("set/train-1.parquet")
    with pytest.raises(ValueError, match=r"train-1.parquet, column 'a' must hold numbers as in .*, got texts"):
        open_folder(here / "set")


def test_types_that_the_readme_declares_are_the_types(here):
    card = {
        "configs": [{"config_name": "default", "data_files": "*.csv", "sep": ";"}],
        "dataset_info": {
            "features": [
                {"name": "code", "dtype": "string"},
                {"name": "n", "dtype": "int64"},
                {"name": "y", "dtype": {"class_label": {"names": {"0": "no", "1": "yes"}}}},
            ]
        },
    }
    write({"README.md": f"---\n{json.dumps(card)}\n---\n", "a.csv": "y;code;n\nyes;007;3\n0;08;4\n"})
    found = open_folder(here / "set")["train"]
    assert found[:] == {"code": ["007", "08"], "n": [3, 4], "y": [1, 0]}
    assert found.features["y"].names == ["no", "yes"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"skiprows": 1}, "its README sets skiprows for CSV"), ({"sep": "|"}, "its README sets sep for CSV")],
)
def test_settings_of_csv_that_are_not_kept_are_refused(here, settings, message):
    card = {"configs": [{"config_name": "default", "data_files": "*.csv", **settings}]}
    write({"README.md": f"---\n{json.dumps(card)}\n---\n", "a.csv": "a|y\n1|0\n"})
    with pytest.raises(ValueError, match=message):
        open_folder(here / "set")


def test_splits_of_different_kinds_are_refused_wherever_they_come_from(here):
    table = datasets.Dataset.from_dict({"code": ["a", "7"] * 4, "y": [0, 1] * 4})
    test = datasets.Dataset.from_dict({"code": [7, 8], "y": [0, 1]})
    table.save_to_disk("set/train")
    test.save_to_disk("set/test")
    (here / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(
        ValueError, match=r"split test, column 'code' must hold texts as in .*split train, got numbers"
    ):
        load_dataset("./set", target="y", features="code")


def test_a_name_on_the_hub_is_read_by_the_same_rules(here, monkeypatch):
    write({"train.csv": "code,y\n" + "A,0\n007,1\n" * 4, "test.csv": "y,code\n0,007\n1,7\n"})
    builder = datasets.load_dataset_builder(str(here / "set"))
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda name: builder)
    data = from_hugging_face("somebody/codes", Asked("y", "code"), None, None).prepare(torch.arange(8))
    assert data.inputs("test", torch.arange(2)).tolist() == [[1, 0], [0, 0]]
