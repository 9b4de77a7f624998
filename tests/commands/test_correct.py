"""Corrected files: the numbers of log_posterior in every format, all other columns as they were, nothing twice."""

import gzip
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import nn

from steelyard import TrainingSetup, estimate_prior, log_posterior
from steelyard.balance import mean_confusion
from steelyard.commands.audit import audit_file
from steelyard.commands.correct import correct_file
from steelyard.data.predictions import delimited, file, rewriting
from steelyard.losses import LGLINRLoss

NAMES, COUNTS = ("cat", "dog", "owl"), [900, 80, 20]
INVERSE = 1000 / (3 * torch.tensor(COUNTS, dtype=torch.float64))
SETUP = TrainingSetup("softmax", class_weights=INVERSE, class_counts=COUNTS)
METADATA = {
    "steelyard.loss": "softmax:inverse",
    "steelyard.link": "softmax",
    "steelyard.class_counts": "900 80 20",
    "steelyard.class_names": "\x1f".join(NAMES),
    "other": "kept",
}


def _logits(rows=200, classes=3, seed=0):
    return 2 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _columns(z):
    return {
        "id": [f"00{i}" for i in range(len(z))],
        **{f"logit_{name}": z[:, k].numpy() for k, name in enumerate(NAMES)},
        "target": [NAMES[k] for k in z.argmax(1).tolist()],
        "fold": np.arange(len(z)) % 5,
    }


def _save(path, z, as_list=False, metadata=METADATA):
    columns = _columns(z)
    if as_list:
        numbers = pa.FixedSizeListArray.from_arrays(pa.array(z.reshape(-1).numpy()), z.shape[1])
        columns = {"id": columns["id"], "logits": numbers, "target": z.argmax(1).numpy(), "fold": columns["fold"]}
    table = pa.table(columns).replace_schema_metadata(metadata)
    if path.name.endswith((".csv", ".tsv")):
        options = pa.csv.WriteOptions(delimiter="\t" if path.suffix == ".tsv" else ",")
        pa.csv.write_csv(table, path, options)
    elif path.name.endswith(".csv.gz"):
        with gzip.open(path, "wb") as out:
            pa.csv.write_csv(table, out)
    elif path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=64)
    else:
        pa.feather.write_feather(table, path, compression="uncompressed")
    return path


def _read(path):
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.suffix in (".arrow", ".feather"):
        return pd.read_feather(path)
    return pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", dtype={"id": str})


STATED = {"loss": "softmax", "weights": "inverse", "class_counts": "900,80,20", "class_names": NAMES}
NEW = [f"corrected_probability_{name}" for name in NAMES]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather", ".csv", ".csv.gz", ".tsv"])
def test_every_table_gets_the_numbers_of_log_posterior_and_keeps_the_rest(tmp_path, suffix):
    z = _logits()
    source = _save(tmp_path / f"p{suffix}", z)
    found = correct_file(source, tmp_path / f"out{suffix}", **STATED)
    assert (found.rows, found.without, found.prior) == (200, 0, None)
    before, after = _read(source), _read(tmp_path / f"out{suffix}")
    assert list(after.columns) == ["id", *NEW, "target", "fold"]
    np.testing.assert_allclose(
        after[NEW].to_numpy(), log_posterior(z, SETUP).exp().numpy(), rtol=1e-12, atol=1e-15
    )
    rest = ["id", "target", "fold"]
    pd.testing.assert_frame_equal(after[rest], before[rest])


@pytest.mark.parametrize(("before", "after"), [(".parquet", ".csv"), (".csv", ".parquet"), (".feather", ".tsv")])
def test_the_name_of_the_new_file_tells_its_format(tmp_path, before, after):
    z = _logits()
    correct_file(_save(tmp_path / f"p{before}", z), tmp_path / f"out{after}", **STATED)
    found = _read(tmp_path / f"out{after}")
    np.testing.assert_allclose(
        found[NEW].to_numpy(), log_posterior(z, SETUP).exp().numpy(), rtol=1e-12, atol=1e-15
    )
    assert found["id"].tolist() == [f"00{i}" for i in range(200)]


