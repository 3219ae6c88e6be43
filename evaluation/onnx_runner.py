"""An .onnx in ONNX Runtime: a session, its device and threads, and the stages of a graph of ours."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dbnet.errors import DbnetError
from dbnet.extras import onnxruntime_errors, require
from dbnet.pixel_formats import AnySpec
from dbnet.running import Device, check_images, check_stages, driver_version, parse_device
from dbnet.spec import STAGES

_PROVIDERS = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider", "ascend": "CANNExecutionProvider"}
#: Of ONNX Runtime's own messages. What it refuses on a CPU is in the exception; why it leaves a card aside is not.
_NOTHING, _ERRORS_ONLY = 4, 3
#: Calls at once in one ONNX Runtime session: each needs memory for its own maps.
MAX_AT_ONCE = 8


class OtherGraphError(DbnetError):
    """An .onnx that does not give what was wanted under our names. foreign: it is no graph that we write."""

    def __init__(self, message: str, foreign: bool):
        super().__init__(message)
        self.foreign = foreign


class OnnxRuntimeRunner:
    """An .onnx file, or its bytes, as it is. Its first input is the image; its outputs bear the stages' names.

    spec: what it computes, passed through. stages: None means all of `dbnet.spec.STAGES` that it gives.
    device: `cpu` (default), or `cuda:0`, `npu:0` with an onnxruntime built for it. threads: within one operator;
    default one per core. concurrent: for many images in a row. On the CPU the threads are then shared out among several
    calls of `run` at once (`at_once`), which finish more images a second than one call with all threads, with the same
    numbers. shape: of the input, (N, 3, H, W), None where any will do. notes: what a user should know of how it was
    opened, one line each. ort: that of another environment (`evaluation.elsewhere_onnx`), where it runs one call at a
    time; default this one's. Raises DbnetError if ONNX Runtime refuses the file or the device, or an output is missing.
    """

    name = "onnxruntime"
    digest: str | None = None

    def __init__(self, source: str | Path | bytes, spec: AnySpec, device: str | None = None,
                 stages: tuple[str, ...] | None = ("probability",), threads: int | None = None,
                 concurrent: bool = False, *, ort: Any = None):
        concurrent = concurrent and ort is None
        self.ort = ort = ort or require("onnxruntime")
        self.spec: AnySpec = spec
        self.notes: list[str] = list(getattr(ort, "notes", ()))
        self.title: str = getattr(ort, "title", self.name)
        self.threads = threads
        self._where = "the model in memory" if isinstance(source, bytes) else str(source)
        self._device = parse_device(device or "cpu")
        self.device = self._device.kind if self._device.kind == "cpu" else f"{self._device.kind}:{self._device.index}"
        settings = ort.SessionOptions()
        # Else one warning per unused initialiser, 13 for head.thresh.
        settings.log_severity_level = _NOTHING if self._device.kind == "cpu" else _ERRORS_ONLY
        self.at_once = min(threads or cores(), MAX_AT_ONCE) if concurrent and self._device.kind == "cpu" else 1
        # A calling thread works too: the session's own are what is left. 0: one per core.
        settings.intra_op_num_threads = threads or 0 if self.at_once == 1 else (threads or cores()) - self.at_once + 1
        self._failures = onnxruntime_errors(ort)
        try:
            self._session = ort.InferenceSession(source if isinstance(source, bytes) else os.fspath(source), settings,
                                                 providers=[_provider(ort, self._device)],
                                                 enable_fallback=0)  # it would tell so on standard output
        except self._failures as error:
            raise DbnetError(f"{self._where}: ONNX Runtime {ort.__version__} refuses it: {error}") from error
        if self._device.kind != "cpu" and self._session.get_providers()[0] != _PROVIDERS[self._device.kind]:
            raise DbnetError(f"ONNX Runtime could not start on {self.device} and fell back to the CPU; check the "
                             f"driver, or use --device cpu")
        try:
            self.stages = self._check_graph(None if stages is None else check_stages(stages))
        except UnicodeDecodeError as error:  # which ONNX Runtime does not mind
            raise DbnetError(f"{self._where}: its inputs or outputs have names that are no text; copy or download it "
                             f"again") from error

    def _check_graph(self, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
        """The stages to run."""
        outputs = [output.name for output in self._session.get_outputs()]
        given = tuple(stage for stage in STAGES if stage in outputs)
        stages = wanted or (given if "probability" in given else ("probability",))
        missing = [stage for stage in stages if stage not in outputs]
        if missing:
            raise OtherGraphError(f"{self._where}: has no output {', '.join(missing)}, only {', '.join(outputs)}; is "
                                  f"it a DBNet? dbnet export and dbnet convert --stages name them so",
                                  "probability" in missing)
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
            raise OtherGraphError(f"{self._where}: takes {inputs_told(inputs)}, not one float32 image (N, 3, H, W)",
                                  True)
        self._input = inputs[0]
        self.shape = tuple(side if isinstance(side, int) else None for side in inputs[0].shape)
        return stages

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The stages of (N, 3, H, W) float32 images, sides multiples of 32 px; a static file takes its own size only.

        Raises DbnetError otherwise.
        """
        images = check_images(images)
        self._check_shape(images.shape)
        maps = self._computed(self.stages, images)
        return {stage: np.asarray(map_, np.float32) for stage, map_ in zip(self.stages, maps, strict=True)}

    def exchanged(self, images: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """What the graph gets for these images and what it gives, as `run`, by its own names and in its own types."""
        return {self._input.name: check_images(images)}, self.run(images)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        """shape: (N, 3, H, W)."""
        wrong = [side not in (None, given) for side, given in zip(self.shape, shape, strict=True)]
        if not any(wrong):
            return
        sides = "x".join(str(fixed or side) for fixed, side in zip(self.shape[2:], shape[2:], strict=True))
        hint = "a file written by dbnet convert takes every number of images" if not any(wrong[2:]) else (
            f"say in --pixels how they come to that size: resize=stretch,size={sides}, or resize=keep_ratio_pad (a "
            f"file written by dbnet convert takes every size)")
        fixed = ", ".join("any" if side is None else str(side) for side in self.shape)
        raise DbnetError(f"{self._where}: takes images of shape ({fixed}) only, not {shape}; {hint}")

    def _computed(self, outputs: Sequence[str], feed: np.ndarray) -> list[np.ndarray]:
        """Those outputs, as they come. Raises DbnetError for what ONNX Runtime says."""
        try:
            found: list[np.ndarray] = self._session.run(list(outputs), {self._input.name: feed})
        except self._failures as error:
            raise DbnetError(f"{self._where}: ONNX Runtime failed on {self.device} at {feed.shape}: "
                             f"{error}") from error
        return found

    def environment(self) -> dict[str, Any]:
        """What can move a number: versions, device, precision, threads."""
        ort = self.ort
        return {
            "framework": "onnxruntime", "version": ort.__version__, "numpy": np.__version__, "device": self.device,
            "device_name": None, "driver": driver_version(self._device.kind), "precision": "float32",
            "tf32": False if self._device.kind == "gpu" else None, "hf32": None, "jit_level": None,
            "threads": self.threads or "one per core", "providers": self._session.get_providers(),
            **getattr(ort, "told", {}),
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


def inputs_told(inputs: Sequence[Any]) -> str:
    """For people."""
    return ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs) or "no input"


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
