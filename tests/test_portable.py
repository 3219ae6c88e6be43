"""Copies of our modules run where NumPy and one framework are, and nothing else of what the suite needs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dbnet import portable
from dbnet.errors import DbnetError
from dbnet.portable import check_needs, closure, copy_modules
from dbnet.spec import SPECS
from tests.bare import bare_python

ROOT = Path(__file__).resolve().parents[1]
#: Packages of the suite of which no framework here asks for any.
OURS_ONLY = ("cv2", "onnx", "click", "rich", "yaml", "shapely", "pyclipper", "pytest", "dbnet_parity")

#: Runs a small seeded model from the copies, and tells which of our modules came from where.
PROGRAM = """
import importlib.util, json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from dbnet.parameters import parameters
from dbnet.spec import SPECS
spec = SPECS["dbnet_mobilenetv3"]
weights = {p.name: np.full(p.shape, 0.01 if p.role.is_norm else 0.02, np.float32) for p in parameters(spec)}
image = np.linspace(-1, 1, 3 * 32 * 64, dtype=np.float32).reshape(1, 3, 32, 64)
if sys.argv[2] == "mindspore":
    from ms_models.runner import MindSporeRunner as Runner
elif sys.argv[2] == "torch":
    from torch_reference.runner import TorchRunner as Runner
if sys.argv[2] != "onnxruntime":
    probability = Runner(spec, weights, "cpu").run(image)["probability"]
else:
    from evaluation.onnx_runner import OnnxRuntimeRunner
    probability = OnnxRuntimeRunner(sys.argv[3], spec, "cpu", ("probability",)).run(image)["probability"]
ours = {name: module.__file__ for name, module in sys.modules.items()
        if name.split(".")[0] in ("dbnet", "ms_models", "torch_reference", "converters", "evaluation", "parity")}
