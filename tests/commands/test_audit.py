"""Audits of files: every format the same, weights as the command line gives them, pages that open."""

import contextlib
import json
import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

from steelyard.auditing import audit
from steelyard.balance import TrainingSetup
from steelyard.commands.audit import audit_file
from steelyard.commands.correct import correct_file
from steelyard.losses import create_loss
from steelyard.notation import parse_loss, parse_weights
from steelyard.report import write_audit_page
from steelyard.weights.adjustments import logit_adjustment
from tests.helpers import NASTY
from tests.report.browser import check_page, check_scripts


def _samples(classes=5, rows=400):
    generator = torch.Generator().manual_seed(0)
    share = torch.logspace(0, -1, classes)
    target = torch.multinomial(share, rows, replacement=True, generator=generator)
    return 2 * torch.eye(classes)[target] + torch.randn(rows, classes, generator=generator), target


def _write(path, logits, target, metadata=None):
    classes = logits.shape[1]
    if path.suffix == ".parquet":
        flat = pa.array(logits.reshape(-1).numpy())
        columns = {"target": target.numpy(), "logits": pa.FixedSizeListArray.from_arrays(flat, classes)}
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    elif path.suffix == ".csv":
        columns = {"target": target.numpy()} | {f"logit_{k}": logits[:, k].numpy() for k in range(classes)}
        pyarrow.csv.write_csv(pa.table(columns), path)
    else:
        np.savez(path, logits=logits.numpy(), target=target.numpy())
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".npz"])
def test_every_format_gives_what_the_tensors_give(tmp_path, suffix):
    logits, target = _samples()
    file = _write(tmp_path / f"p{suffix}", logits, target)
    report = audit_file(file, loss="softmax", weights="inverse", out=tmp_path / "out")
    weights = parse_weights("inverse", torch.bincount(target))
    whole = audit(logits, target, TrainingSetup("softmax", class_weights=weights))
    torch.testing.assert_close(report.mean_confusion, whole.mean_confusion, rtol=1e-6, atol=1e-9)
    assert report.faults == whole.faults
    found = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert found["faults"] == list(report.faults)
    stored = np.load(tmp_path / "out" / "mean_confusion.npz")
    np.testing.assert_allclose(stored["ledger"].sum(0), report.residual.residual, atol=1e-12)
    lines = (tmp_path / "out" / "classes.csv").read_text().splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("class,name,samples")


def test_what_was_used_may_be_said_in_every_way(tmp_path):
    logits, target = _samples()
    file = _write(tmp_path / "p.parquet", logits, target)
    counts = torch.bincount(target)
    inverse = parse_weights("inverse", counts)
    (tmp_path / "w.json").write_text(json.dumps(inverse.tolist()))
    one = audit_file(file, loss="softmax", weights="inverse").residual.misfit
    numbers = ",".join(str(v) for v in inverse.tolist())
    for weights in (numbers, str(tmp_path / "w.json")):
        assert audit_file(file, loss="softmax", weights=weights).residual.misfit == pytest.approx(one)
    assert audit_file(file, loss="softmax", sampler="inverse").residual.misfit == pytest.approx(one)
    given = ",".join(str(10 * n) for n in counts.tolist())
    assert audit_file(file, loss="softmax", weights="inverse", class_counts=given).residual.misfit == (
        pytest.approx(one)
    )
    twice = audit_file(file, loss="softmax", weights="inverse", sampler="inverse")
    assert "counted_twice" in twice.faults
    # taken out again, the weights are as if they had never been
    back = audit_file(file, loss="softmax", weights="inverse", corrected="inverse")
    assert back.residual.misfit == pytest.approx(audit_file(file, loss="softmax").residual.misfit)


