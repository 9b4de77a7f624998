"""Files of predictions: every format gives the same numbers, and bad input gets one sentence."""

import builtins
import os
import pickle
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import torch

from steelyard.data import open_predictions
from steelyard.data.predictions import delimited

N, K = 10, 3
NAMES = ("cat", "dog", "sea_lion")
LOGITS = np.random.default_rng(0).normal(size=(N, K)).astype(np.float32)
LOGITS[4, 1], LOGITS[5, 2] = np.nan, -np.inf
TARGET = np.arange(N) % K


def list_table(kind=None, target=TARGET, **metadata):
    kind = kind or pa.list_(pa.float32(), K)
    return pa.table({"target": target, "logits": pa.array(LOGITS.tolist(), kind)}).replace_schema_metadata(
        metadata
    )


def class_table(target=TARGET, prefix="logit_"):
    return pa.table({f"{prefix}{name}": LOGITS[:, k] for k, name in enumerate(NAMES)} | {"label": target})


def save_csv(path, delimiter=",", bom="", table=None):
    table = table or class_table()
    lines = [table.column_names, *([repr(v) for v in row.values()] for row in table.to_pylist())]
    path.write_text(bom + "\n".join(delimiter.join(line) for line in lines) + "\n", encoding="utf-8")


def save_stream(path):
    table = list_table()
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)


def save_npy(path, dtype=np.float32, order="C"):
    np.save(path, np.asarray(LOGITS, dtype, order=order))
    np.save(path.with_name("labels.npy"), TARGET)


SAVERS = {
    "a.parquet": lambda p: pq.write_table(list_table(), p),
    "lists.parquet": lambda p: pq.write_table(list_table(pa.list_(pa.float64())), p, row_group_size=4),
    "large.parquet": lambda p: pq.write_table(list_table(pa.large_list(pa.float32())), p),
    "classes.parquet": lambda p: pq.write_table(class_table(prefix="logits."), p),
    "a.arrow": save_stream,
    "a.feather": lambda p: pa.feather.write_feather(class_table(prefix="logit "), p),
    "a.ipc": lambda p: pa.feather.write_feather(list_table(), p, compression="uncompressed"),
    "a.csv": save_csv,
    "semicolon.csv": lambda p: save_csv(p, ";", bom="\ufeff"),
    "quoted.csv": lambda p: pa.csv.write_csv(class_table(), p),
    "a.tsv": lambda p: save_csv(p, "\t"),
    "a.npz": lambda p: np.savez(p, logits=LOGITS, y=TARGET.astype(np.uint8)),
    "small.npz": lambda p: np.savez_compressed(p, logits=LOGITS.astype(">f8"), labels=TARGET.astype(np.float32)),
    "a.npy": save_npy,
    "fortran.npy": lambda p: save_npy(p, np.float64, "F"),
}


def opened(path, **options):
    if path.suffix == ".npy":
        options.setdefault("target", path.with_name("labels.npy"))
    return open_predictions(path, **options)


def read(path, rows=8192, **options):
    parts = list(opened(path, **options).batches(rows))
    assert all(0 < len(values) == len(target) <= rows for values, target in parts)
    return torch.cat([values for values, _ in parts]), torch.cat([target for _, target in parts])


@pytest.mark.parametrize("rows", [3, 8192])
@pytest.mark.parametrize("name", SAVERS)
def test_every_format_gives_the_same(tmp_path, name, rows):
    SAVERS[name](tmp_path / name)
    values, target = read(tmp_path / name, rows)
    assert values.dtype in (torch.float32, torch.float64)
    assert np.array_equal(values.numpy().astype(np.float32), LOGITS, equal_nan=True)
    assert target.dtype == torch.int64
    assert target.tolist() == TARGET.tolist()
    found = opened(tmp_path / name)
    assert found.num_classes == K
    by_class = found.path.stem in ("classes", "semicolon", "quoted") or found.path.suffix in (
        ".csv",
        ".tsv",
        ".feather",
    )
    assert found.class_names == (NAMES if by_class else None)
    assert [t.tolist() for _, t in found.batches()] == [t.tolist() for _, t in found.batches()]


def test_csv_of_many_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "CSV_BLOCK", 128)
    save_csv(tmp_path / "a.csv")
    assert len(list(opened(tmp_path / "a.csv").batches())) > 2
    assert read(tmp_path / "a.csv", 3)[1].tolist() == TARGET.tolist()