def test_a_list_stays_a_list_and_the_metadata_say_what_was_done(tmp_path):
    z = _logits()
    source = _save(tmp_path / "p.parquet", z, as_list=True)
    correct_file(source, tmp_path / "out.parquet", prior="uniform")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["id", "corrected_probabilities", "target", "fold"]
    found = np.stack(table["corrected_probabilities"].to_numpy())
    np.testing.assert_allclose(found, log_posterior(z, SETUP, [1 / 3] * 3).exp().numpy(), rtol=1e-12)
    told = table.schema.metadata
    assert told[b"other"] == b"kept"
    assert told[b"steelyard.class_names"].decode().split("\x1f") == list(NAMES)
    assert b"steelyard.loss" not in told
    done = json.loads(told[b"steelyard.correction"])
    assert done["prior"] == [1 / 3] * 3
    weights = torch.tensor(done["vectors"]["class_weights"])
    torch.testing.assert_close(weights / weights[0], (INVERSE / INVERSE[0]).float())
    correct_file(source, tmp_path / "out.csv", prior="uniform")
    np.testing.assert_allclose(_read(tmp_path / "out.csv")[NEW].to_numpy(), found, rtol=1e-14)


def test_arrays_become_an_archive(tmp_path):
    z = _logits().float()
    np.savez(
        tmp_path / "p.npz",
        ids=np.arange(200),
        logits=z.numpy(),
        y=z.argmax(1).numpy(),
        texts=np.array(["é"] * 200),
    )
    given = {**STATED, "class_names": None}
    correct_file(tmp_path / "p.npz", tmp_path / "out.npz", **given)
    np.save(tmp_path / "p.npy", z.numpy())
    correct_file(tmp_path / "p.npy", tmp_path / "npy.npz", **given)
    expected = log_posterior(z.double(), SETUP).exp().numpy()
    with np.load(tmp_path / "out.npz") as found:
        assert set(found) == {"ids", "corrected_probabilities", "y", "texts", "steelyard"}
        np.testing.assert_allclose(found["corrected_probabilities"], expected, rtol=1e-12)
        assert found["ids"].tolist() == list(range(200))
        assert found["texts"][0] == "é"
        assert "correction" in json.loads(str(found["steelyard"]))
    with np.load(tmp_path / "npy.npz") as found:
        np.testing.assert_allclose(found["corrected_probabilities"], expected, rtol=1e-12)
    for name in ("out.npz", "npy.npz"):
        with pytest.raises(ValueError, match="holds corrected probabilities"):
            correct_file(tmp_path / name, tmp_path / "twice.npz", **given)
    with pytest.raises(ValueError, match=r"must end in \.npz"):
        correct_file(tmp_path / "p.npz", tmp_path / "out.csv", **given)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_nothing_is_done_twice_and_no_audit_is_misled(tmp_path, suffix):
    source = _save(tmp_path / f"p{suffix}", _logits())
    correct_file(source, tmp_path / f"out{suffix}", **STATED)
    for values in ("logits", "probabilities", None):
        with pytest.raises(ValueError, match="holds corrected probabilities, which `steelyard correct` made"):
            correct_file(tmp_path / f"out{suffix}", tmp_path / f"twice{suffix}", values=values, **STATED)
    with pytest.raises(ValueError, match="give the file that they were made of"):
        audit_file(tmp_path / f"out{suffix}", class_names=NAMES)
    assert not (tmp_path / f"twice{suffix}").exists()


def test_one_score_and_cells_of_csv_to_the_letter(tmp_path):
    (tmp_path / "s.csv").write_text('id,score,y,note\n007,1.50,1,"a, ""b"""\n 8 ,-2,0,\n9,1e1,1,=1+1\n')
    correct_file(tmp_path / "s.csv", tmp_path / "out.csv", target="y", pos_weights="100")
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert [line.split(",", 2)[::2] for line in lines] == [
        ["id", "y,note"], ["007", '1,"a, ""b"""'], [" 8 ", "0,"], ["9", "1,=1+1"],
    ]  # fmt: skip
    assert lines[0] == "id,corrected_probability,y,note"
    found = [float(line.split(",")[1]) for line in lines[1:]]
    z = torch.tensor([1.5, -2, 10], dtype=torch.float64)
    setup = TrainingSetup("logistic", pos_weight=[100.0], targets="binary")
    np.testing.assert_allclose(found, torch.sigmoid(log_posterior(z, setup)).numpy(), rtol=1e-12)
    np.testing.assert_allclose(found, torch.sigmoid(z - np.log(100)).numpy(), rtol=1e-12)


