"""What every test may ask for: the data folder, and the settings that make runs repeatable.

Where the data folder is, and what its absence means, is said in `parity.data`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from parity import data

with contextlib.suppress(ImportError):  # without pytest-xdist one process runs all
    from tests.schedule import pytest_handlecrashitem, pytest_xdist_make_scheduler  # noqa: F401

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


#: Run by test_ray.py, in processes of their own.
collect_ignore = [] if "DBNET_TEST_APART" in os.environ else ["test_ray_cases.py", "test_ray_ends_cases.py"]
#: Seconds for a process to end once its tests have: one with frameworks' threads may wait for them for ever.
_END_SECONDS = 120


class _Told:
    """Tells at once what failed: should the run be ended before its end, nothing else would."""

    def __init__(self, config: pytest.Config):
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.ensure_newline()
            terminal.write_line(f"FAILED {report.nodeid} ({report.when}): {report.longreprtext.strip()[-200:]!r}")


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        config.pluginmanager.register(_Told(config))


def pytest_unconfigure() -> None:
    """Watched without Python, since what hangs may hold its lock."""
    if "PYTEST_XDIST_WORKER" in os.environ and sys.__stderr__ is not None:
        faulthandler.dump_traceback_later(_END_SECONDS, exit=True, file=sys.__stderr__)


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