def test_metadata_of_an_experiment(tmp_path):
    told = {"steelyard.loss": "Softmax", "steelyard.link": "softmax", "steelyard.class_names": "\x1f".join(NAMES)}
    pq.write_table(list_table(**told), tmp_path / "a.parquet")
    found = open_predictions(tmp_path / "a.parquet")
    assert (found.class_names, found.link, found.loss) == (NAMES, "softmax", "Softmax")
    assert found.logit_adjustment is None


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("-0.5 -1.25e-05 2.0", (-0.5, -1.25e-05, 2.0)),
        ("-0.5 -1.0", None),
        ("-0.5 nan 2.0", None),
        ("-0.5 1e999 2.0", None),
    ],
)
def test_logit_adjustment_of_an_experiment(tmp_path, text, values):
    pq.write_table(list_table(**{"steelyard.logit_adjustment": text}), tmp_path / "a.parquet")
    assert open_predictions(tmp_path / "a.parquet").logit_adjustment == values


@pytest.mark.parametrize("kind", [pa.float16(), pa.int8(), pa.int64(), pa.float64()])
def test_dtypes(tmp_path, kind):
    table = pa.table(
        {"logits": pa.array([[1, 2], [3, 4]], pa.list_(pa.int64())).cast(pa.list_(kind)), "y": [0, 1]}
    )
    if kind == pa.float16():
        table = pa.table({"logit_a": pa.array(np.array([1, 3], np.float16)), "logit_b": [2, 4], "y": [0, 1]})
    pa.feather.write_feather(table, tmp_path / "a.arrow")
    values, _ = read(tmp_path / "a.arrow")
    assert values.tolist() == [[1, 2], [3, 4]]


def test_mixed_columns_become_double(tmp_path):
    (tmp_path / "a.csv").write_text("logit_cat,logit_dog,y\n1,2.5,1.0\n1e300,4,0\n")
    values, target = read(tmp_path / "a.csv")
    assert values.tolist() == [[1, 2.5], [1e300, 4]]
    assert target.tolist() == [1, 0]


def test_half_precision_becomes_single(tmp_path):
    np.savez(tmp_path / "a.npz", logits=LOGITS.astype(np.float16), y=TARGET)
    assert read(tmp_path / "a.npz")[0].dtype == torch.float32


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string()), "csv", "npz"]
)
def test_labels_by_name(tmp_path, kind):
    words = [NAMES[t] for t in TARGET]
    if kind == "csv":
        path = tmp_path / "a.csv"
        pa.csv.write_csv(class_table(words), path)
        assert read(path)[1].tolist() == TARGET.tolist()
    elif kind == "npz":
        path = tmp_path / "a.npz"
        np.savez(path, logits=LOGITS, y=np.array(words))
    else:
        path = tmp_path / "a.arrow"
        pa.feather.write_feather(list_table(target=pa.array(words).cast(kind)), path)
    assert read(path, rows=4, class_names=NAMES)[1].tolist() == TARGET.tolist()
    absent = "has no column of logits for the class eel: there are logit_cat, logit_dog, logit_sea_lion"
    unknown = r"must hold class names \(cat, dog, eel\), got 'sea_lion' in row 2"
    with pytest.raises(ValueError, match=absent if kind == "csv" else unknown):
        read(path, rows=1, class_names=["cat", "dog", "eel"])


def test_text_labels_need_an_order(tmp_path):
    pq.write_table(list_table(target=["cat"] * N), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="column 'target' holds text, which needs class_names"):
        open_predictions(tmp_path / "a.parquet")


def test_columns_named_after_the_values_are_chosen(tmp_path):
    table = class_table().append_column("id", [list(range(N))]).append_column("prob_cat", [[0.5] * N])
    table = table.append_column("prob_dog", [[0.5] * N])
    pq.write_table(table, tmp_path / "a.parquet")
    assert open_predictions(tmp_path / "a.parquet").class_names == NAMES
    assert open_predictions(tmp_path / "a.parquet", values="probabilities").class_names == ("cat", "dog")


