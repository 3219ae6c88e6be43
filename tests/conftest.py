"""What every test may ask for: the data folder, and the settings that make runs repeatable.

The data folder (trained weights, oracles, real images) is no part of the repository: `DBNET_SHARED`, or `../shared`
beside the checkout. Without it the tests that need it skip. Where it is present and `CI=true`, a missing file in it
fails the test instead: a skip there would hide a proof that was never made.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

# Read by OpenMP when the first framework is imported; more threads than cores make the runs slower and less alike.
os.environ.setdefault("OMP_NUM_THREADS", "2")

# No deadline: the first example of a test may import OpenCV. Derandomised in CI, where a failure must come again.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "local")


def shared_root() -> Path:
    """The data folder, whether it exists or not."""
    return Path(os.environ.get("DBNET_SHARED") or ROOT.parent / "shared").resolve()


def require_data(path: Path) -> Path:
    """`path`, a file or folder of the data folder. Skips the test where it is missing; see the module's docstring."""
    root = shared_root()
    if not root.is_dir():
        pytest.skip(f"no data folder {root}: set DBNET_SHARED")
    if not path.exists():
        missing = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        missing(f"the data folder {root} has no {os.path.relpath(path, root)}")
    return path


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The data folder; the test is skipped where there is none."""
    return require_data(shared_root())


@pytest.fixture(scope="session")
def need() -> Callable[[str | Path], Path]:
    """`need("weights/x.pdparams")` -> its path in the data folder; a missing one skips the test, or fails it in CI."""
    return lambda relative: require_data(shared_root() / relative)
