"""Settings for every test."""

import functools
import os
import socket

import pytest
from hypothesis import HealthCheck, settings

from tests.report.browser import close_browser

# readline leaves the size of the terminal here in the processes of a parallel run; tests set their own.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)

# Timing says nothing on a busy machine.
settings.register_profile("steelyard", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steelyard")


@pytest.fixture(scope="session", autouse=True)
def browser():
    yield
    close_browser()


@pytest.fixture
def forked(monkeypatch):
    """Fork the processes of a training: started from nothing, two of them import for 20 s before they train."""
    from steelyard.training import processes

    fork = functools.partial(processes.start_processes, start_method="fork")
    monkeypatch.setattr(processes, "start_processes", fork)


@pytest.fixture
def free_port():
    """A port of this machine that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
