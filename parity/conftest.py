"""Options, header and report of `pytest parity/`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from converters.writing import check_report, write_text
from dbnet.errors import DbnetError
from dbnet.extras import OPTIONAL, installed
from dbnet.running import parse_device
from evaluation.evaluate import versions
from parity.cases import RUNNERS, Lab

#: Rows that tests add for --report.
ROWS = pytest.StashKey[list[dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("parity")
    group.addoption("--require", default="", metavar="A,B", help="Runners that must be there: a missing one fails.")
    group.addoption("--device", default=None, help="Device for the framework that has it: Ascend, cuda:0, ...")
    group.addoption("--report", default=None, metavar="FILE", help="Write every comparison as JSON (replaced).")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []
    unknown = set(_required(config)) - set(RUNNERS)
    if unknown:
        raise pytest.UsageError(f"--require {','.join(sorted(unknown))}: runners are {', '.join(RUNNERS)}")
    try:
        parse_device(config.getoption("--device") or "cpu")
        if config.getoption("--report"):
            check_report(Path(config.getoption("--report")))
    except DbnetError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_report_header(config: pytest.Config) -> list[str]:
    from importlib import metadata
    found = [f"{name} {metadata.version(name) if installed(name) else 'missing'}" for name in RUNNERS]
    return [f"parity: {', '.join(found)}; device {config.getoption('--device') or 'cpu'}",
            "parity: " + ", ".join(f"{name} {version}" for name, version in versions().items())]


def _required(config: pytest.Config) -> list[str]:
    return [name.strip() for name in config.getoption("--require").split(",") if name.strip()]


@pytest.fixture(scope="session")
def available(pytestconfig: pytest.Config) -> Any:
    """A function that skips the test where a runner is not installed, or fails it where it is required."""

    def check(*names: str) -> None:
        for name in names:
            module = "torch" if name == "float64" else name
            if installed(module):
                continue
            message = f"{module} is not installed: pip install 'dbnet-parity[{OPTIONAL[module][0]}]'"
            (pytest.fail if module in _required(pytestconfig) else pytest.skip)(message)

    return check


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Lab:
    """The models, runners and outputs of this session."""
    return Lab(tmp_path_factory.mktemp("parity"), pytestconfig.getoption("--device"))


@pytest.fixture
def report(pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> Any:
    """A function that adds a row to --report."""
    return lambda **row: pytestconfig.stash[ROWS].append({"test": request.node.nodeid, **row})


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--report")
    if path:
        data = {"versions": versions(), "exit_status": int(session.exitstatus), "rows": session.config.stash[ROWS]}
        write_text(Path(path), json.dumps(data, indent=1) + "\n")
