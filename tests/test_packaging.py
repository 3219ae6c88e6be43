"""What goes into the wheel, and what must not stand in any file of the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import converters
from dbnet.seeded import seeded_weights
from dbnet.shadow import PACKAGES
from dbnet.spec import SPECS
from dbnet.version import VERSION

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TOP_LEVEL = ("dbnet", *PACKAGES)
#: A folder of the wheel that holds no modules.
RECIPES = "configs"


def repository_files() -> list[Path]:
    """What git tracks or would add; without git, everything but caches and environments."""
    done = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                          capture_output=True, check=False)
    if done.returncode == 0:
        return [path for name in done.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]
    return [path for path in ROOT.rglob("*") if path.is_file()
            and not any(part.startswith(".") and part != ".ci" for part in path.relative_to(ROOT).parts)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel, built from a copy: setuptools leaves build/ and an egg-info behind in the tree it builds from."""
    folder = tmp_path_factory.mktemp("wheel")
    for path in repository_files():
        copy = folder / "source" / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", build, str(folder)], cwd=folder / "source", capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    [path] = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def modules_in_the_tree() -> set[str]:
    return {str(path.relative_to(ROOT)) for package in TOP_LEVEL for path in (ROOT / package).rglob("*.py")}


def test_packages_are_all_listed():
    found = {".".join(path.parent.relative_to(ROOT).parts) for package in TOP_LEVEL
             for path in (ROOT / package).rglob("__init__.py")}
    assert sorted(PYPROJECT["tool"]["setuptools"]["packages"]) == sorted({*found, RECIPES})


