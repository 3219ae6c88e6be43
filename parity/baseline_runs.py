"""What a baseline holds, and making it anew: networks or one model, in every runner, each a run of a trace file."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import converters
import dbnet.spec
from converters.load import LoadedModel, SourceOptions, load_model
from dbnet.errors import DbnetError
from dbnet.portable import closure
from dbnet.runner_names import RunnerName, RunnerNameError, parse_runner
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS, ModelSpec
from evaluation.detecting_inputs import find_images
from parity.baseline_picture import NAME, write_picture
from parity.cases import LONG, Lab
from parity.staged import open_staged
from parity.trace import Trace
from parity.trace_record import record

#: What a run of a baseline says in `about[KEY]`: `of` (`networks` or `model`), `variables`, `instructions` and `code`.
KEY = "baseline"
#: Of --candidate, in place of a network's name: a file may be renamed.
MODEL = "candidate"
#: The trained network, which finds the words of the picture.
TRAINED = "trained"
_WEIGHTS = Path(dbnet.spec.__file__).with_name("embedded") / "dbnet_mobilenetv3.safetensors"
_SEED = 11
#: More images than these, and a run keeps no samples: 200 images would take 60 MB.
_SAMPLED = 16
#: Set by users, read by the frameworks' libraries, and able to move a number.
_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "OMP_NUM_THREADS",
              "OMP_DYNAMIC", "MKL_NUM_THREADS", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY",
              "NVIDIA_TF32_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG", "ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME",
              "ASCEND_OPP_PATH", "ASCEND_CUSTOM_OPP_PATH")
_INSTRUCTIONS = ("avx", "fma", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile",
                 "amx_bf16", "asimd", "sve", "sve2", "bf16", "i8mm")
#: Of this suite, what turns an image into a runner's numbers.
_CODE = {"torch": ("torch_reference.runner",), "mindspore": ("ms_models.runner",),
         "onnxruntime": ("converters.onnx_graph", "evaluation.onnx_runner"),
         "openvino": ("converters.onnx_graph", "evaluation.openvino_runner"),
         "opencv": ("converters.onnx_graph", "evaluation.opencv_runner")}


@dataclass(frozen=True)
class WantedBaseline:
    """What the options of `pytest parity/ --baseline` say. path: of the file; update: write it. candidate: one model
    in place of the project's networks; images, limit, options: of it. runners: to run now; chosen: by --runner.
    required: of --require. device: as `parity.cases.Lab` takes it.
    """

    path: Path
    update: bool = False
    candidate: Path | None = None
    images: tuple[str, ...] = ()
    limit: int | None = None
    runners: tuple[RunnerName, ...] = ()
    chosen: bool = False
    required: tuple[str, ...] = ()
    device: str | None = None
    options: SourceOptions = field(default_factory=SourceOptions)

    @property
    def kind(self) -> str:
        return "networks" if self.candidate is None else "model"

    def runs(self) -> dict[str, tuple[str, RunnerName]]:
        """Name of a run -> network and runner. The name has no interpreter and no version: these may change."""
        models = [MODEL] if self.candidate else list(networks())
        return {f"{model}-{suffix_of(runner)}": (model, runner) for model in models for runner in self.runners}


def suffix_of(runner: RunnerName) -> str:
    """A runner in the name of a run, where a colon has another meaning."""
    return runner.here.replace(":", "+")


def runner_of(suffix: str) -> RunnerName | None:
    """Of the end of a run's name, in this environment; None for what is none here. It came in a file."""
    try:
        return parse_runner(suffix.replace("+", ":")) if "@" not in suffix else None
    except RunnerNameError:
        return None


@cache
def networks() -> dict[str, ModelSpec]:
    """Those of the project, and the trained one; nothing of the picture is resized for them."""
    specs = {name: spec for name, spec in SPECS.items() if name not in LONG} | {TRAINED: _trained().record.spec}
    return {name: replace(spec, pixels=replace(spec.pixels, resize="grid")) for name, spec in specs.items()}


class Runs:
    """Makes the runs in this process, or in the interpreters that their runners name. folder: for files."""

    def __init__(self, wanted: WantedBaseline, folder: Path):
        self.wanted, self.folder = wanted, folder
        self._lab = Lab(folder, wanted.device)

    def make(self, name: str) -> Trace:
        """Raises DbnetError for a model, an image or a runner that is not to be had."""
        model, runner = self.wanted.runs()[name]
        images = self._images()
        level = "sampled" if len(images) <= _SAMPLED else "statistics"
        try:
            device = self.wanted.device if runner.says_device else self._lab.device_of(runner.framework)
            side = open_staged(self._file(model), str(runner), device, self.wanted.options)
            found = record(side, side.runner.spec.boxes, images, level)
        except MemoryError as error:
            raise DbnetError(f"{name}: there is not enough memory; run fewer at a time") from error
        own = {"of": self.wanted.kind, "variables": variables(), "instructions": instructions(),
               "code": code_of(runner.framework)}
        return replace(found, about=found.about | {KEY: own})

    def _file(self, model: str) -> Path:
        if self.wanted.candidate is not None:
            return self.wanted.candidate
        path = self.folder / f"{model}.safetensors"
        if not path.exists():
            spec = networks()[model]
            weights = _trained().weights if model == TRAINED else seeded_weights(spec, _SEED)
            converters.save_weights(weights, path, spec=spec)
        return path

    def _images(self) -> Sequence[tuple[str, str]]:
        """(name, path). Raises DbnetError for an image that cannot be read: the run would be another one."""
        if not self.wanted.images:
            return [(NAME, str(write_picture(self.folder)))]
        every = find_images(self.wanted.images)
        files = list(zip(every.names, every.files, strict=True))
        if self.wanted.limit is not None:
            first = {os.path.abspath(file) for given in self.wanted.images
                     for file in find_images([given]).files[:self.wanted.limit]}
            return [(name, file) for name, file in files if os.path.abspath(file) in first]
        for path, problem in every.refused:
            raise DbnetError(f"{path}: {problem}")
        return files


@cache
def _trained() -> LoadedModel:
    return load_model(_WEIGHTS)


def variables() -> dict[str, str]:
    """The environment variables that can move a number, as far as they are set."""
    return {name: os.environ[name] for name in _VARIABLES if name in os.environ}


def instructions() -> str:
    """The processor's instruction sets that the frameworks choose their code by; in a virtual machine its name says
    little. Empty where that cannot be told."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), ())
        return " ".join(name for name in _INSTRUCTIONS if name in flags)
    return ""


@cache
def code_of(framework: str) -> str:
    """A digest of this suite's modules between an image and the numbers of a runner."""
    digest = hashlib.sha256()
    for module, path in closure(["dbnet.preprocess", "dbnet.postprocess", *_CODE[framework]]).items():
        digest.update(f"{module}\0".encode() + path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:16]


def said(trace: Trace) -> Mapping[str, Any] | None:
    """What a run says of the baseline it belongs to; None if it belongs to none."""
    own = trace.about.get(KEY)
    if not isinstance(own, dict) or own.get("of") not in ("networks", "model"):
        return None
    tables = own.get("variables"), trace.about.get("machine"), trace.about.get("versions")
    return own if all(isinstance(table, dict) for table in tables) else None