def test_logits_are_audited_as_training_saw_them(tmp_path):
    logits, target = _samples()
    adjustment = logit_adjustment(torch.bincount(target))
    told = {
        "steelyard.loss": "softmax:tau=1",
        "steelyard.link": "softmax",
        "steelyard.logit_adjustment": " ".join(map(repr, adjustment.tolist())),
    }
    said = []
    report = audit_file(_write(tmp_path / "p.parquet", logits, target, told), say=said.append)
    expected = audit(logits.double() + adjustment.double(), target, "softmax")
    torch.testing.assert_close(report.mean_confusion, expected.mean_confusion, rtol=1e-12, atol=0)
    assert said[1:] == ["logits with the adjustment that training added: softmax:tau=1"]


def test_lgl_inr_is_audited_in_the_batches_of_its_training(tmp_path):
    logits, target = _samples()
    told = {"steelyard.loss": "lgl-inr:beta=auto", "steelyard.link": "logistic", "steelyard.batch_size": "8"}
    file, said = _write(tmp_path / "p.parquet", logits, target, told), []
    report = audit_file(file, say=said.append)
    beta = 2 * math.log(logits.shape[1] - 1)
    expected = audit(logits, target, TrainingSetup("lgl-inr", batch_size=8, options={"beta": beta}))
    assert report.residual.misfit == pytest.approx(expected.residual.misfit)
    assert report.residual.misfit != pytest.approx(
        audit(logits, target, TrainingSetup("lgl-inr", options={"beta": beta})).residual.misfit
    )
    assert said[1:] == [
        f"LGL-INR of beta {beta:g} in batches of 8, from the loss that the file names: lgl-inr:beta=auto"
    ]


def test_any_registered_loss_is_made_from_the_metadata(tmp_path):
    logits, target = _samples()
    told = {"steelyard.loss": "focal:inverse:gamma=1", "steelyard.link": "softmax"}
    file, said = _write(tmp_path / "p.parquet", logits, target, told), []
    report = audit_file(file, say=said.append)
    loss = create_loss("focal", gamma=1.0, class_weights=parse_weights("inverse", torch.bincount(target)))
    expected = audit(logits, target, loss)
    assert report.numbers.statement.text == "focal loss with class weights"
    torch.testing.assert_close(report.residual.residual, expected.residual.residual, rtol=1e-6, atol=1e-9)
    assert report.faults == expected.faults
    assert said == [
        "logits: logits; label: target",
        "loss focal:inverse:gamma=1, as the file names it",
        "class weights inverse, from the loss that the file names: focal:inverse:gamma=1",
    ]
    assert audit_file(file, loss="class-balanced").numbers.statement.text == "softmax loss with class weights"


def test_rows_without_a_label_are_left_out(tmp_path):
    logits, target = _samples()
    columns = {"target": [None, *target.tolist()], "logits": [[0.0] * 5, *logits.tolist()]}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    report = audit_file(tmp_path / "p.parquet", loss="softmax", weights="inverse")
    assert sum(report.numbers.samples) == 400
    whole = audit_file(_write(tmp_path / "q.parquet", logits, target), loss="softmax", weights="inverse")
    torch.testing.assert_close(report.mean_confusion, whole.mean_confusion)


