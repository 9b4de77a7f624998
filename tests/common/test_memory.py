"""More than there is memory for is refused in a sentence, before it is taken."""

import pytest

from steelyard._common import memory


def test_what_fits_is_told_and_the_rest_refused(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 8e9)
    assert memory.check_memory("an audit", 10_000, 10) == 8.0
    with pytest.raises(
        ValueError, match=r"an audit of 10001 classes needs about 8 GB .* at most about 10000 classes"
    ):
        memory.check_memory("an audit", 10_001, 10)
    monkeypatch.setattr(memory, "available_memory", lambda: None)  # the system does not tell
    assert memory.check_memory("an audit", 10**6, 10) == 80_000.0


def test_the_system_tells():
    found = memory.available_memory()
    assert found is None or 1e6 < found < 1e15
