"""Which columns are the numbers: what is left over is never a class, and what was read is told."""

import gzip
import itertools

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.data import open_predictions

N = 24
CLASSES = ("cat", "dog", "owl")
LABELS = np.arange(N) % 3
LOGITS = np.random.default_rng(0).normal(size=(N, 3))
WORDS = [CLASSES[k] for k in LABELS]
OTHERS = {
    "id": np.arange(N),
    "": np.arange(N),
    "Unnamed: 0": np.arange(N),
    "__index_level_0__": np.arange(N),
    "fold": LABELS % 2,
    "pred": LABELS,
    "label_2": LABELS,
    "file": [f"{k}.png" for k in range(N)],
}


def columns_of(prefix="", names=CLASSES, values=LOGITS):
    return {f"{prefix}{name}": values[:, k] for k, name in enumerate(names)}


def save(path, columns):
    table = pa.table(columns)
    pa.csv.write_csv(table, path) if path.suffix == ".csv" else pq.write_table(table, path)
    return path


def read(path, **options):
    found = open_predictions(path, **options)
    parts = list(found.batches())
    return (
        found,
        torch.cat([rows for rows, _ in parts]).numpy(),
        torch.cat([labels for _, labels in parts]).tolist(),
    )


def refused(path, message, **options):
    with pytest.raises((ValueError, TypeError), match=message) as error:
        open_predictions(path, **options)
    assert "\n" not in str(error.value)


# What is left over is never a class


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("prefix", "labels"), [("", WORDS), ("logit_", WORDS), ("logits.", LABELS), ("score ", WORDS)]
)
@settings(max_examples=8, deadline=None)
@given(order=st.permutations(["label", *OTHERS, "numbers"]), kept=st.sets(st.sampled_from(sorted(OTHERS))))
def test_other_columns_change_nothing(tmp_path_factory, suffix, prefix, labels, order, kept):
    own = columns_of(prefix)
    columns = {}
    for name in order:
        if name == "numbers":
            columns |= own
        elif name == "label":
            columns["label"] = labels
        elif name in kept:
            columns[name] = OTHERS[name]
    found, rows, target = read(save(tmp_path_factory.mktemp("t") / f"t{suffix}", columns))
    np.testing.assert_array_equal(rows, LOGITS)
    assert target == LABELS.tolist()
    assert found.class_names == CLASSES
    assert found.columns == tuple(own)


def test_what_was_read_is_told(tmp_path):
    path = save(tmp_path / "t.csv", {"id": OTHERS["id"], **columns_of(), "fold": OTHERS["fold"], "label": WORDS})
    assert open_predictions(path).reading == "logits: cat, dog, owl; label: label; left out: id, fold"
    many = {f"logit_{k}": LOGITS[:, 0] for k in range(50)} | {"y": LABELS}
    reading = open_predictions(save(tmp_path / "m.parquet", many)).reading
    assert reading == "logits: logit_0, logit_1, ..., logit_49 (50); label: y"


@settings(max_examples=20, deadline=None)
@given(
    order=st.permutations(range(12)),
    prefix=st.sampled_from(["logit_", "logits-", "score", "logit.", "", "Logit_"]),
)
def test_numbers_tell_the_order(tmp_path_factory, order, prefix):
    values = np.random.default_rng(1).normal(size=(N, 12))
    columns = {f"{prefix}{k}": values[:, k] for k in order} | {"y": np.arange(N) % 12, "fold": LABELS}
    path = save(tmp_path_factory.mktemp("t") / "t.parquet", columns)
    np.testing.assert_array_equal(read(path)[1], values)
    if prefix:
        np.testing.assert_array_equal(read(path, columns=f"{prefix}*")[1], values)


