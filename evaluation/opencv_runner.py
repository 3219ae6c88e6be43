"""An .onnx in OpenCV's own engine, cv2.dnn, as the team that deploys runs it: OpenCV 4.6 and later, and 5."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dbnet.errors import DbnetError, short
from dbnet.pixel_formats import AnySpec
from dbnet.running import check_images, check_stages
from dbnet.silence import silent_stderr
from evaluation.graph_files import OtherGraphError, as_given, as_stage, check_fixed_shape, cores, stages_of
from evaluation.onnx_inputs import FLOAT, Graph, read_graph

#: OpenCV 4 gives wrong maps where one net runs images of a second size (4.6 to 4.11: it fuses batch norms once more).
_ONE_SIZE_PER_NET = int(cv2.__version__.partition(".")[0]) < 5
#: Nets of as many sizes are kept; each holds all weights.
_SIZES = 2


class OpenCvRunner:
    """An .onnx file, or its bytes, as it is. Its one input is the image; its outputs bear the stages' names.

    spec: what it computes, passed through. stages: None means all of `dbnet.spec.STAGES` that it gives. device: `cpu`
    only. threads: OpenCV's; default one per core. concurrent: nothing, one call runs at a time.
    shape: of the input, (N, 3, H, W), None where any will do. Images run one by one; an output (H, W) is given back as
    (1, 1, H, W). Raises DbnetError if OpenCV refuses the file, and OtherGraphError if an output is missing.
    """

    name = "opencv"
    digest: str | None = None
    at_once = 1

    def __init__(self, source: str | Path | bytes, spec: AnySpec, device: str | None = None,
                 stages: tuple[str, ...] | None = ("probability",), threads: int | None = None,
                 concurrent: bool = False):
        if device is not None and device.strip().lower() not in ("cpu", "cpu:0"):
            raise DbnetError(f"cv2.dnn runs on cpu here, not on {short(device)}; leave out --device, or choose another "
                             f"--runner")
        self.spec: AnySpec = spec
        self.device = "cpu"
        self.notes: list[str] = []
        self.title = self.name
        self.threads = threads
        self._where = "the model in memory" if isinstance(source, bytes) else str(source)
        self._source = source if isinstance(source, bytes) else os.fspath(source)
        self._graph = _graph_of(self._source, self._where)
        self.shape = next(iter(self._graph.inputs.values()))[1]
        net = self._read()
        self._outputs = list(net.getUnconnectedOutLayersNames())
        self.stages = stages_of(self._where, self._outputs, None if stages is None else check_stages(stages))
        self._nets: dict[tuple[int, ...], Any] = {}
        self._spare = [net]

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The stages of (N, 3, H, W) float32 images, sides multiples of 32 px; a static file takes its own size only.

        Raises DbnetError otherwise.
        """
        images = check_images(images)
        check_fixed_shape(self._where, (None, *self.shape[1:]), images.shape)
        with self._threads():
            found = [self._computed(images[i:i + 1]) for i in range(len(images))]
        return {stage: np.concatenate([maps[stage] for maps in found]) for stage in self.stages}

    def exchanged(self, images: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """What the graph gets for one image and what it gives, by its own names and in its own shapes."""
        maps = self.run(images)
        return {next(iter(self._graph.inputs)): images}, as_given(maps, self._matrices)

    def _computed(self, image: np.ndarray) -> dict[str, np.ndarray]:
        key = image.shape if _ONE_SIZE_PER_NET else ()
        net = self._nets.pop(key, None)
        try:
            # OpenCV prints what is wrong as well, and it is wrong the first time or never.
            with silent_stderr() if net is None else nullcontext():
                net = net or (self._spare.pop() if self._spare else self._read())
                net.setInput(image)
                maps = net.forward(self._outputs)  # OpenCV 5 gives all outputs or one
        except (cv2.error, MemoryError) as error:
            raise DbnetError(f"{self._where}: OpenCV {cv2.__version__} failed at {image.shape}: "
                             f"{_said(error)}") from error
        self._nets[key] = net  # the last used comes last
        while len(self._nets) > _SIZES:
            del self._nets[next(iter(self._nets))]
        named = dict(zip(self._outputs, maps, strict=True))
        self._matrices = [stage for stage in self.stages if np.ndim(named[stage]) == 2]
        return {stage: as_stage(np.array(named[stage])) for stage in self.stages}

    def _read(self) -> Any:
        try:
            source = np.frombuffer(self._source, np.uint8) if isinstance(self._source, bytes) else self._source
            with silent_stderr():
                return cv2.dnn.readNetFromONNX(source)
        except (cv2.error, MemoryError) as error:
            raise DbnetError(f"{self._where}: OpenCV {cv2.__version__} refuses it: {_said(error)}; "
                             f"{_instead(self._graph.operators)}") from error

    @contextmanager
    def _threads(self) -> Iterator[None]:
        before = cv2.getNumThreads()  # one, where images are decoded meanwhile
        cv2.setNumThreads(self.threads or cores())
        try:
            yield
        finally:
            cv2.setNumThreads(before)

    def environment(self) -> dict[str, Any]:
        """What can move a number: versions, precision, threads."""
        return {
            "framework": "opencv", "version": cv2.__version__, "numpy": np.__version__, "device": self.device,
            "device_name": None, "driver": None, "precision": "float32", "tf32": None, "hf32": None, "jit_level": None,
            "threads": self.threads or "one per core", "backend": "OpenCV", "target": "CPU", "winograd": True,
        }


def _graph_of(source: str | bytes, where: str) -> Graph:
    """Raises DbnetError if the file cannot be read or is damaged, OtherGraphError if it takes something else."""
    try:
        graph = read_graph(source if isinstance(source, bytes) else Path(source).read_bytes(), where)
    except OSError as error:
        raise DbnetError(f"{where}: cannot be read ({error.strerror or error}); check the path") from error
    if [(kind, len(sides)) for kind, sides in graph.inputs.values()] != [(FLOAT, 4)]:
        told = ", ".join(f"{name} {sides}" for name, (_, sides) in graph.inputs.items()) or "no input"
        raise OtherGraphError(f"{where}: takes {told}, not one float32 image (N, 3, H, W)", True)
    return graph


def _instead(operators: set[str]) -> str:
    """What to do with a file that this OpenCV does not run."""
    newer = "OpenCV 5 (--runner opencv@PYTHON), " if _ONE_SIZE_PER_NET else ""
    if "DeformConv" in operators:
        return ("no OpenCV reads DeformConv: export it with --deformable decomposed, which OpenCV 5 reads (--runner "
                "opencv@PYTHON), or run it in onnxruntime (--runner)")
    return f"run it in {newer}onnxruntime or openvino (--runner)"


def _said(error: Exception) -> str:
    """Without the places in OpenCV's own sources."""
    if isinstance(error, MemoryError) or getattr(error, "code", 0) == -4:
        return "there is not enough memory; try a smaller image"
    text = re.sub(r"OpenCV\([^)]*\) \S+:\d+: error: ", "", str(getattr(error, "err", "") or error))
    return short(" ".join(text.replace(">", " ").split()), 300)
