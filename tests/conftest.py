"""What every test may ask for: the data folder, and the settings that make runs repeatable.

Where the data folder is, and what its absence means, is said in `parity.data`.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from parity import data

ROOT = data.ROOT

# Read by OpenMP when the first framework is imported; more threads than cores make the runs slower and less alike.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")

# A shell's background jobs ignore Ctrl-C, nohup's the end of the terminal, and so would every process that a test
# starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# No deadline: the first example of a test may import OpenCV. Derandomised in CI, where a failure must come again.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "local")


@pytest.fixture(autouse=True)
def _own_interrupts() -> None:
    """MindSpore, where a test calls it past `dbnet.signals`, leaves a handler for SIGINT that ends the process."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is not None:
        signal.signal(signal.SIGINT, handler)


@pytest.fixture
def interrupts_arrive():
    """An exception that a signal raises while the garbage collector calls back (Hypothesis has it do so) is lost."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The data folder; the test is skipped where there is none."""
    return data.need()


@pytest.fixture(scope="session")
def need() -> Callable[[str | Path], Path]:
    """`need("weights/x.pdparams")` -> its path in the data folder; a missing one skips the test, or fails it in CI."""
    return data.need


@pytest.fixture
def dbnet(monkeypatch, capsys):
    """Runs a command; returns what it prints on standard output and standard error."""
    from tests import detecting

    def run(*arguments, code=0):
        detecting.dbnet(monkeypatch, *arguments, code=code)
        return capsys.readouterr()

    return run


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of three photographs."""
    from tests import detecting
    detecting.write_photos(tmp_path / "photos", 3)
    return tmp_path / "photos"


@pytest.fixture
def no_proxies(monkeypatch) -> None:
    """None of the machine's own between a test and its server."""
    from tests import fetch_server
    for name in fetch_server.PROXIES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def client(no_proxies, tmp_path):
    """Fetches the entry of a table in the test's folder (`fetch_server.Client`)."""
    from tests import fetch_server
    return fetch_server.Client(tmp_path, fetch_server.entry_of(tmp_path))