def test_decimal_commas_stay(tmp_path):
    (tmp_path / "s.csv").write_text("score;weight;y\n1,5;2,50;1\n-2,25;3,0;0\n")
    correct_file(tmp_path / "s.csv", tmp_path / "out.csv", pos_weights="4")
    lines = [line.split(";") for line in (tmp_path / "out.csv").read_text().splitlines()]
    assert [line[1] for line in lines] == ["weight", "2,50", "3,0"]
    expected = torch.sigmoid(torch.tensor([1.5, -2.25], dtype=torch.float64) - np.log(4))
    np.testing.assert_allclose(
        [float(line[0].replace(",", ".")) for line in lines[1:]], expected.numpy(), rtol=1e-12
    )


def test_probabilities_must_be_said_to_be_some(tmp_path):
    p = torch.softmax(_logits(), 1)
    source = _save(tmp_path / "p.csv", p)
    with pytest.raises(ValueError, match="say --from probabilities or --from logits"):
        correct_file(source, tmp_path / "a.csv", **STATED)
    correct_file(source, tmp_path / "a.csv", values="probabilities", **STATED)
    expected = log_posterior(p.log(), SETUP).exp().numpy()
    np.testing.assert_allclose(_read(tmp_path / "a.csv")[NEW].to_numpy(), expected, rtol=1e-9)
    correct_file(source, tmp_path / "b.csv", values="logits", **STATED)
    expected = log_posterior(p, SETUP).exp().numpy()
    np.testing.assert_allclose(_read(tmp_path / "b.csv")[NEW].to_numpy(), expected, rtol=1e-9)
    _save(tmp_path / "percent.csv", 100 * p)
    said = []
    correct_file(tmp_path / "percent.csv", tmp_path / "c.csv", values="probabilities", say=said.append, **STATED)
    assert "probabilities are percents, they are divided by 100" in said
    np.testing.assert_allclose(_read(tmp_path / "c.csv")[NEW], _read(tmp_path / "a.csv")[NEW], rtol=1e-9)


def test_rows_without_numbers_keep_their_place(tmp_path):
    z = _logits()
    z[3, 1], z[5] = torch.nan, torch.inf
    for suffix in (".csv", ".parquet"):
        found = correct_file(_save(tmp_path / f"p{suffix}", z), tmp_path / f"out{suffix}", **STATED)
        assert (found.rows, found.without) == (200, 2)
        after = _read(tmp_path / f"out{suffix}")
        assert after["id"].tolist() == [f"00{i}" for i in range(200)]
        assert np.flatnonzero(after[NEW].isna().any(axis=1)).tolist() == [3, 5]
    # so does one whose logits have no posterior
    z = torch.tensor([[9.0, 0, -9], [1, 0, 0]], dtype=torch.float64)
    found = correct_file(
        _save(tmp_path / "q.csv", z), tmp_path / "q-out.csv", loss="softmax:label_smoothing=0.3", class_names=NAMES
    )
    assert (found.rows, found.without) == (2, 1)


def test_counts_are_those_of_the_training_and_never_guessed(tmp_path):
    z = _logits()
    source = _save(tmp_path / "p.csv", z)
    stated = {"loss": "softmax", "weights": "inverse", "class_names": NAMES}
    for options in (stated, {**stated, "weights": "1,2,3", "prior": "uniform"}, {**stated, "prior": "estimate"}):
        with pytest.raises(ValueError, match=r"counts of the training, which .* does not say: give --counts"):
            correct_file(source, tmp_path / "out.csv", **options)
    counts = torch.bincount(z.argmax(1))
    given = ",".join(map(str, counts.tolist()))
    correct_file(source, tmp_path / "labels.csv", class_counts="labels", **stated)
    correct_file(source, tmp_path / "given.csv", class_counts=given, **stated)
    assert (tmp_path / "labels.csv").read_bytes() == (tmp_path / "given.csv").read_bytes()
    train = _save(tmp_path / "train.parquet", z, metadata={"steelyard.split": "train"})
    correct_file(train, tmp_path / "train-out.csv", **stated)
    np.testing.assert_allclose(_read(tmp_path / "train-out.csv")[NEW], _read(tmp_path / "given.csv")[NEW])
    held_out = _save(tmp_path / "test.parquet", z, metadata={"steelyard.split": "test"})
    with pytest.raises(ValueError, match="does not say: give --counts"):
        correct_file(held_out, tmp_path / "out.csv", **stated)
    with pytest.raises(ValueError, match="says that it holds held-out samples"):
        correct_file(held_out, tmp_path / "out.csv", class_counts="labels", **stated)
    numbers = _save(tmp_path / "n.csv", z)
    (tmp_path / "n.csv").write_text(numbers.read_text().replace('"target"', '"species"'))
    with pytest.raises(ValueError, match="counts 'labels' need labels"):
        correct_file(tmp_path / "n.csv", tmp_path / "out.csv", class_counts="labels", **stated)
    correct_file(tmp_path / "n.csv", tmp_path / "n-out.csv", class_counts=given, **stated)
    assert "species" in _read(tmp_path / "n-out.csv")


