"""Results on disk: read as they were written, and one sentence with file and key for what was edited or cut off."""

import copy
import json
import re

import numpy as np
import pytest
import torch

from steelyard.commands.advise import advise_file
from steelyard.commands.audit import audit_file
from steelyard.commands.forecast import forecast_file
from steelyard.experiments.standings import stand
from steelyard.report import (
    write_advise_page,
    write_audit_page,
    write_claim_page,
    write_forecast_page,
    write_report,
)
from steelyard.report.results import (
    AdviceResults,
    Audit,
    Claim,
    Comparison,
    Environment,
    ForecastResults,
    read_confusions,
)
from tests.report.test_page import make_run


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A small folder of each kind, with how it is read and how its page is written."""
    root = tmp_path_factory.mktemp("results")
    (root / "compare").mkdir()
    make_run(root / "compare", ["a", "b", "c"], losses=("softmax", "lgl-inr"))
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(60) % 3
    rows = torch.randn(60, 3, generator=generator) + 2 * torch.eye(3)[target]
    np.savez(root / "rows.npz", logits=rows.numpy(), features=rows.numpy(), target=target.numpy())
    audit_file(root / "rows.npz", loss="softmax", weights="inverse", out=root / "audit")
    forecast_file(root / "rows.npz", losses=["softmax"], weights=["none", "inverse"], out=root / "forecast")
    advise_file(root / "rows.npz", folds=3, out=root / "advise")
    (root / "claim").mkdir()
    (root / "claim" / "claim.json").write_text(json.dumps(_claim().to_dict()))
    return {
        "compare": (root / "compare", Comparison, write_report),
        "audit": (root / "audit", Audit, write_audit_page),
        "forecast": (root / "forecast", ForecastResults, write_forecast_page),
        "advise": (root / "advise", AdviceResults, write_advise_page),
        "claim": (root / "claim", Claim, write_claim_page),
    }


def _claim():
    class Config:
        losses, reference = ("softmax", "lgl-inr"), "softmax"

    records = [
        {"imbalance": "none", "loss": loss, "learning_rate": 0.1, "fewest": 9, "most": 9}
        | {key: [0.5, 0.75] for key in ("balanced_accuracy", "accuracy", "rare_recall")}
        for loss in Config.losses
    ]
    return Claim(
        claim="c4",
        title="a title",
        statement="a statement",
        config={"seeds": 2, "reference": "softmax", "backbone": "mlp", "epochs": 1},
        environment=Environment("0", "0", "0", "none"),
        finished="2026-01-01T00:00:00+00:00",
        seconds=1.0,
        **vars(stand(records, "imbalance", Config, held="partly", verdict="a verdict")),
    )


def test_a_leaderboard_stands_without_rare_classes_in_the_test_and_without_common_seeds():
    class Config:
        losses, reference = ("softmax", "lgl-inr", "focal"), "softmax"

    scores = {"softmax": [0.5, 0.75, None], "lgl-inr": [0.5, 0.8, 0.9], "focal": [None, 0.7, 0.8]}
    records = [
        {"imbalance": "none", "loss": loss, "learning_rate": 0.1, "fewest": 9, "most": 9}
        | dict.fromkeys(("balanced_accuracy", "accuracy"), values)
        | {"rare_recall": [None, None, None]}
        for loss, values in scores.items()
    ]
    (table,) = stand(records, "imbalance", Config, held="no", verdict="none").tables
    rows = {row.loss: row for row in table.rows}
    assert all(row.rare_recall is None for row in table.rows)
    assert rows["focal"].p is None  # of one common seed
    assert rows["lgl-inr"].p == pytest.approx(0.5)  # of differences 0 and 0.05


KINDS = ["compare", "audit", "forecast", "advise", "claim"]


@pytest.mark.parametrize("kind", KINDS)
def test_results_come_back_as_they_were_written(folders, kind):
    folder, cls, write = folders[kind]
    found = cls.read(folder)
    assert cls.from_dict(found.to_dict()) == found
    assert cls.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert found.schema == cls.SCHEMA
    assert write(folder).exists()


@pytest.mark.parametrize("kind", KINDS)
def test_key_that_a_later_version_added_is_no_fault(folders, kind):
    folder, cls, _ = folders[kind]
    value = json.loads((folder / cls.FILE).read_text())
    assert cls.from_dict(value | {"later": 1}) == cls.from_dict(value)


def _places(value, path=()):
    """Every key of a JSON value, at any depth; of a list's entries the first."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from _places(inner, (*path, key))
    elif isinstance(value, list) and value:
        yield from _places(value[0], (*path, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_edited_is_read_or_refused_with_the_file_and_the_key(folders, kind):
    folder, cls, _ = folders[kind]
    whole, refused = json.loads((folder / cls.FILE).read_text()), 0
    for path in _places(whole):
        for value in ("missing", None, {}, [], "text", -1, [None], [[]]):
            edited = copy.deepcopy(whole)
            place = edited
            for key in path[:-1]:
                place = place[key]
            if value == "missing":
                del place[path[-1]]
            else:
                place[path[-1]] = value
            try:
                cls.from_dict(edited, "the-file")
            except ValueError as error:
                refused += 1
                text = str(error)
                assert text.startswith("the-file: ")
                assert "\n" not in text
                assert len(text) < 300
    assert refused > 50


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text[: len(text) // 2], "is not JSON"),
        (lambda text: "[" * 100_000, "is not JSON"),
        (lambda text: "\xff", "is not"),
        (lambda text: "[1]", r"is not .* of schema \d$"),
        (lambda text: re.sub(r'"schema": \d', '"schema": 9', text), r"of schema \d, but of schema 9, of another"),
        (lambda text: text.replace('"name"', '"nom"').replace('"title"', '"titre"'), r"json: .* is missing"),
    ],
    ids=["cut off", "nested", "no text", "a list", "a later schema", "a key"],
)
def test_file_that_is_not_ours_is_named(folders, tmp_path, kind, edit, message):
    folder, cls, write = folders[kind]
    (tmp_path / cls.FILE).write_text(edit((folder / cls.FILE).read_text()), encoding="latin-1", errors="replace")
    with pytest.raises(ValueError, match=message) as error:
        write(tmp_path)
    assert str(tmp_path / cls.FILE) in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_folder_without_results_says_what_is_missing(folders, tmp_path, kind):
    _, cls, write = folders[kind]
    with pytest.raises(FileNotFoundError, match=f"holds no {cls.NONE}: there is no {cls.FILE}"):
        write(tmp_path)


def test_confusions_that_were_damaged_are_named(tmp_path):
    file = tmp_path / "mean_confusion.npz"
    with pytest.raises(FileNotFoundError, match=r"mean_confusion.npz is missing; the folder must be kept whole"):
        read_confusions(file, 3, "test")
    np.savez(file, test=np.eye(3), train=np.eye(2), names=np.array(["a", "b"]))
    assert read_confusions(file, 3, "test")["test"].tolist() == np.eye(3).tolist()
    for name, message in (
        ("other", "other is not a file in the archive"),
        ("train", r"train must be \(3, 3\) numbers, got \(2, 2\) of float64"),
        ("names", r"names must be \(3, 3\) numbers"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            read_confusions(file, 3, name)
        assert str(error.value).startswith(f"{file}: ")
    whole = file.read_bytes()
    for end in range(0, len(whole), 97):
        file.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"mean_confusion.npz is not a whole .npz file"):
            read_confusions(file, 3, "test")
    np.savez(file, test=np.array([object()], dtype=object))
    with pytest.raises(ValueError, match=r"is not a whole .npz file"):
        read_confusions(file, 3, "test")
    np.save(tmp_path / "a.npy", np.eye(3))
    file.write_bytes((tmp_path / "a.npy").read_bytes())
    with pytest.raises(ValueError, match=r"is not a whole .npz file"):
        read_confusions(file, 3, "test")
