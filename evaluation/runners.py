"""Running a model file in PyTorch, MindSpore or ONNX Runtime: the same call, the same named stages."""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from converters import onnx_file
from converters.load import LoadedModel, SourceOptions, load_model
from dbnet.errors import DbnetError
from dbnet.extras import installed, require
from dbnet.running import Device, check_images, check_stages, driver_version, parse_device, runnable
from dbnet.spec import STAGES, ModelSpec

RUNNERS = ("torch", "mindspore", "onnxruntime")
#: Who runs a format unless told otherwise.
_OWN_RUNNER = {"onnx": "onnxruntime", "ckpt": "mindspore"}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider", "ascend": "CANNExecutionProvider"}
_ERRORS_ONLY = 3
#: Calls at once in one ONNX Runtime session: each needs memory for its own maps.
MAX_AT_ONCE = 8

log = logging.getLogger("dbnet")


class Runner(Protocol):
    """A model, open in one framework. device: where it runs, in the framework's words.

    A runner may also have `at_once`: how many calls of `run` may be under way at once, in as many threads (1 where it
    does not say), and `digest`: which model it runs (see `open_runner`).
    """

    name: str
    spec: ModelSpec
    device: str

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """(N, 3, H, W) float32, normalised, sides multiples of 32 px -> each stage it was opened for, float32.

        Raises DbnetError for other arrays.
        """

    def environment(self) -> dict[str, Any]:
        """What can move a number: versions, device, driver, precision, HF32, jit level, threads. Plain values."""


def open_runner(path: str | Path, runner: str | None = None, device: str | None = None,
                stages: tuple[str, ...] | None = None, threads: int | None = None,
                options: SourceOptions | None = None, concurrent: bool = False) -> Runner:
    """Opens a weight file of any supported format for the `stages` wanted (names of `dbnet.spec`).

    stages: None means all, and of an .onnx in ONNX Runtime those that the file gives; ask for ("probability",) where
    nothing else is needed, for only what is asked for is computed and copied.

    runner: `torch`, `mindspore` or `onnxruntime`; default the format's own (torch for .safetensors and .pdparams), or
    the next that is installed, which is then logged. device: `cpu`, `cuda:0`, `ascend`, ...; default the best present
    (`cpu` in ONNX Runtime). threads: of the CPU's operators; not settable in MindSpore. options: what the file does
    not say itself. concurrent: see `OnnxRuntimeRunner`; the others have no such choice. An .onnx runs as it is in ONNX
    Runtime, unless it lacks a stage or `options` change what it computes; every other file as the graph of our archive
    form. Weights run as float32. The runner's `digest` is the sha256 of the canonical weights, or of the .onnx that
    runs as it is.

    Raises DbnetError if the file, the framework, the device or a stage is not to be had.
    """
    stages = None if stages is None else check_stages(stages)
    if runner is not None and runner not in RUNNERS:
        raise DbnetError(f"unknown runner {runner!r}; choose from {', '.join(RUNNERS)}")
    if threads is not None and threads < 1:
        raise DbnetError(f"threads must be at least 1, not {threads}")
    model = load_model(path, options)
    spec, weights = model.record.spec, model.weights
    runner = runner or _choose(model)
    if runner == "onnxruntime":
        as_it_is = not (options and options.semantics)
        return _open_onnx(model, device, stages, threads, concurrent, as_it_is)
    require(runner)
    if runner == "torch":
        from torch_reference.runner import TorchRunner
        in_torch = TorchRunner(spec, weights, device, stages or STAGES, threads)
        in_torch.digest = model.record.sha256
        return in_torch
    if threads is not None:
        raise DbnetError(f"MindSpore takes its threads from the cores it may use; leave out --threads and start it "
                         f"with: taskset -c 0-{threads - 1} dbnet ...")
    from ms_models.runner import MindSporeRunner
    opened = MindSporeRunner(spec, weights, device, stages or STAGES)
    opened.digest = model.record.sha256
    return opened


def _choose(model: LoadedModel) -> str:
    """The format's own runner, or another that is installed. Raises DbnetError without any."""
    own = _OWN_RUNNER.get(model.format, "torch")
    for name in (own, "onnxruntime", "torch", "mindspore"):
        if installed(name):
            if name != own:
                log.warning("%s is not installed: %s runs in %s", own, model.path.name, name)
            return name
    raise DbnetError(f"no framework to run {model.path.name} in: pip install 'dbnet-parity[onnxruntime]'")


def _open_onnx(model: LoadedModel, device: str | None, stages: tuple[str, ...] | None, threads: int | None,
               concurrent: bool, as_it_is: bool) -> Runner:
    spec = model.record.spec
    if model.format == "onnx" and as_it_is:
        try:
            opened = OnnxRuntimeRunner(model.path, spec, device, stages, threads, concurrent)
            with model.path.open("rb") as stream:
                opened.digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return opened
        except _NoSuchOutputError as error:
            if "probability" in error.missing:  # not our graph: another one in its place would prove nothing about it
                raise
    stages = stages or STAGES
    training = [stage for stage in stages if stage not in STAGES]
    if training:
        raise DbnetError(f"no stage {training[0]} in ONNX: it is computed in training only; use --runner torch")
    archive = _archive(model, spec, stages != ("probability",))
    opened = OnnxRuntimeRunner(archive, spec, device, stages, threads, concurrent)
    opened.digest = model.record.sha256
    return opened


def _archive(model: LoadedModel, spec: ModelSpec, stages: bool) -> bytes:
    """Our own graph of the model with float32 weights, without the training branch, which it has no use for."""
    weights = {name: array for name, array in runnable(spec, model.weights).items() if name in model.weights}
    stream = io.BytesIO()
    onnx_file.write(stream, weights, spec, None, form="archive", stages=stages)
    return stream.getvalue()