def test_a_folder_that_an_audit_left_unfinished_is_completed(tmp_path, monkeypatch):
    logits, target = _samples()
    file, out = _write(tmp_path / "p.parquet", logits, target), tmp_path / "out"

    def killed(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("steelyard.commands.audit._page", lambda: killed)
        with pytest.raises(KeyboardInterrupt):
            audit_file(file, loss="softmax", out=out)
    audit_file(file, loss="softmax", out=out)
    assert {p.name for p in out.iterdir()} == {"audit.json", "classes.csv", "mean_confusion.npz", "report.html"}
    with pytest.raises(FileExistsError, match="holds something already"):
        audit_file(file, loss="softmax", out=out)


def test_weights_by_class_name(tmp_path):
    file = tmp_path / "w.json"
    file.write_text('{"b": 2, "a": 1.5}')
    counts = torch.tensor([3, 4])
    assert parse_weights(str(file), counts, ["a", "b"]).tolist() == [1.5, 2]
    with pytest.raises(ValueError, match="has no entry for class 'c'"):
        parse_weights(str(file), counts, ["a", "c"])
    file.write_text('{"b": 2, "a": 1, "z": 1}')
    with pytest.raises(ValueError, match="names an unknown class 'z'"):
        parse_weights(str(file), counts, ["a", "b"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2", "weights must be 3 numbers, one for each class, got 2 numbers"),
        ("1,2,-3", "weights must be positive numbers, got 1,2,-3"),
        ("inverze", "weights: unknown weight scheme 'inverze' .did you mean 'inverse'"),
    ],
)
def test_bad_weights(text, message):
    with pytest.raises(ValueError, match=message):
        parse_weights(text, torch.ones(3))


def test_a_loss_that_nobody_says_is_a_guess_that_is_told(tmp_path):
    logits, target = _samples()
    guessed = []
    found = audit_file(_write(tmp_path / "p.parquet", logits, target), say=guessed.append)
    assert found.to_dict() == audit_file(tmp_path / "p.parquet", loss="softmax").to_dict()
    assert guessed[1] == "loss: softmax, as nobody says which it was; --loss states another"
    rows = np.stack([np.linspace(-1, 1, 40), np.arange(40) % 2], axis=1)
    np.savetxt(tmp_path / "b.csv", rows, delimiter=",", header="score,y_true", comments="")
    audit_file(tmp_path / "b.csv", say=guessed.append)
    assert "loss: logistic, as nobody says which it was; --loss states another" in guessed
    told = _write(tmp_path / "q.parquet", logits, target, {"steelyard.link": "logistic"})
    said = []
    assert audit_file(told).implied_weights is None
    audit_file(told, loss="softmax", say=said.append)
    assert said[1:] == [f"{told} says that its link is logistic; read as softmax, as asked"]


def test_probabilities_in_a_column_of_either_name(tmp_path):
    logits, target = _samples()
    file = _write(tmp_path / "p.parquet", logits.softmax(1), target)
    with pytest.raises(ValueError, match="logits look like probabilities"):
        audit_file(file, loss="softmax")
    one = audit_file(file, loss="softmax", values="probabilities")
    whole = audit(logits, target, "softmax")
    torch.testing.assert_close(one.mean_confusion, whole.mean_confusion, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".npz"])
@pytest.mark.parametrize(("unit", "decimals"), [(1, 3), (1, 2), (100, 1), (100, 0), (100, 9)])
def test_rounded_probabilities_and_percents_are_told(tmp_path, suffix, unit, decimals):
    logits, target = _samples()
    p = (unit * logits.softmax(1).double() * 10**decimals).round() / 10**decimals
    file, said = _write(tmp_path / f"p{suffix}", p, target), []
    with pytest.raises(ValueError, match=r"logits look like probabilities: all lie in .* or are percents"):
        audit_file(file, loss="softmax")
    one = audit_file(file, loss="softmax", values="probabilities", say=said.append)
    whole = audit(logits, target, "softmax")
    torch.testing.assert_close(one.mean_confusion, whole.mean_confusion, rtol=0, atol=2e-3)
    percents = ["probabilities are percents, they are divided by 100"] if unit == 100 else []
    shown = decimals + (2 if unit == 100 else 0)
    rounding = [f"probabilities are rounded to {shown} decimals"] if shown < 5 else []
    assert [line.split(", rows")[0] for line in said[1:]] == percents + rounding


