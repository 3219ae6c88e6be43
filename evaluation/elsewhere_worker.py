"""Runs in another interpreter: opens models in the one framework it is started for, and runs them until nobody asks.

That interpreter has NumPy and the framework; this file and what it imports are copied (`dbnet.portable`). What goes
wrong in a way that is not foreseen ends the process, and its last words are told by who started it.
"""

from __future__ import annotations

import importlib
import os
import select
import shutil
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dbnet.errors import DbnetError
from dbnet.extras import module_of, onnxruntime_errors, require
from dbnet.record import Record, read_fields
from dbnet.spec import BoxRule, PixelFormat
from evaluation.elsewhere_wire import PROTOCOL, Wire
from evaluation.graph_files import OtherGraphError

Answer = tuple[dict[str, Any], dict[str, np.ndarray]]
#: framework -> module and class of the half that is written in it.
_HALVES = {"torch": ("torch_reference.runner", "TorchRunner"), "mindspore": ("ms_models.runner", "MindSporeRunner")}
#: framework -> module and class that runs a graph of a file in it.
_GRAPHS = {"mindspore": ("ms_models.mindir", "MindIRRunner"),
           "openvino": ("evaluation.openvino_runner", "OpenVinoRunner"),
           "opencv": ("evaluation.opencv_runner", "OpenCvRunner"),
           "mindspore_lite": ("evaluation.lite_runner", "LiteRunner")}


def main(folder: str, framework: str, read: int, write: int) -> None:
    """Serves until the other end of the pipes is closed. folder: of the copies, removed at the end."""
    threading.Thread(target=_end_with, args=(read, folder), daemon=True).start()
    wire = Wire(read, write)
    try:
        wire.send({"protocol": PROTOCOL, "python": ".".join(map(str, sys.version_info[:3])),
                   "numpy": np.__version__, "framework": framework})
        wire.send(*_imported(framework))
        server = OnnxServer() if framework == "onnxruntime" else FrameworkServer(framework)
        while True:
            header, arrays = wire.receive()
            wire.send(*_answer(server, header, arrays))
    except EOFError:  # nobody is there any more
        _leave(folder)
    finally:
        wire.say_no_more()  # what waits for an answer learns of it now, however long the end takes


def _end_with(descriptor: int, folder: str) -> None:
    """Ends this process with the one that asks, in the middle of a computation too."""
    poll = select.poll()
    poll.register(descriptor, 0)
    poll.poll()  # until nobody can write any more
    _leave(folder)


