"""Who runs a model file, and how: what `--runner` names becomes an open runner."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from converters import onnx_file
from converters.delivery_note import DeliveryNote, read_delivery, recorded_pixels
from converters.load import LoadedModel, NoChoiceError, SourceOptions
from converters.onnx_outline import read_outline
from converters.tensor_file import Weights
from dbnet.errors import DbnetError
from dbnet.extras import require
from dbnet.pixel_formats import AnySpec, S, pixel_choice
from dbnet.runner_names import RunnerName
from dbnet.running import parse_device, runnable
from dbnet.spec import STAGES, ModelSpec, PixelFormat
from evaluation.delivered import DeliveredRunner
from evaluation.elsewhere import ElsewhereRunner, Worker
from evaluation.elsewhere_graphs import ElsewhereGraphRunner
from evaluation.elsewhere_onnx import onnxruntime_of
from evaluation.graph_files import OtherGraphError
from evaluation.onnx_runner import OnnxRuntimeRunner
from evaluation.opaque import OpaqueRunner, check_locations, digest_of, fitted

#: They run a graph that is in a file, not weights: an .onnx as it is, and our archive graph of every other file.
GRAPH_RUNNERS = ("onnxruntime", "openvino", "opencv")
#: What each calls a device of one kind that its variants name.
_KINDS = {"cpu": "cpu", "gpu": "gpu", "cuda": "gpu", "npu": "npu", "ascend": "ascend", "auto": "auto"}


@dataclass(frozen=True)
class Asked:
    """How a model is to be opened; see `evaluation.runners.open_runner`."""

    who: RunnerName
    device: str | None = None
    stages: tuple[str, ...] | None = None
    threads: int | None = None
    concurrent: bool = False
    options: SourceOptions = field(default_factory=SourceOptions)

    @property
    def place(self) -> str | None:
        """The device, or the variant that says it. Raises DbnetError if one contradicts the other."""
        who = self.who
        if who.framework not in ("openvino", "mindspore_lite") or who.variant is None:
            return self.device
        if self.device is None:
            return who.variant
        kind = self.device.strip().lower().partition(":")[0]
        if who.framework == "mindspore_lite":
            kind = parse_device(self.device).kind
        if _KINDS.get(kind, kind) != who.variant:
            raise DbnetError(f"--device {self.device} contradicts --runner {who.here}; leave out one of the two")
        return self.device


# A known network ------------------------------------------------------------------------------------------------------


def open_known(model: LoadedModel, asked: Asked) -> Any:
    """A runner of a file whose network is known. Raises DbnetError."""
    runner, options = asked.who.framework, asked.options
    if runner in GRAPH_RUNNERS:
        return _open_graph(model, asked)
    if runner == "mindspore_lite" or asked.who.here == "mindspore:mindir":
        return _open_mindir(model, asked)
    if model.unread is not None:
        raise DbnetError(f"{model.path}: {model.unread}; so it runs in ONNX Runtime only, by its own graph, not in "
                         f"{runner}")
    if options.output is not None:
        raise NoChoiceError(f"{model.path}: runs in {runner}, where no output is chosen; leave out --map-output",
                            "output")
    if runner == "mindspore" and asked.threads is not None:
        _no_threads(asked.threads)
    own: dict[str, Any] = {"threads": asked.threads} if runner == "torch" else {}
    if asked.who.here == "torch:compile":
        own["compiled"] = True
    elif runner == "mindspore" and asked.who.variant in ("O0", "O1", "O2"):
        own["jit_level"] = asked.who.variant
    opened = _half(asked.who, model.record.spec, model.weights, asked.device, asked.stages or STAGES, own)
    if own.keys() - {"threads"}:
        opened.title = opened.title.replace(runner, asked.who.here, 1) if hasattr(opened, "title") else asked.who.here
    if "jit_level" in own and opened.device == "cpu":
        opened.notes = [*getattr(opened, "notes", ()), f"jit level {own['jit_level']}: on a CPU MindSpore computes the "
                                                       f"same with each of them; they are for Ascend"]
    opened.digest = model.record.sha256
    return opened


def _no_threads(threads: int) -> NoReturn:
    raise DbnetError(f"MindSpore takes its threads from the cores it may use; leave out --threads and start it with: "
                     f"taskset -c 0-{threads - 1} dbnet ...")


def _half(who: RunnerName, spec: ModelSpec, weights: Weights, device: str | None, stages: tuple[str, ...],
          options: dict[str, Any]) -> Any:
    """The runner of a half. options: what it alone has."""
    if who.python is not None:
        return ElsewhereRunner(Worker(who.python, who.framework), spec, weights, device, stages, **options)
    require(who.framework)
    if who.framework == "torch":
        from torch_reference.runner import TorchRunner
        return TorchRunner(spec, weights, device, stages, **options)
    from ms_models.runner import MindSporeRunner
    return MindSporeRunner(spec, weights, device, stages, **options)


def _open_mindir(model: LoadedModel, asked: Asked) -> Any:
    """A .mindir by its own graph, in MindSpore or MindSpore Lite."""
    who, path = asked.who, model.path
    if model.format != "mindir":
        raise DbnetError(f"{path}: is no .mindir, and --runner {who.here} runs the graph of one; make one: dbnet "
                         f"export {path.name} OUT.mindir --target {who.variant or 'lite'}")
    if asked.options.semantics or asked.options.output is not None:
        given = "--set" if asked.options.semantics else "--map-output"
        raise NoChoiceError(f"{path}: runs by its own graph in {who.here}; leave out {given}",
                            *(("output",) if given == "--map-output" else ()))
    return mindir_runner(path, delivered_spec(model, path, asked.options), asked)


def mindir_runner(path: Path, spec: AnySpec, asked: Asked) -> Any:
    """The same, whatever network it is. Raises DbnetError if it does not run."""
    who = asked.who
    if who.framework == "mindspore_lite":
        if who.python is not None:
            return ElsewhereGraphRunner(Worker(who.python, who.framework), path, spec, asked.place, asked.stages,
                                        asked.threads)
        from evaluation.lite_runner import LiteRunner
        return LiteRunner(path, spec, asked.place, asked.stages, asked.threads)
    if asked.threads is not None:
        _no_threads(asked.threads)
    if who.python is not None:
        opened: Any = ElsewhereGraphRunner(Worker(who.python, "mindspore"), path, spec, asked.device, asked.stages)
    else:
        require("mindspore")
        from ms_models.mindir import MindIRRunner
        opened = MindIRRunner(path, spec, asked.device, asked.stages)
    opened.spec, fit = fitted(spec, asked.options, opened.shape)
    opened.notes = [*opened.notes, *fit]
    return opened


# Graphs ---------------------------------------------------------------------------------------------------------------


def graph_runner(source: Path | bytes, spec: AnySpec, asked: Asked, stages: tuple[str, ...] | None) -> Any:
    """A graph as it is, in one of GRAPH_RUNNERS. Raises DbnetError, OtherGraphError if it gives other stages."""
    who = asked.who
    if who.framework == "onnxruntime":
        return OnnxRuntimeRunner(source, spec, asked.device, stages, asked.threads, asked.concurrent,
                                 ort=onnxruntime_of(who), provider=who.variant)
    if who.python is not None:
        return ElsewhereGraphRunner(Worker(who.python, who.framework), source, spec, asked.place, stages, asked.threads)
    if who.framework == "openvino":
        from evaluation.openvino_runner import OpenVinoRunner
        return OpenVinoRunner(source, spec, asked.place, stages, asked.threads, asked.concurrent)
    from evaluation.opencv_runner import OpenCvRunner
    return OpenCvRunner(source, spec, asked.device, stages, asked.threads, asked.concurrent)


def _open_graph(model: LoadedModel, asked: Asked) -> Any:
    options = asked.options
    if model.format == "onnx" and not options.semantics:
        try:
            return _as_it_is(model, asked)
        except OtherGraphError as error:
            if model.unread is not None or (error.foreign and not model.graph_read):
                raise  # another graph in its place would prove nothing about it
    elif model.unread is not None:
        raise DbnetError(f"{model.path}: {model.unread}; so it runs by its own graph only: leave out --set")
    stages = asked.stages or STAGES
    training = [stage for stage in stages if stage not in STAGES]
    if training:
        raise DbnetError(f"no stage {training[0]} in ONNX: it is computed in training only; use --runner torch")
    spec = model.record.spec
    if options.output is not None:
        raise NoChoiceError(f"{model.path}: does not run as it is, so no output is chosen; leave out --map-output",
                            "output")
    graph = archive(spec, model.weights, stages != ("probability",))
    opened = graph_runner(graph, spec, asked, stages)
    opened.digest = model.record.sha256
    return opened


def _as_it_is(model: LoadedModel, asked: Asked) -> Any:
    """An .onnx whose weights are known, by its own graph. Raises OtherGraphError if that gives other stages."""
    options, stages = asked.options, asked.stages
    outline = read_outline(model.path)
    check_locations(model.path, outline)
    note = read_delivery(model.path)
    spec = delivered_spec(model, model.path, options)
    try:
        if options.output is not None:
            raise OtherGraphError("an output was chosen", foreign=True)
        if note is None:
            opened = graph_runner(model.path, spec, asked, stages)
        else:
            opened = DeliveredRunner.opened(note, stages, lambda own: graph_runner(model.path, spec, asked, own),
                                            str(model.path))
            opened.recorded = recorded_pixels(model.path)
    except OtherGraphError as error:
        if not error.foreign or stages not in (None, ("probability",)):
            raise
        if asked.who.framework != "onnxruntime":
            raise DbnetError(f"{error}; a file with outputs of other names runs as it is in ONNX Runtime only, not in "
                             f"{asked.who.framework}; or export it: dbnet export {model.path.name} OUT.onnx") from error
        return OpaqueRunner(model.path, outline, spec, options, asked.device, asked.threads, asked.concurrent,
                            model.foreign, ort=onnxruntime_of(asked.who), provider=asked.who.variant)
    opened.spec, fit = fitted(spec, options, opened.shape)
    opened.notes = [*opened.notes, *fit]
    opened.digest = digest_of(model.path, outline)
    return opened


def delivered_spec(model: LoadedModel, path: Path, options: SourceOptions) -> ModelSpec:
    """With the pixels and boxes of the file where it says others than its record, and the user's before all. Raises
    DbnetError as `chosen_pixels` does.
    """
    note = read_delivery(path)
    if note is None:
        return model.record.spec
    return chosen_pixels(path, note, recorded_pixels(path), note.of(model.record.spec), options)


def chosen_pixels(path: Path, note: DeliveryNote, own: PixelFormat | None, spec: S, options: SourceOptions) -> S:
    """`spec` of an exported file with what the user says of its pixels. own: those of its record.

    Raises DbnetError for other colours, means or deviations than those that a front in the file makes its network's of.
    """
    if options.pixels is None:
        return spec
    chosen = pixel_choice(options.pixels).of(spec)
    fixed = note.pixels
    if own is not None and note.has_front(own) and note.has_front(chosen.pixels):
        mean, std = ("/".join(f"{value:g}" for value in values) for values in (fixed.mean, fixed.std))
        raise DbnetError(f"{path}: was exported for {note.target} and makes its network's pixels of {fixed.colour}, "
                         f"mean {mean}, std {std} itself; --pixels {options.pixels} says others: give resize and size "
                         f"alone, --pixels resize={chosen.pixels.resize},size={chosen.pixels.size[0]}x"
                         f"{chosen.pixels.size[1]}")
    return chosen


def archive(spec: ModelSpec, weights: Weights, stages: bool) -> bytes:
    """Our own graph of a model with float32 weights, without the training branch where that is not there."""
    alive = {name: array for name, array in runnable(spec, weights).items() if name in weights}
    stream = io.BytesIO()
    onnx_file.write(stream, alive, spec, None, form="archive", stages=stages)
    return stream.getvalue()