def test_the_first_error_is_the_one_that_is_told(tmp_path):
    file = tmp_path / "p.npz"
    np.savez(file, probabilities=np.array([[object()]], dtype=object), y=np.zeros(1, int))
    with pytest.raises(TypeError, match="array 'probabilities' must hold numbers, got Python objects"):
        audit_file(file, loss="softmax", values="probabilities")
    np.savez(file, probabilities=np.full((4, 2), 0.5), y=np.array([0, 1, 5, 1]))
    with pytest.raises(ValueError, match="array 'y' must hold labels from 0 to 1, got 5 in row 2"):
        audit_file(file, loss="softmax", values="probabilities")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_id_is_no_class(tmp_path, suffix):
    logits, target = _samples(3)
    names = np.array(["cat", "dog", "owl"])
    columns = {"id": np.arange(len(target)), **{n: logits[:, k].numpy() for k, n in enumerate(names)}}
    table = pa.table(columns | {"label": names[target], "fold": (target % 2).numpy()})
    file, said = tmp_path / f"p{suffix}", []
    pyarrow.csv.write_csv(table, file) if suffix == ".csv" else pq.write_table(table, file)
    found = audit_file(file, loss="softmax", say=said.append)
    whole = audit(logits, target, "softmax")
    torch.testing.assert_close(found.mean_confusion, whole.mean_confusion, rtol=1e-6, atol=1e-9)
    assert found.faults == whole.faults
    assert said == ["logits: cat, dog, owl; label: label; left out: id, fold"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_rows_with_missing_cells_are_dropped_and_counted(tmp_path, suffix):
    logits, target = _samples(3)
    columns = {f"logit_{k}": logits[:, k].tolist() for k in range(3)} | {"y": target.tolist()}
    columns["logit_1"][3] = columns["logit_1"][8] = columns["logit_2"][8] = None
    table, file = pa.table(columns), tmp_path / f"p{suffix}"
    pyarrow.csv.write_csv(table, file) if suffix == ".csv" else pq.write_table(table, file)
    with pytest.raises(ValueError, match="got 2 of 400 rows with NaN or infinite numbers, the first at row 3"):
        audit_file(file, loss="softmax")
    found = audit_file(file, loss="softmax", drop_invalid=True)
    kept = torch.ones(400, dtype=torch.bool)
    kept[[3, 8]] = False
    whole = audit(logits[kept], target[kept], "softmax")
    assert (found.numbers.dropped, sum(found.numbers.samples)) == (2, 398)
    torch.testing.assert_close(found.mean_confusion, whole.mean_confusion, rtol=1e-6, atol=1e-9)


def test_held_out_rows_are_warned_of_first(tmp_path):
    logits, target = _samples()
    counts = 7 * torch.bincount(target)
    told = {
        "steelyard.link": "softmax",
        "steelyard.split": "test",
        "steelyard.class_counts": " ".join(map(str, counts.tolist())),
    }
    file, said = _write(tmp_path / "p.parquet", logits, target, told), []
    found = audit_file(file, weights="inverse", say=said.append)
    assert said[0].startswith(f"WARNING: {file} holds held-out samples")
    assert "audit the training samples" in said[0]
    assert found.numbers.class_counts.tolist() == counts.tolist()
    assert [finding.name for finding in found.findings if finding.severity == "warning"] == ["not_training_rows"]
    assert "weights" not in [finding.topic for finding in found.findings]
    assert found.headline == "These are not the training rows, as their file says."
    _write(tmp_path / "train_p.parquet", logits, target, told | {"steelyard.split": "train"})
    said.clear()
    audit_file(file, say=said.append)
    assert f"audit {tmp_path / 'train_p.parquet'} to learn" in said[0]
    said.clear()
    here = {
        "steelyard.split": "train",
        "steelyard.class_counts": " ".join(map(str, torch.bincount(target).tolist())),
    }
    _write(tmp_path / "train_p.parquet", logits, target, told | here)
    found = audit_file(tmp_path / "train_p.parquet", say=said.append)
    assert said == ["logits: logits; label: target"]
    assert "not_training_rows" not in [finding.name for finding in found.findings]


def _binary(path, ratio=1.0):
    """A file of score and y_true: four cells, at the optimum of softmax in which class 1 weighs so many times."""
    ones = np.array([20, 100, 500, 800])
    cells = np.repeat(np.arange(4), 1000)
    target = np.concatenate([np.arange(1000) < n for n in ones]).astype(int)
    scores = np.log(ratio * ones / (1000 - ones))[cells]
    np.savetxt(path, np.stack([scores, target], 1), delimiter=",", header="score,y_true", comments="")
    return path, torch.tensor(scores), torch.tensor(target)


def test_the_weight_of_positives_of_one_output(tmp_path):
    file, scores, target = _binary(tmp_path / "b.csv", 100.0)
    expected = audit(scores, target, TrainingSetup("logistic", pos_weight=[100.0]))
    (tmp_path / "list.json").write_text("[100]")
    (tmp_path / "named.json").write_text('{"fraud": 100}')
    for given, options in (
        ("100", {}), ("1e2", {}), (str(tmp_path / "list.json"), {}),
        (str(tmp_path / "named.json"), {"class_names": ["fine", "fraud"]}),
    ):  # fmt: skip
        found = audit_file(file, target="y_true", pos_weights=given, **options)
        assert found.ratio.stated == 100
        assert found.ratio.found.value == pytest.approx(100)
        assert found.ratio.found == expected.ratio.found
        assert (found.faults, found.findings[0].name) == ((), "weights_acted")
    # weights of both classes say the same; a scheme is the ratio that it makes of the two classes
    assert audit_file(file, weights="1,100").ratio == expected.ratio
    counts = torch.bincount(target)
    assert audit_file(file, pos_weights="inverse").ratio.stated == pytest.approx(float(counts[0] / counts[1]))
    assert audit_file(file, pos_weights="none").findings[0].name == "weights_unstated"
    assert audit_file(_binary(tmp_path / "plain.csv")[0], pos_weights="100").faults == ("weights_not_applied",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"pos_weights": "1,100"},
            "pos-weights must be one number for one output, .* got '1,100'; .* --weights 1,100",
        ),
        ({"pos_weights": "0"}, "pos-weights must be positive numbers, got 0"),
        ({"pos_weights": "invers"}, "pos-weights: unknown weight scheme 'invers'"),
        (
            {"pos_weights": "100", "loss": "softmax"},
            "pos-weights are for losses whose outputs have positives, .* got loss softmax",
        ),
        ({"ignore": ["SY99"]}, "ignore has no finding 'SY99'"),
    ],
)
def test_weights_of_one_output_that_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        audit_file(_binary(tmp_path / "b.csv")[0], **options)


