"""An integration whose library is not installed says which, and how to get it."""

import importlib
import sys

import pytest

import steelyard.integrations


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [
        ("huggingface", "transformers", "transformers"),
        ("huggingface", "datasets", "transformers"),
        ("lightning", "lightning.pytorch", "lightning"),
        ("skorch", "skorch", "skorch"),
        ("skore", "skore", "skore"),
    ],
)
def test_a_missing_library_is_named(monkeypatch, module, library, extra):
    name = f"steelyard.integrations.{module}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr(steelyard.integrations, module, raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"{name} needs .*{library}.*pip install 'steelyard\[{extra}\]'"):
        importlib.import_module(name)
