"""What pytest loads of this distribution in every run: next to nothing, unless `--pyargs parity` asks for the proofs.

pytest reads the options of a conftest.py only where its folder is given by path. A package that is given by name is
found too late for that, so its options come from here. They are not there in anybody else's runs: `--device` and
`--report` are names that other people's tests use too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_load_initial_conftests(early_config: pytest.Config, args: Sequence[str]) -> None:
    """Loads the options of `parity` where it is given by name, as `parity`, `parity.module` or `parity::test`."""
    if early_config.known_args_namespace.pyargs and any(_is_parity(argument) for argument in args):
        early_config.pluginmanager.import_plugin("parity.plugin")


def _is_parity(argument: str) -> bool:
    return argument.partition("::")[0].partition(".")[0] == "parity"