def test_a_loss_that_only_the_trained_module_knows_is_refused_before_counts_are_asked_for(tmp_path):
    source = _save(tmp_path / "a.csv", _logits(), metadata={})
    for call in (
        lambda: correct_file(source, tmp_path / "b.csv", loss="eqlv2"),
        lambda: audit_file(source, loss="eqlv2"),
    ):
        with pytest.raises(ValueError, match="weighs by what it saw in training, which no file holds"):
            call()


def test_priors(tmp_path):
    z = _logits()
    z[:, 2] += 2
    source = _save(tmp_path / "p.parquet", z)
    (tmp_path / "prior.csv").write_text("class,share\nowl,0.5\ncat,0.2\ndog,0.3\n")
    correct_file(source, tmp_path / "a.parquet", prior=str(tmp_path / "prior.csv"))
    expected = log_posterior(z, SETUP, [0.2, 0.3, 0.5]).exp().numpy()
    np.testing.assert_allclose(_read(tmp_path / "a.parquet")[NEW].to_numpy(), expected, rtol=1e-12)
    found = correct_file(source, tmp_path / "b.parquet", prior="estimate")
    estimate = estimate_prior(log_posterior(z, SETUP), COUNTS)
    torch.testing.assert_close(found.estimate.prior, estimate.prior)
    torch.testing.assert_close(found.estimate.interval, estimate.interval)
    expected = log_posterior(z, SETUP, "estimate").exp().numpy()
    np.testing.assert_allclose(_read(tmp_path / "b.parquet")[NEW].to_numpy(), expected, rtol=1e-9)
    for text, message in {
        "class,share\ncat,0.5\ndog,0.5\n": "no entry for class 'owl'",
        "class,share\ncat,0.5\ndog,0.5\nbat,0\nowl,0\n": "unknown class 'bat'",
        "class,share\ncat,0.5\ncat,0.5\nowl,0\n": "each class once, got 'cat' twice",
        "class,share\ncat,x\ndog,0.5\nowl,0\n": "must hold finite numbers, got 'x'",
        "class,share\ncat,0.5\ndog,0.5\nowl,0.5\n": "prior must sum to 1, got 1.5",
        "class,weight\ncat,0.5\n": "must have the columns class and share",
        "": "must have a header and rows below it",
    }.items():
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            correct_file(source, tmp_path / "c.parquet", prior=str(tmp_path / "bad.csv"))
    with pytest.raises(FileNotFoundError, match="unifrom"):
        correct_file(source, tmp_path / "c.parquet", prior="unifrom")
    assert not (tmp_path / "c.parquet").exists()


def test_a_prior_is_estimated_from_a_sample_of_many_rows(tmp_path, monkeypatch):
    z = _logits(3000)
    source = _save(tmp_path / "p.parquet", z)
    monkeypatch.setattr("steelyard.commands.undone.SAMPLE", 3 * 500)
    monkeypatch.setattr(file, "_NUMBERS", 300)
    said = []
    found = correct_file(source, tmp_path / "a.parquet", prior="estimate", say=said.append)
    assert "the prior is estimated from 500 of 3000 rows, drawn at random" in said
    assert found.estimate.rows == 500
    whole = estimate_prior(log_posterior(z, SETUP), COUNTS).prior
    low, high = found.estimate.interval.T
    assert bool(((low < whole) & (whole < high)).all())


