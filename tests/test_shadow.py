"""A foreign package in the place of one of ours is named in one line."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from dbnet.shadow import PACKAGES, check_shadowing

ROOT = Path(__file__).resolve().parents[1]


def run_dbnet(home: Path, *before: Path) -> subprocess.CompletedProcess[str]:
    """`python -m dbnet --help` with `before`, `home` and the dependencies on the path, in this order.

    Not the working directory (-P), and no .pth files (-S): an editable install of this checkout would fill every gap.
    """
    path = os.pathsep.join(map(str, [*before, home, sysconfig.get_path("purelib")]))
    return subprocess.run([sys.executable, "-S", "-P", "-m", "dbnet", "--help"], cwd=home, text=True,
                          capture_output=True, env={**os.environ, "PYTHONPATH": path}, check=False)


@pytest.fixture
def home(tmp_path) -> Path:
    """A folder as pip leaves it: our packages, and the list of their files."""
    folder = tmp_path / "site-packages"
    for name in ("dbnet", *PACKAGES):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    write_record(folder, "dbnet_parity-0.1.0", sorted(folder.rglob("*.py")))
    return folder


def write_record(folder: Path, distribution: str, files: list[Path]) -> None:
    info = folder / f"{distribution}.dist-info"
    info.mkdir()
    rows = []
    for file in files:
        data = file.read_bytes()
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        rows.append(f"{file.relative_to(folder)},sha256={digest},{len(data)}")
    (info / "RECORD").write_text("\n".join([*rows, f"{info.name}/RECORD,,", ""]))


def foreign(folder: Path, name: str, text: str = "VALUE = 'not ours'\n") -> Path:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "__init__.py").write_text(text)
    return folder


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words), done.stderr


def test_this_installation_is_not_shadowed():
    check_shadowing()


def test_an_installation_without_foreign_packages(home):
    done = run_dbnet(home)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_earlier_on_the_path(home, tmp_path, name):
    other = foreign(tmp_path / "other", name)
    assert_refused(run_dbnet(home, other), f"another package {name}", str(other / name))


def test_a_module_earlier_on_the_path(home, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "evaluation.py").write_text("")
    assert_refused(run_dbnet(home, tmp_path / "other"), "another package evaluation", "evaluation.py")


def test_a_plain_folder_of_the_same_name_is_no_package(home, tmp_path):
    (tmp_path / "other" / "evaluation").mkdir(parents=True)
    assert run_dbnet(home, tmp_path / "other").returncode == 0


def test_a_distribution_installed_over_ours(home):
    foreign(home, "evaluation", "raise RuntimeError('somebody else')\n")
    write_record(home, "evaluation-2.3", [home / "evaluation" / "__init__.py"])
    assert_refused(run_dbnet(home), "evaluation 2.3 has overwritten", str(home / "evaluation" / "__init__.py"))


def test_an_edited_file_is_no_foreign_one(home):
    with (home / "converters" / "check.py").open("a") as file:
        file.write("# looking for something\n")
    assert run_dbnet(home).returncode == 0


def test_a_foreign_distribution_took_our_file_along_when_it_was_uninstalled(home):
    (home / "evaluation" / "__init__.py").unlink()
    assert_refused(run_dbnet(home), "missing", "reinstall dbnet-parity")


def test_a_package_is_missing(home):
    shutil.rmtree(home / "parity")
    assert_refused(run_dbnet(home), "the package parity is missing", "reinstall dbnet-parity")
