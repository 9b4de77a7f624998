"""Class weights for a file of labels: what is said holds, the code runs, and only labels are read."""

import ast
import importlib
import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

import steelyard
from steelyard.commands.weights import code, notes, scheme_rows, weights_of_file
from steelyard.data.predictions import count_classes
from tests.helpers import run_command


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "labels.csv"
    rows = ["a,1.5,cat"] * 60 + [",oops,dog"] * 30 + ["b,,owl"] * 9 + [",,newt"] + ["x,2,"] * 2
    path.write_text("\n".join(["id,value,kind", *rows]))
    return path


def test_labels_alone_are_read(table, tmp_path):
    found = count_classes(table, target="kind")
    assert (found.label, found.classes, found.counts) == ("kind", ("cat", "dog", "newt", "owl"), (60, 30, 1, 9))
    assert found.without == 2
    pq.write_table(
        pa.table({"label": [3, 1, 1, None, -100], "name": ["a", None, "b", "c", "d"]}), tmp_path / "a.parquet"
    )
    found = count_classes(tmp_path / "a.parquet")
    assert (found.classes, found.counts, found.without) == ((1, 3), (2, 1), 2)
    np.savez(tmp_path / "a.npz", X=np.zeros((3, 2, 2)), y=np.array(["b", "a", "b"]))
    found = count_classes(tmp_path / "a.npz")
    assert (found.classes, found.counts) == (("a", "b"), (1, 2))
    np.save(tmp_path / "X.npy", np.zeros((3, 2)))
    np.save(tmp_path / "y.npy", np.array([True, False, True]))
    assert count_classes(tmp_path / "X.npy", target=str(tmp_path / "y.npy")).classes == (False, True)


