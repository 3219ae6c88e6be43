"""An .onnx or an OpenVINO IR in OpenVINO: its device, its threads, and the stages of a graph of ours."""

from __future__ import annotations

import os
import re
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from dbnet.errors import DbnetError, short
from dbnet.extras import require
from dbnet.pixel_formats import AnySpec
from dbnet.running import check_images, check_stages
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

#: What it computes in. Left to itself OpenVINO takes bfloat16 or float16 where a device has them.
_PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}
_DEVICES = ("cpu", "gpu", "npu", "auto")
#: Devices that share out their threads among several calls here.
_SHARING = ("CPU",)
#: A file that takes every size is compiled once more for one of which so many images have come: that takes as long as
#: it saves in 30 (17 % of each). And for how many sizes at most, for each holds all weights.
_WORTH, _SIZES = 16, 2


@cache
def _core(ov: Any) -> Any:
    """One for the process, which is never given up. The CPU plugin of each has the thread that loads it handle signals
    on a stack of the plugin's own, and unmaps that when it goes, also where the thread still has it: another plugin or
    thread came between. The next signal, a ^C, then ends the process without a word (2026.4: SIGSEGV)."""
    return ov.Core()


class OpenVinoRunner:
    """An .onnx file, an OpenVINO IR (.xml, its .bin beside it), or an .onnx as bytes, as it is. Its one input is the
    image; its outputs bear the stages' names.

    spec: what it computes, passed through. stages: None means all of `dbnet.spec.STAGES` that it gives. device: `cpu`
    (default), or OpenVINO's own `gpu`, `gpu:1`, `npu`, `auto`, of which it then says what it came to. threads: of the
    CPU, default one per core; refused for other devices. concurrent: for many images in a row. On the CPU the threads
    are then shared out among several calls of `run` at once (`at_once`), which finish more images a second than one
    call with all threads, with the same numbers. shape: of the input, (N, 3, H, W), None where any will do. An output
    (H, W), for one image, is given back as (1, 1, H, W).
    Raises DbnetError if OpenVINO refuses the file or the device, and OtherGraphError if an output is missing.
    """

    name = "openvino"
    digest: str | None = None

    def __init__(self, source: str | Path | bytes, spec: AnySpec, device: str | None = None,
                 stages: tuple[str, ...] | None = ("probability",), threads: int | None = None,
                 concurrent: bool = False):
        self._ov = ov = require("openvino")
        self.spec: AnySpec = spec
        self.notes: list[str] = []
        self.title = self.name
        self.threads = threads
        self._where = "the model in memory" if isinstance(source, bytes) else str(source)
        self._failures: tuple[type[Exception], ...] = (*_failures(ov), RuntimeError, ValueError, MemoryError)
        core = _core(ov)
        chosen = place = _place(core, device or "cpu")
        self.device = _ours(place)
        if threads is not None and place not in _SHARING:
            raise DbnetError(f"OpenVINO takes a number of threads for cpu only, not for {self.device}; leave out "
                             f"--threads, or run it on cpu")
        self.at_once = min(threads or cores(), MAX_AT_ONCE) if concurrent and place in _SHARING else 1
        with self._telling("refuses it"):
            model = core.read_model(source if isinstance(source, bytes) else _file(source))
            self.stages = self._check_graph(model, None if stages is None else check_stages(stages))
        with self._telling(f"cannot compile it for {self.device}"):
            self._compile = partial(core.compile_model, device_name=place, config=self._settings(place))
            compiled = self._compile(model)
            self._any_size = _Compiled(ov, compiled, self.stages)
        if place == "AUTO":
            place = str(compiled.get_property("EXECUTION_DEVICES")[0]).strip("()")
            self.device = _ours(place)
            self.notes.append(f"OpenVINO has chosen {self.device}")
        self._told_threads = (threads or "one per core") if chosen in _SHARING else "as OpenVINO chooses"
        self._device_name = str(core.get_property(place, "FULL_DEVICE_NAME"))
        self._graph = model if self.at_once > 1 and None in self.shape else None
        self._lock = threading.Lock()
        self._seen: Counter[tuple[int, ...]] = Counter()
        self._sizes: dict[tuple[int, ...], _Compiled] = {}

    def _check_graph(self, model: Any, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
        """The stages to run."""
        outputs = {name: output for output in model.outputs for name in output.names}
        stages = stages_of(self._where, list(outputs), wanted)
        sides = [output.partial_shape.rank for output in (outputs[stage] for stage in stages)]
        self._matrices = [stage for stage, rank in zip(stages, sides, strict=True)
                          if rank.is_static and rank.get_length() == 2]
        inputs = [(each.any_name, each.element_type.get_type_name(), each.partial_shape) for each in model.inputs]
        if len(inputs) != 1 or inputs[0][1] != "f32" or inputs[0][2].rank.is_dynamic or len(inputs[0][2]) != 4:
            told = ", ".join(f"{name} {kind} {shape}" for name, kind, shape in inputs) or "no input"
            raise OtherGraphError(f"{self._where}: takes {told}, not one float32 image (N, 3, H, W)", True)
        self._input = str(inputs[0][0])
        self.shape = tuple(side.get_length() if side.is_static else None for side in inputs[0][2])
        self.notes += batch_notes(self.shape)
        return stages

    def _settings(self, place: str) -> dict[str, Any]:
        if place not in _SHARING:
            # Else AUTO computes on the CPU until another device has compiled it, and numbers change on the way.
            own = {"ENABLE_STARTUP_FALLBACK": False} if place == "AUTO" else {}
            return {**_PRECISION, **own, "PERFORMANCE_HINT": "LATENCY"}
        return {**_PRECISION, "PERFORMANCE_HINT": "LATENCY" if self.at_once == 1 else "THROUGHPUT",
                "NUM_STREAMS": self.at_once, "INFERENCE_NUM_THREADS": self.threads or cores()}

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The stages of (N, 3, H, W) float32 images, sides multiples of 32 px; a static file takes its own size only.

        Raises DbnetError otherwise.
        """
        images = check_images(images)
        if not self._matrices:
            several = self.shape[0] if self.shape[0] != 1 else None
            check_fixed_shape(self._where, (None if several else self.shape[0], *self.shape[1:]), images.shape)
            return in_batches(images, several, self._computed)
        check_fixed_shape(self._where, (None, *self.shape[1:]), images.shape)
        found = [self._computed(images[i:i + 1]) for i in range(len(images))]
        return {stage: np.concatenate([maps[stage] for maps in found]) for stage in self.stages}

    def exchanged(self, images: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """What the graph gets for one image and what it gives, by its own names and in its own shapes."""
        check_fixed_shape(self._where, self.shape, check_images(images).shape)
        return {self._input: images}, as_given(self.run(images), self._matrices)

    def _computed(self, images: np.ndarray) -> dict[str, np.ndarray]:
        with self._telling(f"failed on {self.device} at {images.shape}"):
            maps = self._sizes.get(images.shape, self._any_size).run(images)
        if self._graph is not None and self._is_worth_it(images.shape):
            self._compile_for(images, maps)
        return maps

    def _is_worth_it(self, shape: tuple[int, ...]) -> bool:
        """True once for a shape, if so many images of it have come."""
        with self._lock:
            self._seen[shape] += 1
            return self._seen[shape] == _WORTH and sum(n >= _WORTH for n in self._seen.values()) <= _SIZES

    def _compile_for(self, images: np.ndarray, maps: dict[str, np.ndarray]) -> None:
        """Compiles the file once more for images of this shape. What that gives is taken if these images give the same
        bits, `maps`, for a result must not depend on the images before: of most networks they do.
        """
        try:
            graph = self._graph.clone()  # type: ignore[union-attr]
            graph.reshape(list(images.shape))
            fixed = _Compiled(self._ov, self._compile(graph), self.stages)
            found = fixed.run(images)
        except self._failures:
            return  # it goes on as before
        if all(np.array_equal(found[stage], maps[stage]) for stage in self.stages):
            self._sizes[images.shape] = fixed

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """Raises DbnetError in place of what OpenVINO raises."""
        try:
            yield
        except self._failures as error:
            short_of = isinstance(error, MemoryError) or "allocate" in str(error) or "bad_alloc" in str(error)
            said = "there is not enough memory; try a smaller image" if short_of else _said(error)
            raise DbnetError(f"{self._where}: OpenVINO {_version(self._ov)} {what}: {said}") from error

    def environment(self) -> dict[str, Any]:
        """What can move a number: versions, device, precision, threads."""
        return {
            "framework": "openvino", "version": _version(self._ov), "numpy": np.__version__, "device": self.device,
            "device_name": self._device_name, "driver": None, "precision": "float32", "tf32": None, "hf32": None,
            "jit_level": None, "threads": self._told_threads, **_PRECISION,
        }


class _Compiled:
    """A compiled file, which several threads may run at once."""

    def __init__(self, ov: Any, model: Any, stages: tuple[str, ...]):
        self._ov, self._model = ov, model
        self._outputs = {stage: model.output(stage) for stage in stages}
        known = [output.partial_shape.is_static and output.element_type.get_type_name() == "f32"
                 for output in self._outputs.values()]
        self._shapes = {stage: tuple(output.shape) for stage, output in self._outputs.items()} if all(known) else None
        self._idle: deque[Any] = deque()  # requests: as many are made as calls are ever under way at once

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Raises what OpenVINO raises; a request that failed is not used again."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._model.create_infer_request()
        # Maps of a known size are written where the caller has them; others are copied: their memory is the next
        # image's.
        maps = {stage: np.empty(shape, np.float32) for stage, shape in (self._shapes or {}).items()}
        for stage, map_ in maps.items():
            request.set_tensor(self._outputs[stage], self._ov.Tensor(map_, shared_memory=True))
        request.infer([images], share_inputs=True, share_outputs=True)
        maps = maps or {stage: np.array(request.get_tensor(output).data, np.float32)
                        for stage, output in self._outputs.items()}
        self._idle.append(request)
        return {stage: as_stage(map_) for stage, map_ in maps.items()}


def _place(core: Any, device: str) -> str:
    """OpenVINO's own name of a device: CPU, GPU, GPU.1. Raises DbnetError for one that it does not have here."""
    kind, colon, index = device.strip().lower().partition(":")
    number = index.isdecimal() and len(index) <= 3
    if kind not in _DEVICES or (colon and (not number or (kind in ("cpu", "auto") and index != "0"))):
        raise DbnetError(f"OpenVINO has no device {short(device)!r}; choose from {', '.join(_DEVICES)} (gpu:1 for "
                         f"the second of several)")
    place = kind.upper() + (f".{int(index)}" if index and kind not in ("cpu", "auto") else "")
    here = list(core.available_devices)
    if kind != "auto" and not any(place in (name, name.removesuffix(".0")) or place.removesuffix(".0") == name
                                  for name in here):
        raise DbnetError(f"OpenVINO has no {place} on this machine, only {', '.join(here) or 'nothing'}; choose one of "
                         f"these, or install Intel's driver for it")
    return place


def _ours(place: str) -> str:
    """GPU.1 -> gpu:1."""
    return place.lower().replace(".", ":")


def _file(source: str | Path) -> str:
    """The file, if it is of a kind that this runs: for every other, OpenVINO's readers print into the terminal."""
    path = os.fspath(source)
    if not path.lower().endswith((".onnx", ".xml")):
        raise DbnetError(f"{path}: runs in OpenVINO as an .onnx or an .xml only; dbnet export writes both")
    weights = f"{path[:-4]}.bin"
    try:
        with open(path, "rb") as stream:
            head = stream.read(4096)
        if path.lower().endswith(".xml"):
            if not re.search(rb"<net\s[^>]*\bversion=", head):
                raise DbnetError(f"{path}: is no OpenVINO IR; copy or write it again (dbnet export --target openvino)")
            if not os.path.isfile(weights):
                raise DbnetError(f"{weights}: is not beside {os.path.basename(path)}, which keeps its weights there; "
                                 f"copy that file too")
    except OSError as error:
        raise DbnetError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    return path


def _failures(ov: Any) -> tuple[type[Exception], ...]:
    """Those of its readers, which share no base class."""
    names: Mapping[str, Any] = vars(ov.frontend)
    return tuple(kind for kind in names.values() if isinstance(kind, type) and issubclass(kind, Exception))


def _said(error: Exception) -> str:
    """Without the lines that say in which of its own files OpenVINO was."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [re.sub(r"Check '.*' failed at \S+:\d+:?", "", line) for line in lines
            if line and not line.startswith("Exception from ")]
    return short(" ".join(" ".join(kept or lines).split()), 400)


def _version(ov: Any) -> str:
    """2026.4.1, without the build."""
    return str(ov.__version__).partition("-")[0]