class _NoSuchOutputError(DbnetError):
    def __init__(self, where: str, missing: list[str], outputs: list[str]):
        super().__init__(f"{where}: has no output {', '.join(missing)}, only {', '.join(outputs)}; is it a DBNet? "
                         f"dbnet export and dbnet convert --stages name them so")
        self.missing = missing


class OnnxRuntimeRunner:
    """An .onnx file, or its bytes, as it is. Its first input is the image; its outputs bear the stages' names.

    spec: what it computes, passed through. stages: None means all of `dbnet.spec.STAGES` that it gives.
    device: `cpu` (default), or `cuda:0`, `npu:0` with an onnxruntime built
    for it. threads: within one operator; default one per core. concurrent: for many images in a row. On the CPU the
    threads are then shared out among several calls of `run` at once (`at_once`), which finish more images a second
    than one call with all threads, with the same numbers. Raises DbnetError if ONNX Runtime refuses the file or the
    device, or an output is missing.
    """

    name = "onnxruntime"
    digest: str | None = None

    def __init__(self, source: str | Path | bytes, spec: ModelSpec, device: str | None = None,
                 stages: tuple[str, ...] | None = ("probability",), threads: int | None = None,
                 concurrent: bool = False):
        ort = require("onnxruntime")
        self.spec, self.threads = spec, threads
        self._where = "the model in memory" if isinstance(source, bytes) else str(source)
        self._device = parse_device(device or "cpu")
        self.device = self._device.kind if self._device.kind == "cpu" else f"{self._device.kind}:{self._device.index}"
        settings = ort.SessionOptions()
        settings.log_severity_level = _ERRORS_ONLY  # else one warning per unused initialiser, 13 for head.thresh
        self.at_once = min(threads or cores(), MAX_AT_ONCE) if concurrent and self._device.kind == "cpu" else 1
        # A calling thread works too: the session's own are what is left. 0: one per core.
        settings.intra_op_num_threads = threads or 0 if self.at_once == 1 else (threads or cores()) - self.at_once + 1
        self._failures = _exceptions(ort)
        try:
            self._session = ort.InferenceSession(source if isinstance(source, bytes) else os.fspath(source), settings,
                                                 providers=[_provider(ort, self._device)])
        except self._failures as error:
            raise DbnetError(f"{self._where}: ONNX Runtime {ort.__version__} refuses it: {error}") from error
        self.stages = self._check_graph(None if stages is None else check_stages(stages))

    def _check_graph(self, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
        """The stages to run."""
        if self._device.kind != "cpu" and self._session.get_providers()[0] != _PROVIDERS[self._device.kind]:
            raise DbnetError(f"ONNX Runtime could not start on {self.device} and fell back to the CPU; check the "
                             f"driver, or use --device cpu")
        outputs = [output.name for output in self._session.get_outputs()]
        stages = wanted or tuple(stage for stage in STAGES if stage in outputs) or ("probability",)
        missing = [stage for stage in stages if stage not in outputs]
        if missing:
            raise _NoSuchOutputError(self._where, missing, outputs)
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
            found = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
            raise DbnetError(f"{self._where}: takes {found or 'no input'}, not one float32 image (N, 3, H, W)")
        self._input = inputs[0]
        return stages

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The stages of (N, 3, H, W) float32 images, sides multiples of 32 px; a static file takes its own size only.

        Raises DbnetError otherwise.
        """
        images = check_images(images)
        fixed = self._input.shape
        if any(isinstance(side, int) and side != given for side, given in zip(fixed, images.shape, strict=True)):
            raise DbnetError(f"{self._where}: takes images of shape {tuple(fixed)} only, not {images.shape}; a file "
                             f"written by dbnet convert takes every size")
        try:
            maps = self._session.run(list(self.stages), {self._input.name: images})
        except self._failures as error:
            raise DbnetError(f"{self._where}: ONNX Runtime failed on {self.device} at {images.shape}: "
                             f"{error}") from error
        return {stage: np.asarray(map_, np.float32) for stage, map_ in zip(self.stages, maps, strict=True)}

    def environment(self) -> dict[str, Any]:
        """What can move a number: versions, device, precision, threads."""
        ort = require("onnxruntime")
        return {
            "framework": "onnxruntime", "version": ort.__version__, "numpy": np.__version__, "device": self.device,
            "device_name": None, "driver": driver_version(self._device.kind), "precision": "float32",
            "tf32": False if self._device.kind == "gpu" else None, "hf32": None, "jit_level": None,
            "threads": self.threads or "one per core", "providers": self._session.get_providers(),
        }


def _provider(ort: Any, device: Device) -> tuple[str, Mapping[str, str]]:
    """ONNX Runtime's name and options for a device. Raises DbnetError if this onnxruntime was built without it."""
    provider = _PROVIDERS[device.kind]
    if provider not in ort.get_available_providers():
        package = "onnxruntime-gpu" if device.kind == "gpu" else "onnxruntime-cann"
        raise DbnetError(f"this onnxruntime has no {provider}: install {package} in its place, or use --device cpu")
    if device.kind == "cpu":
        return provider, {}
    exact = {"use_tf32": "0"} if device.kind == "gpu" else {}  # TF32 keeps three decimal digits
    return provider, {"device_id": str(device.index), **exact}


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _exceptions(ort: Any) -> tuple[type[Exception], ...]:
    """ONNX Runtime's own exceptions, which share no base class of their own."""
    state = ort.capi.onnxruntime_pybind11_state
    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError)
