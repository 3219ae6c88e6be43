"""A model file opened for a comparison: the runner that opens it, and how its stages are computed apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from converters.load import LoadedModel, SourceOptions, load_model
from converters.onnx_parts import parse, stages_within
from dbnet.errors import UnknownNetworkError
from dbnet.extras import installed
from dbnet.onnx_providers import provider_of
from dbnet.precision import FORMATS
from dbnet.runner_names import RunnerName, parse_runner
from dbnet.running import has_training_branch
from dbnet.spec import STAGES, TRAINING_STAGES, PixelFormat
from evaluation.elsewhere import ElsewhereRunner
from evaluation.half import half_runner
from evaluation.onnx_half import HalfOnnxRunner, half_archive
from evaluation.opening import GRAPH_RUNNERS
from evaluation.runners import OnnxRuntimeRunner, Runner, open_loaded, open_runner
from evaluation.weightless import is_weightless
from parity.lab import Lab, Maps, Network, OnnxLab, onnx_of_weights


@dataclass
class StagedModel:
    """model: its weights and record; None of a network that is not known here. runner: who runs it. lab: gives the
    stages (None where they cannot be had: the graph of somebody else). stages: those that it gives. notes: what a
    reader should know of it. again: opens it for the probability alone, where `runner` gives more.
    """

    path: Path
    model: LoadedModel | None
    runner: Runner
    lab: Lab | None
    stages: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    again: Callable[[], Runner] | None = None

    @property
    def pixels(self) -> PixelFormat:
        return self.runner.spec.pixels

    @property
    def network(self) -> Network | None:
        """What the file says it is, which its own graph need not be; None if that is not known."""
        if self.model is None or (self.model.unread is not None and self.model.bare):
            return None
        return Network(self.model.record.spec, self.model.weights)

    @property
    def size(self) -> tuple[int | None, int | None]:
        """The height and width of the only images that it takes, None where any will do."""
        shape = getattr(self.runner, "shape", (None,) * 4)
        return shape[2], shape[3]

    def for_images(self) -> Runner:
        """Who gives the probability of whole images and nothing else, for every stage costs time to copy."""
        return self.runner if self.again is None else self.again()

    def run(self, images: np.ndarray) -> Maps:
        """Its stages, chained from the images."""
        return self.runner.run(images) if self.lab is None else self.lab.run(images)

    def parts(self, images: np.ndarray, maps: Mapping[str, np.ndarray]) -> Maps | None:
        """Its stages from given maps; None if they cannot be had apart, or `maps` lacks one."""
        if self.lab is None or not set(STAGES) <= set(self.stages) or not set(STAGES) <= set(maps):
            return None
        return self.lab.parts(images, maps)

    def told(self) -> dict[str, Any]:
        """For reports."""
        record = None if self.model is None else self.model.record
        spec = self.runner.spec
        return {"file": str(self.path), "spec": spec.name, "runner": self.runner.name, "device": self.runner.device,
                "sha256": record.sha256 if record else None, "model": getattr(self.runner, "digest", None),
                "origin": record.origin if record else None, "semantics": spec.semantics(),
                "pixels": asdict(spec.pixels), "notes": self.notes, "environment": self.runner.environment()}


def open_staged(path: str | Path, runner: str | None = None, device: str | None = None,
                options: SourceOptions | None = None, threads: int | None = None, *, precision: str = "float32",
                keep_float32: Sequence[str] = ()) -> StagedModel:
    """Opens a model file for a comparison, with as many stages as it gives. An .onnx in ONNX Runtime is its own graph,
    made to give the stages that it computes under their names; in another graph's place it would prove nothing. In half
    precision (see `open_runner`) it is the graph that is written for its weights.

    Raises DbnetError as `open_runner` does.
    """
    path, options = Path(path), options or SourceOptions()
    if is_weightless(path, runner):
        opened = open_runner(path, runner, device, ("probability",), threads, options, precision=precision)
        return StagedModel(path, None, opened, None, ("probability",), list(getattr(opened, "notes", ())))
    try:
        model = load_model(path, options)
    except UnknownNetworkError:
        opened = open_runner(path, runner, device, ("probability",), threads, options, precision=precision)
        return StagedModel(path, None, opened, None, ("probability",), list(getattr(opened, "notes", ())))
    if precision != "float32":
        return _in_half(model, runner or half_runner(model), device, options, threads, precision, keep_float32)
    chosen = parse_runner(runner or ("mindspore" if model.format in ("ckpt", "mindir") else "torch"))
    if model.format == "onnx" and (runner is None or chosen.framework == "onnxruntime") and not options.semantics:
        return _own_graph(model, open_loaded(model, runner, device, ("probability",), threads, options))
    if _by_its_graph(model, chosen, options):
        opened = open_loaded(model, runner, device, ("probability",), threads, options)
        return StagedModel(path, model, opened, None, ("probability",), list(opened.notes))  # type: ignore[attr-defined]
    stages: tuple[str, ...] = STAGES
    if chosen.framework in ("torch", "mindspore") and has_training_branch(model.weights) and (
            chosen.python is not None or installed(chosen.framework)):
        stages = STAGES + TRAINING_STAGES
    opened = open_loaded(model, runner, device, stages, threads, options)
    notes = list(getattr(opened, "notes", ()))
    again: Callable[[], Runner] = partial(open_loaded, model, runner, device, ("probability",), threads, options)
    if chosen.framework in GRAPH_RUNNERS and (chosen.framework != "onnxruntime" or chosen.variant not in (None, "cpu")):
        return StagedModel(path, model, opened, None, STAGES, notes, again)
    if isinstance(opened, OnnxRuntimeRunner):
        lab = onnx_of_weights(Network(model.record.spec, model.weights), opened.ort)
        return StagedModel(path, model, opened, lab, STAGES, notes, again)
    if isinstance(opened, ElsewhereRunner):
        again = partial(opened.narrowed, ("probability",))
    lab_of_half = cast(Lab, opened)  # both halves' runners give their parts
    return StagedModel(path, model, opened, lab_of_half, stages, notes, again)


def _by_its_graph(model: LoadedModel, chosen: RunnerName, options: SourceOptions) -> bool:
    """Whether a file runs by its own graph in a runtime that gives its map and nothing else."""
    if chosen.framework in ("openvino", "opencv"):
        return model.format == "onnx" and not options.semantics
    return chosen.framework == "mindspore_lite" or chosen.here == "mindspore:mindir"


def _in_half(model: LoadedModel, runner: str, device: str | None, options: SourceOptions, threads: int | None,
             precision: str, keep: Sequence[str]) -> StagedModel:
    again = partial(open_loaded, model, runner, device, ("probability",), threads, options, precision=precision,
                    keep_float32=keep)
    opened = open_loaded(model, runner, device, STAGES, threads, options, precision=precision, keep_float32=keep)
    network, notes = Network(model.record.spec, model.weights), list(getattr(opened, "notes", ()))
    if not isinstance(opened, HalfOnnxRunner):
        return StagedModel(model.path, model, opened, cast(Lab, opened), STAGES, notes, again)
    graph, _ = half_archive(network.spec, network.weights, True, FORMATS[precision], opened.kept)
    lab = OnnxLab(graph, str(model.path), network, opened.ort)
    return StagedModel(model.path, model, opened, lab, STAGES, notes, again)


def _own_graph(model: LoadedModel, opened: Runner) -> StagedModel:
    notes = [*getattr(opened, "notes", ()), *([f"{model.path.name}: {model.unread}"] if model.unread else [])]
    data, provider = model.path.read_bytes(), getattr(opened, "provider", None)
    if opened.device == "cpu" and provider in (None, provider_of("cpu")) and (stages := stages_within(parse(data))):
        ort = getattr(opened, "ort", None)
        note = getattr(opened, "note", None)
        lab = OnnxLab(data, str(model.path), Network(model.record.spec, model.weights), ort, note)
        stages = lab.stages
        return StagedModel(model.path, model, opened, lab, stages, notes)
    return StagedModel(model.path, model, opened, None, ("probability",), notes)
