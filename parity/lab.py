"""A model's stages from its weights, or from its own ONNX graph: chained from the image, or each from given maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from converters.delivery_note import DeliveryNote
from converters.tensor_file import Weights
from dbnet.errors import DbnetError, short
from dbnet.extras import installed, onnxruntime_errors, require
from dbnet.running import check_images, has_training_branch
from dbnet.spec import STAGES, TRAINING_STAGES, ModelSpec
from evaluation.graph_files import as_stage
from evaluation.runners import Runner, archive

Maps = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Network:
    """What a model computes: its spec and its weights under canonical names."""

    spec: ModelSpec
    weights: Weights


class Lab(Protocol):
    """A network whose stages can be computed apart."""

    def run(self, images: np.ndarray) -> Maps:
        """Every stage of (N, 3, H, W) float32 images, chained."""

    def parts(self, images: np.ndarray, maps: Mapping[str, np.ndarray]) -> Maps:
        """Every stage from the `maps` given for those before it."""


class OnnxLab:
    """An ONNX graph with the stages' names (`converters.onnx_graph`), in ONNX Runtime on the CPU.

    model: the bytes of a file. stages: those that the graph has. network: what the file says it is. ort: as of
    `OnnxRuntimeRunner`. note: of a file that was exported for a runtime; where that gives logits the probability is
    theirs. feed: what is done to the images before they go in. Stages are (N, C, H, W) float32 whatever the graph
    computes in; where it takes several images at once, the last fills it up. Raises DbnetError if it cannot be read or
    run.
    """

    def __init__(self, model: bytes, where: str = "the model", network: Network | None = None, ort: Any = None,
                 note: DeliveryNote | None = None, feed: Callable[[np.ndarray], np.ndarray] | None = None):
        from converters.onnx_parts import parse, stages_within
        self.proto, self.network, self._where, self.ort = parse(model), network, where, ort
        self.note, self.feed = note, feed
        if note is not None and note.logits and "probability" not in stages_within(self.proto):
            self.proto.graph.node.add(op_type="Sigmoid", input=["logits"], output=["probability"])
        self.stages = stages_within(self.proto)
        self._sessions: dict[str, Any] = {}

    def run(self, images: np.ndarray) -> Maps:
        """The stages that the graph has."""
        from converters.onnx_parts import with_outputs
        return self._run("chain", lambda: with_outputs(self.proto, self.stages), images, {})

    def parts(self, images: np.ndarray, maps: Mapping[str, np.ndarray]) -> Maps:
        """Every stage from the given maps. Raises DbnetError if the graph has not all of them."""
        from converters.onnx_parts import with_given_stages
        return self._run("parts", lambda: with_given_stages(self.proto, half=self._half()), images, maps)

    def layers(self, stage: str, images: np.ndarray, maps: Mapping[str, np.ndarray]) -> Maps:
        """The output of every layer inside a stage, by the module's name, and the stage, in the order of the graph."""
        from converters.onnx_parts import behind, layers_of, with_given_stages
        within = behind(self.proto, stage)
        found = self._run("layers", lambda: with_given_stages(self.proto, True, self._half()), images, maps)
        return {name: found[name] for name in [*layers_of(self.proto), stage]
                if name in within and found[name].dtype == np.float32}

    def _half(self) -> set[str]:
        """The stages that the graph computes in float16."""
        from converters.onnx_parts import with_outputs
        session = self._session("chain", lambda: with_outputs(self.proto, self.stages))
        return {output.name for output in session.get_outputs() if output.type == "tensor(float16)"}

    def _session(self, kind: str, build: Any) -> Any:
        session = self._sessions.get(kind)
        if session is None:
            ort = self.ort or require("onnxruntime")
            settings = ort.SessionOptions()
            settings.log_severity_level = 3
            try:
                session = ort.InferenceSession(build().SerializeToString(), settings,
                                               providers=["CPUExecutionProvider"])
            except onnxruntime_errors(ort) as error:
                raise DbnetError(f"{self._where}: ONNX Runtime refuses its stages: {short(error)}") from error
            self._sessions[kind] = session
        return session

    def _run(self, kind: str, build: Any, images: np.ndarray, maps: Mapping[str, np.ndarray]) -> Maps:
        from converters.onnx_parts import GIVEN
        session, images = self._session(kind, build), check_images(images)
        image, *given = session.get_inputs()
        count, batch = len(images), image.shape[0] if isinstance(image.shape[0], int) else None
        missing = max(0, batch - count) if batch is not None else 0

        def filled(array: np.ndarray, kind: type) -> np.ndarray:
            return np.ascontiguousarray(np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]), kind)
        fed = {image.name: filled(images if self.feed is None else self.feed(images), np.float32)} | {
            each.name: filled(maps[each.name.removeprefix(GIVEN)], np.float16 if "float16" in each.type else np.float32)
            for each in given}
        names = [output.name for output in session.get_outputs()]
        try:
            found = dict(zip(names, session.run(names, fed), strict=True))
        except onnxruntime_errors(self.ort or require("onnxruntime")) as error:
            raise DbnetError(f"{self._where}: ONNX Runtime failed at {images.shape}: {short(error)}") from error
        return {name: _as_stage(array, count) for name, array in found.items()}


def _as_stage(array: np.ndarray, count: int) -> np.ndarray:
    """Of `count` images. What is no map of floats stays as it is."""
    if array.dtype not in (np.float32, np.float16):
        return array
    return as_stage(array)[:count] if array.ndim in (2, 4) else array.astype(np.float32, copy=False)


@dataclass(frozen=True, eq=False)
class ByWeights:
    """Stages computed from the weights that were read from somebody's graph; the probability is the graph's own."""

    lab: Lab
    runner: Runner

    def run(self, images: np.ndarray) -> Maps:
        return self.lab.run(images) | {"probability": self.runner.run(images)["probability"]}

    def parts(self, images: np.ndarray, maps: Mapping[str, np.ndarray]) -> Maps:
        return self.lab.parts(images, maps)


def of_weights(network: Network, precision: Literal["float32", "float64"] = "float32") -> Lab:
    """A model in torch, or in ONNX Runtime where torch is not installed. Raises DbnetError without either."""
    if installed("torch"):
        from torch_reference.runner import TorchRunner
        stages = STAGES + TRAINING_STAGES if has_training_branch(network.weights) else STAGES
        return TorchRunner(network.spec, network.weights, stages=stages, device="cpu", precision=precision)
    return onnx_of_weights(network)


def onnx_of_weights(network: Network, ort: Any = None) -> OnnxLab:
    """The graph that is written for these weights."""
    return OnnxLab(archive(network.spec, network.weights, stages=True), ort=ort)
