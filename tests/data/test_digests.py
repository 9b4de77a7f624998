"""The digest of a data set: of what is in it, wherever it lies; a run goes on only with the data that it began with."""

import re
import shutil

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from steelyard.data import load_dataset
from steelyard.experiments import trainings
from tests.helpers import run_command


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pictures(folder, *, last=50, number=6):
    for k, kind in enumerate(("cat", "dog")):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for i in range(number):
            Image.new("L", (8, 8), 100 * k + i).save(folder / kind / f"{i}.png")
    Image.new("L", (8, 8), last).save(folder / "cat" / "0.png")
    return folder


def table(**more):
    return pd.DataFrame({"x": np.arange(12) / 2, "kind": ["ant", "bee"] * 6} | more)


def _images(folder, change):
    pictures(folder, last=51 if change else 50)


def _labels_of_images(folder, change):
    pictures(folder)
    if change:
        (folder / "cat" / "1.png").rename(folder / "dog" / "7.png")
        (folder / "dog" / "1.png").rename(folder / "cat" / "1.png")


def _saved_images(folder, change):
    rows = {"image": [Image.new("L", (4, 4), i) for i in range(8)], "label": [0, 1] * 4}
    rows["label"][6:] = [1, 0] if change else [0, 1]
    datasets.Dataset.from_dict(rows).save_to_disk(str(folder))


def _saved_table(folder, change):
    datasets.Dataset.from_pandas(table(x=np.arange(12) / 2 + change)).save_to_disk(str(folder))


def _tables(folder, change):
    folder.mkdir()
    table().to_csv(folder / "train.csv", index=False)
    table(x=np.arange(12) / 2 + change).to_csv(folder / "test.csv", index=False)


@pytest.mark.parametrize("write", [_images, _labels_of_images, _saved_images, _saved_table, _tables])
def test_a_digest_is_of_the_content(here, write):
    options = {} if "image" in write.__name__ else {"target": "kind"}
    write(here / "set", False)
    before = load_dataset("./set", **options).digest
    shutil.move(here / "set", here / "elsewhere")
    assert load_dataset("./elsewhere", **options).digest == before
    write(here / "set", True)
    after = load_dataset("./set", **options).digest
    assert None not in (before, after)
    assert before != after


COMPARE = ("compare", "--backbone", "mlp", "--losses", "softmax", "--seeds", "1", "--epochs", "1", "--learning-rates", "0.1")  # fmt: skip


def test_a_run_on_images_goes_on_with_the_same_images_only(here, capsys):
    pictures(here / "set")
    given = (*COMPARE, "--dataset", "./set", "--out", "run")
    assert run_command(capsys, *given)[0] == 0
    (here / "run" / "results.json").unlink()
    assert run_command(capsys, *given, "--resume")[0] == 0
    (here / "run" / "results.json").unlink()
    pictures(here / "set", last=51)
    code, _, told = run_command(capsys, *given, "--resume")
    assert code == 2
    assert re.search(r"result.json is of another run: data is '\w+', not '\w+'; remove the file to do", told), told


def test_a_leaderboard_goes_on_with_the_same_data_only(here, capsys):
    table().to_csv("t.csv", index=False)
    options = "--target kind --losses softmax,logistic --learner linear --seeds 1 --imbalance none --workers 1 --out runs"
    given = ("reproduce", "leaderboard", "--dataset", "t.csv", *options.split())
    code, _, told = run_command(capsys, *given)
    assert code == 0, told
    (here / "t.csv").rename(here / "moved.csv")
    code, _, told = run_command(capsys, *given)  # all is done, so no data are needed
    assert code == 0, told
    next((here / "runs" / "leaderboard" / "jobs").glob("*logistic*.json")).unlink()
    table(x=np.arange(12) / 4).to_csv("t.csv", index=False)
    trainings._opened.cache_clear()
    trainings._digest.cache_clear()  # as in another process
    code, _, told = run_command(capsys, *given)
    assert code == 2
    assert re.search(r"softmax.json is of another run: data is '\w+', not '\w+'; remove the file to do", told), (
        told
    )