@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        ("y\n1.5\n2\n", None, "must hold integers or class names, got 1.5"),
        ("y\na\na\n", None, "must have at least two classes, got a alone"),
        ("x,z\n1,2\n", None, "must have one column of labels"),
        ("x,z\n1,2\n", "w", "must have the column 'w'"),
        ("x,z\n1,2\n", "x,z", "must have one label a row"),
        ("y,z\n,2\n,3\n", None, "has no rows with a label"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path, text, target, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        weights_of_file(path, target=target)


def test_shares_are_what_a_constant_model_predicts_and_the_ratio_what_a_trained_one_does():
    random = np.random.default_rng(0)
    y = np.repeat([0, 1], [300, 40])
    X = random.normal(size=(340, 2)) + y[:, None]
    for row in scheme_rows([300, 40]):
        weights = dict(enumerate(row.weights))
        model = LogisticRegression(C=1e6, class_weight=weights, tol=1e-10).fit(X, y)
        p = model.predict_proba(X)[:, 1]
        np.testing.assert_allclose(p[y == 0].mean() / (1 - p[y == 1]).mean(), row.ratio, rtol=1e-4)
        constant = LogisticRegression(class_weight=weights, tol=1e-10).fit(np.zeros((340, 1)), y)
        np.testing.assert_allclose(constant.predict_proba([[0.0]])[0], row.shares, rtol=1e-4)


def test_noise_is_that_of_weighted_means_of_noise():
    counts = [500, 60, 4]
    draws = np.random.default_rng(0).normal(size=(4000, sum(counts)))
    for row in scheme_rows(counts):
        w = np.repeat(row.weights, counts)
        spread = (draws @ w / w.sum()).var()
        np.testing.assert_allclose(1 / spread / sum(counts), row.effective, rtol=0.1)


def test_multiples_are_told():
    same = {row.scheme: row.same_as for row in scheme_rows([900, 90, 10])}
    assert same == {
        "none": None, "inverse": None, "sqrt_inverse": None, "effective_number": None,
        "median_frequency": "inverse", "balanced": "inverse", "power": "sqrt_inverse",
    }  # fmt: skip


def test_classes_of_one_and_of_few_and_rare_ones_are_named():
    told = " ".join(notes(["cat", "dog", "newt", "owl"], [6000, 30, 1, 9]))
    for said in (
        "newt has one sample",
        "owl has fewer than 10",
        "0.011 of the batches of 64",
        "3 equations for 12",
    ):
        assert said in told
    told = " ".join(notes(["a", "b"], [50, 50]))
    assert "equations" not in told
    assert "sample:" not in told
    assert "batches" not in told


def test_the_code_runs_and_weighs_as_it_says(table):
    found = weights_of_file(table, target="kind", scheme="balanced")
    xgboost = pytest.importorskip("xgboost")
    random = np.random.default_rng(0)
    y = np.repeat(np.arange(4), [60, 30, 1, 9])
    X = random.normal(size=(100, 2)) + y[:, None]
    known = {"torch": torch, "np": np, "X": X, "y": y}
    known |= {
        "LogisticRegression": LogisticRegression,
        "XGBClassifier": lambda: xgboost.XGBClassifier(n_estimators=3),
    }
    exec(found["code"]["torch"], known)
    expected = steelyard.class_weights([60, 30, 1, 9], "balanced")
    torch.testing.assert_close(known["loss"].weight, expected, rtol=1e-5, atol=0)
    exec(found["code"]["xgboost"], known)
    weighted = xgboost.XGBClassifier(n_estimators=3).fit(X, y, sample_weight=expected.numpy()[y])
    np.testing.assert_allclose(known["model"].predict_proba(X), weighted.predict_proba(X), atol=1e-4)
    exec(found["code"]["scikit-learn"], known)
    names = np.array(["cat", "dog", "newt", "owl"])[y]
    balanced = LogisticRegression(class_weight="balanced").fit(X, names)
    np.testing.assert_allclose(known["model"].fit(X, names).coef_, balanced.coef_, atol=1e-3)


HOSTILE = [
    "a\nimport os",
    "b\rraise",
    "'",
    '"',
    "\\",
    "\\'",
    '"""',
    "{x}",
    "#",
    "\u2028",
    "\x00",
    "\ud800",
    "\x0c",
    "",
]


@given(st.lists(st.text(st.characters()) | st.sampled_from(HOSTILE), min_size=2, max_size=5, unique=True))
@example(HOSTILE)
def test_the_code_is_code_whatever_the_classes_are_called(names):
    """Each snippet has the statements of plain names, and scikit-learn's dictionary has the names themselves."""
    weights = [1.0 + k for k in range(len(names))]
    found, plain = code(names, weights), code([f"c{k}" for k in range(len(names))], weights)
    for library, text in found.items():
        tree, other = ast.parse(text), ast.parse(plain[library])
        assert len(text.splitlines()) == len(plain[library].splitlines()), library
        if library != "scikit-learn":
            assert ast.dump(tree) == ast.dump(other), library
    weighs = {}
    exec(found["scikit-learn"], {"LogisticRegression": lambda class_weight: weighs.update(class_weight)})
    assert weighs == dict(zip(names, weights, strict=True))


KERAS = """
import keras, numpy as np
X, y = np.zeros((32, 2)), np.repeat(np.arange(4), [16, 8, 1, 7])
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, kernel_initializer="zeros")])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.SGD(1.0), loss)
{code}
print(*model.layers[0].bias.numpy().tolist())
"""


@pytest.mark.slow
def test_the_code_for_keras_weighs_as_it_says(table):
    """One step from zero on one batch moves the biases by minus the gradient of the mean of the weighted losses."""
    if importlib.util.find_spec("keras") is None:
        pytest.skip("keras is not installed")
    found = weights_of_file(table, target="kind", scheme="balanced")["code"]["keras"]
    ran = subprocess.run(
        [sys.executable, "-c", KERAS.format(code=found)],
        env=os.environ | {"KERAS_BACKEND": "torch"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    w = steelyard.class_weights([60, 30, 1, 9], "balanced").double()
    y = torch.arange(4).repeat_interleave(torch.tensor([16, 8, 1, 7]))
    step = (w[y][:, None] * (torch.nn.functional.one_hot(y, 4) - 0.25)).mean(0)
    found = torch.tensor([float(each) for each in ran.stdout.split()[-4:]], dtype=torch.float64)
    torch.testing.assert_close(found, step, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_code_for_transformers_weighs_as_it_says(table, tmp_path):
    """The mean loss of a training without steps is that of our weighted softmax over all rows."""
    transformers = pytest.importorskip("transformers")
    datasets = pytest.importorskip("datasets")
    importlib.import_module("steelyard.integrations.huggingface")
    found = weights_of_file(table, target="kind", scheme="balanced")["code"]["transformers"]
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=20,
        max_position_embeddings=8, num_labels=4, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    y = torch.arange(4).repeat_interleave(torch.tensor([16, 8, 1, 7]))
    ids = torch.randint(20, (32, 5))
    with torch.no_grad():
        weights = steelyard.class_weights([60, 30, 1, 9], "balanced")
        loss = steelyard.create_loss("softmax", class_weights=weights, normalization="count")
        expected = loss(model(input_ids=ids).logits, y)
    arguments = transformers.TrainingArguments(
        str(tmp_path / "out"), per_device_train_batch_size=32, num_train_epochs=1, learning_rate=0.0, use_cpu=True,
        report_to="none", save_strategy="no", disable_tqdm=True, logging_steps=1,
    )  # fmt: skip
    data = datasets.Dataset.from_dict({"input_ids": ids.tolist(), "labels": y.tolist()})
    known = {"steelyard": steelyard, "Trainer": transformers.Trainer, "more": {"model": model, "args": arguments, "train_dataset": data}}  # fmt: skip
    exec(found.replace("...", "**more"), known)
    loss = known["trainer"].train().training_loss
    assert loss == pytest.approx(expected.item(), rel=1e-4)


def test_the_command_prints_all(capsys, table):
    code, out, _ = run_command(capsys, "weights", str(table), "--target", "kind")
    assert code == 0
    for text in (
        "effective_number",
        "2 rows without a label",
        "newt has one sample",
        "class_weight={'cat':",
        "keras, inverse",
    ):
        assert text in out
    code, out, _ = run_command(capsys, "weights", str(table), "--target", "kind", "--json", "--scheme", "balanced")
    assert (code, json.loads(out)) == (
        0,
        json.loads(json.dumps(weights_of_file(table, target="kind", scheme="balanced"))),
    )
    code, _, err = run_command(capsys, "weights", str(table), "--target", "kind", "--scheme", "inverted")
    assert (code, "scheme must be one of" in err) == (2, True)


def test_many_classes_are_shortened(capsys, tmp_path):
    path = tmp_path / "many.csv"
    path.write_text("y\n" + "".join(f"c{k}\n" * (k + 1) for k in range(30)))
    code, out, _ = run_command(capsys, "weights", str(path))
    assert (code, "the 10 most and the 10 least frequent of 30 classes" in out) == (0, True)
    assert all(f" c{k} " in out for k in (0, 9, 20, 29))
    assert "│ c15 " not in out