def test_outputs_that_stand_for_themselves(tmp_path):
    z = _logits()
    table = pa.table({**{f"logit_{k}": z[:, k].numpy() for k in range(3)}, "id": np.arange(200)})
    pq.write_table(table, tmp_path / "p.parquet")
    stated = {"loss": "logistic", "pos_weights": "2,3,4"}
    with pytest.raises(ValueError, match="say --targets classes"):
        correct_file(tmp_path / "p.parquet", tmp_path / "out.parquet", **stated)
    correct_file(tmp_path / "p.parquet", tmp_path / "out.parquet", targets="multi-hot", **stated)
    names = [f"corrected_output_probability_{k}" for k in range(3)]
    setup = TrainingSetup(nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0, 3, 4])))
    found = _read(tmp_path / "out.parquet")
    np.testing.assert_allclose(found[names].to_numpy(), log_posterior(z, setup).exp().numpy(), rtol=1e-9)
    correct_file(tmp_path / "p.parquet", tmp_path / "classes.parquet", targets="classes", **stated)
    setup = TrainingSetup("logistic", pos_weight=[2.0, 3, 4])
    found = _read(tmp_path / "classes.parquet")[[f"corrected_probability_{k}" for k in range(3)]]
    np.testing.assert_allclose(found.to_numpy(), log_posterior(z, setup).exp().numpy(), rtol=1e-9)
    with pytest.raises(ValueError, match="prior must be train for outputs that stand for themselves"):
        correct_file(
            tmp_path / "p.parquet", tmp_path / "x.parquet", targets="multi-hot", prior="uniform", **stated
        )
    with pytest.raises(ValueError, match="give --training-rows"):
        correct_file(
            tmp_path / "p.parquet",
            tmp_path / "x.parquet",
            loss="lgl-inr:detach_weights=true",
            targets="classes",
            class_counts="9,5,2",
        )
    labels = _save(tmp_path / "labels.parquet", z)
    with pytest.raises(ValueError, match="targets must be classes, as the labels"):
        correct_file(labels, tmp_path / "x.parquet", targets="multi-hot", loss="logistic")


LGL = {"loss": "lgl-inr:beta=2:detach_weights=true", "class_names": NAMES, "batch_size": 16}
TRAIN, HELD_OUT = {"steelyard.split": "train"}, {"steelyard.split": "test"}


def _lgl(z, train, labels, prior=None):
    confusion, counts = mean_confusion(train, labels, link="logistic")
    loss = LGLINRLoss(beta=2, detach_weights=True)
    return log_posterior(
        z, TrainingSetup(loss, class_counts=counts, batch_size=16), prior, mean_confusion=confusion
    )


def test_lgl_inr_is_undone_by_the_mean_confusion_of_the_training_rows(tmp_path):
    train, z = _logits(300, seed=1), _logits()
    labels = train.argmax(1)
    expected = _lgl(z, train, labels).exp().numpy()
    rows = _save(tmp_path / "train.csv", train)
    source = _save(tmp_path / "p.csv", z, metadata=None)
    correct_file(source, tmp_path / "a.csv", training_rows=rows, **LGL)
    np.testing.assert_allclose(_read(tmp_path / "a.csv")[NEW].to_numpy(), expected, rtol=1e-9)
    assert np.abs(expected - torch.sigmoid(z).numpy()).max() > 0.1, "nothing was undone"
    held_out = _save(tmp_path / "p.parquet", z, metadata=HELD_OUT | {"steelyard.class_names": "\x1f".join(NAMES)})
    correct_file(held_out, tmp_path / "b.parquet", training_rows=rows, prior="uniform", **LGL)
    expected = _lgl(z, train, labels, [1 / 3] * 3).exp().numpy()
    np.testing.assert_allclose(_read(tmp_path / "b.parquet")[NEW].to_numpy(), expected, rtol=1e-9)
    done = json.loads(pq.read_schema(tmp_path / "b.parquet").metadata[b"steelyard.correction"])
    confusion, _ = mean_confusion(train, labels, link="logistic")
    np.testing.assert_allclose(done["mean_confusion"], confusion, rtol=1e-9)


