"""`dbnet --help`, `specs`, and everything between files run without torch, MindSpore and ONNX Runtime.

Each command runs in a process of its own, with the frameworks as they are installed (they must stay out of
`sys.modules`), absent (not to be found), and refused (asking for them is an ImportError).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from converters import save_weights
from dbnet.__main__ import COMMANDS
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS

ROOT = Path(__file__).resolve().parents[1]
SPEC = "dbnet_mobilenetv3"
MODES = ("installed", "absent", "refused")

# Runs `python -m dbnet ARGS` in the same process and then prints, as its last line, the exit code and what it imported.
WATCHER = """
import json, runpy, sys
FRAMEWORKS = ("torch", "mindspore", "onnxruntime")

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in FRAMEWORKS:
            raise ImportError(f"{name} is refused by the test")

mode, *arguments = sys.argv[1:]
if mode == "refused":
    sys.meta_path.insert(0, Refuse())
elif mode == "absent":
    sys.modules.update(dict.fromkeys(FRAMEWORKS))
sys.argv = ["dbnet", *arguments]
try:
    runpy.run_module("dbnet", run_name="__main__", alter_sys=True)
    code = 0
except SystemExit as stop:
    code = stop.code or 0
print()
print(json.dumps({"code": code, "imported": [name for name in FRAMEWORKS if sys.modules.get(name)]}))
"""


def watch(mode: str, *arguments: str | Path) -> dict:
    """Runs one command; returns its exit code, the frameworks it imported, and what it printed."""
    done = subprocess.run([sys.executable, "-c", WATCHER, mode, *map(str, arguments)], cwd=ROOT, text=True,
                          capture_output=True, timeout=120, stdin=subprocess.DEVNULL,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "DBNET_TRACEBACK": "1"})
    assert done.returncode == 0, done.stderr
    output, _, verdict = done.stdout.rstrip("\n").rpartition("\n")
    return {**json.loads(verdict), "output": output, "errors": done.stderr}


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, Path]:
    """The same seeded weights as a file of every format that we write."""
    folder = tmp_path_factory.mktemp("sources")
    paths = {suffix: folder / f"model.{suffix}" for suffix in ("ckpt", "pth", "onnx", "safetensors")}
    for path in paths.values():
        save_weights(seeded_weights(SPECS[SPEC]), path, spec=SPECS[SPEC])
    return paths


def assert_without_frameworks(result: dict) -> None:
    assert result["code"] == 0, result["errors"]
    assert result["imported"] == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["specs"],
                                       *([command, "--help"] for command in COMMANDS)], ids=" ".join)
def test_no_file(mode, arguments):
    assert_without_frameworks(watch(mode, *arguments))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("source", "target"), [("ckpt", "pth"), ("pth", "onnx"), ("onnx", "safetensors"),
                                                ("safetensors", "ckpt")])
def test_convert(sources, tmp_path, mode, source, target):
    written = tmp_path / f"converted.{target}"
    assert_without_frameworks(watch(mode, "convert", sources[source], written))
    assert written.is_file()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("suffix", ["ckpt", "pth", "onnx", "safetensors"])
def test_inspect(sources, mode, suffix):
    result = watch(mode, "inspect", sources[suffix])
    assert_without_frameworks(result)
    assert SPEC in result["output"]


@pytest.mark.parametrize("mode", MODES)
def test_compare_weights(sources, mode):
    assert_without_frameworks(watch(mode, "compare", sources["ckpt"], sources["onnx"], "--weights"))


@pytest.mark.parametrize("mode", ["installed", "absent"])
def test_export_needs_no_framework_but_tries_the_file_in_onnx_runtime(sources, tmp_path, mode):
    result = watch(mode, "export", sources["ckpt"], tmp_path / "delivery.onnx")
    assert result["code"] == 0, result["errors"]
    assert set(result["imported"]) <= {"onnxruntime"}
    assert ("onnxruntime is not installed" in result["output"]) == ("onnxruntime" not in result["imported"])


def test_the_watcher_sees_an_import():
    """Otherwise every test above would pass for nothing."""
    code = WATCHER.replace('runpy.run_module("dbnet", run_name="__main__", alter_sys=True)', "import onnxruntime")
    pytest.importorskip("onnxruntime")
    done = subprocess.run([sys.executable, "-c", code, "installed"], text=True, capture_output=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["imported"] == ["onnxruntime"]
    done = subprocess.run([sys.executable, "-c", code, "refused"], text=True, capture_output=True, check=False)
    assert done.returncode != 0
    assert "is refused by the test" in done.stderr