present = [name for name in json.loads(sys.argv[4]) if importlib.util.find_spec(name)]
print(json.dumps({"shape": probability.shape, "ours": ours, "present": present}))
"""


@pytest.mark.parametrize(("entries", "framework"), [
    pytest.param(["ms_models.runner"], "mindspore", marks=pytest.mark.long),  # test_kit.py runs these too
    (["torch_reference.runner"], "torch"),
    (["evaluation.onnx_runner"], "onnxruntime"),
])
def test_the_copies_run_with_numpy_and_one_framework(tmp_path, entries, framework):
    pytest.importorskip(framework)
    model = tmp_path / "model.onnx"
    if framework == "onnxruntime":
        from converters import save_weights
        from dbnet.seeded import seeded_weights
        save_weights(seeded_weights(SPECS["dbnet_mobilenetv3"]), model, spec=SPECS["dbnet_mobilenetv3"])
    python, lib = bare_python(tmp_path / "bare env", "numpy", framework), tmp_path / "li b+"
    lib.mkdir()
    copied = copy_modules(lib, entries, ["numpy", framework])
    done = subprocess.run([python, "-I", "-c", PROGRAM, lib, framework, model, json.dumps(OURS_ONLY)],
                          cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["shape"] == [1, 1, 32, 64]
    assert told["present"] == []
    assert told["ours"] and {Path(file) for file in told["ours"].values()} <= set(copied)
    assert copied == sorted(path for path in lib.rglob("*.py"))


def test_the_copies_are_whole_packages_of_the_same_bytes(tmp_path):
    copied = copy_modules(tmp_path, ["ms_models.runner"], ["numpy", "mindspore"])
    names = [str(path.relative_to(tmp_path)) for path in copied]
    assert {"dbnet/__init__.py", "ms_models/__init__.py", "ms_models/deform.py", "dbnet/spec.py"} <= set(names)
    assert all((tmp_path / name).read_bytes() == (ROOT / name).read_bytes() for name in names)
    assert not any(name.startswith(("torch_reference", "converters", "evaluation", "parity")) for name in names)
    assert copy_modules(tmp_path, ["ms_models.runner"], ["numpy", "mindspore"]) == copied


@pytest.mark.parametrize(("entries", "allowed", "says"), [
    (["ms_models.runner"], ["numpy"], "imports mindspore, and the copies have only numpy"),
    (["torch_reference.runner"], ["numpy", "mindspore"], "imports torch"),
    (["dbnet.preprocess"], ["numpy"], "dbnet.preprocess (line "),
    (["evaluation.runners"], ["numpy", "torch", "mindspore"], ", and the copies have only numpy, torch, mindspore"),
    (["dbnet.spec"], [], None),
    (["dbnet.spec", "numpy"], ["numpy"], "numpy: is no module of this package"),
    (["dbnet.absent"], [], "dbnet.absent: is no module"),
])
def test_what_the_other_interpreter_lacks_is_told(tmp_path, entries, allowed, says):
    if says is None:
        assert copy_modules(tmp_path, entries, allowed)
        return
    with pytest.raises(DbnetError) as error:
        copy_modules(tmp_path, entries, allowed)
    assert says in str(error.value)
    assert not any(tmp_path.iterdir()), "nothing is copied of what does not run"


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "dbnet").write_text("a file")
    with pytest.raises(DbnetError, match="could not be written"):
        copy_modules(tmp_path, ["dbnet.spec"], [])


#: file -> source: a tree of its own, with every way to import.
TREE = {
    "dbnet/__init__.py": "",
    "dbnet/a.py": "from typing import TYPE_CHECKING\nimport dbnet.b\nfrom dbnet import c, version\n"
                  "from . import d\nfrom .deep.e import thing\nif TYPE_CHECKING:\n    import cv2\n"
                  "    from dbnet import unwanted\nelse:\n    from dbnet import otherwise\n",
    "dbnet/b.py": "def f():\n    import cv2\n    from dbnet import lazy\n",
    "dbnet/c.py": "class A:\n    from dbnet import inner\n", "dbnet/d.py": "", "dbnet/lazy.py": "import numpy\n",
    "dbnet/inner.py": "try:\n    import dbnet.tried\nexcept ImportError:\n    pass\n", "dbnet/tried.py": "",
    "dbnet/unwanted.py": "import cv2\n", "dbnet/otherwise.py": "",
    "dbnet/deep/__init__.py": "from .f import x\n", "dbnet/deep/e.py": "from ..g import y\nfrom .. import d\n",
    "dbnet/deep/f.py": "", "dbnet/g.py": "", "dbnet/not_imported.py": "",
}


def _plant(tmp_path, monkeypatch, **changed: str) -> None:
    for name, source in {**TREE, **changed}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    monkeypatch.setattr(portable, "_ROOT", tmp_path)


def test_every_way_to_import_is_followed(tmp_path, monkeypatch):
    _plant(tmp_path, monkeypatch)
    found = closure(["dbnet.a"])
    assert list(found) == ["dbnet", *(f"dbnet.{name}" for name in (
        "a", "b", "c", "d", "deep", "deep.e", "deep.f", "g", "inner", "lazy", "otherwise", "tried"))]
    check_needs(found, ["numpy"])


@pytest.mark.parametrize(("source", "line"), [
    ("import cv2.dnn", 1), ("x = 1\nfrom cv2 import dnn", 2), ("class A:\n    import cv2", 2),
    ("if True:\n    import os, cv2", 2), ("try:\n    pass\nfinally:\n    import cv2", 4),
])
def test_a_need_at_module_level_is_found(tmp_path, monkeypatch, source, line):
    _plant(tmp_path, monkeypatch, **{"dbnet/g.py": source})
    with pytest.raises(DbnetError, match=rf"dbnet.g \(line {line}\) imports cv2, and the copies have only numpy"):
        check_needs(closure(["dbnet.a"]), ["numpy"])


def test_it_works_from_an_installed_package(tmp_path):
    """The sources as a wheel lays them out, with nothing of the checkout on the path, from another folder."""
    site = tmp_path / "site"
    for package in ("dbnet", "ms_models"):
        shutil.copytree(ROOT / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    program = ("import sys; sys.path.insert(0, sys.argv[1])\nfrom pathlib import Path\n"
               "from dbnet.portable import copy_modules\n"
               "print(len(copy_modules(Path(sys.argv[2]), ['ms_models.runner'], ['numpy', 'mindspore'])))")
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program, site, out], cwd=tmp_path, check=True,
                          capture_output=True, text=True)
    assert int(done.stdout) == len(list(out.rglob("*.py"))) == len(closure(["ms_models.runner"]))
