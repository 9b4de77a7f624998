"""The command line: tables, exit codes, one sentence for what was asked wrongly."""

import json
import math
import os
import re
import shlex
import subprocess
import sys

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import steelyard
from steelyard.cli.commands import commands
from steelyard.cli.layout import COMMON, EXAMPLES, TOGETHER
from steelyard.cli.progress import Display
from steelyard.data import open_predictions
from tests.helpers import run_command

SMALL = ("compare", "--losses", "softmax,lgl-inr", "--seeds", "1", "--epochs", "1", "--learning-rates", "0.1")


def test_compare_prints_a_table_and_the_report(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_command(capsys, *SMALL, "--imbalance", "exponential:50")
    assert code == 0
    assert "softmax" in out
    assert "Balanced accuracy" in out
    assert "Few-shot" in out
    assert out.strip().endswith("report: runs/digits-exponential-50/report.html")
    assert (tmp_path / "runs/digits-exponential-50/report.html").exists()
    assert "softmax, seed 0: done" in err
    # the same again is a new folder; --resume finds the latest
    code, out, _ = run_command(capsys, *SMALL, "--imbalance", "exponential:50")
    assert (code, "digits-exponential-50-2" in out) == (0, True)
    code, out, _ = run_command(capsys, *SMALL, "--imbalance", "exponential:50", "--resume")
    assert (code, "digits-exponential-50-2" in out) == (0, True)
    code, out, _ = run_command(capsys, "report", "runs/digits-exponential-50")
    assert (code, out.strip()) == (0, "report: runs/digits-exponential-50/report.html")


def test_audit_prints_verdicts_first_and_writes_a_report(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = (*SMALL, "--losses", "softmax:inverse,lgl-inr", "--imbalance", "exponential:20", "--out", "run")
    assert run_command(capsys, *given)[0] == 0
    file = "run/softmax-inverse/seed-0/train_predictions.parquet"
    code, out, err = run_command(
        capsys, "audit", file, "--loss", "softmax", "--weights", "inverse", "--out", "run/audit"
    )
    assert (code, err) == (0, "logits: logits; label: target\n")
    assert out.startswith(f"{json.loads((tmp_path / 'run/audit/audit.json').read_text())['headline']}")
    assert "SY031 BALANCE" in out
    assert "relative residual" in out
    assert out.strip().endswith("report: run/audit/report.html")
    assert {p.name for p in (tmp_path / "run/audit").iterdir()} == {
        "report.html", "audit.json", "classes.csv", "mean_confusion.npz"
    }  # fmt: skip
    code, out, _ = run_command(capsys, "report", "run/audit")
    assert (code, out.strip()) == (0, "report: run/audit/report.html")
    code, out, err = run_command(capsys, "audit", file, "--out", "run/audit")
    assert (code, err.strip()) == (2, "steelyard: run/audit holds something already; name another folder")
    # what is not said is taken from the file, and that is said
    code, out, err = run_command(capsys, "audit", file)
    assert code == 0
    assert "class weights inverse, from the loss that the file names: softmax:inverse" in err
    code, out, err = run_command(capsys, "audit", "run/lgl-inr/seed-0/train_predictions.parquet")
    assert code == 0
    assert "LGL-INR of beta 1 in batches of 64, from the loss that the file names: lgl-inr" in err
    code, out, err = run_command(capsys, "audit", file.replace("train_predictions", "predictions"))
    assert code == 0
    assert err.startswith(f"WARNING: {file.replace('train_predictions', 'predictions')} holds held-out")
    assert f"audit {file} to learn what the weights did" in err
    held_out = open_predictions(file.replace("train_predictions", "predictions"))
    assert held_out.class_counts == open_predictions(file).class_counts
    target = torch.cat([labels for _, labels in open_predictions(file).batches()])
    assert torch.bincount(target).tolist() == list(held_out.class_counts)
    code, out, err = run_command(capsys, "audit", "run/softmax-inverse")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "folder run/softmax-inverse holds no tables of predictions" in err
    monkeypatch.setenv("COLUMNS", "50")
    code, out, _ = run_command(capsys, "audit", file)
    assert max(len(line) for line in out.splitlines()) <= 50


def _scores(path, ratio=1.0):
    """Scores and labels of four cells, at the optimum of softmax in which class 1 weighs so many times class 0."""
    lines = ["score,y_true"]
    for ones in (2, 10, 50, 80):
        lines += [f"{math.log(ratio * ones / (100 - ones))},{int(k < ones)}" for k in range(100) for _ in range(5)]
    path.write_text("\n".join(lines))
    return str(path)


def test_audit_fails_where_it_is_asked_to(capsys, tmp_path):
    right, plain = _scores(tmp_path / "scores.csv", 100), _scores(tmp_path / "plain.csv")
    given = ("--target", "y_true", "--pos-weights", "100")
    code, out, err = run_command(capsys, "audit", right, *given, "--fail-on", "fault")
    assert code == 0
    assert out.startswith("The weights acted as stated.")
    assert "Both classes are as likely where the score is log 100 = 4.61" in " ".join(out.split())
    assert "TRADES" not in out
    assert "fail-on" not in err
    code, out, err = run_command(
        capsys, "audit", plain, *given, "--fail-on", "fault", "--out", str(tmp_path / "o")
    )
    assert code == 3
    assert out.startswith("The weights never acted")
    assert out.strip().endswith(f"report: {tmp_path / 'o' / 'report.html'}")
    assert (tmp_path / "o" / "audit.json").exists()
    assert err.splitlines()[-1] == "steelyard: --fail-on fault: SY011 weights not applied"
    assert run_command(capsys, "audit", plain, *given)[0] == 0  # never, by default
    # a warning fails where warnings are asked for; nobody states the weights of these
    assert run_command(capsys, "audit", right, "--fail-on", "fault")[0] == 0
    code, _, err = run_command(capsys, "audit", right, "--fail-on", "warning")
    assert (code, err.splitlines()[-1]) == (3, "steelyard: --fail-on warning: SY014 weights unstated")


def test_audit_sets_aside_what_is_ignored(capsys, tmp_path):
    plain = _scores(tmp_path / "plain.csv")
    given = ("audit", plain, "--pos-weights", "100", "--fail-on", "warning")
    for ignored in (("SY011",), ("SY012,weights_not_applied",), ("SY012", "--ignore", "sy011")):
        code, out, err = run_command(capsys, *given, "--ignore", *ignored)
        assert code == 0, err
        assert "ignored: SY011 weights not applied\n" in re.sub(" +\n", "\n", out)
        assert "[fault" not in out
    code, out, err = run_command(capsys, *given, "--ignore", "SY11")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "ignore has no finding 'SY11' (did you mean 'SY011'?); choose from SY001 wrong_class_order" in err


def test_audit_as_json_is_nothing_else(capsys, tmp_path):
    plain = _scores(tmp_path / "plain.csv")
    given = ("audit", plain, "--pos-weights", "100", "--json", "--out", str(tmp_path / "o"), "--fail-on", "fault")
    code, out, err = run_command(capsys, *given)
    assert code == 3
    found = json.loads(out)
    assert found["faults"] == ["weights_not_applied"]
    assert found["ratio"]["stated"] == 100
    saved = json.loads((tmp_path / "o" / "audit.json").read_text())
    assert {key: saved[key] for key in found} == found
    assert f"report: {tmp_path / 'o' / 'report.html'}" in err


def test_forecast_prints_tables_and_what_is_guaranteed(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = (*SMALL, "--losses", "softmax", "--imbalance", "exponential:20", "--out", "run")
    assert run_command(capsys, *given)[0] == 0
    file = "run/softmax/seed-0/train_features.parquet"
    code, out, err = run_command(capsys, "forecast", file, "--weights", "none,inverse", "--out", "f")
    assert code == 0
    assert "judged by the held-out samples in run/softmax/seed-0/features.parquet" in err
    assert "softmax:inverse" in out
    assert "recall of each class" in out
    assert "the mean training loss of that class does not rise" in " ".join(out.split())
    assert out.strip().endswith("report: f/report.html")
    code, out, _ = run_command(capsys, "report", "f")
    assert (code, out.strip()) == (0, "report: f/report.html")


def test_columns_are_named_by_option_or_the_option_is_told(capsys, tmp_path):
    path = str(tmp_path / "t.csv")
    rows = [f"{k},{k % 3},{(k * 7) % 5 - 2}.5,{(k * 3) % 4 - 1}.5,{(k * 5) % 7 - 3}.5" for k in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["id,y,m_cat,m_dog,m_owl", *rows]))
    code, out, err = run_command(capsys, "audit", path, "--loss", "softmax")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--logits m_cat,m_dog,m_owl" in err
    code, out, err = run_command(capsys, "audit", path, "--loss", "softmax", "--logits", "m_*")
    assert (code, err) == (0, "logits: m_cat, m_dog, m_owl; label: y; left out: id\n")
    code, out, err = run_command(capsys, "forecast", path, "--weights", "none", "--features", "m_*")
    assert (code, err.splitlines()[0]) == (0, "features: m_cat, m_dog, m_owl; label: y; left out: id")


def test_configuration_file_and_options_together(capsys, tmp_path):
    (tmp_path / "c.yaml").write_text("losses: [softmax]\nseeds: 1\nepochs: 50\nlearning_rates: [0.1]\n")
    out = str(tmp_path / "run")
    code, _, err = run_command(
        capsys, "compare", "--config", str(tmp_path / "c.yaml"), "--epochs", "1", "--out", out
    )
    assert code == 0, err
    assert "epochs: 1\n" in (tmp_path / "run" / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compare", "--losses", "sofmax"), "unknown loss 'sofmax' (did you mean 'softmax'?); choose from"),
        (("audit", "none.parquet"), "none.parquet"),
        (("compare",), "losses is missing from the configuration"),
        (
            ("compare", "--losses", "softmax", "--backbone", "vgg"),
            "backbone must be one of linear, mlp, mlp-cosine, small-cnn, resnet32, timm:",
        ),
        (("compare", "--losses", "softmax", "--devices", "0"), "0 is not in the range x>=1"),
        (("compare", "--losses", "softmax", "--imbalance", "exp:5"), "imbalance must be none, exponential:RATIO"),
        (
            ("compare", "--losses", "softmax", "--imbalance", "step:0.2"),
            "imbalance ratio must be a finite number >= 1",
        ),
        (("compare", "--losses", "softmax", "--imbalance", "step:500"), "imbalance ratio must be at most"),
        (
            ("compare", "--losses", "softmax", "--dataset", "digit"),
            "unknown dataset 'digit'; did you mean 'digits'?",
        ),
        (("compare", "--losses", "softmax", "--dataset", "./none"), "dataset folder ./none does not exist"),
        (
            ("compare", "--losses", "softmax", "--dataset", "~nosuch/x"),
            "dataset folder ~nosuch/x is in the home of a user who is not known",
        ),
        (
            ("compare", "--losses", "softmax", "--learning-rates", "0.1,1e300"),
            "learning_rates.1: input should be less",
        ),
        (("compare", "--losses", "softmax", "--learning-rates", "nan"), "learning_rates.0: input should be"),
        (
            ("compare", "--losses", "softmax", "--weight-decay", "inf"),
            "weight_decay: input should be a finite number, got inf",
        ),
        (("compare", "--losses", "softmax", "--seeds", "0"), "seeds: input should be greater than or equal to 1"),
        (
            ("compare", "--losses", "softmax", "--seeds", "x"),
            "Invalid value for '--seeds': 'x' is not a valid integer",
        ),
        (("compare", "--losses", "softmax", "--learning-rates", "a"), "learning-rates must be numbers"),
        (("compare", "--losses", "softmax", "--penalties", "a"), "penalties must be numbers"),
        (("compare", "--losses", "softmax", "--resume"), "nothing to resume: no folder runs/digits-none*"),
        (("compare", "--lossses", "softmax"), "no such option '--lossses' (did you mean '--losses'?)"),
        (("compare", "--config", "none.yaml"), "configuration none.yaml is not a file"),
        (("report", "nowhere"), "nowhere holds no finished run: there is no results.json"),
        (("compar",), "no such command 'compar' (did you mean 'compare'?)"),
        (("balance",), "no such command 'balance' (did you mean 'audit'?)"),
        (("xyzzy",), "no such command 'xyzzy'; --help lists them"),
        (("compare", "--lr", "0.1"), "no such option '--lr' (did you mean '--learning-rates'?)"),
        (("advise", "f.csv", "--lr", "0.1"), "no such option '--lr' (did you mean '--rate'?)"),
        (("compare", "--loss", "softmax"), "no such option '--loss' (did you mean '--losses'?)"),
        (("audit", "f.csv", "--losses", "softmax"), "no such option '--losses' (did you mean '--loss'?)"),
        (("audit", "f.csv", "--targets", "y"), "no such option '--targets' (did you mean '--target'?)"),
        (("compare", "--losses", "crossentropy"), "unknown loss 'crossentropy' (did you mean 'softmax'?)"),
        (("compare", "--losses", "BCE"), "unknown loss 'BCE' (did you mean 'logistic'?)"),
        (("compare", "--losses", "lgl-inr:beta"), "beta is an option and needs a value: lgl-inr:beta=VALUE"),
        (("correct", "f.csv"), "Missing option '--out'"),
    ],
)
def test_bad_options_get_one_sentence_and_exit_code_2(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_command(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("steelyard: ")
    assert message in err
    assert err.count("\n") == 1


def test_read_only_folder_is_one_sentence(capsys, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(tmp_path / "out"))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    code, _, err = run_command(capsys, *SMALL, "--out", str(tmp_path / "out"))
    assert code == 1
    assert err == f"steelyard: {tmp_path / 'out'}: Permission denied; finished results are kept\n"


def test_divergence_is_one_sentence(capsys, tmp_path):
    code, _, err = run_command(capsys, *SMALL[:-1], "1e9", "--out", str(tmp_path / "out"))
    assert code == 1
    assert "steelyard: softmax, seed 0: the loss became" in err.splitlines()[-1]


def test_out_of_memory_says_what_to_lower(capsys, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr("steelyard.training.learners.network.fit", refuse)
    code, _, err = run_command(capsys, *SMALL, "--out", str(tmp_path / "out"))
    assert code == 1
    assert "out of memory; lower --batch-size" in err


def test_help_version_and_losses(capsys):
    assert run_command(capsys, "--version")[1] == f"steelyard, version {steelyard.__version__}\n"
    assert "--imbalance" in run_command(capsys, "compare", "--help")[1]
    assert run_command(capsys, "losses")[1].split() == steelyard.list_losses()


def test_summaries_of_commands_are_whole_and_every_option_says_what_it_is(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = run_command(capsys, "--help")[1]
    assert "..." not in out.partition("Commands:")[2]
    for name, command in commands.commands.items():
        assert f"  {name}" in out
        for option in command.params:
            if isinstance(option, click.Option):
                told = (option.help or "").partition("[default:")[0]
                assert len(told) > 5, f"{name} {option.opts[0]} does not say what it is"
                assert "alike" not in told
    assert "required, here or in --config" in " ".join(run_command(capsys, "compare", "--help")[1].split())


@pytest.mark.parametrize("name", commands.commands)
def test_help_of_a_command_fits_a_screen_and_has_two_examples(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    out = run_command(capsys, name, "--help")[1]
    lines = out.splitlines()
    assert len(lines) <= 40
    assert max(len(line) for line in lines) <= 80
    assert len(re.findall(rf"^  steelyard {name}\b", out, re.MULTILINE)) == 2
    options = [one for one in commands.commands[name].params if isinstance(one, click.Option)]
    for option in options:
        assert re.search(rf"{option.opts[0]}\b", out), f"{option.opts[0]} is missing"
    required = [one for one in options if one.required]
    assert out.count("[required]") == len(required)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_the_help_are_commands_with_their_options(name):
    """They are parsed as they stand, down to what the files are called."""
    for example in EXAMPLES[name]:
        words = shlex.split(example)
        assert words[:2] == ["steelyard", name]
        if name in commands.commands:
            commands.commands[name].make_context(name, words[2:], obj=example)


def test_groups_of_options_name_options_that_there_are():
    for name, common in COMMON.items():
        assert common <= {one.name for one in commands.commands[name].params}, name
    for group in TOGETHER:
        assert any(set(group) <= {one.name for one in known.params} for known in commands.commands.values()), group


def test_every_command_that_computes_has_json_and_quiet():
    for name in ("advise", "audit", "compare", "correct", "decide", "forecast", "reproduce", "weights"):
        known = {option for one in commands.commands[name].params for option in one.opts}
        assert {"--json", "--quiet"} <= known, name


@pytest.mark.slow
def test_quiet_is_quiet_and_json_is_nothing_else(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = (*SMALL, "--losses", "softmax", "--imbalance", "exponential:20", "--out", "run", "--quiet", "--json")
    code, out, err = run_command(capsys, *given)
    assert (code, err) == (0, "")
    assert [loss["label"] for loss in json.loads(out)["losses"]] == ["softmax"]
    predictions, features = (f"run/softmax/seed-0/{name}.parquet" for name in ("predictions", "train_features"))
    code, out, err = run_command(capsys, "correct", predictions, "--out", "honest.csv", "--json", "-q")
    assert (code, err) == (0, "")
    rows = json.loads(out)["rows"]
    code, out, err = run_command(capsys, "decide", "honest.csv", "--json", "-q")
    assert (code, err, json.loads(out)["rows"]) == (0, "", rows)
    code, out, err = run_command(
        capsys, "forecast", features, "--weights", "inverse", "--json", "-q", "--out", "f"
    )
    assert (code, err) == (0, "")
    assert json.loads(out)["forecasts"]
    code, out, err = run_command(capsys, "forecast", features, "--weights", "inverse", "--json", "--out", "g")
    assert "report: g/report.html" in err


def test_progress_says_how_long_the_rest_takes(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("steelyard.cli.progress.time.monotonic", lambda: now[0])
    display = Display()
    display.plan(4)
    display.end("one", "was finished")
    assert capsys.readouterr().err == "one: was finished\n"  # it took no time, so it tells none
    now[0] += 30
    display.end("two", "done")
    assert capsys.readouterr().err == "two: done; 2 to come, about 60 s\n"
    now[0] += 7170
    display.end("three", "done")
    assert capsys.readouterr().err == "three: done; 1 to come, about 60 min\n"
    display.end("four", "done")
    assert capsys.readouterr().err == "four: done\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seeds", "0"), "seeds: input should be greater than or equal to 1, got 0; losses is missing from"),
        (("--imbalance", "exp:5"), "imbalance must be none, .*; losses is missing from the configuration"),
        (("--epochs", "0", "--losses", "sofmax"), "unknown loss 'sofmax' .*; epochs: input should be"),
        (("--losses", "softmax", "--weight-decay", "inf"), "weight_decay: input should be .*, got inf"),
        (("--losses", "softmax", "--momentum", "nan"), "momentum: input should be .*, got nan"),
        (("--losses", "softmax", "--learning-rates", "0.1,inf"), "learning_rates.*: input should be .*, got inf"),
        (("--losses", "lgl-inr:beta=" + "+".join("1" * 10_000)), "a loss must be told in at most 200 characters"),
        (("--losses", "lgl-inr:beta=" + "(" * 150), "beta must be a number or 'auto'"),
    ],
)
def test_no_fault_hides_another_and_numbers_are_numbers(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_command(capsys, "compare", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.search(message, err), err
    assert list(tmp_path.iterdir()) == []


def _predictions(folder, name, numbers, labels, **metadata):
    rows, told = list(numbers), {f"steelyard.{key}": text for key, text in metadata.items()}
    table = pa.table({"target": labels, "logits": rows}).replace_schema_metadata(told)
    pq.write_table(table, folder / name)
    return str(folder / name)


def test_the_terminal_names_its_own_options(capsys, tmp_path):
    p = torch.softmax(torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), 1).double()
    file = _predictions(tmp_path, "p.parquet", p.tolist(), [k % 3 for k in range(40)])
    code, out, err = run_command(capsys, "audit", file, "--loss", "softmax")
    assert "values=" not in err + out
    code, _, err = run_command(capsys, "audit", file, "--loss", "softmax", "--from", "odds")
    assert (code, "--from must be one of" in err) == (2, True)
    z = p.tolist()
    z[3][1] = float("nan")
    file = _predictions(tmp_path, "z.parquet", z, [k % 3 for k in range(40)])
    code, _, err = run_command(capsys, "audit", file, "--loss", "softmax")
    assert (code, "--drop-invalid leaves them out" in err) == (2, True)


@pytest.mark.parametrize("loss", ["lgl-inr:beta=" + "+".join("1" * 5000), "softmax:tau=" + "-" * 50_000 + "1", "softmax:inverse:from=" + "9" * 5000])  # fmt: skip
def test_a_loss_in_the_metadata_of_a_file_is_no_program(capsys, tmp_path, loss):
    z = torch.randn(9, 3, generator=torch.Generator().manual_seed(0)).tolist()
    file = _predictions(tmp_path, "z.parquet", z, [k % 3 for k in range(9)], loss=loss)
    code, out, err = run_command(capsys, "audit", file)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("steelyard: ")
    assert "a loss must be told in at most 200 characters" in err


@pytest.mark.parametrize("what", ["folder", "weights that are a folder", "weights that are nowhere", "not utf-8"])
def test_files_that_cannot_be_read_are_asked_for_wrongly(capsys, tmp_path, what):
    z = torch.randn(9, 3, generator=torch.Generator().manual_seed(0)).tolist()
    file = _predictions(tmp_path, "z.parquet", z, [k % 3 for k in range(9)])
    (tmp_path / "w.json").mkdir()
    (tmp_path / "u.json").write_bytes(b"[1, \xff]")
    weights = {"weights that are a folder": "w.json", "weights that are nowhere": "x.json", "not utf-8": "u.json"}
    given = (str(tmp_path / "w.json"),) if what == "folder" else (file, "--weights", str(tmp_path / weights[what]))
    code, out, err = run_command(capsys, "audit", "--loss", "softmax", *given)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("steelyard: ")
    assert "json" in err
    assert "Errno" not in err
    assert "finished results" not in err


@pytest.mark.parametrize("width", [60, 100, 160])
def test_long_names_leave_the_numbers_in_their_place(capsys, tmp_path, monkeypatch, width):
    names = [c * 80 for c in "abc"]
    z = 3 * torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    file = _predictions(
        tmp_path, "z.parquet", z.tolist(), [k % 3 for k in range(60)], class_names="\x1f".join(names)
    )
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, err = run_command(capsys, "audit", file, "--loss", "softmax")
    assert code == 0, err
    table = out[out.index("implied weight") :] if width > 60 else out
    for k, name in enumerate(names):
        assert sum(line.count(name[0] * 5) for line in table.splitlines()) >= 80 // max(20, width), f"class {k}"
    assert len(re.findall(r"(?<![\d.])20(?![\d.])", table)) >= 3  # samples of each class
    assert len(re.findall(r"[+-]\d\.\d\d", table)) >= 3  # relative residuals
    assert max(len(line) for line in out.splitlines()) <= width


@pytest.mark.slow
def test_plain_terminal(tmp_path):
    """No colour, 40 columns, an ASCII locale: a readable table on standard output, progress on standard error."""
    environment = os.environ | {
        "NO_COLOR": "1",
        "COLUMNS": "40",
        "LANG": "C",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", "from steelyard.cli import main; main()", *SMALL, "--out", str(tmp_path / "out")],
        capture_output=True,
        env=environment,
        check=True,
    )
    out = done.stdout.decode("ascii")
    assert "\x1b" not in out
    assert out.splitlines()[0] == "softmax"
    assert out.splitlines()[1].startswith("  Accuracy, %           ")
    assert max(len(line) for line in out.splitlines()[:-1]) <= 40
    assert b"softmax, seed 0: done" in done.stderr


def test_a_signal_that_comes_while_an_object_is_deleted_is_not_lost():
    program = """
import os, signal, time
from click import command
from steelyard.cli import main
from steelyard.cli import commands as module

class Deleted:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

def callback(**_):
    Deleted()
    time.sleep(20)

module.commands.commands["losses"].callback = callback
main(["losses"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, "stopped" in done.stderr) == (130, True), done.stderr