def test_no_folder_of_modules_lacks_its_init():
    folders = {path.parent for package in TOP_LEVEL for path in (ROOT / package).rglob("*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_wheel_holds_every_module(wheel):
    assert {name for name in wheel.namelist() if name.endswith(".py")} == modules_in_the_tree()


def test_wheel_holds_the_data_it_needs(wheel):
    data = {name for name in wheel.namelist() if not name.endswith(".py") and ".dist-info/" not in name}
    expected = {str(path.relative_to(ROOT)) for path in repository_files()
                if path.relative_to(ROOT).parts[0] in (*TOP_LEVEL, RECIPES)
                and (path.suffix not in (".py", ".md") or path.parent.name == "embedded")}
    assert {"parity/known_differences.toml", "configs/published.yaml", "configs/db_r50_icdar15.yaml",
            "dbnet/embedded/dbnet_mobilenetv3.safetensors"} <= data
    assert data == expected


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Runs pytest from another folder, with the wheel's files in front of the checkout's: (exit code, output)."""
    folder = tmp_path_factory.mktemp("installed")
    wheel.extractall(folder / "site")
    (folder / "elsewhere").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "DBNET"))}

    def run(*arguments):
        done = subprocess.run([sys.executable, "-P", "-m", "pytest", "--pyargs", *arguments], capture_output=True,
                              text=True, cwd=folder / "elsewhere", check=False,
                              env=environment | {"PYTHONPATH": str(folder / "site")})
        return done.returncode, done.stdout + done.stderr

    return run


def test_two_models_are_compared_where_the_wheel_is_installed(installed, tmp_path):
    """pytest knows the options of a package that is given by name; the one line proves that they arrived."""
    for name in ("a.pth", "b.onnx"):
        (tmp_path / name).write_bytes(b"neither")
    code, told = installed("parity", "--reference", str(tmp_path / "a.pth"), "--candidate", str(tmp_path / "b.onnx"),
                           "-k", "c2")
    assert code == 1 and f"could not be compared: {tmp_path / 'a.pth'}: is in no format that is known" in told
    assert "site/parity/test_two_models.py" in told and "Traceback" not in told and "arning" not in told


def test_the_proofs_run_where_the_wheel_is_installed(installed):
    """Without a pyproject.toml of ours: the marker is known, long cases are left out, other people's options too."""
    code, told = installed("parity", "--strict-markers", "-k", "nan or paper_binary_map", "-rs", "--collect-only")
    assert code == 0 and "test_nan_never_passes" in told and 'long cases are left out; -m "" runs them too' in told
    assert "dbnetpp_resnet50_deformable" not in told and "arning" not in told
    code, told = installed("dbnet.version", "--reference", "a")
    assert code == 4 and "unrecognized arguments: --reference" in told


@pytest.mark.long
def test_two_real_models_are_compared_where_the_wheel_is_installed(installed, tmp_path):
    for name in ("a.pth", "a.onnx"):
        converters.save_weights(seeded_weights(SPECS["db_mv3_paddle"], 5), tmp_path / name, spec="db_mv3_paddle")
    code, told = installed("parity", "--reference", str(tmp_path / "a.pth"), "--candidate", str(tmp_path / "a.onnx"))
    assert code == 0 and "12 passed, 4 skipped" in told
    code, told = installed("parity", "-k", "oracle or constant_reference or test_one_hop_is_exact and mobilenetv3")
    assert code == 0 and "failed" not in told


def test_recipes_are_found_where_the_wheel_is_installed(wheel, tmp_path):
    """From another folder, with nothing of the checkout on the path."""
    wheel.extractall(tmp_path / "site")
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run([sys.executable, "-P", "-m", "dbnet", "recipe", "show", "db_r18_td500"], text=True,
                          cwd=tmp_path / "elsewhere", capture_output=True, check=False,
                          env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("[db_r18_td500]\nsystem.mode = 0  # seed default\n")


def test_wheel_metadata(wheel):
    info = f"dbnet_parity-{VERSION}.dist-info"
    assert "dbnet = dbnet.__main__:main" in wheel.read(f"{info}/entry_points.txt").decode()
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert metadata.startswith("Metadata-Version: ")
    assert f"\nName: dbnet-parity\nVersion: {VERSION}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert f"{info}/licenses/LICENSE" in wheel.namelist()


def test_wheel_is_small(wheel):
    """Research data or an environment that slipped in would show here first."""
    assert sum(item.compress_size for item in wheel.infolist()) < 16 * 2**20


def test_required_dependencies_are_the_agreed_ones():
    names = {re.match(r"[\w-]+", line).group().lower() for line in PYPROJECT["project"]["dependencies"]}
    assert names == {"numpy", "ml_dtypes", "onnx", "safetensors", "opencv-python", "pyclipper", "shapely", "pyyaml",
                     "click", "rich", "pillow", "jinja2"}


def test_constraints_pin_every_dependency():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    canonical = {re.sub(r"[-_.]+", "-", name).lower() for name in pins}
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(line for extra in extras for line in extra)]
    names = {re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", line).group()).lower() for line in wanted}
    assert names - {"dbnet-parity"} <= canonical
    assert all(re.fullmatch(r"[\w.]+", version) for version in pins.values()), "no addresses, no local versions"


def test_the_version_is_the_same_everywhere():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == VERSION
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[?v?(\d+\.\d+\.\d+)", changes, re.MULTILINE)
    assert headings[0] == VERSION


# Written in pieces, so that this file does not find itself.
MACHINE = re.compile("|".join(["/" + "root/", "/" + "home/" + r"\w", "/" + "work/", "/" + "Users/" + r"\w",
                               r"[A-Z]:" + r"\\Users"]))
REGISTRY = re.compile(r"(extra-)?index" + r"-url|--find" + r"-links|https?://[^\s/]*(pypi|artifactory|nexus|registry)[^\s]*")


@pytest.mark.parametrize("pattern", [MACHINE, REGISTRY], ids=["machine paths", "registries"])
def test_no_machine_and_no_registry_in_the_repository(pattern):
    found = []
    for path in repository_files():
        data = path.read_bytes()
        if b"\0" not in data[:8192]:
            for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
                if pattern.search(line):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found


def test_every_file_of_the_repository_is_of_a_sane_size():
    assert [path for path in repository_files() if path.stat().st_size > 12_000_000] == []
