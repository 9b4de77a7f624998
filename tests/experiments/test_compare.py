"""The comparison: what it writes, that it resumes, and what it refuses."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from steelyard._common.files import write_atomically, write_text
from steelyard._common.text import exact
from steelyard.balance import law, mean_confusion, softmax_law
from steelyard.cli import main
from steelyard.experiments import bench as benches
from steelyard.experiments import compare
from steelyard.experiments.bench import Bench, setup_of
from steelyard.experiments.comparison import _Trainings
from steelyard.experiments.config import dump_config, make_config, read_config
from steelyard.experiments.files import write_rows
from steelyard.experiments.grid import JobsFailed
from steelyard.experiments.job import Job, Training
from steelyard.experiments.metrics import run_metrics
from steelyard.experiments.progress import Silent
from steelyard.experiments.runs import RunFolder, latest_folder, next_folder
from steelyard.losses.presets import PRESETS
from steelyard.losses.registry import LOSSES
from steelyard.notation import parse_loss
from steelyard.report.results import Comparison
from steelyard.training import Diverged
from tests.helpers import gone, run_command

FILES = [
    "model.safetensors",
    "predictions.parquet",
    "train_predictions.parquet",
    "features.parquet",
    "train_features.parquet",
    "mean_confusion.npz",
]
CONFIG = make_config(
    losses=["softmax:inverse", "lgl-inr:statistics=running"],
    imbalance="exponential:10",
    seeds=2,
    epochs=2,
    learning_rates=[0.1],
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As each of several workers has, so that their numbers are the same to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, one_thread):
    folder = tmp_path_factory.mktemp("runs") / "small"
    return folder, compare(CONFIG, folder)


def test_writes_what_it_says(finished):
    folder, results = finished
    assert json.loads((folder / "results.json").read_text()) == results.to_dict()
    assert Comparison.read(folder) == results
    for slug in ("softmax-inverse", "lgl-inr-statistics-running"):
        for seed in (0, 1):
            files = {p.name for p in (folder / slug / f"seed-{seed}").iterdir()}
            assert files == {*FILES, "result.json"}
    assert {p.name for p in folder.iterdir()} == {
        "config.yaml",
        "results.json",
        "results.csv",
        "report.html",
        "softmax-inverse",
        "lgl-inr-statistics-running",
        ".lock",
    }
    rows = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    assert [(r["loss"], r["seed"]) for r in rows] == [(s, d) for s in CONFIG.losses for d in "01"]
    assert float(rows[0]["accuracy"]) == results.losses[0].runs[0].metrics["accuracy"]


def test_numbers_follow_from_the_predictions(finished):
    folder, results = finished
    loss = results.losses[0]
    run = loss.runs[1]
    tables = {
        name: pq.read_table(folder / run.folder / f"{name}.parquet")
        for name in ("predictions", "train_predictions", "train_features")
    }
    logits, target = (
        torch.tensor(np.stack(tables["predictions"]["logits"].to_numpy())),
        torch.tensor(tables["predictions"]["target"].to_numpy()),
    )
    assert run_metrics(logits, target, "softmax", results.data.groups) == run.metrics
    logits, target = (
        torch.tensor(np.stack(tables["train_predictions"]["logits"].to_numpy())),
        torch.tensor(tables["train_predictions"]["target"].to_numpy()),
    )
    assert torch.bincount(target).tolist() == results.data.train_counts
    P, counts = mean_confusion(logits, target, link="softmax")
    saved = np.load(folder / run.folder / "mean_confusion.npz", allow_pickle=False)
    np.testing.assert_array_equal(saved["train"], P.numpy())
    closed = softmax_law(P, counts, torch.tensor(loss.class_weights)).to_dict()
    for side, values in run.law.to_dict().items():
        assert values == pytest.approx(closed[side], abs=1e-12)
    state = safetensors.torch.load_file(folder / run.folder / "model.safetensors")
    assert state["head.weight"].shape == (10, 128)
    features = torch.tensor(np.stack(tables["train_features"]["features"].to_numpy()))
    torch.testing.assert_close(
        features @ state["head.weight"].T + state["head.bias"], logits, rtol=1e-4, atol=1e-5
    )
    metadata = tables["predictions"].schema.metadata
    assert metadata[b"steelyard.link"] == b"softmax"
    assert metadata[b"steelyard.class_names"].decode().split("\x1f") == list("0123456789")


def test_law_is_of_the_logits_that_the_loss_saw():
    """Logits that are all equal fit the class frequencies under an adjustment by them, and not without."""
    target = torch.arange(3).repeat_interleave(torch.tensor([60, 30, 10]))
    counts, logits = torch.bincount(target), torch.zeros(100, 3)
    adjusted = law(logits, target, setup_of(parse_loss("softmax:tau=1"), counts, 64))
    plain = law(logits, target, setup_of(parse_loss("softmax"), counts, 64))
    assert adjusted.relative_residual.abs().max() < 1e-6
    assert plain.relative_residual.abs().max() > 0.1


@pytest.mark.parametrize("name", [*LOSSES, *PRESETS])
def test_every_loss_is_under_its_own_law(name):
    """Constant logits at the constant solution of a loss without class weights are where its law holds."""
    spec, counts = parse_loss(name), torch.tensor([60, 30, 10])
    target = torch.arange(3).repeat_interleave(counts)
    if spec.running:
        with pytest.raises(ValueError, match=f"loss {name} has seen no batch"):
            setup_of(spec, counts, 10**6)
        return
    balance = law(
        spec.loss(counts, 64).first_bias(counts).double().expand(100, 3), target, setup_of(spec, counts, 10**6)
    )
    unweighted = getattr(spec.loss(counts, 64), "class_weights", None) is None
    assert bool(balance.relative_residual.abs().max() < 1e-6) == unweighted
    assert "=" in spec.entry.law_text


def test_focal_is_compared(tmp_path):
    config = make_config(losses=["focal", "sigmoid_focal", "lgl_inr"], seeds=1, epochs=1, learning_rates=[0.1])
    results = compare(config, tmp_path / "run")
    assert [(loss.loss, loss.link) for loss in results.losses] == [
        ("focal", "softmax"),
        ("sigmoid-focal", "logistic"),
        ("lgl-inr", "logistic"),
    ]
    assert "pull equals push in every output" in results.losses[0].law


def test_interrupted_comparison_ends_with_the_same_numbers(finished, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    folder, whole = tmp_path / "cut", finished[1]
    original, seen = benches.train_and_judge, []

    def dies(*arguments, **options):
        seen.append(arguments)
        if len(seen) == 2:
            raise Killed
        return original(*arguments, **options)

    monkeypatch.setattr(benches, "train_and_judge", dies)
    with pytest.raises(Killed):
        compare(CONFIG, folder)
    assert not (folder / "results.json").exists()
    with pytest.raises(FileExistsError, match="holds a run already; resume it or name another folder"):
        compare(CONFIG, folder)
    resumed = compare(CONFIG, folder, resume=True)
    assert len(seen) == 5  # the finished one was not trained again
    assert _numbers(resumed.to_dict()) == _numbers(whole.to_dict())
    assert compare(CONFIG, folder, resume=True) == resumed


def _numbers(results):
    """All but times and names."""
    drop = {"seconds", "finished", "name", "environment", "command"}
    if isinstance(results, dict):
        return {k: _numbers(v) for k, v in results.items() if k not in drop}
    return [_numbers(v) for v in results] if isinstance(results, list) else results


def test_diverged_trial_is_recorded_and_diverged_training_stops(tmp_path):
    config = make_config(losses=["softmax"], seeds=1, epochs=1, learning_rates=[1e9])
    spec, job = parse_loss("softmax"), Job([1e9], 1)
    trainings = _Trainings(Bench(config, tmp_path, "cpu"), {"softmax": spec}, {"softmax": job}, Silent())
    with pytest.raises(Diverged, match=r"^the loss became"):
        trainings._train("softmax", Training(1e9, 0, tuning=True))
    record = json.loads((tmp_path / "tuning" / "softmax-1e+09" / "result.json").read_text())["found"]
    assert record["balanced_accuracy"] is None
    assert "the loss became" in record["diverged"]
    for _ in range(2):  # the second time from disk
        with pytest.raises(Diverged, match="softmax, seed 0: the loss became"):
            trainings._train("softmax", Training(1e9, 0))


def test_a_loss_that_diverges_at_every_rate_is_left_out(tmp_path, monkeypatch):
    config = make_config(losses=["softmax", "logistic"], seeds=1, epochs=1, learning_rates=[0.1])
    train = benches.train_and_judge

    def diverging(spec, *rest, **options):
        if spec.name == "softmax":
            raise Diverged("the loss became nan at step 3")
        return train(spec, *rest, **options)

    monkeypatch.setattr(benches, "train_and_judge", diverging)
    results = compare(config, tmp_path / "run", accelerator="cpu")
    assert [loss.label for loss in results.losses] == ["logistic"]
    assert results.diverged == {"softmax": "softmax, seed 0: the loss became nan at step 3"}
    assert "softmax</strong> is not in the table" in (tmp_path / "run" / "report.html").read_text()
    alone = make_config(losses=["softmax"], seeds=1, epochs=1, learning_rates=[0.1])
    with pytest.raises(Diverged, match="softmax, seed 0"):
        compare(alone, tmp_path / "alone", accelerator="cpu")


def test_all_seeds_have_the_best_rate_at_which_none_diverges(tmp_path, monkeypatch):
    config = make_config(losses=["softmax"], seeds=3, epochs=1, learning_rates=[0.1, 0.2, 0.4])
    train = benches.train_and_judge

    def diverging(spec, splits, setting, training, *rest, **options):
        if training.tuning:
            return {0.1: 0.6, 0.2: 0.8, 0.4: 0.7}[training.rate]
        if (training.rate, training.seed) == (0.2, 1):
            raise Diverged("the loss became nan")
        return train(spec, splits, setting, training, *rest, **options)

    monkeypatch.setattr(benches, "train_and_judge", diverging)
    loss = compare(config, tmp_path / "run", accelerator="cpu").losses[0]
    assert loss.lr == 0.4
    assert [t.lr for t in loss.lr_search if t.diverged_later] == [0.2]
    assert [run.folder for run in loss.runs] == [f"softmax/rate-0.4/seed-{s}" for s in range(3)]


class _Told(Silent):
    def __init__(self):
        self.planned, self.ended = 0, []

    def plan(self, runs):
        self.planned += runs

    def end(self, title, outcome):
        self.ended.append((title, outcome))


@pytest.mark.slow
def test_trainings_side_by_side_have_the_numbers_of_one_worker(finished, tmp_path):
    told, whole = _Told(), finished[1]
    results = compare(CONFIG, tmp_path / "run", workers=2, progress=told)
    assert _numbers(results.to_dict()) == _numbers(whole.to_dict())
    assert "1 threads each, 2 workers" in results.environment.machine
    assert sorted(told.ended) == sorted((f"{loss}, seed {s}", "done") for loss in CONFIG.losses for s in (0, 1))
    assert told.planned == 4
    files, others = (
        {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}
        for folder in (finished[0], tmp_path / "run")
    )
    assert files == others


@pytest.mark.slow
def test_workers_go_on_with_what_another_number_of_them_began(tmp_path):
    config = make_config(losses=["softmax", "logistic"], seeds=2, epochs=1, learning_rates=[0.1, 1e9])
    whole = compare(config, tmp_path / "whole")
    told = _Told()
    compare(config, tmp_path / "run", workers=2, progress=told)
    assert ("softmax, tuning, rate 1e+09", "diverged") in told.ended
    (tmp_path / "run" / "results.json").unlink()
    (tmp_path / "run" / "logistic" / "seed-1" / "result.json").unlink()
    told = _Told()
    results = compare(config, tmp_path / "run", resume=True, progress=told)
    assert [title for title, outcome in told.ended if outcome == "done"] == ["logistic, seed 1"]
    assert _numbers(results.to_dict()) == _numbers(whole.to_dict())


@pytest.mark.slow
def test_what_fails_in_a_worker_is_said_and_the_rest_kept(tmp_path):
    config = make_config(losses=["softmax"], seeds=2, epochs=1, learning_rates=[0.1], precision="16-mixed")
    with pytest.raises(
        JobsFailed, match=r"2 of 2 jobs failed twice, the first softmax/seed-0/result \(ValueError: pre"
    ):
        compare(config, tmp_path / "run", workers=2, accelerator="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"workers": 2, "devices": 3}, r"workers must be 1 where a training has several devices \(3\), got 2"),
    ],
)
def test_workers_that_cannot_be_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        compare(CONFIG, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text[: len(text) // 2], r"result.json is not JSON: .*; remove the file to do the job again"),
        (lambda text: "[" * 100_000, r"result.json is not JSON: .*; remove the file to do the job again"),
        (lambda text: "[]", r"result.json is not the record of a job; remove the file to do the job again"),
        (
            lambda text: text.replace('"recall"', '"recal"'),
            r"seed-0/result.json was changed since it was written; rem",
        ),
        (
            lambda text: text.replace('"accuracy": 0.', '"accuracy": 0.9'),
            r"result.json was changed since it was written",
        ),
    ],
    ids=["cut off", "nested", "a list", "a key", "a number"],
)
def test_record_that_was_edited_is_named(finished, tmp_path, edit, message):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    (folder / "results.json").unlink()
    file = folder / "softmax-inverse" / "seed-0" / "result.json"
    file.write_text(edit(file.read_text()))
    with pytest.raises(ValueError, match=message):
        compare(CONFIG, folder, resume=True)


@pytest.mark.parametrize("complete", [True, False])
def test_a_training_whose_files_were_damaged_is_not_finished(finished, tmp_path, complete):
    """Whatever was done to a file: a byte changed, cut off, removed."""
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    if not complete:
        (folder / "results.json").unlink()
    for k, name in enumerate(FILES):
        file = folder / "softmax-inverse" / "seed-0" / name
        whole = file.read_bytes()
        middle = len(whole) // 2
        if k % 3 < 2:
            file.write_bytes(whole[:middle] + (bytes([whole[middle] ^ 1]) + whole[middle + 1 :] if k % 3 else b""))
        else:
            file.unlink()
        with pytest.raises(
            ValueError, match=f"{name} (was changed since it was written|is missing); remove .* to train"
        ):
            compare(CONFIG, folder, resume=True)
        file.write_bytes(whole)
    assert _numbers(compare(CONFIG, folder, resume=True).to_dict()) == _numbers(finished[1].to_dict())


@pytest.mark.parametrize(("before", "after", "odd"), [("epochs: 2", "epochs: 3", "epochs is 2, not 3"), ("momentum: 0.9", "momentum: 0.8", "momentum is 0.9, not 0.8")])  # fmt: skip
def test_trainings_of_an_edited_configuration_are_not_mixed(finished, tmp_path, before, after, odd):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    (folder / "results.json").unlink()
    file = folder / "config.yaml"
    file.write_text(file.read_text().replace(before, after))
    with pytest.raises(ValueError, match=f"seed-0/result.json is of another run: {odd}; remove"):
        compare(read_config(file), folder, resume=True)


def test_fewer_seeds_in_an_edited_configuration_keep_the_finished_ones(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    (folder / "results.json").unlink()
    file, told = folder / "config.yaml", _Told()
    file.write_text(file.read_text().replace("seeds: 2", "seeds: 1"))
    results = compare(read_config(file), folder, resume=True, progress=told)
    assert {outcome for _, outcome in told.ended} == {"was finished"}
    assert results.losses[0].runs == finished[1].losses[0].runs[:1]


def test_results_of_an_edited_configuration_are_not_shown(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    file = folder / "config.yaml"
    file.write_text(file.read_text().replace("seeds: 2", "seeds: 3"))
    with pytest.raises(
        ValueError, match=r"results.json is of another run: seeds is 2, not 3; remove .*results.json to make"
    ):
        compare(read_config(file), folder, resume=True)


def test_record_of_another_seed_is_refused(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    (folder / "results.json").unlink()
    seeds = folder / "softmax-inverse"
    shutil.rmtree(seeds / "seed-1")
    shutil.copytree(seeds / "seed-0", seeds / "seed-1")
    with pytest.raises(ValueError, match=r"seed-1/result.json is of another run: seed is 0, not 1; remove"):
        compare(CONFIG, folder, resume=True)


def test_rates_that_six_digits_do_not_tell_apart_have_folders_of_their_own():
    assert (exact(0.1), exact(0.1000001), exact(1e9)) == ("0.1", "0.1000001", "1e+09")


def test_names_that_are_not_utf8_are_escaped(tmp_path):
    config = make_config(losses=["softmax"], seeds=1, epochs=1, learning_rates=[0.1])
    folder = tmp_path / os.fsdecode(b"run\xff")
    compare(config, folder, command=os.fsdecode(b"--out run\xff"), accelerator="cpu")
    read = Comparison.read(folder)
    assert (read.name, read.config["command"]) == ("run\\udcff", "--out run\\udcff")
    assert compare(config, folder, resume=True, accelerator="cpu") == read
    names = os.fsdecode(b"caf\xe9"), "é"
    write_rows(tmp_path / "a.parquet", "logits", torch.eye(2), torch.arange(2), {"names": "\x1f".join(names)})
    assert pq.read_schema(tmp_path / "a.parquet").metadata[b"names"].decode() == "caf\\udce9\x1fé"
    write_text(folder / "config.yaml", dump_config(make_config(losses=["softmax"], dataset=f"./{names[0]}")))
    assert read_config(folder / "config.yaml").dataset == f"./{names[0]}"


@pytest.mark.parametrize("kind", ["cut off", "a list", "a key"])
def test_results_that_were_damaged_say_what_to_do(finished, tmp_path, kind):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    file = folder / "results.json"
    text = file.read_text()
    file.write_text({"cut off": text[:100], "a list": "[]", "a key": text.replace('"losses"', '"loses"')}[kind])
    with pytest.raises(
        ValueError, match=rf"results.json.*; remove {file} to make it from what was trained"
    ) as error:
        compare(CONFIG, folder, resume=True)
    assert "\n" not in str(error.value)
    file.unlink()
    assert _numbers(compare(CONFIG, folder, resume=True).to_dict()) == _numbers(finished[1].to_dict())


def test_data_that_cannot_be_used_leave_no_folder_behind(tmp_path):
    with pytest.raises(ValueError, match="image_size"):
        compare(make_config(losses=["softmax"], image_size=16), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_prior_bias_is_that_of_each_loss(tmp_path, monkeypatch):
    config = make_config(losses=["softmax"], initial_bias="prior", imbalance="exponential:10", epochs=1)
    bench = Bench(config, tmp_path, "cpu")
    given = []
    monkeypatch.setattr(
        "steelyard.training.learners.network.create_backbone", lambda *_, initial_bias: given.append(initial_bias)
    )
    history = [{"validation_balanced_accuracy": 0.5}]
    monkeypatch.setattr(
        "steelyard.training.learners.network.fit", lambda *_, **__: SimpleNamespace(history=history)
    )
    for loss in ("softmax", "softmax:tau=1", "lgl-inr"):
        bench.record(parse_loss(loss), Training(0.1, 0, tuning=True), "x", lambda row: None)
    assert given[0].argmax() == bench.class_counts.argmax()
    assert given[1:] == [None, None]


@pytest.mark.slow
def test_several_devices_give_the_numbers_of_one_in_mixed_precision_too(tmp_path, forked):
    config = make_config(
        losses=["softmax:inverse"], seeds=1, epochs=2, learning_rates=[0.1], precision="bf16-mixed"
    )
    one, two = (
        compare(config, tmp_path / str(devices), accelerator="cpu", devices=devices).losses[0].summary
        for devices in (1, 2)
    )
    assert two["nll"].mean == pytest.approx(one["nll"].mean, rel=0.02)
    assert two["accuracy"].mean == pytest.approx(one["accuracy"].mean, abs=0.02)
    plain = compare(config.model_copy(update={"precision": "32-true"}), tmp_path / "plain", accelerator="cpu")
    assert plain.losses[0].summary["nll"].mean != one["nll"].mean


# Run folders ---------------------------------------------------------------------------------------------


def test_folder_of_another_run_is_refused_with_the_difference(finished):
    other = CONFIG.model_copy(update={"epochs": 3})
    with pytest.raises(ValueError, match="is of another run: epochs is 2, not 3"):
        compare(other, finished[0], resume=True)


def test_folder_is_for_one_process(finished):
    with (
        RunFolder(finished[0]).open(CONFIG, resume=True),
        pytest.raises(ValueError, match="is in use by another process"),
        RunFolder(finished[0]).open(CONFIG, resume=True),
    ):
        pass


def test_folder_with_other_files_and_file_are_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match=r"holds other files, such as thesis.txt; name another"):
        compare(CONFIG, tmp_path)
    with pytest.raises(FileExistsError, match=r"thesis.txt is a file"):
        compare(CONFIG, tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize("name", [".lock", "report.html", "softmax-inverse", "softmax-inverse/seed-0/last.ckpt"])
def test_a_folder_with_a_link_in_it_is_refused(tmp_path, name):
    folder, outside = tmp_path / "run", tmp_path / "precious"
    with RunFolder(folder).open(CONFIG, resume=False):
        pass
    outside.mkdir()
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside)
    with pytest.raises(ValueError, match=f"{name} is a link, and nothing is written through links; remove it"):
        compare(CONFIG, folder, resume=True)
    assert list(outside.iterdir()) == []


def test_folders_that_cannot_be_read_are_left_out(tmp_path):
    for name in ("a", "a-2", "a-3", "a-4"):
        with RunFolder(tmp_path / name).open(CONFIG, resume=False):
            pass
    (tmp_path / "a-2" / "config.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "a-3" / "config.yaml").write_text("losses: [softmax")
    (tmp_path / "a-4" / "config.yaml").unlink()
    (tmp_path / "a-4" / "config.yaml").mkdir()
    told = []
    assert latest_folder(tmp_path, "a", CONFIG, told.append) == tmp_path / "a"
    assert [text.split(":")[0] for text in told] == [
        f"{tmp_path / name} is left out" for name in ("a-4", "a-3", "a-2")
    ]


def test_names_of_new_and_latest_folders(tmp_path):
    assert next_folder(tmp_path, "a") == tmp_path / "a"
    assert latest_folder(tmp_path, "a", CONFIG) is None
    for name in ("a", "a-2"):
        with RunFolder(tmp_path / name).open(CONFIG, resume=False):
            pass
    (tmp_path / "a-3").mkdir()
    assert next_folder(tmp_path, "a") == tmp_path / "a-4"
    assert latest_folder(tmp_path, "a", CONFIG) == tmp_path / "a-2"
    (tmp_path / "a").rename(tmp_path / "elsewhere")  # a gap
    assert next_folder(tmp_path, "a") == tmp_path / "a-4"
    assert latest_folder(tmp_path, "a", CONFIG) == tmp_path / "a-2"


def test_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "x.json"
    write_atomically(file, lambda f: f.write(b"old"))

    def half(f):
        f.write(b"ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, half)
    assert file.read_bytes() == b"old"


# The process ---------------------------------------------------------------------------------------------

ARGUMENTS = ["--losses", "softmax,logistic", "--seeds", "2", "--epochs", "2", "--learning-rates", "0.05,0.1"]


def _start(folder, *more):
    program = "from steelyard.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", program, "compare", *ARGUMENTS, "--out", str(folder), *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, one_thread):
    folder = tmp_path_factory.mktemp("undisturbed") / "whole"
    main(["compare", *ARGUMENTS, "--out", str(folder)])
    return json.loads((folder / "results.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "workers"),
    [(signal.SIGKILL, -9, 1), (signal.SIGINT, 130, 1), (signal.SIGHUP, 129, 2)],
    ids=["kill", "int", "hup"],
)
def test_stopped_process_resumes_to_the_same_numbers(tmp_path, capsys, undisturbed, number, code, workers):
    """Workers that are killed are in test_grid.py."""
    process = _start(tmp_path / "cut", "--workers", str(workers))
    while not any((tmp_path / "cut/softmax").glob("seed-*/result.json")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    error = process.communicate()[1]
    assert process.returncode == code, error
    if number != signal.SIGKILL:
        assert error.strip().endswith("steelyard: stopped; the same command with --resume goes on")
    assert gone(process.pid)  # workers end with the one that started them
    assert not (tmp_path / "cut" / "results.json").exists()
    status, _, error = run_command(capsys, "compare", *ARGUMENTS, "--out", str(tmp_path / "cut"), "--resume")
    assert status == 0, error
    assert re.search(r"softmax, seed \d: was finished", error)
    assert _numbers(json.loads((tmp_path / "cut" / "results.json").read_text())) == _numbers(undisturbed)
