"""What `pytest parity/` gives its tests. Its options and its report are in `parity.plugin`."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from dbnet.extras import OPTIONAL, installed
from parity import plugin
from parity.baseline_session import BaselineSession
from parity.cases import Lab
from parity.two_models import TwoModels


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    if not pluginmanager.hasplugin(plugin.__name__):  # dbnet.pytest_plugin may have been first
        pluginmanager.register(plugin, plugin.__name__)


@pytest.fixture(scope="session")
def available(pytestconfig: pytest.Config) -> Any:
    """A function that skips the test where a runner is not installed, or fails it where it is required."""

    def check(*names: str) -> None:
        for name in names:
            module = "torch" if name == "float64" else name
            if installed(module):
                continue
            message = f"{module} is not installed: pip install 'dbnet-parity[{OPTIONAL[module][0]}]'"
            (pytest.fail if module in plugin.required(pytestconfig) else pytest.skip)(message)

    return check


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Any:
    """The models, runners and outputs of this session."""
    folder = tmp_path_factory.mktemp("parity")
    yield Lab(folder, plugin.option(pytestconfig, "device"))
    _tidied(folder, pytestconfig)


@pytest.fixture
def tmp_path(tmp_path: Any, pytestconfig: pytest.Config) -> Any:
    yield tmp_path
    _tidied(tmp_path, pytestconfig)


def _tidied(folder: Any, config: pytest.Config) -> None:
    """Where no pyproject.toml says otherwise pytest keeps the folders of three runs: weight files by the gigabyte."""
    if config.getini("tmp_path_retention_policy") == "all":
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def two_models(pytestconfig: pytest.Config) -> TwoModels:
    """The models of --reference and --candidate."""
    wanted = pytestconfig.stash[plugin.WANTED]
    if wanted is None:
        pytest.skip("compares any two models: give --reference FILE --candidate FILE")
    return TwoModels(wanted)


@pytest.fixture(scope="session")
def baseline(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Any:
    """The runs of --baseline, and of now."""
    held = pytestconfig.stash[plugin.BASELINE]
    if held is None:
        pytest.skip("compares with the numbers of before: give --baseline FILE")
    folder = tmp_path_factory.mktemp("baseline")
    yield BaselineSession(held.wanted, held.old, folder)
    _tidied(folder, pytestconfig)


@pytest.fixture
def report(pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> Any:
    """A function that adds a row to --report."""
    return lambda **row: pytestconfig.stash[plugin.ROWS].append({"test": request.node.nodeid, **row})
