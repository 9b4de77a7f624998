"""The benchmark for GPUs without one: its arithmetic on numbers, and a run of it with a CPU in the GPU's place."""

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from steelyard.kernels.lgl_inr import triton as lgl_inr_triton

FILE = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture
def gpu():
    spec = importlib.util.spec_from_file_location("gpu_benchmark", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def in_its_place(gpu, monkeypatch):
    """The benchmark with clocks that tick a millisecond, and memory that never grows."""
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    monkeypatch.setattr(gpu, "FLUSHED", 8)
    event = SimpleNamespace(record=lambda: None, elapsed_time=lambda end: 1.0)
    monkeypatch.setattr(torch.cuda, "Event", lambda **_: event)
    for name in ("synchronize", "reset_peak_memory_stats", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 1_000_000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3_000_000)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)
    return gpu


def test_limits_are_the_slower_of_two(gpu):
    limits = gpu.Limits(memory=4e12, special=4e12, products=8e14)
    seconds, cause = limits.of_logits(1024, 100_000, 1024, 2)
    assert cause == "special functions"
    assert seconds == pytest.approx(
        2 * 3 * 1024 * 100_000 / 4e12
    )  # three a logit and way where classes have a row
    seconds, cause = limits.of_logits(1024, 100_000, 10, 4)
    assert cause == "memory"
    assert seconds == pytest.approx(3 * 4 * 1024 * 100_000 / 4e12)
    assert limits.of_head(1024, 768, 1_000_000) == (pytest.approx(6 * 1024 * 768 * 1e6 / 8e14), "products")


def test_rate_of_special_functions(gpu, monkeypatch):
    properties = SimpleNamespace(multi_processor_count=132, clock_rate=1_980_000)
    assert gpu.special_rate(properties, None) == pytest.approx(16 * 132 * 1.98e9)
    assert gpu.special_rate(properties, 1800) == pytest.approx(16 * 132 * 1.8e9)
    del properties.clock_rate
    monkeypatch.setattr(gpu, "nvidia_smi", lambda field: {"clocks.max.sm": "1500"}[field])
    assert gpu.special_rate(properties, None) == pytest.approx(16 * 132 * 1.5e9)
    monkeypatch.setattr(gpu, "nvidia_smi", lambda field: "unknown")
    with pytest.raises(SystemExit, match="give it in MHz with --clock"):
        gpu.special_rate(properties, None)


def test_report_counts_shares_of_the_limit(gpu):
    results = {"ours": gpu.Result(4e-3, 12_340_000), "theirs": None}
    lines, rows = gpu.report(
        ["head", 8, 4, 16, "bfloat16"], results, (1e-3, "products"), [5, "a GPU", "1", "2", "3"]
    )
    assert lines[0] == "\nhead 8 4 16 bfloat16; products allow 1.000 ms"
    assert "4.000 ms   25.0% of the limit       12.3 MB extra" in lines[1]
    assert lines[2].split() == ["theirs", "out", "of", "memory"]
    cells = [dict(zip(gpu.COLUMNS, row, strict=True)) for row in rows]
    assert [c["median_ms"] for c in cells] == ["4.0000", ""]
    assert [c["share_of_limit"] for c in cells] == ["0.2500", ""]
    assert [c["extra_MB"] for c in cells] == ["12.3", ""]
    assert {c["gpu"] for c in cells} == {"a GPU"}
    assert {c["limit"] for c in cells} == {"products"}


def test_shapes_are_those_of_the_goals(gpu):
    assert {(1024, 100_000), (4096, 131_072)} <= set(gpu.SHAPES)
    assert {(1024, 768, 100_000), (1024, 768, 1_000_000)} == set(gpu.HEADS)


@pytest.mark.parametrize("present", [3, 7])
def test_every_lgl_inr_of_logits_is_the_same_loss(in_its_place, present):
    leaves, target = in_its_place.logits_and_labels(12, 7, torch.float32)
    target %= present
    losses = in_its_place.competitors(target, 7)
    in_its_place.check(leaves, losses, (in_its_place.TRITON, in_its_place.TORCH), 7)
    in_its_place.check(leaves, losses, (in_its_place.TRITON, "LGL-INR, loop over classes"), 7)
    with pytest.raises(AssertionError, match="not close"):
        in_its_place.check(leaves, losses, (in_its_place.TRITON, "torch one-hot BCE"), 7)


