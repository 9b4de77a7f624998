"""Pages may register losses of their own, which other tests must not meet."""

import pytest

from steelyard.losses.registry import LOSSES


@pytest.fixture(autouse=True)
def own_losses():
    before = dict(LOSSES)
    yield
    LOSSES.clear()
    LOSSES.update(before)
