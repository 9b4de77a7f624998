"""Cells that are no formulas, and reasons without advice."""

import csv
import io
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steelyard import audit
from steelyard._common.files import write_csv
from steelyard._common.text import inert, nearest, reason_of
from steelyard.commands.forecast import forecast_file

SIGNS = ["=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20", "\u2212"]
BEFORE = [
    "",
    " ",
    "\t",
    "\r",
    "\n",
    "\r\n",
    "\x0b",
    "\u00a0",
    "\u3000",
    "\ufeff",
    "\u200b",
    "\u2060",
    "\x00",
    "\t =\u200b",
]


@given(st.sampled_from(BEFORE), st.sampled_from(SIGNS), st.text(max_size=5))
def test_no_cell_is_a_formula(before, sign, rest):
    cell = f"{before}{sign}cmd{rest}"
    assert inert(cell) == f"'{cell}"


@pytest.mark.parametrize(
    "cell", ["cat", "", "a=b", "-1", "+1.5", "12", "x-ray", "🦉 owl", "'=1", 3, -2.5, None, True]
)
def test_other_cells_stay(cell):
    assert inert(cell) is cell


@pytest.mark.parametrize("cell", [" cat", "\tcat", "\rcat", "\ncat", "\u200bcat", "-1-2", "-1+cmd", "+1e5", "-"])
def test_what_a_spreadsheet_may_strip_or_count_is_marked(cell):
    assert inert(cell) == f"'{cell}"


NAMES = ["=1+1", "\t@SUM(A1)", "\uff1dcmd", "plain"]


def _cells(file):
    return [cell for row in csv.reader(io.StringIO(file.read_text(encoding="utf-8"), newline="")) for cell in row]


def test_every_csv_file_is_inert(tmp_path):
    logits = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    audit(logits, torch.arange(40) % 4, "softmax", class_names=NAMES).save(tmp_path / "a", page=None)
    assert {f"'{name}" for name in NAMES[:3]} < set(_cells(tmp_path / "a" / "classes.csv"))
    write_csv(tmp_path / "b.csv", ["loss"], [[name] for name in NAMES])
    assert set(_cells(tmp_path / "b.csv")) == {"loss", *(f"'{name}" for name in NAMES[:3]), "plain"}


def test_a_forecast_writes_no_formula(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "=cmd.json").write_text("[1, 2]")
    rows = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)).tolist()
    lines = ["f0,f1,target", *(f"{a},{b},{k % 2}" for k, (a, b) in enumerate(rows))]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    forecast_file("x.csv", losses=["softmax"], weights=["=cmd.json"], out="out")
    cells = _cells(tmp_path / "out" / "forecast.csv")
    assert "'=cmd.json" in cells
    assert not any(cell[:1] in ("=", "+", "@") for cell in cells)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("File is bad.\nTry harder", "File is bad. Try harder"),
        ("Object arrays cannot be loaded when allow_pickle=False", "ValueError: it cannot be loaded safely"),
        (
            "Header is long and may not be safe. To allow loading, trust the file using `allow_pickle=True`.",
            "Header is long and may not be safe.",
        ),
        (
            "Weights only load failed. Re-running `torch.load` with `weights_only` set to `False` will likely succeed, "
            "but it can result in arbitrary code execution. Do it only if you got the file from a trusted source.",
            "Weights only load failed.",
        ),
        ("Needs code. Set `trust_remote_code=True` to run it", "Needs code."),
        ("x" * 300, "x" * 200 + "..."),
    ],
)
def test_a_reason_is_a_line_without_advice(said, told):
    assert reason_of(ValueError(said)) == told


def test_torch_and_numpy_are_quoted_without_their_advice(tmp_path):
    torch.save(object(), tmp_path / "odd.pt")
    np.save(tmp_path / "odd.npy", np.array([{}]), allow_pickle=True)
    for load in (
        lambda: torch.load(tmp_path / "odd.pt", weights_only=True),
        lambda: np.load(tmp_path / "odd.npy", allow_pickle=False),
    ):
        with pytest.raises((ValueError, pickle.UnpicklingError)) as caught:
            load()
        assert not {"weights_only", "allow_pickle", "trust"} & set(
            reason_of(caught.value).replace("=", " ").split()
        )


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("sofmax", "softmax"),
        ("LGL_INR", "lgl-inr"),
        ("Cross-Entropy", "softmax"),
        ("cross_entropy", "softmax"),
        ("elsewhere", None),  # called so by others, but no choice here
        ("xyzzy", None),
    ],
)
def test_the_nearest_word_is_one_of_the_choices(word, told):
    hint = nearest(word, ["softmax", "lgl-inr"], {"crossentropy": "softmax", "elsewhere": "focal"})
    assert hint == ("" if told is None else f" (did you mean {told!r}?)")