def test_heads_are_their_linear_layer_and_loss(in_its_place):
    leaves, target = in_its_place.head_and_labels(12, 8, 20)
    losses = in_its_place.heads(target)
    pairs = [
        (in_its_place.FUSED, in_its_place.UNFUSED),
        ("LogisticLinear", "linear + logistic_loss"),
        ("torch linear_cross_entropy, default", "linear + torch cross-entropy"),
        ("torch linear_cross_entropy, 256 rows", "linear + torch cross-entropy"),
    ]
    for pair in pairs:
        in_its_place.check(leaves, losses, pair, 1.0)
    with pytest.raises(AssertionError, match="not close"):
        in_its_place.check(leaves, losses, ("LogisticLinear", in_its_place.UNFUSED), 1.0)


def test_who_runs_out_of_memory_has_no_figures(in_its_place):
    def hungry(z):
        raise torch.cuda.OutOfMemoryError

    leaves, target = in_its_place.logits_and_labels(12, 7, torch.float32)
    losses = {"a": lambda z: F.cross_entropy(z, target), "b": hungry}
    found = in_its_place.measure(leaves, losses, 2)
    assert found == {"a": in_its_place.Result(1e-3, 2_000_000 - 4 * 12 * 7), "b": None}
    assert leaves[0].grad is None


def test_a_run_with_everything(in_its_place, monkeypatch, tmp_path, capsys):
    properties = SimpleNamespace(multi_processor_count=1, clock_rate=1e6)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "no GPU")
    monkeypatch.setattr(
        lgl_inr_triton, "takes", lambda logits, beta: logits.numel() == 1
    )  # the question at the start
    monkeypatch.setattr(in_its_place, "SHAPES", [(12, 7)])
    monkeypatch.setattr(in_its_place, "HEADS", [(12, 8, 20), (4, 2, 30)])
    for name, size in (("bandwidth", 64), ("product_rate", 4)):
        function = getattr(in_its_place, name)
        assert function(size) == {"bandwidth": 2 * 64 / 1e-3, "product_rate": 2 * 4**3 / 1e-3}[name]
        monkeypatch.setattr(in_its_place, name, lambda: 1e9)
    out = tmp_path / "gpu.csv"
    monkeypatch.setattr("sys.argv", ["gpu.py", "--out", str(out), "--rounds", "1"])
    in_its_place.main()
    assert "no GPU, driver" in capsys.readouterr().out
    with out.open() as file:
        rows = list(csv.DictReader(file))
    seen = {(r["what"], r["N"], r["D"], r["K"], r["dtype"]) for r in rows}
    heads = {("head", "12", "8", "20", "bfloat16"), ("head", "4", "2", "30", "bfloat16")}
    assert seen == {("logits", "12", "", "7", "float32"), ("logits", "12", "", "7", "bfloat16")} | heads
    assert {r["median_ms"] for r in rows} == {"1.0000"}
    assert {r["gpu"] for r in rows} == {"no GPU"}
    assert {"LGLINRLinear", "LogisticLinear", "lgl_inr_loss, Triton"} <= {r["loss"] for r in rows}


def test_without_a_gpu_it_says_so(gpu, monkeypatch):
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="needs a CUDA device, and torch sees none"):
        gpu.main()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="would take minutes of a GPU")
def test_the_script_for_a_gpu_names_what_it_did_not_run(tmp_path):
    """Without a GPU, and with no time for what runs on a CPU."""
    environment = os.environ | {"BUDGET": "0", "OUT": str(tmp_path / "gpu"), "PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", FILE.with_name("on_gpu.sh")], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "gpu" / "steps.csv").open() as opened:
        told = {row["step"]: row["exit"] for row in csv.DictReader(opened)}
    assert told == {
        **dict.fromkeys(("kernels-interpreted", "compare-small"), "not run: no time is left"),
        **dict.fromkeys(("logits", "heads", "cifar"), "not run: it needs a GPU"),
    }