def test_text_and_index_columns_are_left_out(tmp_path):
    (tmp_path / "a.csv").write_text(",file,a,b,y\n0,x.png,1,2.5,a\n1,y.png,3,4,b\n")
    found = open_predictions(tmp_path / "a.csv")
    assert found.class_names == ("a", "b")
    assert found.reading == "logits: a, b; label: y; left out: (no name), file"
    assert read(tmp_path / "a.csv")[0].tolist() == [[1, 2.5], [3, 4]]


def test_other_values_and_target(tmp_path):
    np.savez(tmp_path / "a.npz", features=LOGITS, truth=np.arange(N), y=TARGET, label=TARGET)
    _, target = read(tmp_path / "a.npz", values="features", target="truth")
    assert target.tolist() == list(range(N))  # of features, K is not the number of classes
    with pytest.raises(ValueError, match=r"labels from 0 to 3, got 4 in row 4"):
        read(tmp_path / "a.npz", values="features", target="truth", class_names=list("abcd"))


# Bad input


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("missing.csv", FileNotFoundError, "missing.csv does not exist"),
        ("folder.csv", FileNotFoundError, "folder .*folder.csv holds no tables of predictions .*: it has nothing"),
        ("pipe.csv", ValueError, "is not a regular file"),
        ("a.csv.bz2", ValueError, r"known kind \(.parquet, .arrow, .*, got suffix '.bz2'"),
        ("wrong.csv.gz", ValueError, "wrong.csv.gz cannot be read, it may be damaged: Not a gzipped file"),
        ("a.pt", ValueError, "got suffix '.pt'"),
        ("wrong.parquet", ValueError, "wrong.parquet is not a Parquet file: it begins with b'PK"),
        ("wrong.arrow", ValueError, "is not an Arrow file: it begins with"),
        ("wrong.npz", ValueError, "is not an NPZ file: it begins with b'0"),
        ("wrong.npy", ValueError, "is not an NPY file: it begins with"),
        ("wrong.csv", ValueError, "wrong.csv is not a .csv file: it does not hold text"),
        ("empty.parquet", ValueError, "not a Parquet file: it begins with b''"),
        ("short.parquet", ValueError, "truncated Parquet file"),
        ("short.npz", ValueError, "short.npz cannot be read, it may be damaged"),
        ("short.npy", ValueError, "must hold 120 bytes of data, got 100; is it truncated"),
        ("short.ipc", ValueError, "short.ipc cannot be read, it may be damaged"),
        ("short.arrow", ValueError, "short.arrow cannot be read, it may be damaged"),
    ],
)
def test_bad_files(tmp_path, name, error, message):
    path = tmp_path / name
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    np.save(tmp_path / "labels.npy", TARGET)
    if name.startswith(("a.", "empty")):
        path.touch()
    elif name.startswith("wrong"):
        path.write_bytes(b"0,1\n" * 20 if name.endswith("npz") else b"PK\x03\x04\0\0\0\0")
    elif name.startswith("short"):
        SAVERS["a" + path.suffix](path)
        path.write_bytes(path.read_bytes()[: -300 if path.suffix == ".arrow" else -20])
    with pytest.raises(error, match=message):
        read(path)


