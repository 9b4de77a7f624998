"""A folder of data is local: nothing is fetched for it, and no file outside it is read."""

import json
import os
import socket

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from steelyard.data import load_dataset, open_predictions
from tests.data.test_datasets import GOOD, _image, _save

FETCHED = ["https://example.invalid/train.parquet", "hf://datasets/somebody/some/train.parquet", "zip://x::https://e.invalid/a.zip"]  # fmt: skip
OUTSIDE = ["../other/data/*.parquet", "data/../../other/data/*.parquet", "~/x.parquet", "..\\other\\*.parquet"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """No test here may open a connection, and the cache is its own."""

    def refuse(self, address):
        raise AssertionError(f"a connection to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", tmp_path / "cache" / "extracted")


def _readme(folder, place, key="data_files"):
    places = (
        [{"split": "train", "path": place}, {"split": "test", "path": [place]}] if key == "data_files" else place
    )
    card = json.dumps({"configs": [{"config_name": "default", key: places}]})
    (folder / "README.md").write_text(f"---\n{card}\n---\n# Images\n")


@pytest.fixture
def folder(tmp_path):
    _save(tmp_path / "other", GOOD)
    _save(tmp_path / "set", GOOD)
    return tmp_path / "set"


@pytest.mark.parametrize("place", FETCHED)
def test_a_readme_makes_nothing_fetched(folder, place):
    _readme(folder, place)
    with pytest.raises(ValueError, match=r"its README.md names .*, and nothing is fetched for a local folder"):
        load_dataset(str(folder))


@pytest.mark.parametrize("place", OUTSIDE)
def test_a_readme_leads_nowhere_else(folder, place):
    _readme(folder, place)
    with pytest.raises(ValueError, match=r"its README.md names .*, which leads out of the folder"):
        load_dataset(str(folder))


def test_an_absolute_place_and_a_folder_elsewhere_are_refused(folder):
    _readme(folder, str(folder.parent / "other/data/*.parquet"))
    with pytest.raises(ValueError, match="which leads out of the folder"):
        load_dataset(str(folder))
    _readme(folder, "../other", key="data_dir")
    with pytest.raises(ValueError, match=r"names '\.\./other', which leads out of the folder"):
        load_dataset(str(folder))


def test_the_other_file_of_settings_is_held_to_the_same(folder):
    (folder / ".huggingface.yaml").write_text(f"configs: [{{config_name: default, data_files: {FETCHED[0]}}}]")
    with pytest.raises(ValueError, match=r"its \.huggingface\.yaml names 'https://"):
        load_dataset(str(folder))


def test_places_inside_are_followed(folder):
    (folder / "data" / "train-00000-of-00001.parquet").rename(folder / "a.parquet")
    (folder / "data" / "test-00000-of-00001.parquet").rename(folder / "b.parquet")
    card = {"configs": [{"config_name": "default", "data_files": [{"split": s, "path": f"{f}.parquet"} for s, f in (("train", "a"), ("test", "b"))]}]}  # fmt: skip
    (folder / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
    assert load_dataset(str(folder)).class_names == ("ant", "bee")


@pytest.mark.parametrize("what", ["file", "folder", "README.md"])
def test_links_out_of_the_folder_are_not_followed(folder, what):
    other = folder.parent / "other"
    if what == "file":
        (folder / "data" / "train-00000-of-00001.parquet").unlink()
        (folder / "data" / "train-00000-of-00001.parquet").symlink_to(other / "data/train-00000-of-00001.parquet")
    elif what == "folder":
        for file in (folder / "data").iterdir():
            file.unlink()
        (folder / "data").rmdir()
        (folder / "data").symlink_to(other / "data")
    else:
        (other / "text").write_text("---\nlicense: mit\n---\n")
        (folder / "README.md").symlink_to(other / "text")
    with pytest.raises(ValueError, match=r"lies outside .*set, and no such file is read"):
        load_dataset(str(folder))


def test_links_inside_and_a_snapshot_of_the_hub_are_read(folder):
    file = folder / "data" / "train-00000-of-00001.parquet"
    file.rename(folder / "kept")
    file.symlink_to(folder / "kept")
    assert len(load_dataset(str(folder)).train_target) == 6
    repository = folder.parent / "datasets--a--b"
    (repository / "blobs").mkdir(parents=True)
    (repository / "snapshots").mkdir()
    folder.rename(repository / "snapshots" / "abc")
    snapshot = repository / "snapshots" / "abc"
    (snapshot / "kept").rename(repository / "blobs" / "1f2e")
    (snapshot / "data" / file.name).unlink()
    (snapshot / "data" / file.name).symlink_to("../../../blobs/1f2e")
    assert len(load_dataset(str(snapshot)).train_target) == 6


def _with_paths(folder, paths):
    """The training images as paths, without bytes."""
    file = folder / "data" / "train-00000-of-00001.parquet"
    table = pq.read_table(file)
    images = pa.array([{"bytes": None, "path": str(p)} for p in paths], type=table.schema.field(0).type)
    pq.write_table(table.slice(0, len(paths)).set_column(0, table.schema.field(0), images), file)


@pytest.mark.parametrize("path", ["{outside}/secret.png", "{inside}/../outside/secret.png", "{inside}/link.png", "secret.png", "https://example.invalid/a.png", "a\0b"])  # fmt: skip
def test_an_image_is_no_file_outside(folder, path, monkeypatch):
    outside = folder.parent / "outside"
    outside.mkdir()
    _image(99).save(outside / "secret.png")
    (folder / "link.png").symlink_to(outside / "secret.png")
    _image(7).save(folder / "inside.png")
    monkeypatch.chdir(outside)
    _with_paths(folder, [folder / "inside.png", path.format(outside=outside, inside=folder)])
    data = load_dataset(str(folder))
    assert data.inputs("train", torch.tensor([0])).max() == 7
    with pytest.raises(ValueError, match=r"split train, column 'picture', row 1: file .* lies outside .*set, and"):
        data.inputs("train", torch.arange(2))


def test_an_image_that_is_no_regular_file_is_listed(folder):
    os.mkfifo(folder / "pipe.png")
    _with_paths(folder, [folder / "pipe.png", folder / "data"])
    with pytest.raises(ValueError, match="has 2 images that cannot be decoded, in rows 0, 1"):
        load_dataset(str(folder)).inputs("train", torch.arange(2))


def _table(folder, names):
    rows = [{"file_name": name, "label": k} for k, name in enumerate(names)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_a_folder_of_images_does_not_name_others_in_its_table(tmp_path):
    outside = tmp_path / "secret.png"
    _image(99).save(outside)
    for split in ("train", "test"):
        (tmp_path / "set" / split).mkdir(parents=True)
        for k in range(2):
            _image(k).save(tmp_path / "set" / split / f"{k}.png")
        _table(tmp_path / "set" / split, ["0.png", "1.png"])
    assert load_dataset(str(tmp_path / "set")).inputs("train", torch.arange(2)).flatten(1).amax(1).tolist() == [
        0,
        1,
    ]
    for name in ("../../secret.png", str(outside)):
        _table(tmp_path / "set" / "train", [name, "1.png"])
        with pytest.raises(ValueError, match=r"secret\.png"):
            load_dataset(str(tmp_path / "set")).inputs("train", torch.arange(2))


def test_a_script_in_the_folder_is_never_run(folder):
    mark = folder.parent / "mark"
    (folder / "set.py").write_text(f"open({str(mark)!r}, 'w')\n")
    with pytest.raises(
        ValueError, match=r"dataset folder .*set cannot be read: Dataset scripts are no longer sup"
    ):
        load_dataset(str(folder))
    assert not mark.exists()


def test_kinds_that_hold_no_data_are_refused(tmp_path):
    (tmp_path / "train.txt").write_text("a\n")
    (tmp_path / "test.txt").write_text("a\n")
    with pytest.raises(ValueError, match="files are of kind text; data are read from arrow, csv, imagefolder"):
        load_dataset(str(tmp_path))


def test_a_folder_that_has_the_name_of_a_reader_is_a_folder(folder, monkeypatch):
    folder.rename(folder.parent / "parquet")
    monkeypatch.chdir(folder.parent)
    assert load_dataset("parquet").class_names == ("ant", "bee")


def test_a_folder_of_tables_has_no_links_that_lead_out(tmp_path):
    table = pa.table({"target": [0, 1], "logits": [[0.0, 1.0], [2.0, 1.0]]})
    (tmp_path / "set").mkdir()
    pq.write_table(table, tmp_path / "set" / "0.parquet")
    (tmp_path / "set" / "1.parquet").symlink_to("0.parquet")
    assert sum(len(labels) for _, labels in open_predictions(tmp_path / "set").batches()) == 4
    pq.write_table(table, tmp_path / "other.parquet")
    (tmp_path / "set" / "2.parquet").symlink_to(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"2\.parquet' lies outside .*set, and no such file is read"):
        open_predictions(tmp_path / "set")