def test_ignored_findings_are_saved_and_told_as_such(tmp_path):
    file, _, _ = _binary(tmp_path / "b.csv")
    found = audit_file(file, pos_weights="100", ignore=["SY011"], out=tmp_path / "out")
    assert found.faults == ()
    saved = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert (saved["faults"], [one["name"] for one in saved["ignored"]]) == ([], ["weights_not_applied"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Ignored: SY011 weights not applied." in page
    assert not re.search(r'class="(badge )?fault"', page)


def _multi():
    """Logits at the optimum of positives that weigh 3, 8 and 1 times, of three labels in two cells each."""
    ones = torch.tensor([[30, 200], [10, 80], [60, 240]]).double()  # label by cell, of 300 rows
    cells = torch.arange(600) // 300
    target = (torch.arange(600)[:, None] % 300 < ones[:, cells].T).long()
    logits = (torch.tensor([3.0, 8.0, 1.0])[:, None] * ones / (300 - ones)).log()[:, cells].T
    return logits.contiguous(), target


def _multi_file(path, logits, target, shuffled=(2, 0, 1)):
    names = np.array(["sun", "rain", "wind"])
    if path.suffix == ".npz":
        np.savez(path, logits=logits.numpy(), labels=target.numpy())
    elif path.stem == "lists":
        pq.write_table(pa.table({"logits": logits.tolist(), "labels": target.tolist()}), path)
    else:
        columns = {f"logit_{n}": logits[:, k].numpy() for k, n in enumerate(names)}
        columns |= {f"label_{names[k]}": target[:, k].numpy() for k in shuffled}
        table = pa.table(columns)
        pyarrow.csv.write_csv(table, path) if path.suffix == ".csv" else pq.write_table(table, path)
    return path


@pytest.mark.parametrize("file", ["m.npz", "lists.parquet", "columns.parquet", "columns.csv"])
def test_labels_of_outputs_that_stand_for_themselves(tmp_path, file):
    logits, target = _multi()
    named = file.startswith("columns")
    file, said = _multi_file(tmp_path / file, logits, target), []
    given = {"target": "label_*"} if named else {}
    found = audit_file(file, pos_weights="3,8,20", say=said.append, **given)
    setup = TrainingSetup("logistic", pos_weight=[3.0, 8.0, 20.0], targets="multi-hot")
    expected = audit(logits, target, setup, class_names=["sun", "rain", "wind"] if named else None)
    assert found.to_dict() == expected.to_dict()
    torch.testing.assert_close(found.implied_over_stated, torch.tensor([1, 1, 0.05], dtype=torch.float64))
    off = found.classes[0]  # the label that is off comes first, with its interval
    assert (off.index, off.stated) == (2, 20.0)
    assert off.implied_low < 1 < off.implied_high < 2
    if named:
        told = ", ".join(f"label_{name}" for name in ("sun", "rain", "wind"))
        assert said[0] == f"logits: logit_sun, logit_rain, logit_wind; labels: {told}"
        assert audit_file(file, target="label_wind, label_rain,label_sun").numbers.samples == found.numbers.samples
    else:
        assert said[0] == "logits: logits; labels: labels"
    assert said[1] == "loss: logistic, as nobody says which it was; --loss states another"
    # a scheme weighs the two classes of each output
    negatives, positives = (target == 0).sum(0), target.sum(0)
    balanced = audit_file(file, pos_weights="inverse", **given)
    torch.testing.assert_close(balanced.numbers.statement.pos_weight, (negatives / positives).double())


def test_missing_labels_of_an_output_count_for_nothing(tmp_path):
    logits, target = _multi()
    target[5, 1] = -100
    columns = {"logits": logits.tolist(), "labels": [row.tolist() for row in target]}
    columns["labels"][7][0] = None
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    found = audit_file(tmp_path / "m.parquet", pos_weights="3,8,1")
    target[7, 0] = -100
    setup = TrainingSetup("logistic", pos_weight=[3.0, 8.0, 1.0], targets="multi-hot")
    assert found.to_dict() == audit(logits, target, setup).to_dict()


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"labels": [[0, 1], [1, 0]]}, {}, "must have one label a row, or 0 and 1 for each of 3 outputs, got 2 labels"),
        ({"labels": [[0, 1, 2], [1, 0, 1]]}, {}, "'labels' must hold 0 and 1, got 2 in row 0, output 2"),
        ({"labels": [[0, 1, 1], [1, 0, 1]]}, {"weights": "1,2,3"}, "target must hold class labels where class weights"),
        ({"labels": [[0, 1, 1], [1, 0, 1]]}, {"loss": "softmax"}, "targets of softmax must be labels|cross-entropy"),
        ({"labels": [[0, 1, 1], [1, 0, 1]]}, {"class_counts": "1,2,3"}, "counts must not be given for labels of 0 and 1"),
        ({"l_a": [0, 1], "l_b": [1, 0]}, {"target": "l_*"}, "a column of labels for each of 3 outputs, got l_a, l_b"),
        ({"l_a": [0, 1], "l_b": ["x", "y"], "l_c": [0, 1]}, {"target": "l_*"}, "'l_b' must hold 0 and 1 for each row"),
        ({"l_a": [0, 1]}, {"target": "l_a,m_*"}, "must have the column 'l_a,m_\\*', its columns are"),
        ({"l_a": [0, 1]}, {"target": "l_a,l_*"}, "target must name every column of labels once, got 'l_a,l_\\*'"),
    ],
)  # fmt: skip
def test_labels_of_several_outputs_that_are_refused(tmp_path, columns, options, message):
    table = pa.table({"logits": [[0.5, 1.5, -2.0], [1.0, -2.0, 3.0]]} | columns)
    pq.write_table(table, tmp_path / "m.parquet")
    with pytest.raises((ValueError, TypeError), match=message):
        audit_file(tmp_path / "m.parquet", **options)


