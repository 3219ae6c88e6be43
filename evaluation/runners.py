"""Running a model file, whoever runs it: the same call, the same named stages."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from converters.load import LoadedModel, SourceOptions, load_model
from dbnet.errors import DbnetError, UnknownNetworkError
from dbnet.extras import installed
from dbnet.pixel_formats import AnySpec, pixel_choice
from dbnet.precision import check_precision
from dbnet.runner_names import FRAMEWORKS, parse_runner
from dbnet.running import check_stages
from evaluation.graph_files import MAX_AT_ONCE, cores
from evaluation.half import half_runner, open_half
from evaluation.onnx_runner import OnnxRuntimeRunner
from evaluation.opaque import open_unknown
from evaluation.opening import Asked, archive, open_known
from evaluation.weightless import is_weightless, open_weightless

__all__ = ["FRAMEWORKS", "MAX_AT_ONCE", "OnnxRuntimeRunner", "Runner", "archive", "cores", "open_loaded", "open_runner"]

#: Who runs a format unless told otherwise.
_OWN_RUNNER = {"onnx": "onnxruntime", "ckpt": "mindspore", "mindir": "mindspore"}

log = logging.getLogger("dbnet")


class Runner(Protocol):
    """A model, open in one framework. device: where it runs, in the framework's words.

    A runner may also have `at_once`: how many calls of `run` may be under way at once, in as many threads (1 where it
    does not say); `digest`: which model it runs (see `open_runner`); `weights_digest`: the sha256 of its canonical
    weights, None where they are not known; `notes`: what a user should know of how it was opened, one line each; and
    `title`: its name for people, where its framework is another environment's.
    """

    name: str
    device: str

    @property
    def spec(self) -> AnySpec:
        """What it computes, an `OpaqueSpec` if its network is not known; with its pixels and box rule."""

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """(N, 3, H, W) float32, normalised, sides multiples of 32 px -> each stage it was opened for, float32.

        Raises DbnetError for other arrays.
        """

    def environment(self) -> dict[str, Any]:
        """What can move a number: versions, device, driver, precision, HF32, jit level, threads. Plain values."""


def open_runner(path: str | Path, runner: str | None = None, device: str | None = None,
                stages: tuple[str, ...] | None = None, threads: int | None = None,
                options: SourceOptions | None = None, concurrent: bool = False, *, pixels: str | None = None,
                otherwise: AnySpec | None = None, precision: str = "float32",
                keep_float32: Collection[str] = ()) -> Runner:
    """Opens a weight file of any supported format for the `stages` wanted (names of `dbnet.spec`).

    stages: None means all, and of an .onnx in ONNX Runtime those that the file gives; ask for ("probability",) where
    nothing else is needed, for only what is asked for is computed and copied.

    runner: a name of `dbnet.runner_names`; default the format's own (torch for .safetensors and .pdparams), or the next
    that is installed, which is then logged. `torch:compile`: a variant. `torch@PYTHON`: that of another environment, in
    a process of its own (`evaluation.elsewhere`). device: `cpu`, `cuda:0`, `ascend`, ...; default the best present
    (`cpu` in ONNX Runtime, OpenVINO and OpenCV). threads: of the CPU's operators; not settable in MindSpore. options:
    what the file does not say itself. concurrent: see `OnnxRuntimeRunner`; only it and `OpenVinoRunner` have that
    choice. An .onnx runs as it is in ONNX Runtime, OpenVINO and OpenCV, with the pixels and the output that it was
    exported for, unless it lacks a stage or `options` change what it computes; every other file as the graph of our
    archive form there. The runner's `digest` is the sha256 of the canonical weights, or of the file that runs as it is.

    precision: `float32` whatever the weights are stored as, or `fp16`, `bf16`, in torch and in ONNX Runtime (there by
    the graph of our archive form, rounded after every operator). keep_float32: layers, or modules that hold some, that
    stay float32 then; see `dbnet.precision`.

    An .onnx of another network, or with other names than ours, runs as it is too, for the probability alone, and so
    does a .mindir of another network: see `evaluation.opaque`. pixels: the same as `options.pixels`, what goes in;
    needed where no record and no name tells. otherwise: whose pixels and boxes are taken where nothing else tells.

    Raises DbnetError if the file, the framework, the device or a stage is not to be had, or if another graph than the
    file's would run, which has the names of a network and computes something else; NoChoiceError for an option that
    means nothing to this file.
    """
    stages = None if stages is None else check_stages(stages)
    if runner is not None:
        parse_runner(runner)  # for its errors, before a file is read
    if threads is not None and threads < 1:
        raise DbnetError(f"threads must be at least 1, not {threads}")
    options = options or SourceOptions()
    options = options if pixels is None else replace(options, pixels=pixels)
    if options.pixels is not None:
        pixel_choice(options.pixels)  # for its errors, before a file is read
    check_precision(precision)
    if is_weightless(Path(path), runner):
        return open_weightless(Path(path), runner, device, stages, threads, options, concurrent, precision)
    try:
        model = load_model(path, options)
    except UnknownNetworkError as error:
        if precision != "float32":
            raise DbnetError(f"{error}; such a file runs as it is, so not in {precision}: leave out --precision, or "
                             f"convert it with the tool that made it") from error
        return open_unknown(Path(path), error, options, otherwise, runner, device, stages, threads, concurrent)
    return open_loaded(model, runner, device, stages, threads, options, concurrent, precision, keep_float32)


def open_loaded(model: LoadedModel, runner: str | None = None, device: str | None = None,
                stages: tuple[str, ...] | None = None, threads: int | None = None,
                options: SourceOptions | None = None, concurrent: bool = False, precision: str = "float32",
                keep_float32: Collection[str] = ()) -> Runner:
    """`open_runner` of a file that is read already, with the same `options`. Raises DbnetError."""
    options = options or SourceOptions()
    check_precision(precision)
    if precision == "float32":
        if keep_float32:
            raise DbnetError("--keep-float32 means nothing in float32; choose --precision fp16 or bf16")
        opened = open_known(model, Asked(parse_runner(runner or _choose(model)), device, stages, threads, concurrent,
                                         options))
    else:
        opened = open_half(model, runner or half_runner(model), device, stages, threads, options, concurrent,
                           precision=precision, keep_float32=keep_float32)
    opened.notes = [*_pixel_notes(model, options), *getattr(opened, "notes", ())]
    opened.weights_digest = None if model.unread else model.record.sha256
    return opened  # type: ignore[no-any-return]


def _pixel_notes(model: LoadedModel, options: SourceOptions) -> list[str]:
    """Whose pixels a known network gets, where a user should hear of it."""
    if options.pixels is None:
        return [note for note in model.notes if model.bare and "pixels" in note]
    whole = " and box rule" if pixel_choice(options.pixels).family else ""
    return [f"pixels{whole} as you say, {options.pixels}, not the model's own"]


def _choose(model: LoadedModel) -> str:
    """The format's own runner, or another that is installed. Raises DbnetError without any."""
    own = _OWN_RUNNER.get(model.format, "torch")
    for name in (own, "onnxruntime", "torch", "mindspore"):
        if installed(name):
            if name != own:
                log.warning("%s is not installed: %s runs in %s", own, model.path.name, name)
            return name
    raise DbnetError(f"no framework to run {model.path.name} in: pip install 'dbnet-parity[onnxruntime]'")
