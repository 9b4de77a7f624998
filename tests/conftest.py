"""Settings for every test."""

import os

import pytest
from hypothesis import settings

from tests.report.browser import close_browser

# readline leaves the size of the terminal here in the processes of a parallel run; tests set their own.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)

# Timing says nothing on a busy machine.
settings.register_profile("steelyard", deadline=None)
settings.load_profile("steelyard")


@pytest.fixture(scope="session", autouse=True)
def browser():
    yield
    close_browser()