@pytest.mark.parametrize("how", ["metadata", "counts"])
def test_lgl_inr_takes_the_file_itself_where_it_holds_the_training_rows(tmp_path, how):
    z = _logits()
    source = _save(tmp_path / "p.parquet", z, metadata=TRAIN if how == "metadata" else None)
    correct_file(source, tmp_path / "a.parquet", class_counts="labels" if how == "counts" else None, **LGL)
    expected = _lgl(z, z, z.argmax(1)).exp().numpy()
    np.testing.assert_allclose(_read(tmp_path / "a.parquet")[NEW].to_numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "training", "message"),
    [
        ({}, None, "needs? .*counts of the training|made from the counts"),
        ({"class_counts": "9,5,2"}, None, "give --training-rows, a file of the training rows"),
        ({"loss": "lgl-inr"}, TRAIN, "detached weights only"),
        ({}, HELD_OUT, "training rows must not be held-out rows"),
    ],
)
def test_lgl_inr_without_its_training_rows_is_refused_in_a_sentence(tmp_path, options, training, message):
    source = _save(tmp_path / "p.parquet", _logits(), metadata=None)
    if training is not None:
        options["training_rows"] = _save(tmp_path / "train.parquet", _logits(), metadata=training)
    with pytest.raises(ValueError, match=message):
        correct_file(source, tmp_path / "out.parquet", **LGL | options)
    assert not (tmp_path / "out.parquet").exists()


def test_a_class_without_training_rows_is_named(tmp_path):
    train = _logits()
    train[:, 2] = -50
    with pytest.raises(ValueError, match="must have every class, got none of class 2"):
        correct_file(
            _save(tmp_path / "p.csv", _logits()),
            tmp_path / "out.csv",
            training_rows=_save(tmp_path / "train.csv", train),
            class_counts="9,5,2",
            **LGL,
        )


def _labelled(rows, temperature, seed=0):
    """Logits that are too sharp by a temperature, weighted as SETUP says, and classes drawn from what is true."""
    generator = torch.Generator().manual_seed(seed)
    log_q = torch.log_softmax(_logits(rows, seed=seed), 1)
    labels = torch.multinomial(log_q.exp(), 1, generator=generator)[:, 0]
    return temperature * log_q + INVERSE.log(), labels


@pytest.mark.parametrize("how", ["number", "fit", "file"])
def test_a_temperature_divides_what_is_left_after_the_undoing(tmp_path, how):
    z, labels = _labelled(3000, 2.0)
    source = tmp_path / "p.parquet"
    columns = {f"logit_{name}": z[:, k].numpy() for k, name in enumerate(NAMES)}
    pq.write_table(pa.table(columns | {"target": labels.numpy()}).replace_schema_metadata(METADATA), source)
    text = {"number": "2.5", "fit": "fit", "file": str(source)}[how]
    found = correct_file(source, tmp_path / "out.parquet", temperature=text, prior="uniform")
    q = log_posterior(z, SETUP)
    if how == "number":
        assert found.temperature == 2.5
    else:
        fitted = minimize_scalar(
            lambda log_t: nn.functional.cross_entropy(q / np.exp(log_t), labels).item(),
            bounds=(-3, 3),
            options={"xatol": 1e-9},
        )
        assert found.temperature == pytest.approx(np.exp(fitted.x), rel=1e-5)
        assert found.temperature == pytest.approx(2, rel=0.1)
    tempered = torch.log_softmax(q / found.temperature, 1)
    shifted = torch.log_softmax(tempered - torch.tensor(COUNTS).double().log(), 1)
    np.testing.assert_allclose(_read(tmp_path / "out.parquet")[NEW].to_numpy(), shifted.exp().numpy(), rtol=1e-9)
    done = json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"steelyard.correction"])
    assert done["temperature"] == found.temperature
    told = None if how == "number" else {"file": "p.parquet", "rows": 3000}
    assert done["temperature_from"] == told


