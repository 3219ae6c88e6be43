"""What the tests of the hand-off share: delivered files of any spec, and the example in C++, compiled."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import converters
from converters.export import inference_part
from converters.load import LoadedModel, load_model
from dbnet.seeded import seeded_weights
from dbnet.spec import MHLIAO_PIXELS, MINDOCR_PIXELS, ModelSpec
from evaluation.delivery.handoff import write_handoff
from evaluation.delivery.settings import Delivered, ExportSettings
from evaluation.delivery.targets import TARGETS
from parity.data import ROOT

EMBEDDED = ROOT / "dbnet/embedded/dbnet_mobilenetv3.safetensors"
#: Of the embedded model, small: whose own resize is on floats and whose rule is MindOCR's.
SMALL = replace(MHLIAO_PIXELS, colour="RGB", mean=MINDOCR_PIXELS.mean, std=MINDOCR_PIXELS.std, size=(352, 352))
LIBRARIES = ("core", "imgproc", "imgcodecs", "dnn")


def loaded(source: Path | ModelSpec, folder: Path, **changes: object) -> LoadedModel:
    """A file, or a seeded network of that spec; changes: of the record's spec."""
    if isinstance(source, ModelSpec):
        path = folder / f"{source.name}.safetensors"
        converters.save_weights(seeded_weights(source, 7), path, spec=source, force=True)
        source = path
    model = inference_part(load_model(source))
    return replace(model, record=replace(model.record, spec=replace(model.record.spec, **changes)))


def deliver(model: LoadedModel, folder: Path, target: str = "onnx", suffix: str = ".onnx",
            **settings: object) -> Delivered:
    """model.onnx, written for a target."""
    return TARGETS[target].write(model, folder / f"model{suffix}", ExportSettings(target, force=True, **settings))


def hand_off(model: LoadedModel, folder: Path, images: Sequence[Path] = (), **settings: object) -> Path:
    """The folder of a hand-off."""
    folder.mkdir(exist_ok=True)
    write_handoff(folder / "handoff", deliver(model, folder, **settings), model, images, force=True)
    return folder / "handoff"


def wants_openvino(handoff: Path) -> bool:
    """Whether the hand-off says that OpenCV 4.6 refuses the model."""
    return 'OpenCV" ON)' in (handoff / "CMakeLists.txt").read_text()


def built(handoff: Path, openvino: bool = False) -> Path:
    """The example, compiled without a warning. Skips where there is no compiler or no OpenCV for it."""
    compiler, told = shutil.which("g++"), None
    if compiler and shutil.which("pkg-config"):
        found = subprocess.run(["pkg-config", "--cflags", "opencv4"], capture_output=True, text=True, check=False)
        told = found.stdout.split() if found.returncode == 0 else None
    if compiler is None or told is None:
        pytest.skip("needs g++ and OpenCV's C++: apt-get install g++ pkg-config libopencv-dev")
    program = handoff.parent / "detect"
    libraries = [f"-lopencv_{name}" for name in LIBRARIES]
    if openvino:
        wheel = Path(pytest.importorskip("openvino").__file__).parent
        [library] = wheel.glob("libs/libopenvino.so.*")
        told += ["-isystem", f"{wheel}/include", "-DWITH_OPENVINO"]
        libraries += [str(library), f"-Wl,-rpath,{wheel}/libs", "-Wl,--allow-shlib-undefined"]
    done = subprocess.run([compiler, "-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off",
                           str(handoff / "detect.cpp"), "-o", str(program), *told, *libraries],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


def model_of(handoff: Path) -> str:
    return str(handoff / json.loads((handoff / "preprocess.json").read_text())["file"])


def checked(handoff: Path, program: Path) -> subprocess.CompletedProcess[str]:
    """detect --check of every data set."""
    return run(program, model_of(handoff), "--check", *map(str, sorted(handoff.glob("test_data_set_*"))))


def verified(handoff: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """verify.py."""
    return run(sys.executable, handoff / "verify.py", *arguments, **environment)


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, arguments)), capture_output=True, text=True, check=False, cwd="/",
                          env={**os.environ, **environment})
