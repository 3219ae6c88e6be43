"""The data folder: trained weights, oracles and real images; no part of the repository.

`DBNET_SHARED`, or `../shared` beside the checkout. Without it the tests that need it skip; a `DBNET_SHARED` that is no
folder fails them. Where the folder is present and `CI=true`, a missing file in it fails the test instead: a skip there
would hide a proof that was never made.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


def shared_root() -> Path:
    """The data folder, whether it exists or not."""
    return Path(os.environ.get("DBNET_SHARED") or ROOT.parent / "shared").resolve()


def need(relative: str | Path = ".") -> Path:
    """A file or folder of the data folder. Skips the test where it is missing; see the module's docstring."""
    root = shared_root()
    if not root.is_dir():
        if os.environ.get("DBNET_SHARED"):
            pytest.fail(f"DBNET_SHARED is {root}, which is no folder", pytrace=False)
        pytest.skip(f"no data folder {root}: set DBNET_SHARED")
    if not (root / relative).exists():
        missing = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        missing(f"the data folder {root} has no {relative}")
    return root / relative


def oracle_module() -> ModuleType:
    """The oracles' own generator of weights and images (`seeded_array`, `seeded_image`)."""
    path = need("oracle/seeded_weights.py")
    spec = importlib.util.spec_from_file_location("oracle_seeded_weights", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