@pytest.mark.parametrize("kind", ["one output", "multi-hot"])
def test_a_temperature_of_outputs_that_are_choices_of_two(tmp_path, kind):
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(2000, 1 if kind == "one output" else 3, generator=generator, dtype=torch.float64)
    y = torch.bernoulli(torch.sigmoid(z), generator=generator)
    logits = {f"logit_{k}": 3 * z[:, k].numpy() + np.log(4) for k in range(z.shape[1])}
    labels = {f"label_{k}": y[:, k].long().numpy() for k in range(z.shape[1])}
    if kind == "one output":
        logits, labels = {"score": logits["logit_0"]}, {"y": labels["label_0"]}
    pq.write_table(pa.table(logits | labels), tmp_path / "p.parquet")
    weights = ",".join(["4"] * z.shape[1])
    target = "y" if kind == "one output" else "label_*"
    found = correct_file(
        tmp_path / "p.parquet", tmp_path / "out.parquet", loss="logistic", pos_weights=weights, target=target,
        temperature="fit",
    )  # fmt: skip
    assert found.temperature == pytest.approx(3, rel=0.1)
    after = _read(tmp_path / "out.parquet").filter(like="corrected").to_numpy()
    np.testing.assert_allclose(after, torch.sigmoid(3 * z / found.temperature).numpy(), rtol=1e-9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "must be a number > 0"),
        ("-1", "must be a number > 0"),
        ("nan", "must be a number > 0"),
        ("inf", "must be a number > 0"),
        ("fit", "needs labels, and .* has none"),
        ("train.csv", "temperature must not be rows of the training"),
        ("two.parquet", "two.parquet has 2 numbered columns"),
        ("right.parquet", "likelier the lower it is"),
        ("opposite.parquet", "likelier the higher it is"),
        ("none.parquet", "none.parquet does not exist"),
    ],
)
def test_a_temperature_that_cannot_be_is_refused(tmp_path, text, message):
    z = _logits()
    columns = {f"logit_{name}": z[:, k].numpy() for k, name in enumerate(NAMES)}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    for name, labels, metadata in [
        ("right.parquet", z.argmax(1), None),
        ("opposite.parquet", z.argmin(1), None),
        ("train.csv", z.argmax(1), TRAIN),
    ]:
        table = pa.table(columns | {"target": labels.numpy()}).replace_schema_metadata(metadata)
        pq.write_table(table, tmp_path / name.replace("csv", "parquet"))
    pq.write_table(pa.table({"logit_0": z[:, 0].numpy(), "logit_1": z[:, 1].numpy(), "target": [0, 1] * 100}),
                   tmp_path / "two.parquet")  # fmt: skip
    text = str(tmp_path / text.replace("csv", "parquet")) if "." in text else text
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        correct_file(tmp_path / "p.parquet", tmp_path / "out.parquet", temperature=text)
    assert not (tmp_path / "out.parquet").exists()


def test_a_fit_on_rows_of_the_training_is_refused(tmp_path):
    source = _save(tmp_path / "p.parquet", _logits(), metadata=TRAIN)
    with pytest.raises(ValueError, match="needs held-out rows"):
        correct_file(source, tmp_path / "out.parquet", temperature="fit")


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_rows_are_never_all_in_memory(tmp_path, monkeypatch, suffix):
    rows, block = 40_000, 1 << 14
    z = _logits(rows)
    source = _save(tmp_path / f"p{suffix}", z)
    whole = pq.read_table(source).nbytes if suffix == ".parquet" else source.stat().st_size
    assert whole > 100 * block
    monkeypatch.setattr(delimited, "CSV_BLOCK", block)
    monkeypatch.setattr(file, "_NUMBERS", 300)
    monkeypatch.setattr(rewriting, "_GROUP", 2000)
    held, most = [], []
    change = rewriting._column
    before = pa.total_allocated_bytes()

    def spied(values):
        held.append(pa.total_allocated_bytes() - before)
        most.append(len(values))
        return change(values)

    monkeypatch.setattr(rewriting, "_column", spied)
    found = correct_file(source, tmp_path / f"out{suffix}", **STATED)
    assert found.rows == rows
    assert max(most) <= 100
    assert max(held) < whole / 2
    after = _read(tmp_path / f"out{suffix}")
    np.testing.assert_allclose(
        after[NEW].to_numpy(), log_posterior(z, SETUP).exp().numpy(), rtol=1e-11, atol=1e-15
    )
    assert after["id"].iloc[-1] == f"00{rows - 1}"


