"""Hostile files and places under every command that reads rows: one sentence, exit code 2, nothing half written."""

import gzip
import os
import resource

import numpy as np
import pytest

from tests.helpers import run_command

NAMES = ("ant", "bee", "cat")
PREFIX = {"audit": "logit_", "correct": "logit_", "decide": "corrected_probability_"}
WRITING = ("correct", "decide")


def _lines(command, rows=40):
    rng = np.random.default_rng(0)
    z = 2 * rng.normal(size=(rows, 3))
    if command == "decide":
        z = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    header = ",".join(["id", *(PREFIX[command] + name for name in NAMES), "label"])
    return [
        header,
        *(
            ",".join([f"00{i}", *(repr(float(v)) for v in row), NAMES[int(rng.integers(3))]])
            for i, row in enumerate(z)
        ),
    ]


def _cell(lines, row, column, text):
    cells = lines[row].split(",")
    cells[column] = text
    return [*lines[:row], ",".join(cells), *lines[row + 1 :]]


def _column(lines, text):
    return [lines[0], *(_cell([line], 0, 2, text)[0] for line in lines[1:])]


def _run(capsys, command, file, out, *more):
    options = {"audit": ("--loss", "softmax"), "correct": ("--loss", "softmax"), "decide": ()}[command]
    place = ("--out", str(out)) if command in WRITING else ()
    return run_command(capsys, command, str(file), *options, *place, *more)


def _refused(found, message):
    code, out, err = found
    assert (code, out) == (2, ""), err
    assert err.splitlines()[-1].startswith("steelyard: ")
    assert sum(line.startswith("steelyard: ") for line in err.splitlines()) == 1
    assert "Traceback" not in err
    assert len(err) < 2000
    assert message in err


FILES = {
    "nothing": (lambda lines: [], "has no rows"),
    "a header alone": (lambda lines: lines[:1], "has no rows"),
    "a column twice": (lambda lines: [lines[0].replace("id,", "label,", 1), *lines[1:]], "'label' twice"),
    "no numbers at all": (lambda lines: [",".join("abcde"), *lines[1:]], "x.csv"),
    "a cell too many": (lambda lines: [*lines[:5], lines[5] + ",1", *lines[6:]], "cells a row"),
    "a cell too few": (lambda lines: [*lines[:5], lines[5].rpartition(",")[0], *lines[6:]], "cells a row"),
    "text among the numbers": (lambda lines: _cell(lines, 30, 2, "x"), "numbers, got 'x'"),
    "a formula among the numbers": (lambda lines: _cell(lines, 30, 2, "=1+1"), "numbers, got '=1+1'"),
    "a null byte among the numbers": (lambda lines: _cell(lines, 30, 2, "1\0"), "does not hold text in UTF-8"),
    "digits of another script": (lambda lines: _cell(lines, 30, 2, "٣"), "numbers, got"),
    "a line of a million cells": (lambda lines: [*lines[:5], "1," * 1_000_000, *lines[6:]], "cells a row"),
}


@pytest.mark.parametrize("command", PREFIX)
@pytest.mark.parametrize("what", FILES)
def test_a_file_that_is_none_is_refused(capsys, tmp_path, command, what):
    change, message = FILES[what]
    (tmp_path / "x.csv").write_text("\n".join(change(_lines(command))) + "\n")
    _refused(_run(capsys, command, tmp_path / "x.csv", tmp_path / "out.csv"), message)
    assert os.listdir(tmp_path) == ["x.csv"]


@pytest.mark.parametrize("command", PREFIX)
@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "1e308", "-1e308", "4e-324"])
def test_numbers_at_the_end_of_what_there_is(capsys, tmp_path, command, text):
    """Infinite and missing ones have no probability, and finite ones have one, however large they are."""
    (tmp_path / "x.csv").write_text("\n".join(_cell(_lines(command), 30, 2, text)) + "\n")
    found = _run(capsys, command, tmp_path / "x.csv", tmp_path / "out.csv")
    finite = text in ("1e308", "-1e308", "4e-324")
    if command == "audit":
        if finite:
            assert found[0] == 0, found[2]
        else:
            _refused(found, "--drop-invalid leaves them out")
        return
    if command == "decide" and text != "nan":
        _refused(found, "must sum to 1" if text == "4e-324" else "must lie in [0, 1]")
        assert os.listdir(tmp_path) == ["x.csv"]
        return
    assert found[0] == 0, found[2]
    rows = (tmp_path / "out.csv").read_text().splitlines()
    header, cells = rows[0].split(","), rows[30].split(",")
    new = [cell for name, cell in zip(header, cells, strict=True) if name.startswith(("corrected", "decision"))]
    if command == "decide":
        assert new[-1] == ""
    elif finite:
        assert sum(float(cell) for cell in new) == pytest.approx(1)
    else:
        assert new == ["", "", ""]


@pytest.mark.parametrize("command", PREFIX)
def test_rows_without_any_number_are_no_result(capsys, tmp_path, command):
    (tmp_path / "x.csv").write_text("\n".join(_column(_lines(command), "nan")) + "\n")
    code, out, err = _run(capsys, command, tmp_path / "x.csv", tmp_path / "out.csv")
    if command == "audit":
        _refused((code, out, err), "--drop-invalid leaves them out")
    else:
        assert (code, "40" in out) == (0, True)
        assert "Traceback" not in err


@pytest.mark.parametrize("command", WRITING)
@pytest.mark.parametrize("what", ["the file itself", "another file", "a link", "a dangling link", "a folder"])
def test_nothing_that_is_there_is_written_over(capsys, tmp_path, command, what):
    source, other = tmp_path / "x.csv", tmp_path / "other.csv"
    source.write_text("\n".join(_lines(command)) + "\n")
    other.write_text("a\n")
    out = tmp_path / "out.csv"
    if what == "the file itself":
        out = source
    elif what == "another file":
        out = other
    elif what == "a folder":
        out.mkdir()
    else:
        out.symlink_to(other if what == "a link" else tmp_path / "nowhere.csv")
    before = source.read_bytes(), other.read_bytes(), sorted(os.listdir(tmp_path))
    _refused(_run(capsys, command, source, out), "exists already")
    assert (source.read_bytes(), other.read_bytes(), sorted(os.listdir(tmp_path))) == before


@pytest.mark.parametrize("command", WRITING)
def test_a_fault_in_a_late_row_leaves_nothing(capsys, tmp_path, command):
    lines = _lines(command, 20_000)
    bad = _cell(lines, 19_990, 2, "x")
    (tmp_path / "x.csv").write_text("\n".join(bad) + "\n")
    _refused(_run(capsys, command, tmp_path / "x.csv", tmp_path / "out.csv"), "numbers, got 'x'")
    with gzip.open(tmp_path / "y.csv.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    whole = (tmp_path / "y.csv.gz").read_bytes()
    (tmp_path / "y.csv.gz").write_bytes(whole[: len(whole) // 2])
    _refused(_run(capsys, command, tmp_path / "y.csv.gz", tmp_path / "out.csv"), "y.csv.gz")
    assert sorted(os.listdir(tmp_path)) == ["x.csv", "y.csv.gz"]


@pytest.mark.parametrize("command", WRITING)
def test_a_disk_that_is_full_leaves_nothing(capsys, tmp_path, command):
    (tmp_path / "x.csv").write_text("\n".join(_lines(command, 2000)) + "\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        code, out, err = _run(capsys, command, tmp_path / "x.csv", tmp_path / "out.csv")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code in (1, 2)
    assert out == ""
    assert err.splitlines()[-1].startswith("steelyard: ")
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == ["x.csv"]