def test_one_hot_labels_are_no_guess(tmp_path):
    logits, target = _samples(3)
    file = _multi_file(tmp_path / "m.npz", logits, torch.eye(3)[target])
    with pytest.raises(ValueError, match=r"has one label of 1 in every row: .* say --loss logistic"):
        audit_file(file)
    assert audit_file(file, loss="logistic").numbers.samples == tuple(torch.bincount(target).tolist())


def test_labels_and_logits_of_other_outputs_are_refused(tmp_path):
    columns = {"logit_a": [0.5, -1.5], "logit_b": [1.5, 2.0], "y_a": [0, 1], "y_c": [1, 0]}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    with pytest.raises(
        ValueError, match="logits and labels of the same outputs, got logits of a, b and labels of a, c"
    ):
        audit_file(tmp_path / "m.parquet", target="y_*")


def test_a_set_of_files_is_audited_as_one(tmp_path):
    logits, target = _samples()
    for k, rows in enumerate(torch.arange(400).chunk(11)):
        _write(tmp_path / f"part-{k}.parquet", logits[rows], target[rows])
    whole = audit(logits, target, "softmax")
    for path in (tmp_path, tmp_path / "part-*.parquet"):
        found = audit_file(path, loss="softmax")
        torch.testing.assert_close(found.mean_confusion, whole.mean_confusion, rtol=1e-6, atol=1e-9)


