"""Data sets, and what is said of those that cannot be used. Small ones are made here: nothing is downloaded."""

import io
import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from steelyard.data import load_dataset


def _image(value=0, mode="L", size=(10, 8)):
    return Image.fromarray(np.full((size[1], size[0], 3), value, dtype=np.uint8)).convert(mode)


def _save(path, train, test=None, *, classes=("ant", "bee"), features=None):
    """A folder in the hub's layout; train and test are lists of (image, label)."""
    features = features or datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=list(classes))}
    )
    (path / "data").mkdir(parents=True)
    image, label = features
    for split, rows in (("train", train), ("test", test if test is not None else train)):
        table = datasets.Dataset.from_dict(
            {image: [r[0] for r in rows], label: [r[1] for r in rows]}, features=features
        )
        table.to_parquet(path / "data" / f"{split}-00000-of-00001.parquet")
    return str(path)


GOOD = [(_image(10 * i), i % 2) for i in range(6)]


def test_digits_are_built_in_and_split_for_good():
    data = load_dataset("digits")
    assert data.class_names == tuple("0123456789")
    assert (len(data.train_target), len(data.test_target)) == (1347, 450)
    assert torch.bincount(data.test_target).tolist() == [45, 46, 44, 46, 45, 46, 45, 45, 43, 45]
    images = data.inputs("test", torch.tensor([3, 0]))
    assert (images.shape, images.dtype, images.max()) == ((2, 1, 8, 8), torch.uint8, 255)
    assert torch.equal(images[1], data.inputs("test", torch.tensor([0]))[0])
    with pytest.raises(ValueError, match="'digits' is built in; image_mode and image_size do not apply"):
        load_dataset("digits", image_size=32)


def test_folder_is_read_by_feature_types(tmp_path):
    data = load_dataset(_save(tmp_path / "set", GOOD))
    assert data.class_names == ("ant", "bee")
    assert data.train_target.tolist() == [0, 1, 0, 1, 0, 1]
    images = data.inputs("train", torch.tensor([4, 1]))
    assert images.shape == (2, 1, 8, 10)
    assert images[:, 0, 0, 0].tolist() == [40, 10]


def test_many_images_are_decoded_in_parts_and_kept_in_a_file(tmp_path, monkeypatch):
    data = load_dataset(_save(tmp_path / "set", GOOD))
    rows = torch.tensor([5, 0, 3, 3, 1])
    expected = data.inputs("train", rows)
    monkeypatch.setattr("steelyard.data.hub._DECODED_TOGETHER", 2)
    monkeypatch.setattr("steelyard.data.images._LARGEST_IN_MEMORY", expected.numel() - 1)
    aside = tmp_path / "aside"
    aside.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(aside))
        images = data.inputs("train", rows)
    assert str(aside) in Path("/proc/self/maps").read_text()
    assert list(aside.iterdir()) == []  # nobody has to clean up
    assert torch.equal(images, expected)
    images.share_memory_()  # as on the way to other processes
    copy = pickle.loads(ForkingPickler.dumps(images))
    assert torch.equal(copy, expected)


def test_deep_images_are_not_cut_off(tmp_path):
    deep = Image.fromarray(np.arange(0, 60_000, 600, dtype=np.uint16).reshape(10, 10))
    folder = _save(tmp_path / "set", [(_image(size=(10, 10)), 0), (deep, 1)])
    with pytest.raises(ValueError, match=r"row 1 is of mode I;16, more than 8 bits a pixel"):
        load_dataset(folder, image_mode="L").inputs("train", torch.arange(2))


def test_classes_are_preferred_to_groups_of_them(tmp_path):
    kinds = {"fine_label": ["ant", "bee", "cat"], "coarse_label": ["insect", "mammal"]}
    features = datasets.Features(
        {"image": datasets.Image()} | {c: datasets.ClassLabel(names=n) for c, n in kinds.items()}
    )
    columns = {"image": [_image()] * 3, "fine_label": [0, 1, 2], "coarse_label": [0, 0, 1]}
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        table = datasets.Dataset.from_dict(columns, features=features)
        table.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    assert load_dataset(str(tmp_path)).class_names == ("ant", "bee", "cat")