BAD_TABLES = [
    ({"target": [], "logits": pa.array([], pa.list_(pa.float32()))}, "has no rows"),
    ({"logits": [[1.0]]}, r"must have one column of labels \(target, label, labels, y, y_true, label_ids\), got none; .* columns are logits"),
    ({"logit_a": [1.0], "y": [0], "label": [0]}, "got y, label; name it as target: its columns are logit_a, y, label"),
    ({"logits": ["a"], "y": [0]}, "column 'logits' must hold numbers, or lists of them, got string"),
    ({"logits": [["a"]], "y": [0]}, r"must hold numbers, or lists of them, got list<\w+: string>"),
    ({"logits": [{"a": 1}], "y": [0]}, "must hold numbers, or lists of them, got struct<a: int64>"),
    ({"logit_a": [1.0], "logit_b": ["x"], "y": [0]}, "column 'logit_b' must hold numbers, or lists of them, got string"),
    ({"name": ["x"], "y": [0]}, r"does not say which columns are its logits: beside the label 'y' it has name \(string\)"),
    ({"logits": [[1.0, 2], None], "y": [0, 1]}, "column 'logits' must have a value in every row, got null in row 1"),
    ({"logits": [None, [1.0, 2]], "y": [0, 1]}, "got null in row 0"),
    ({"logits": [[1.0, 2]] * 3 + [[1, None]], "y": [0] * 4}, "column 'logits' must have a value in every row, got null in row 3"),
    ({"logit_a": [1.0, 2, 3, None], "logit_b": [1] * 4, "y": [0] * 4}, "column 'logit_a' must have a value in every row, got null in row 3"),
    ({"logit_a": [1.0, 2, 3], "logit_b": [1] * 3, "y": [0, 0, None]}, "column 'y' must have a value in every row, got null in row 2"),
    ({"logits": [[1.0, 2]] * 3 + [[1.0]], "y": [0] * 4}, "column 'logits' must hold 2 numbers in every row, got 1 in row 3"),
    ({"logits": pa.array([[]], pa.list_(pa.float32())), "y": [0]}, "must hold at least one number a row, got none in row 0"),
    ({"logit_a": [1.0] * 4, "logit_b": [1] * 4, "y": [0, 1, 1, 2]}, "column 'y' must hold labels from 0 to 1, got 2 in row 3"),
    ({"logit_a": [1.0] * 4, "logit_b": [1] * 4, "y": [0, 1, 1, -100]}, "got -100 in row 3"),
    ({"logit_a": [1.0] * 4, "logit_b": [1] * 4, "y": [0, 1, 1, 0.5]}, "labels from 0 to 1, got 0.5 in row 3"),
    ({"logit_a": [1.0], "logit_b": [1], "y": [float("nan")]}, "got nan in row 0"),
    ({"logit_a": [1.0], "logit_b": [1], "y": pa.array([2**64 - 1], pa.uint64())}, "got 18446744073709551615 in row 0"),
    ({"logit_a": pa.array([1]).cast(pa.decimal128(19)), "logit_b": [1], "y": [0]}, r"column 'logit_a' must hold numbers, or lists of them, got decimal128"),
    ({"logit_a": [1.0], "logit_b": [1], "y": [[0]]}, "must hold integers or class names, got list"),
]  # fmt: skip


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
@pytest.mark.parametrize(("columns", "message"), BAD_TABLES)
def test_bad_tables(tmp_path, columns, message, suffix):
    path, table = tmp_path / f"a{suffix}", pa.table(columns)
    pq.write_table(table, path) if suffix == ".parquet" else pa.feather.write_feather(table, path)
    with pytest.raises((ValueError, TypeError), match=message):
        read(path, rows=2)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".csv"])
def test_column_names_must_differ(tmp_path, suffix):
    path, table = tmp_path / f"a{suffix}", pa.table([[1.0], [2.0], [0]], names=["a", "a", "y"])
    {".parquet": pq.write_table, ".arrow": pa.feather.write_feather, ".csv": pa.csv.write_csv}[suffix](table, path)
    with pytest.raises(ValueError, match="must have columns of different names, got 'a' twice"):
        read(path)