def _leave(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # frameworks take seconds to end otherwise, and some of them crash


def _imported(framework: str) -> Answer:
    """Its version, or what keeps it from being imported."""
    try:
        # OpenVINO's import would tell its maker.
        module = require(framework) if framework == "openvino" else importlib.import_module(module_of(framework))
        told = {"version": _version(framework, module)}
        if framework == "onnxruntime":
            return {**told, "providers": module.get_available_providers()}, {}
        importlib.import_module((_HALVES.get(framework) or _GRAPHS[framework])[0])
    except DbnetError as error:
        return {"error": str(error)}, {}
    except (ImportError, OSError, AttributeError) as error:
        return {"error": f"{framework} is installed but does not import ({type(error).__name__}: {error})"}, {}
    return told, {}


def _version(framework: str, module: Any) -> str:
    """Raises AttributeError where one that has a version does not tell it: it came in only half."""
    if framework == "mindspore_lite":
        return str(getattr(module, "__version__", "unknown"))
    version = str(module.__version__)
    return version.partition("-")[0] if framework == "openvino" else version  # OpenVINO's goes on with its build


def _answer(server: FrameworkServer | OnnxServer, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Answer:
    """What one of its methods, `header["do"]`, returns; `error` in place of it where that could not be done."""
    for number in header.pop("forget"):
        server.opened.pop(number, None)
    work = server.work[header.pop("do")]
    try:
        return work(arrays=arrays, **header)
    except DbnetError as error:
        return {"error": str(error)}, {}
    except MemoryError:
        return {"error": "there is not enough memory; try a smaller image"}, {}


class FrameworkServer:
    """Models in torch or MindSpore, and graphs of files in whatever runs them."""

    def __init__(self, framework: str):
        self._framework = framework
        self.opened: dict[int, Any] = {}
        self.work: dict[str, Callable[..., Answer]] = {
            "open": self.open, "open_graph": self.open_graph, "run": self.run, "parts": self.parts,
            "db_boxes": self.db_boxes}

    def open(self, arrays: Mapping[str, np.ndarray], number: int, record: str, options: dict[str, Any]) -> Answer:
        """arrays: the weights. options: arguments of the half's runner."""
        spec = Record.from_json(record, "the model").spec
        kind = _class(_HALVES[self._framework])
        runner = self.opened[number] = kind(spec, arrays, **{**options, "stages": tuple(options["stages"])})
        return {"device": runner.device, "environment": runner.environment()}, {}

    def open_graph(self, arrays: Mapping[str, np.ndarray], number: int, path: str | None, device: str | None,
                   stages: list[str] | None, options: dict[str, Any]) -> Answer:
        """arrays: the bytes of the file, `model`, where no path is given. options: what the runner takes beside.
        Whatever it is a model of is known to who asks.
        """
        source = path or arrays["model"].tobytes()
        try:
            runner = _class(_GRAPHS[self._framework])(source, None, device, None if stages is None else tuple(stages),
                                                      **options)
        except OtherGraphError as error:
            return {"other": str(error), "foreign": error.foreign}, {}
        self.opened[number] = runner
        return {"device": runner.device, "environment": runner.environment(), "stages": runner.stages,
                "shape": runner.shape, "threads": runner.threads, "digest": runner.digest, "notes": runner.notes}, {}

    def run(self, arrays: Mapping[str, np.ndarray], number: int) -> Answer:
        """arrays: `images`."""
        return {}, self.opened[number].run(arrays["images"])

    def parts(self, arrays: Mapping[str, np.ndarray], number: int) -> Answer:
        """arrays: `images`, and the stages that the others are computed from."""
        maps = {name: array for name, array in arrays.items() if name != "images"}
        return {}, self.opened[number].parts(arrays["images"], maps)


    def db_boxes(self, arrays: Mapping[str, np.ndarray], path: str, pixels: dict[str, Any],
                 rule: dict[str, Any]) -> Answer:
        """arrays: an `image`. What OpenCV's own text detection finds in it, see `evaluation.opencv_db`."""
        module = importlib.import_module("evaluation.opencv_db")  # copied for OpenCV alone
        found = module.db_api_boxes(path, arrays["image"], read_fields(PixelFormat, pixels), read_fields(BoxRule, rule))
        return {}, {"quads": np.array([quad for quad, _ in found], np.float32).reshape(-1, 4, 2),
                    "scores": np.array([score for _, score in found], np.float64)}


def _class(place: tuple[str, str]) -> Any:
    return getattr(importlib.import_module(place[0]), place[1])


class OnnxServer:
    """Sessions of ONNX Runtime. What this raises itself is `failed` in the answer."""

    def __init__(self) -> None:
        self._ort = importlib.import_module("onnxruntime")
        self._failures = onnxruntime_errors(self._ort)
        self.opened: dict[int, Any] = {}
        self.work: dict[str, Callable[..., Answer]] = {"open": self.open, "run": self.run}

    def open(self, arrays: Mapping[str, np.ndarray], number: int, path: str | None, settings: dict[str, Any],
             providers: list[Any]) -> Answer:
        """arrays: the bytes of the file, `model`, where no path is given."""
        options = self._ort.SessionOptions()
        for name, value in settings.items():
            setattr(options, name, value)
        named = [tuple(each) if isinstance(each, list) else each for each in providers]
        try:
            session = self._ort.InferenceSession(path or arrays["model"].tobytes(), options, providers=named,
                                                 enable_fallback=0)
            told = {"inputs": _nodes(session.get_inputs()), "outputs": _nodes(session.get_outputs())}
        except self._failures as error:
            return {"failed": str(error)}, {}
        self.opened[number] = session
        return {**told, "providers": session.get_providers()}, {}

    def run(self, arrays: Mapping[str, np.ndarray], number: int, outputs: list[str]) -> Answer:
        """arrays: what goes in, by name. What comes out is named 0, 1, ... in the order of `outputs`."""
        try:
            found = self.opened[number].run(outputs, dict(arrays))
        except self._failures as error:
            return {"failed": str(error)}, {}
        other = [name for name, map_ in zip(outputs, found, strict=True)
                 if not isinstance(map_, np.ndarray) or map_.dtype.kind not in "fiub"]
        if other:
            return {"failed": f"its output {other[0]} holds no numbers"}, {}
        return {}, {str(i): array for i, array in enumerate(found)}


def _nodes(nodes: Any) -> list[dict[str, Any]]:
    """Inputs or outputs of a session."""
    return [{"name": node.name, "type": node.type, "shape": list(node.shape)} for node in nodes]