def test_more_classes_than_memory_has_room_for_are_refused_at_once(tmp_path, monkeypatch):
    file = tmp_path / "p.npz"
    np.savez(file, logits=np.zeros((1, 2_000_000), np.float16), y=np.zeros(1, int))
    with pytest.raises(
        ValueError, match=r"an audit of 2000000 classes needs about [\d,]+ GB .* at most about \d+ classes"
    ):
        audit_file(file, loss="softmax")
    monkeypatch.setattr("steelyard._common.memory.available_memory", lambda: 1e6)
    with pytest.raises(
        ValueError, match=r"an audit of 300 classes needs about 0 GB .* at most about 3. classes fit"
    ):
        audit(torch.zeros(2, 300), torch.tensor([0, 1]), "softmax")


@pytest.mark.parametrize("formula", ["=cmd|' /C calc'!A0", "+1+1", "@x", "\t=1", " =1"])
def test_names_are_no_formulas_in_the_table(tmp_path, formula):
    logits, target = _samples(2)
    file = _write(tmp_path / "p.parquet", logits, target)
    audit_file(file, loss="softmax", class_names=[formula, "b"], out=tmp_path / "out")
    assert f"'{formula}" in (tmp_path / "out" / "classes.csv").read_text()


CASES = {
    "softmax": (10, {"loss": "softmax", "weights": "inverse"}),
    "one-vs-all": (10, {"loss": "logistic", "pos_weights": "inverse"}),
    "lgl-inr": (10, {"loss": "lgl-inr:beta=2"}),
    "hostile names": (10, {"loss": "softmax", "weights": "inverse", "class_names": NASTY}),
    "two classes": (2, {"loss": "softmax"}),
    "one binary output": (1, {"loss": "logistic", "weights": "inverse"}),
    "hundred classes": (100, {"loss": "softmax", "weights": "inverse"}),
}


_QUICK = ("hostile names", "one binary output", "lgl-inr")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] * (case not in _QUICK)) for case in CASES]
)
def test_page_opens_without_a_word(tmp_path, case):
    classes, options = CASES[case]
    logits, target = _samples(max(classes, 2), 30 * classes + 300)
    file = _write(tmp_path / "p.parquet", logits[:, :1] if classes == 1 else logits, target)
    audit_file(file, out=tmp_path / "out", command="steelyard audit <p>", **options)
    page = tmp_path / "out" / "report.html"
    check_page(page, least=1)
    text = page.read_text()
    assert "steelyard audit &lt;p&gt;" in text
    check_scripts(text)
    assert not any(ord(c) < 32 and c not in "\n\t" for c in text)
    assert "nan" not in text[text.index('id="classes"') :]
    assert write_audit_page(tmp_path / "out").read_text() == text