def test_names_tell_the_order_of_text_labels(tmp_path):
    path = save(tmp_path / "t.csv", {**columns_of("prob_"), "y": WORDS})
    found, rows, target = read(path, values="probabilities", class_names=["owl", "cat", "dog"])
    np.testing.assert_array_equal(rows, LOGITS[:, [2, 0, 1]])
    assert [found.class_names[k] for k in target] == WORDS
    # of integer labels it is not known whether the names or the columns are in their order
    refused(
        save(tmp_path / "u.csv", {**columns_of("prob_"), "y": LABELS}),
        "has columns in the order cat, dog, owl, class names are owl, cat, dog",
        values="probabilities",
        class_names=["owl", "cat", "dog"],
    )


def test_booleans_are_labels(tmp_path):
    flags = [bool(k) for k in LABELS % 2]
    for suffix in (".csv", ".parquet"):
        one = save(tmp_path / f"t{suffix}", {"logit": LOGITS[:, 0], "y": flags})
        assert read(one)[2] == (LABELS % 2).tolist()
    turned = {"True": LOGITS[:, 1], "False": LOGITS[:, 0], "y": flags}
    for suffix in (".csv", ".parquet"):
        found, rows, target = read(save(tmp_path / f"v{suffix}", turned))
        np.testing.assert_array_equal(rows, LOGITS[:, :2])
        assert (found.class_names, target) == (("False", "True"), (LABELS % 2).tolist())
    np.savez(tmp_path / "w.npz", logits=LOGITS[:, :2], y=np.array(flags))
    assert read(tmp_path / "w.npz")[2] == (LABELS % 2).tolist()


# One score a row


@pytest.mark.parametrize("name", ["score", "logit", "y_score", "decision_function"])
def test_a_score_is_one_binary_output(tmp_path, name):
    columns = {"y_true": LABELS % 2, name: LOGITS[:, 0], "y_pred": LABELS % 2}
    found, rows, target = read(save(tmp_path / "t.csv", columns), target="y_true")
    np.testing.assert_array_equal(rows, LOGITS[:, :1])
    assert (found.num_classes, target) == (1, (LABELS % 2).tolist())
    assert found.reading == f"logits: {name}; label: y_true; left out: y_pred"
    refused(
        save(tmp_path / "u.csv", {"y_true": LABELS % 2, "margin": LOGITS[:, 0], "y_pred": LABELS % 2}),
        r"does not say which columns are its logits: .* margin \(double\), y_pred \(int64\); .* --logits margin,",
    )


def test_one_output_is_that_of_the_second_class(tmp_path):
    path = save(tmp_path / "t.csv", {"prob_yes": LOGITS[:, 0], "y": ["no", "yes"] * 12})
    options = {"values": "probabilities"}
    assert read(path, class_names=["no", "yes"], **options)[0].num_classes == 1
    refused(path, "no column of probabilities for the class no", class_names=["yes", "no"], **options)


# By option


def test_columns_are_named(tmp_path):
    path = save(tmp_path / "t.csv", {**columns_of("m_"), "a,b": OTHERS["id"], "z[0]": LABELS, "class": WORDS})
    for columns in ("m_*", "m_cat,m_dog, m_owl", ["m_*"], ["m_cat", "m_d*", "m_ow?"]):
        found, rows, _ = read(path, columns=columns, target="class")
        np.testing.assert_array_equal(rows, LOGITS)
        assert found.class_names == CLASSES
    assert read(path, columns="a,b", target="z[0]", values="features")[0].columns == ("a,b",)
    assert read(path, columns="z[0]", target="class", values="features", class_names=CLASSES)[0].columns == (
        "z[0]",
    )
    refused(path, "has no column 'q_.', its columns are m_cat, m_dog", columns="m_*,q_*", target="class")
    refused(path, "column 'm_cat' is named twice", columns="m_cat,m_*", target="class")
    refused(path, "column 'class' is the label", columns="class", target="class")
    refused(path, r"columns must be a str or a sequence of str, got \[0, 1\]", columns=[0, 1], target="class")


