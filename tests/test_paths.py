"""Every public function that takes a path takes it as text too."""

import importlib
import inspect
from os import PathLike
from pathlib import Path
from typing import get_args

import pytest
import torch

from steelyard import audit
from steelyard.claims import claim_folder, read_claim_config, reproduce
from steelyard.commands.audit import audit_file
from steelyard.commands.forecast import forecast_file
from steelyard.data import load_dataset, open_predictions
from steelyard.experiments import CompareConfig, RunFolder, compare
from steelyard.experiments.config import read_config
from steelyard.report import write_audit_page, write_claim_page, write_forecast_page, write_report
from steelyard.report.results import Comparison, read_confusions

PACKAGES = ["auditing", "balance", "claims", "data", "experiments", "forecasting", "report", "report.results", "training", "weights"]  # fmt: skip
BESIDE = [audit_file, forecast_file, read_config]


def _public():
    yield from ((f.__name__, f) for f in BESIDE)
    for package in ["", *PACKAGES]:
        module = importlib.import_module(f"steelyard.{package}".rstrip("."))
        for name in module.__all__:
            found = getattr(module, name)
            if inspect.isfunction(found):
                yield name, found
            elif inspect.isclass(found):
                for key, member in inspect.getmembers(found, callable):
                    if (key == "__init__" or not key.startswith("_")) and "steelyard" in getattr(
                        member, "__module__", ""
                    ):
                        yield f"{name}.{key}", member


def _paths(function):
    """Its parameters that may be a path."""
    for name, parameter in inspect.signature(function).parameters.items():
        kinds = get_args(parameter.annotation) or (parameter.annotation,)
        if any(kind is Path or kind == PathLike[str] for kind in kinds):
            yield name, kinds


def test_text_stands_beside_every_path():
    found = {(called, name): kinds for called, function in _public() for name, kinds in _paths(function)}
    assert len({called for called, _ in found}) > 12
    only = [f"{called}({name}=)" for (called, name), kinds in found.items() if str not in kinds]
    only = [each for each in only if not each.startswith(("Predictions.__init__", "Predictions("))]  # made by us
    assert only == []


def _report(folder):
    logits, target = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3
    return audit(logits, target, "softmax").save(folder)


@pytest.mark.parametrize(
    "call",
    [
        *(
            write_audit_page,
            write_claim_page,
            write_forecast_page,
            write_report,
            Comparison.read,
            open_predictions,
        ),
        *(read_config, load_dataset, lambda path: load_dataset(Path(path))),
        lambda path: read_confusions(path, 3),
        lambda path: audit_file(path, out=path + "-out"),
        lambda path: forecast_file(path, losses=["softmax"], weights=["none"], test=path, out=path + "-out"),
    ],
)
def test_a_path_as_text_that_is_not_there_is_told(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((FileNotFoundError, ValueError), match="nowhere"):
        call("./nowhere.parquet")


def test_folders_as_text_are_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _report("found")
    assert write_audit_page("found") == Path("found/report.html")
    assert RunFolder("run").path == Path("run")
    assert claim_folder("claims", "c1", read_claim_config("c1")) == Path("claims/c1")
    (tmp_path / "file").touch()
    config = CompareConfig(losses=["softmax"], epochs=1, seeds=1, learning_rates=[0.1])
    with pytest.raises(FileExistsError, match="file"):
        compare(config, "file")
    with pytest.raises(FileExistsError):
        reproduce("c1", read_claim_config("c1"), "file")


def test_a_path_object_is_a_folder_and_never_the_name_of_a_data_set():
    with pytest.raises(FileNotFoundError, match="somebody/images does not exist or is not a folder"):
        load_dataset(Path("somebody/images"))