def test_no_indices_give_no_images_of_the_right_shape(tmp_path):
    data = load_dataset(_save(tmp_path / "set", GOOD))
    assert data.inputs("test", torch.arange(0)).shape == (0, 1, 8, 10)


@pytest.mark.parametrize(
    ("split", "indices", "error", "message"),
    [
        ("valid", torch.arange(2), ValueError, "split must be one of 'train', 'test', got 'valid'"),
        ("test", torch.tensor([450]), IndexError, "indices must be from 0 to 449 in split test, got 450"),
        ("train", torch.tensor([3, -1]), IndexError, "indices must be from 0 to 1346 in split train, got -1"),
        (
            "train",
            torch.ones(1347, dtype=torch.bool),
            TypeError,
            r"indices must be integers .n,., got bool of shape",
        ),
    ],
)
def test_rows_that_are_none_are_refused(split, indices, error, message):
    with pytest.raises(error, match=message):
        load_dataset("digits").inputs(split, indices)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"image_mode": "CMYK"}, ValueError, "image_mode must be one of 'L', 'RGB', got 'CMYK'"),
        ({"image_size": 0}, ValueError, "image_size must be at least 1, got 0"),
        ({"image_size": 8.0}, TypeError, "image_size must be an int, got float"),
    ],
)
def test_bad_conversion_is_refused_before_reading(options, error, message):
    with pytest.raises(error, match=message):
        load_dataset("./nowhere", **options)


@pytest.mark.parametrize("split", ["train", "test"])
def test_label_beyond_the_class_names_is_named(tmp_path, split):
    folder = tmp_path / "set"
    _save(folder, GOOD)
    file = folder / "data" / f"{split}-00000-of-00001.parquet"
    table = pq.read_table(file)
    pq.write_table(table.set_column(1, table.schema.field(1), pa.array([0, 1, 0, 1, 0, 7])), file)
    with pytest.raises(
        ValueError, match=f"split {split}, column 'kind' has label 7 in row 5, but only 2 class names"
    ):
        load_dataset(str(folder))


def test_image_too_large_to_be_honest_is_listed_as_corrupt(tmp_path):
    """A file of a few kB that says it is 900 million pixels."""
    file = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(file, "PNG")
    data = load_dataset(_save(tmp_path / "set", [*GOOD, ({"bytes": file.getvalue(), "path": None}, 0)]))
    with pytest.raises(ValueError, match="has 1 image that cannot be decoded, in rows 6"):
        data.inputs("train", torch.arange(7))


@pytest.mark.parametrize("kind", ["int64", "uint8"])
def test_plain_integer_labels_are_taken_by_name(tmp_path, kind):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value(kind)})
    data = load_dataset(_save(tmp_path / "set", GOOD, features=features))
    assert data.class_names == ("0", "1")


def test_modes_and_sizes_are_converted_when_asked(tmp_path):
    rows = [(_image(9, "RGBA"), 0), (_image(9, "L", (20, 20)), 1), (_image(9, "P"), 0)]
    folder = _save(tmp_path / "set", rows)
    data = load_dataset(folder, image_mode="RGB", image_size=12)
    assert data.inputs("train", torch.arange(3)).shape == (3, 3, 12, 12)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(_image(), 0), (_image(mode="RGBA"), 1)], "split train, column 'picture', row 1 is of mode RGBA; say"),
        ([(_image(), 0), (_image(mode="RGB"), 1)], "row 1 is of mode RGB, others are L; say image_mode L or RGB"),
        ([(_image(), 0), (_image(size=(9, 9)), 1)], "row 1 is 9 x 9 pixels, others are 10 x 8; say image_size"),
    ],
)
def test_mixed_images_are_refused_unless_told(tmp_path, rows, message):
    data = load_dataset(_save(tmp_path / "set", rows))
    with pytest.raises(ValueError, match=message):
        data.inputs("train", torch.arange(2))


def test_corrupt_images_are_listed(tmp_path):
    bad = {"bytes": b"\x89PNG not an image", "path": None}
    data = load_dataset(_save(tmp_path / "set", [*GOOD, *[(bad, 0)] * 12]))
    with pytest.raises(
        ValueError, match=r"12 images that cannot be decoded, in rows 6, 7, .*15, \.\.\."
    ) as caught:
        data.inputs("train", torch.arange(18))
    assert "split train, column 'picture'" in str(caught.value)
    assert len(data.inputs("train", torch.arange(6))) == 6