def test_a_pattern_takes_no_numbers_with_gaps(tmp_path):
    path = save(tmp_path / "t.csv", {"logit_1": LOGITS[:, 0], "logit_2": LOGITS[:, 1], "y": LABELS % 2})
    for options in ({}, {"columns": "logit_*"}):
        refused(
            path, "must number its logits from 0 without gaps, but of logit_1 and others there is no 0", **options
        )
    np.testing.assert_array_equal(read(path, columns="logit_2,logit_1")[1], LOGITS[:, 1::-1])
    found = read(path, columns="logit_*", values="features")
    np.testing.assert_array_equal(found[1], LOGITS[:, :2])


def test_names_of_classes_may_end_in_brackets_and_hold_line_ends(tmp_path):
    names = ("cat", "dog (small)", "owl\nnight")
    found, rows, _ = read(save(tmp_path / "t.parquet", {**columns_of("logit_", names), "y": LABELS}))
    assert found.class_names == names
    np.testing.assert_array_equal(rows, LOGITS)
    found, _, _ = read(
        save(tmp_path / "u.parquet", {"logit[a]": LOGITS[:, 0], "logit[b]": LOGITS[:, 1], "y": LABELS % 2})
    )
    assert found.class_names == ("a", "b")


def test_labels_of_outputs_are_found_by_the_end_of_their_names(tmp_path):
    """Although the labels share more than a prefix."""
    names = ("car_red", "car_blue")
    multi = {f"label_{name}": (k == LABELS).astype(int) for k, name in enumerate(names)}
    path = save(tmp_path / "t.csv", {**columns_of("logit_", names), **multi})
    found, _, target = read(path, target="label_*")
    assert found.class_names == names
    np.testing.assert_array_equal(target, np.stack(list(multi.values()), 1))


def test_a_pattern_that_is_proposed_names_the_columns(tmp_path):
    path = save(tmp_path / "t.csv", {"a,b": LOGITS[:, 0], "c": LOGITS[:, 1], "y": LABELS % 2})
    np.testing.assert_array_equal(read(path, columns="a?b,c")[1], LOGITS[:, :2])


# What does not fit is refused


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"a": 0, "b": 1, "id": 2}, {}, r"beside the label 'y' it has a \(double\), b \(double\), .* name them, such as --logits a,b,id"),
        ({"logit_0": 0, "logit_2": 1}, {}, "without gaps, but of logit_0 and others there is no 1"),
        ({"logit_0": 0, "logit_1": 1, "logit_max": 1}, {}, "numbers some columns .logit_0. and not others .logit_max."),
        ({"logit_cat": 0, "logit_dog": 1}, {"class_names": CLASSES}, "no column of logits for the class owl: there are logit_cat, logit_dog"),
        ({"cat": 0, "dog": 1}, {"class_names": CLASSES}, "no column of logits for the class owl"),
        ({"m_cat": 0, "m_dog": 1, "m_cow": 2}, {"class_names": CLASSES, "columns": "m_*"}, "no column of logits for the class owl"),
        ({"logit_0": 0, "logit_1": 1}, {"class_names": CLASSES}, "has 2 numbered columns of logits, but there are 3 class names"),
        ({"logit_cat": 0, "logit_dog": 1, "logits.cat": 0, "logits.dog": 1}, {}, "several columns that may be its logits: logit_cat, logits.cat"),
        ({"prob_cat": 0, "prob_dog": 1, "prob_owl": 2}, {}, "has probabilities by the name of its column 'prob_cat' and no logits; .* --from probabilities"),
        ({"is_cat": 0, "is_dog": 1, "is_owl": 2}, {"class_names": CLASSES}, "does not say .* the class names are cat, dog, owl; name them, such as --logits is_cat"),
        ({"age": 0, "income": 1}, {"values": "features"}, "which columns are its features: .* --features age,income"),
        ({"score_mean": 0, "score_max": 1}, {}, "does not say which columns are its logits"),
        ({"f0": 0, "f1": 1, "x_1": 2}, {"values": "features"}, "several columns that may be its features: f0, x_1; .* --features f0,f1,"),
        ({"2019": 0, "2020": 1}, {}, "without gaps, but of 2019 and others there is no 0"),
        ({"Logit_0": 0, "logit_0": 1, "logit_1": 2}, {}, "several columns that may be its logits: Logit_0, logit_0; "),
        ({"a,b": 0, "c": 1}, {}, r"name them, such as --logits 'a\?b,c'"),
    ],
)  # fmt: skip
def test_refused(tmp_path, columns, options, message):
    path = save(tmp_path / "t.csv", {name: LOGITS[:, k] for name, k in columns.items()} | {"y": LABELS})
    refused(path, message, **options)