ROW = "0.5,1.5,0\n"
BAD_CSV = [
    ("", "has no rows"),
    ("logit_a,logit_b,y", "has no rows"),
    ("logit_a,logit_b,y\n\n", "has no rows"),
    ("logit_a,logit_b,y\n" + ROW * 5 + "0.5,=cmd|' /C calc'!A0,0\n" + ROW, "column 'logit_b' must hold numbers, got .=cmd|' /C calc'!A0. in row 5"),
    ("logit_a,logit_b,y\n0.5,=cmd|x,0\n", "column 'logit_b' must hold numbers, got '=cmd|x' in row 0"),
    ("logit_a,logit_b,y\n" + ROW * 5 + "0.5,1e,0\n", "column 'logit_b' must hold numbers, got '1e' in row 5"),
    ("logit_a;logit_b;y\n0,5;1;0\n1.5;2;0\n", "column 'logit_a' must hold numbers, got '0,5' in row 0"),
    ("logit_a;logit_b;y\n" + "0,5;1;0\n" * 50 + "1.5;2;0\n", "column 'logit_a' must hold numbers, got '1.5' in row 50"),
    ("logit_a,logit_b,y\n" + ROW * 5 + "0.5,0\n", "must have 3 cells a row, got 2 in row 5"),
    ("logit_a,logit_b,y\n" + "0.5,0\n", "must have 3 cells a row, got 2 in row 0"),
    ("logit_a,logit_b,y\n" + ROW * 5 + "0.5,1,0,7\n", "must have 3 cells a row, got 4 in row 5"),
    ("logit_a,logit_b,y\n" + ROW * 5 + ",1,0\n", "column 'logit_a' must have a value in every row, got null in row 5"),
    ("logit_a,logit_b,y\n,1,0\n", "column 'logit_a' must have a value in every row, got null in row 0"),
    ("logit_a,logit_b,y\n" + ROW * 5 + "1,1,\n", "column 'y' must have a value in every row, got null in row 5"),
    ("logit_a,logit_b,y\n" + ROW * 5 + "1,1,dog\n", "column 'y' must hold class names .a, b., got '0' in row 0"),
    ("logit_a,logit_b,y\n" + ROW * 50 + "1,1,dog\n", "column 'y' must hold numbers, got 'dog' in row 50"),
    ("logit_a,logit_b,y\n" + ROW * 5 + "1,1,1.5\n", "column 'y' must hold labels from 0 to 1, got 1.5 in row 5"),
    ("logit_a,logit_b,y\n" + ROW * 5 + "1,1," + "1" * 500 + "\n", "has a line longer than 256 bytes"),
    ("a" * 500 + ",b,y\n" + ROW, "has a line longer than 256 bytes"),
    ("logit_a\0,b,y\n" + ROW, "does not hold text"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD_CSV)
def test_bad_csv(tmp_path, monkeypatch, text, message):
    monkeypatch.setattr(delimited, "CSV_BLOCK", 256)
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read(path, rows=2)


def test_csv_of_another_encoding(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"logit_\xff,b,y\n1,2,0\n")
    with pytest.raises(ValueError, match="cannot be read"):
        read(tmp_path / "a.csv")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


BAD_ARRAYS = [
    (np.zeros((0, 2)), np.zeros(0, int), ValueError, r"has no rows, its shape is \(0, 2\)"),
    (np.zeros(3), np.zeros(4, int), ValueError, r"has 3 rows, but .* has 4"),
    (np.zeros((3, 2, 1)), np.zeros(3, int), ValueError, r"must have shape \(N, K\), or \(N,\) for one output, got \(3, 2, 1\)"),
    (np.zeros((3, 2)), np.zeros((3, 1), int), ValueError, r"must have shape \(N,\), or \(N, K\) of 0 and 1 for K outputs, got \(3, 1\)"),
    (np.zeros((3, 2)), np.zeros(4, int), ValueError, "logits.* has 3 rows, but .* has 4"),
    (np.zeros((3, 2)), np.array([0, 1, 2]), ValueError, "must hold labels from 0 to 1, got 2 in row 2"),
    (np.zeros((3, 2)), np.array([0, 1, 0.5]), ValueError, "got 0.5 in row 2"),
    (np.zeros((3, 2)), np.array(["a", "b", "a"]), ValueError, "holds text, which needs class_names"),
    (np.zeros((3, 2), complex), np.zeros(3, int), TypeError, "must hold floating or integer numbers, got complex128"),
    (np.zeros((3, 2), bool), np.zeros(3, int), TypeError, "got bool"),
    (np.zeros(3, [("a", int), ("b", int)]), np.zeros(3, int), TypeError, "must hold floating or integer numbers"),
    (np.array([[Bomb()]]), np.zeros(1, int), TypeError, "got Python objects, which are never unpickled"),
    (np.zeros((1, 2)), np.array([Bomb()]), TypeError, "got Python objects, which are never unpickled"),
]  # fmt: skip


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize(("logits", "target", "error", "message"), BAD_ARRAYS)
def test_bad_arrays(tmp_path, logits, target, error, message, suffix):
    path = tmp_path / f"logits{suffix}"
    if suffix == ".npy":
        np.save(path, logits)
        np.save(tmp_path / "labels.npy", target)
    else:
        np.savez(path, logits=logits, y=target)
    with pytest.raises(error, match=message):
        read(path)


def test_bad_archives(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, margins=LOGITS, y=TARGET)
    with pytest.raises(ValueError, match=r"does not say which arrays are its logits: .* --logits margins"):
        open_predictions(path)
    with pytest.raises(ValueError, match="must have the array 'truth', its arrays are margins, y"):
        open_predictions(path, columns="margins", target="truth")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("logits.npy", pickle.dumps(Bomb()))
        archive.writestr("y.npy", b"\x93NUMPY\x01\x00")
    with pytest.raises(ValueError, match="array 'logits' is not an array in NPY format"):
        open_predictions(path)
    np.savez(path, logits=LOGITS, y=TARGET)
    content = bytearray(path.read_bytes())
    content[content.index(LOGITS.tobytes()) + 7] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="Bad CRC-32"):
        read(path)