def test_folder_without_an_audit(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no audit: there is no audit\.json"):
        write_audit_page(tmp_path)
    (tmp_path / "audit.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        write_audit_page(tmp_path)
    (tmp_path / "audit.json").write_text('{"schema": 2}')
    with pytest.raises(ValueError, match="is not an audit of schema 1"):
        write_audit_page(tmp_path)


def test_an_odd_link_of_a_file_is_told_in_a_few_letters(tmp_path):
    """The metadata of a file may hold any text, of any length."""
    table = pa.table({"logit_a": [1.0, 0.0], "logit_b": [0.0, 1.0], "target": [0, 1]})
    link = "\0=" * 5000
    pq.write_table(table.replace_schema_metadata({"steelyard.link": link}), tmp_path / "x.parquet")
    said = []
    with contextlib.suppress(ValueError):
        audit_file(tmp_path / "x.parquet", loss="softmax", say=said.append)
    assert all(len(line) < 500 and "\0" not in line for line in said)
    assert any("says that its link is" in line for line in said), said


COUNTS = torch.tensor([60, 30, 10])


def _optimum(loss):
    """Logits at which the gradient of a loss is zero, of three inputs, and labels."""
    counts = torch.tensor([[48, 6, 1], [8, 20, 2], [4, 4, 7]])
    z, target = torch.zeros(3, 3, dtype=torch.float64), torch.arange(3).repeat(3)
    for _ in range(2000):
        each = z.repeat_interleave(3, 0).requires_grad_()
        (gradient,) = torch.autograd.grad(loss.per_sample(each, target).sum(), each)
        z = z - (counts[:, :, None] * gradient.view(3, 3, 3)).sum(1) / counts.sum(1, keepdim=True)
    return z.repeat_interleave(counts.sum(1), 0), target.repeat_interleave(counts.flatten())


@pytest.mark.parametrize("text", ["seesaw", "seesaw:tau=1", "cdt:tau=1", "cdt:gamma=0.5", "vs", "ldam:scale=2"])
def test_a_loss_told_in_text_is_the_loss_of_the_counts(tmp_path, text):
    """An adjustment less its mean is another loss where logits have factors."""
    logits, target = _optimum(parse_loss(text).loss(COUNTS, 1))
    report = audit_file(_write(tmp_path / "p.npz", logits, target), loss=text)
    torch.testing.assert_close(report.residual.residual, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-6)
    assert report.faults == ()


def test_probabilities_of_a_loss_with_factors_are_refused(tmp_path):
    logits, target = _optimum(create_loss("vs", class_counts=COUNTS))
    file = tmp_path / "p.npz"
    np.savez(file, probabilities=logits.softmax(1).numpy(), target=target.numpy())
    with pytest.raises(ValueError, match="probabilities do not tell the logits"):
        audit_file(file, loss="vs", values="probabilities")
    with pytest.raises(ValueError, match="probabilities do not tell the logits"):
        correct_file(file, tmp_path / "out.npz", loss="vs", values="probabilities", class_counts="60,30,10")


def test_seesaw_is_undone_under_the_counts_of_the_training(tmp_path):
    loss = create_loss("seesaw", class_counts=COUNTS)
    logits, target = _optimum(loss)
    correct_file(
        _write(tmp_path / "p.npz", logits, target), tmp_path / "o.npz", loss="seesaw", class_counts="60,30,10"
    )
    found = torch.from_numpy(np.load(tmp_path / "o.npz")["corrected_probabilities"])
    wanted = torch.tensor([[48, 6, 1], [8, 20, 2], [4, 4, 7]], dtype=torch.float64)
    wanted = (wanted / wanted.sum(1, keepdim=True)).repeat_interleave(torch.tensor([55, 30, 15]), 0)
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-6)
