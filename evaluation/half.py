"""Opening a model in half precision: which framework can, and what is told of it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from converters.load import LoadedModel, NoChoiceError, SourceOptions
from dbnet.errors import DbnetError
from dbnet.extras import installed, require
from dbnet.precision import HalfFormat, kept_layers
from dbnet.runner_names import parse_runner
from dbnet.spec import STAGES
from evaluation.elsewhere import ElsewhereRunner, Worker
from evaluation.elsewhere_onnx import onnxruntime_of
from evaluation.onnx_half import HalfOnnxRunner

#: Who computes in half precision.
HALF_RUNNERS = ("torch", "onnxruntime")


def half_runner(model: LoadedModel, prefer: str | None = None) -> str:
    """Who runs it unless told otherwise. prefer: asked for first. Raises DbnetError if neither is installed."""
    order = HALF_RUNNERS[::-1] if model.format == "onnx" else HALF_RUNNERS
    for name in order if prefer is None else (prefer, *order):
        if installed(name):
            return name
    raise DbnetError("half precision runs in torch and ONNX Runtime: pip install 'dbnet-parity[onnxruntime]'")


def open_half(model: LoadedModel, runner: str, device: str | None, stages: tuple[str, ...] | None,
              threads: int | None, options: SourceOptions, concurrent: bool = False, *, precision: str,
              keep_float32: Collection[str] = (), counting: HalfFormat | None = None) -> Any:
    """A TorchRunner, HalfOnnxRunner, or ElsewhereRunner in torch. precision: `float32` too, for counting. counting:
    what its `counts` tell.

    Raises DbnetError for another framework, for weights that are not known, and for an unknown layer.
    """
    who = parse_runner(runner)
    if who.framework not in HALF_RUNNERS:
        raise DbnetError(f"--precision {precision}: {' and '.join(HALF_RUNNERS)} only here, not {who.framework}; add "
                         f"--runner torch")
    if who.variant not in (None, "eager", "cpu", "cuda"):
        raise DbnetError(f"--precision {precision}: is computed in {who.framework} as it comes, not in {who.here}; "
                         f"write --runner {who.framework}")
    if who.python is not None and counting is not None:
        raise DbnetError(f"--runner {who}: is counted in this environment only; leave out @PYTHON")
    if model.unread is not None:
        raise DbnetError(f"{model.path}: {model.unread}; so its own graph is all there is, which is not rounded to "
                         f"{precision}: leave out --precision")
    if options.output is not None:
        raise NoChoiceError(f"{model.path}: in {precision} it does not run as it is, so no output is chosen; leave out "
                            f"--map-output", "output")
    spec, weights = model.record.spec, model.weights
    kept_layers(spec, keep_float32)  # for its errors, before a framework is imported
    if who.python is None:
        require(who.framework)
    opened: Any
    if who.python is not None and who.framework == "torch":
        opened = ElsewhereRunner(Worker(who.python, "torch"), spec, weights, device, stages or STAGES, threads=threads,
                                 precision=precision, keep_float32=sorted(keep_float32))
    elif who.framework == "torch":
        from torch_reference.runner import TorchRunner
        opened = TorchRunner(spec, weights, device, stages or STAGES, threads, precision,  # type: ignore[arg-type]
                             keep_float32)
        if counting is not None:
            opened.count(counting)
    else:
        opened = HalfOnnxRunner(spec, weights, device, stages or STAGES, threads, concurrent,
                                precision=precision, keep_float32=keep_float32,  # type: ignore[arg-type]
                                counting=counting, ort=onnxruntime_of(who), provider=who.variant)
        if model.format == "onnx" and precision != "float32":
            opened.notes.append(f"{precision} by the graph that is written for its weights, not by the file's own")
    opened.digest = model.record.sha256
    if precision != "float32":
        opened.title = f"{getattr(opened, 'title', opened.name)} in {precision}"
    return opened