def test_several_files_are_one(tmp_path):
    z = _logits()
    (tmp_path / "set").mkdir()
    _save(tmp_path / "set" / "part-10.csv", z[100:])
    _save(tmp_path / "set" / "part-2.csv", z[:100])
    correct_file(tmp_path / "set", tmp_path / "out.parquet", **STATED)
    found = _read(tmp_path / "out.parquet")
    np.testing.assert_allclose(found[NEW].to_numpy(), log_posterior(z, SETUP).exp().numpy(), rtol=1e-9)
    text = (tmp_path / "set" / "part-10.csv").read_text().replace('"fold"', '"part"')
    (tmp_path / "set" / "part-10.csv").write_text(text)
    with pytest.raises(ValueError, match="to be one file with it:"):
        correct_file(tmp_path / "set", tmp_path / "other.parquet", **STATED)
    assert not (tmp_path / "other.parquet").exists()


def test_an_index_of_pandas_stays_one(tmp_path):
    z = _logits(20)
    frame = pd.DataFrame(_columns(z)).set_index("id")
    frame.to_parquet(tmp_path / "p.parquet")
    correct_file(tmp_path / "p.parquet", tmp_path / "out.parquet", **STATED)
    found = pd.read_parquet(tmp_path / "out.parquet")
    assert found.index.name == "id"
    assert list(found.columns) == [*NEW, "target", "fold"]


def test_hostile_files_and_places_give_one_sentence(tmp_path):
    z = _logits(20)
    source = _save(tmp_path / "p.csv", z)
    before = source.read_bytes()
    for out, kind, message in [
        (source, FileExistsError, "exists already; name another file"),
        (tmp_path / "p.txt", ValueError, "out must end in"),
        (tmp_path / "p.npz", ValueError, "out must end in"),
    ]:
        with pytest.raises(kind, match=message):
            correct_file(source, out, **STATED)
    assert source.read_bytes() == before
    (tmp_path / "link.csv").symlink_to(tmp_path / "nowhere.csv")
    with pytest.raises(FileExistsError, match="exists already"):
        correct_file(source, tmp_path / "link.csv", **STATED)
    correct_file(source, tmp_path / "new" / "folder" / "out.csv", **STATED)
    assert (tmp_path / "new" / "folder" / "out.csv").exists()
    text = before.decode()
    for content, message in {
        "": "has no rows",
        text.splitlines()[0] + "\n": "has no rows",
        text.replace('"fold"', '"id"'): "'id' twice",
        text.replace("logit_dog", "dog"): "'?dog'?",
        text.replace(",0\n", ",0,1\n", 1): "cells a row",
    }.items():
        (tmp_path / "bad.csv").write_text(content)
        with pytest.raises(ValueError, match=message):
            correct_file(tmp_path / "bad.csv", tmp_path / "out.csv", **STATED)
    lines = text.splitlines()
    cells = lines[5].split(",")
    (tmp_path / "bad.csv").write_text("\n".join([*lines[:5], ",".join([cells[0], "x", *cells[2:]]), *lines[6:]]))
    with pytest.raises(ValueError, match="must hold numbers, got 'x'"):
        correct_file(tmp_path / "bad.csv", tmp_path / "out.csv", logits="logit_*", **STATED)
    with pytest.raises(ValueError, match=r"must have the column 'truth'"):
        correct_file(source, tmp_path / "out.csv", target="truth", **STATED)
    with pytest.raises(FileNotFoundError):
        correct_file(tmp_path / "none.csv", tmp_path / "out.csv", **STATED)
    pq.write_table(pa.table(_columns(z) | {"tags": [[1]] * 20}), tmp_path / "nested.parquet")
    with pytest.raises(ValueError, match="cannot hold the column 'tags'"):
        correct_file(tmp_path / "nested.parquet", tmp_path / "out.csv", **STATED)
    assert not (tmp_path / "out.csv").exists()
    assert not list(tmp_path.glob("*.tmp"))


def test_no_new_cell_is_a_formula(tmp_path):
    table = pa.table(_columns(_logits(4)) | {"=note": ["=1+1"] * 4}).replace_schema_metadata(METADATA)
    pq.write_table(table, tmp_path / "p.parquet")
    correct_file(tmp_path / "p.parquet", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().splitlines()[0].endswith(",'=note")
    assert (tmp_path / "out.csv").read_text().splitlines()[1].endswith(",'=1+1")
