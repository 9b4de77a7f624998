"""Pages may register losses of their own and write files, which other tests must not meet."""

import pytest

from steelyard.losses.registry import LOSSES

collect_ignore_glob = ["findings/SY*.md"]  # tests/test_docs.py runs their examples


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # modules that a page writes; the path is put back afterwards


@pytest.fixture(autouse=True)
def own_losses():
    before = dict(LOSSES)
    yield
    LOSSES.clear()
    LOSSES.update(before)