def test_a_logit_that_is_text_is_refused_without_labels(tmp_path):
    path = save(tmp_path / "t.csv", {"logit": ["x", "y"], "a": [1, 2]})
    refused(path, "logit", label="optional")


def test_a_column_that_may_be_a_class_without_samples_is_no_guess(tmp_path):
    labels = ["cat", "dog"] * 12
    path = save(tmp_path / "t.csv", {**columns_of(), "id": OTHERS["id"], "label": labels})
    refused(
        path, r"called as labels are \(cat, dog\) and others of floating numbers \(owl\), .* --logits cat,dog,"
    )
    assert read(path, class_names=CLASSES)[0].columns == CLASSES
    assert read(path, columns=CLASSES)[0].class_names == CLASSES


def test_a_list_of_another_name_is_named(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"embedding": LOGITS.tolist(), "y": LABELS}), path)
    refused(path, r"it has embedding \(list<.*>\); name them, such as --logits embedding")
    assert read(path, columns="embedding")[0].num_classes == 3
    assert read(path, values="features")[0].reading == "features: embedding; label: y"
    pq.write_table(pa.table({"scores": LOGITS.tolist(), "outputs": LOGITS.tolist(), "y": LABELS}), path)
    refused(path, "several columns that may be its logits: scores, outputs; name them, such as --logits scores")


# Features


@pytest.mark.parametrize("prefix", ["feature_", "f", "x", "emb.", ""])
def test_features_are_numbered(tmp_path, prefix):
    values = np.random.default_rng(1).normal(size=(N, 12))
    columns = {"id": OTHERS["id"], "Unnamed: 0": OTHERS["id"], "feature_id": LABELS, "y": LABELS}
    columns |= {f"{prefix}{k}": values[:, k] for k in sorted(range(12), key=str)}
    found, rows, _ = read(save(tmp_path / "t.csv", columns), values="features")
    np.testing.assert_array_equal(rows, values)
    assert found.reading.endswith("left out: id, Unnamed: 0, feature_id")


# Arrays


def test_arrays_are_known_by_their_usual_names(tmp_path):
    path = tmp_path / "t.npz"
    for arrays in (
        {"predictions": LOGITS, "label_ids": LABELS},
        {"arr_0": LOGITS, "arr_1": LABELS},
        {"arr_0": LABELS, "arr_1": LOGITS},
        {"scores": LOGITS, "y_true": LABELS, "ids": LABELS},
        {"logits": LOGITS, "scores": LOGITS, "label": LABELS},
        {"logits": np.asfortranarray(LOGITS), "label": LABELS},
        {"logits": np.asfortranarray(LOGITS.astype(np.float32)).astype(np.float64, order="F"), "label": LABELS},
    ):
        for write in (np.savez, np.savez_compressed):
            write(path, **arrays)
            columns = "arr_1" if "arr_1" in arrays and arrays["arr_1"].ndim == 2 else None
            _, rows, target = read(path, columns=columns)
            np.testing.assert_allclose(rows, LOGITS, rtol=1e-6)
            assert target == LABELS.tolist()
    np.savez(path, margins=LOGITS, truth=LABELS)
    assert read(path, columns="margins", target="truth")[0].reading == "logits: margins; label: truth"
    np.savez(path, LOGITS[:, 0], LABELS % 2)
    refused(path, "must have one array of labels .* got arr_0, arr_1; name it as target")
    assert read(path, columns="arr_0", target="arr_1")[0].num_classes == 1