@pytest.mark.parametrize(
    ("rows", "features", "message"),
    [
        ([(_image(), 0), (_image(), 0)], None, "split train, column 'kind' must hold at least two classes"),
        ([(_image(), 0), (_image(), -1)], None, "split train, column 'kind' has no label in row 1, got -1"),
        ([(_image(), 0), (_image(), None)], None, "split train, column 'kind' has no label in row 1, got None"),
        (
            [(None, 0), (None, 1)],
            {"nothing": datasets.Value("null"), "kind": datasets.ClassLabel(names=["a", "b"])},
            "has no column that is an input beside its label 'kind': nothing .neither numbers nor text.; name them",
        ),
        (
            [(_image(), "x"), (_image(), "y")],
            {"image": datasets.Image(), "words": datasets.Value("string")},
            "must have one label column, got no label column among image, words",
        ),
        (
            [(_image(), _image()), (_image(), _image())],
            {"left": datasets.Image(), "right": datasets.Image()},
            r"must have one image column, got several image columns \(left, right\)",
        ),
    ],
)
def test_unusable_data_gets_one_sentence(tmp_path, rows, features, message):
    folder = _save(tmp_path / "set", rows, features=features and datasets.Features(features))
    with pytest.raises(ValueError, match=message) as caught:
        load_dataset(folder)
    assert "\n" not in str(caught.value)


def test_class_without_training_samples_is_named(tmp_path):
    folder = _save(tmp_path / "set", GOOD, classes=("ant", "bee", "cat"))
    with pytest.raises(ValueError, match="column 'kind' has no sample of class 'cat'"):
        load_dataset(folder)


def test_a_test_split_is_made_where_there_is_none(tmp_path):
    folder = tmp_path / "set"
    _save(folder, GOOD * 2)
    (folder / "data" / "test-00000-of-00001.parquet").unlink()
    data = load_dataset(str(folder))
    assert data.reading.endswith("no test split: 4 of 12 rows are set aside for it, stratified, seed 0")
    values = {s: data.inputs(s, torch.arange(n))[:, 0, 0, 0].tolist() for s, n in (("train", 8), ("test", 4))}
    assert sorted(values["train"] + values["test"]) == sorted(10 * i for i in range(6) for _ in "12")
    for split, target in (("train", data.train_target), ("test", data.test_target)):
        assert [value // 10 % 2 for value in values[split]] == target.tolist()


def test_splits_of_which_none_is_for_training(tmp_path):
    _save(tmp_path, GOOD)
    (tmp_path / "data" / "train-00000-of-00001.parquet").rename(
        tmp_path / "data" / "validation-00000-of-00001.parquet"
    )
    with pytest.raises(ValueError, match="has no train split, only validation, test"):
        load_dataset(str(tmp_path))


def test_folder_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist or is not a folder"):
        load_dataset(str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"dataset folder .*empty cannot be read"):
        load_dataset(str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="unknown dataset 'digit'; did you mean 'digits'"):
        load_dataset("digit")
    with pytest.raises(
        ValueError, match="dataset name must be built in, a file, a folder, a function or a hub name, got ''"
    ):
        load_dataset("")


def test_hub_that_cannot_be_reached_says_so(monkeypatch):
    def refuse(name):
        raise OSError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset_builder", refuse)
    with pytest.raises(
        ConnectionError,
        match=r"neither built in .digits, digits-rotated, .*. nor a folder .*no route.* name a local folder",
    ):
        load_dataset("somebody/some-images")


def test_labels_of_images_may_be_texts(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "kind": datasets.Value("string")})
    folder = _save(tmp_path / "set", [(image, "bee" if k else "ant") for image, k in GOOD], features=features)
    data = load_dataset(folder, target="kind")
    assert data.class_names == ("ant", "bee")
    assert data.train_target.tolist() == [0, 1, 0, 1, 0, 1]
    with pytest.raises(ValueError, match="must have one label column, got no label column among image, kind"):
        load_dataset(folder, target="sort")
    with pytest.raises(ValueError, match="has no column 'site' for group, only image, kind"):
        load_dataset(folder, target="kind", group="site")