def test_array_needs_a_file_of_labels(tmp_path):
    save_npy(tmp_path / "a.npy")
    with pytest.raises(ValueError, match="holds no labels: give target"):
        open_predictions(tmp_path / "a.npy")
    with pytest.raises(FileNotFoundError, match=r"none.npy does not exist"):
        open_predictions(tmp_path / "a.npy", target=tmp_path / "none.npy")


def test_bad_class_names(tmp_path):
    path = tmp_path / "a.csv"
    save_csv(path)
    for names, error, message in [
        (
            ["a", "b"],
            ValueError,
            "does not say which columns are its logits: .*, the class names are a, b; name them",
        ),
        (
            ["dog", "cat", "sea_lion"],
            ValueError,
            "has columns in the order cat, dog, sea_lion, class names are dog, cat",
        ),
        (
            ["a", "b", "c"],
            ValueError,
            "does not say which columns are its logits: .* --logits logit_cat,logit_dog",
        ),
        ("cat", TypeError, "class_names must be a sequence of str, got 'cat'"),
        ([0, 1, 2], TypeError, r"class_names must be a sequence of str, got \[0, 1, 2\]"),
    ]:
        with pytest.raises(error, match=message):
            open_predictions(path, class_names=names)


def test_bad_rows(tmp_path):
    save_csv(tmp_path / "a.csv")
    found = open_predictions(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="rows must be at least 1, got 0"):
        found.batches(0)
    with pytest.raises(TypeError, match="rows must be an int, got float"):
        found.batches(2.0)


def test_without_pyarrow(tmp_path, monkeypatch):
    SAVERS["a.parquet"](tmp_path / "a.parquet")
    SAVERS["a.npz"](tmp_path / "a.npz")
    real = builtins.__import__

    def without(name, *args, **options):
        if name.startswith("pyarrow"):
            raise ImportError
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"reading parquet needs pyarrow: pip install 'steelyard\[train\]'"):
        open_predictions(tmp_path / "a.parquet")
    assert len(read(tmp_path / "a.npz")[0]) == N


def test_one_number_a_row_is_a_binary_output(tmp_path):
    pq.write_table(pa.table({"target": [0, 1, 1], "logits": [[0.5], [1.0], [-1.0]]}), tmp_path / "a.parquet")
    opened = open_predictions(tmp_path / "a.parquet", class_names=["no", "yes"])
    assert opened.num_classes == 1
    assert torch.cat([y for _, y in opened.batches()]).tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match="has 1 numbers a row, but there are 3 class names"):
        open_predictions(tmp_path / "a.parquet", class_names=["a", "b", "c"])


@pytest.mark.parametrize("labels", [[0, None, 1, -100], [0.0, float("nan"), 1.0, -100.0], ["a", None, "b", None]])
def test_missing_labels_are_ignored_where_that_is_asked_for(tmp_path, labels):
    file = tmp_path / "p.parquet"
    pq.write_table(pa.table({"logits": [[1.0, 2.0]] * 4, "y": labels}), file)
    opened = open_predictions(file, class_names=["a", "b"], missing_labels="ignore")
    assert torch.cat([y for _, y in opened.batches()]).tolist() == [0, -100, 1, -100]
    with pytest.raises(ValueError, match="row 1"):
        list(open_predictions(file, class_names=["a", "b"]).batches())


def test_wrong_labels_are_named_beside_missing_ones(tmp_path):
    pq.write_table(pa.table({"logits": [[1.0, 2.0]] * 4, "y": [None, 0, None, 7]}), tmp_path / "p.parquet")
    with pytest.raises(ValueError, match=r"must hold labels from 0 to 1, got 7\.0 in row 3"):
        list(open_predictions(tmp_path / "p.parquet", missing_labels="ignore").batches())