def test_scores_of_one_output_are_an_array_of_one_dimension(tmp_path):
    np.savez(tmp_path / "t.npz", logits=LOGITS[:, 0], y=LABELS % 2)
    np.save(tmp_path / "z.npy", LOGITS[:, 0])
    np.save(tmp_path / "y.npy", LABELS % 2)
    for path, options in ((tmp_path / "t.npz", {}), (tmp_path / "z.npy", {"target": tmp_path / "y.npy"})):
        np.testing.assert_array_equal(read(path, **options)[1], LOGITS[:, :1])
    refused(tmp_path / "z.npy", "is one array, so no logits can be named", target=tmp_path / "y.npy", columns="a")
    refused(tmp_path / "z.npy", "target must be another file", target=tmp_path / "z.npy")


# CSV


@pytest.mark.parametrize(
    "write", [lambda p, t: p.write_text(t), lambda p, t: p.write_bytes(gzip.compress(t.encode()))]
)
def test_csv_of_other_habits(tmp_path, write):
    path = tmp_path / ("t.csv.gz" if "gzip" in write.__code__.co_names else "t.csv")
    write(path, "logit_cat, logit_dog , label\n0.5, 1.5, cat\n-2, 1e-3, dog \n")
    found, rows, target = read(path)
    assert (rows.tolist(), target, found.class_names) == ([[0.5, 1.5], [-2, 1e-3]], [0, 1], ("cat", "dog"))
    write(path, "logit_cat;logit_dog;label\n0,5;1,5;cat\n-2;1,0e-3;dog\n")
    found, rows, target = read(path)
    assert (rows.tolist(), target) == ([[0.5, 1.5], [-2, 1e-3]], [0, 1])
    assert found.reading == "logits: logit_cat, logit_dog; label: label; decimal commas"
    write(path, "a, b,a ,label\n1,2,3,0\n")
    refused(path, "must have columns of different names, got 'a' twice")


@pytest.mark.parametrize("place", [12, 30, 60, -1])
def test_a_damaged_gz_is_one_sentence(tmp_path, place):
    content = bytearray(gzip.compress(b"logit_a,logit_b,y\n" + b"0.5,1.25,0\n1.5,-2.75,1\n" * 50, mtime=0))
    content[place] ^= 0xFF
    (tmp_path / "t.csv.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"t\.csv\.gz cannot be read, it may be damaged"):
        read(tmp_path / "t.csv.gz")


# Missing cells


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_missing_cells_become_nan_where_that_is_asked_for(tmp_path, suffix):
    columns = {"logit_a": [1.0, None, 3.0], "logit_b": pa.array([1, 2, None]), "y": [0, 1, None]}
    path = save(tmp_path / f"t{suffix}", columns)
    _, rows, target = read(path, missing_values="nan", missing_labels="ignore")
    np.testing.assert_array_equal(rows, [[1, 1], [np.nan, 2], [3, np.nan]])
    assert target == [0, 1, -100]
    with pytest.raises(ValueError, match="column 'logit_a' must have a value in every row, got null in row 1"):
        read(path, missing_labels="ignore")


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 2), pa.large_list(pa.int64())])
def test_missing_lists_become_rows_of_nan(tmp_path, kind):
    lists = pa.array([None, [1, 2], [3, None], [5, 6]], kind)
    pq.write_table(pa.table({"logits": lists, "y": [0, 1, 1, 0]}), tmp_path / "t.parquet")
    for rows_at_a_time in (1, 2, 8):
        parts = list(open_predictions(tmp_path / "t.parquet", missing_values="nan").batches(rows_at_a_time))
        rows = torch.cat([part for part, _ in parts]).numpy()
        np.testing.assert_array_equal(rows, [[np.nan] * 2, [1, 2], [3, np.nan], [5, 6]])


# Several files


