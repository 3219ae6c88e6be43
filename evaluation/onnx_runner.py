"""An .onnx in ONNX Runtime: a session, its device and threads, and the stages of a graph of ours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dbnet.errors import DbnetError
from dbnet.extras import onnxruntime_errors, require
from dbnet.onnx_providers import OF_KIND, Provider, provider_of
from dbnet.pixel_formats import AnySpec
from dbnet.running import Device, check_images, check_stages, driver_version, parse_device
from evaluation.graph_files import (
    MAX_AT_ONCE,
    OtherGraphError,
    as_given,
    as_stage,
    batch_notes,
    check_fixed_shape,
    cores,
    in_batches,
    stages_of,
)

#: Of ONNX Runtime's own messages. What it refuses on a CPU is in the exception; why it leaves a card aside is not.
_NOTHING, _ERRORS_ONLY = 4, 3


class OnnxRuntimeRunner:
    """An .onnx file, or its bytes, as it is. Its first input is the image; its outputs bear the stages' names.

    spec: what it computes, passed through. stages: None means all of `dbnet.spec.STAGES` that it gives.
    device: `cpu` (default), or `cuda:0`, `npu:0` with an onnxruntime built for it. provider: a name of
    `dbnet.onnx_providers`, default the device's own; its usual device is then the default. threads: within one
    operator; default one per core. concurrent: for many images in a row. On the CPU the threads are then shared out
    among several calls of `run` at once (`at_once`), which finish more images a second than one call with all threads,
    with the same numbers. shape: of the input, (N, 3, H, W), None where any will do. An output (H, W), for one image,
    is given back as (1, 1, H, W). notes: what a user should know of how it was opened, one line each. ort: that of
    another environment (`evaluation.elsewhere_onnx`), where it runs one call at a
    time; default this one's. Raises DbnetError if ONNX Runtime refuses the file or the device, or an output is missing.
    """

    name = "onnxruntime"
    digest: str | None = None

    def __init__(self, source: str | Path | bytes, spec: AnySpec, device: str | None = None,
                 stages: tuple[str, ...] | None = ("probability",), threads: int | None = None,
                 concurrent: bool = False, *, ort: Any = None, provider: str | None = None):
        concurrent = concurrent and ort is None
        self.ort = ort = ort or require("onnxruntime")
        self.spec: AnySpec = spec
        self.notes: list[str] = list(getattr(ort, "notes", ()))
        self.title: str = getattr(ort, "title", self.name)
        if provider is not None:
            self.title = self.title.replace(self.name, f"{self.name}:{provider}", 1)
        self.threads = threads
        self._where = "the model in memory" if isinstance(source, bytes) else str(source)
        self.provider, self._device = _chosen(provider, device)
        self.device = self._device.kind if self._device.kind == "cpu" else f"{self._device.kind}:{self._device.index}"
        if provider is not None and not self.provider.kinds:
            self.device = provider.lower().removesuffix("executionprovider")
        settings = ort.SessionOptions()
        # Else one warning per unused initialiser, 13 for head.thresh.
        settings.log_severity_level = _NOTHING if self._device.kind == "cpu" else _ERRORS_ONLY
        alone = self.provider.name != provider_of("cpu").name
        self.at_once = 1 if alone or not concurrent else min(threads or cores(), MAX_AT_ONCE)
        # A calling thread works too: the session's own are what is left. 0: one per core.
        settings.intra_op_num_threads = threads or 0 if self.at_once == 1 else (threads or cores()) - self.at_once + 1
        self._failures = onnxruntime_errors(ort)
        try:
            self._session = ort.InferenceSession(source if isinstance(source, bytes) else os.fspath(source), settings,
                                                 providers=_providers(ort, self.provider, self._device),
                                                 enable_fallback=0)  # it would tell so on standard output
        except self._failures as error:
            raise DbnetError(f"{self._where}: ONNX Runtime {ort.__version__} refuses it: {error}") from error
        if self._session.get_providers()[0] != self.provider.name:
            raise DbnetError(f"ONNX Runtime could not start {self.provider.name} on {self.device} and fell back to the "
                             f"CPU; check the driver, or use {'--device cpu' if provider is None else self.name}")
        try:
            self.stages = self._check_graph(None if stages is None else check_stages(stages))
        except UnicodeDecodeError as error:  # which ONNX Runtime does not mind
            raise DbnetError(f"{self._where}: its inputs or outputs have names that are no text; copy or download it "
                             f"again") from error

    def _check_graph(self, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
        """The stages to run."""
        outputs = [output.name for output in self._session.get_outputs()]
        stages = stages_of(self._where, outputs, wanted)
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
            raise OtherGraphError(f"{self._where}: takes {inputs_told(inputs)}, not one float32 image (N, 3, H, W)",
                                  True)
        self._input = inputs[0]
        self._one_by_one = any(len(output.shape) == 2 for output in self._session.get_outputs()
                               if output.name in stages)
        self.shape = tuple(side if isinstance(side, int) else None for side in inputs[0].shape)
        self.notes += batch_notes(self.shape)
        return stages

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The stages of (N, 3, H, W) float32 images, sides multiples of 32 px; a static file takes its own size only.

        Raises DbnetError otherwise.
        """
        images = check_images(images)
        if not self._one_by_one:
            several = self.shape[0] if self.shape[0] != 1 else None
            check_fixed_shape(self._where, (None if several else self.shape[0], *self.shape[1:]), images.shape)
            return in_batches(images, several, self._maps)
        check_fixed_shape(self._where, (None, *self.shape[1:]), images.shape)
        found = [self._maps(images[i:i + 1]) for i in range(len(images))]
        return {stage: np.concatenate([maps[stage] for maps in found]) for stage in self.stages}

    def _maps(self, images: np.ndarray) -> dict[str, np.ndarray]:
        maps = self._computed(self.stages, images)
        return {stage: as_stage(map_) for stage, map_ in zip(self.stages, maps, strict=True)}

    def exchanged(self, images: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """What the graph gets for one image and what it gives, by its own names, in its own types and shapes."""
        check_fixed_shape(self._where, self.shape, check_images(images).shape)
        matrices = [output.name for output in self._session.get_outputs() if len(output.shape) == 2]
        return {self._input.name: check_images(images)}, as_given(self.run(images), matrices)

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
            "tf32": _tf32(self.provider),
            "hf32": None, "jit_level": None,
            "threads": self.threads or "one per core", "providers": self._session.get_providers(),
            **getattr(ort, "told", {}),
        }


def _chosen(name: str | None, device: str | None) -> tuple[Provider, Device]:
    """The provider of that name, or that of the device. Raises DbnetError if one contradicts the other."""
    if name is None:
        wanted = parse_device(device or "cpu")
        return provider_of(OF_KIND[wanted.kind]), wanted
    provider = provider_of(name)
    if device is None:
        return provider, parse_device(provider.kinds[0] if provider.kinds else "cpu")
    wanted = parse_device(device)
    if wanted.kind not in provider.kinds:
        runs = f"runs on {' or '.join(provider.kinds)}" if provider.kinds else "has a device of its own"
        raise DbnetError(f"--device {device} contradicts onnxruntime:{name}, which {runs}; leave out one of the two")
    return provider, wanted


def _providers(ort: Any, provider: Provider, device: Device) -> list[Any]:
    """What a session takes. Raises DbnetError if this onnxruntime was built without the provider."""
    here = list(ort.get_available_providers())
    if provider.name not in here:
        way = f"install {provider.package} in its place" if provider.package not in (None, "onnxruntime") else \
            "only one that is built for it has it"
        raise DbnetError(f"this onnxruntime has no {provider.name}, only {', '.join(here)}: {way}, "
                         f"or use --runner onnxruntime (on the CPU)")
    return [each for each in provider.settings(device.kind, device.index) if each[0] in here]


def _tf32(provider: Provider) -> bool | None:
    """Whether NVIDIA's cards may compute in it; None for others. Of TensorRT only its environment variable tells."""
    if provider.name == provider_of("tensorrt").name:
        return os.environ.get("NVIDIA_TF32_OVERRIDE") != "0"
    return False if provider.name == provider_of("cuda").name else None


def inputs_told(inputs: Sequence[Any]) -> str:
    """For people."""
    return ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs) or "no input"