def test_files_of_a_folder_are_one_set_in_natural_order(tmp_path):
    parts = np.array_split(np.arange(N), 12)
    for suffix, options in itertools.product((".parquet", ".csv"), ({}, {"columns": "logit_*"})):
        folder = tmp_path / f"{suffix[1:]}-{len(options)}"
        folder.mkdir()
        for k, rows in enumerate(parts):
            columns = {**columns_of("logit_", values=LOGITS[rows]), "y": [WORDS[i] for i in rows], "id": rows}
            columns = dict(reversed(columns.items())) if k == 3 and not options else columns
            save(folder / f"part-{k}{suffix}", columns)
        (folder / "_SUCCESS").touch()
        (folder / ".part-0.crc").touch()
        for path in (folder, folder / f"part-*{suffix}"):
            found, rows, target = read(path, **options)
            np.testing.assert_array_equal(rows, LOGITS)
            assert target == LABELS.tolist()
            assert found.reading.startswith("12 files; logits: logit_cat, logit_dog, logit_owl; label: y")


def test_text_labels_of_all_files_name_the_columns(tmp_path):
    for k in range(3):
        rows = np.flatnonzero(k == LABELS)
        save(
            tmp_path / f"{k}.parquet",
            {**columns_of(values=LOGITS[rows]), "y": [CLASSES[k]] * len(rows), "id": rows},
        )
    assert read(tmp_path)[0].class_names == CLASSES


def test_the_file_that_differs_is_named(tmp_path):
    first = {**columns_of("logit_"), "y": LABELS}
    save(tmp_path / "0.parquet", first)
    for other, message in (
        ({**columns_of("logit_", ("cat", "dog", "eel")), "y": LABELS}, r"1.parquet must have the columns of .*0.parquet, but has no logit_owl"),
        ({**first, "y": WORDS}, r"1.parquet, column 'y' must be as in .*0.parquet, where it is int64, got string"),
        ({**first, "logit_dog": WORDS}, r"1.parquet, column 'logit_dog' must be as in .*0.parquet, where it is double"),
    ):  # fmt: skip
        save(tmp_path / "1.parquet", other)
        refused(tmp_path, message)
    save(tmp_path / "1.parquet", {**first, "y": LABELS + 1})
    with pytest.raises(ValueError, match=r"1.parquet, column 'y' must hold labels from 0 to 2, got 3 in row 2"):
        read(tmp_path)
    told = [pa.table(first).replace_schema_metadata({"steelyard.split": split}) for split in ("train", "test")]
    for k, table in enumerate(told):
        pq.write_table(table, tmp_path / f"{k}.parquet")
    refused(tmp_path, "1.parquet says something else than .*0.parquet of its split: 'test', not 'train'")
    lists = [pa.table({"logits": LOGITS[:, :k].tolist(), "y": LABELS % 2}) for k in (3, 2)]
    for k, table in enumerate(lists):
        pq.write_table(table, tmp_path / f"{k}.parquet")
    refused(tmp_path, r"1.parquet, column 'logits' must hold 3 numbers a row as in .*0.parquet, got 2")


def test_empty_files_of_a_set_are_passed_over(tmp_path):
    table = pa.table({**columns_of("logit_"), "y": LABELS})
    pq.write_table(table.slice(0, 0), tmp_path / "0.parquet")
    pq.write_table(table, tmp_path / "1.parquet")
    np.testing.assert_array_equal(read(tmp_path)[1], LOGITS)
    (tmp_path / "1.parquet").unlink()
    refused(tmp_path, "has no rows")


def test_folders_without_tables(tmp_path):
    for make in (lambda: None, (tmp_path / "results.json").touch, (tmp_path / "sub").mkdir):
        make()
        with pytest.raises(
            FileNotFoundError, match=r"folder .* holds no tables of predictions .*: it has (nothing|results)"
        ):
            open_predictions(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no file matches .*\*.parquet"):
        open_predictions(tmp_path / "*.parquet")
    refused(tmp_path / "*.json", "must match files of a known kind .* got .*results.json")
    (tmp_path / "a.csv").touch()
    (tmp_path / "b.parquet").touch()
    refused(tmp_path, r"must name files of one kind, got .csv, .parquet; .* such as '.*/\*.csv'")
