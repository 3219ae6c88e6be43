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
from dbnet.extras import onnxruntime_errors
from dbnet.record import Record
from evaluation.elsewhere_wire import PROTOCOL, Wire

Answer = tuple[dict[str, Any], dict[str, np.ndarray]]
#: framework -> module and class of the half that is written in it.
_HALVES = {"torch": ("torch_reference.runner", "TorchRunner"), "mindspore": ("ms_models.runner", "MindSporeRunner")}


def main(folder: str, framework: str, read: int, write: int) -> None:
    """Serves until the other end of the pipes is closed. folder: of the copies, removed at the end."""
    threading.Thread(target=_end_with, args=(read, folder), daemon=True).start()
    wire = Wire(read, write)
    try:
        wire.send({"protocol": PROTOCOL, "python": ".".join(map(str, sys.version_info[:3])),
                   "numpy": np.__version__, "framework": framework})
        wire.send(*_imported(framework))
        server = OnnxServer() if framework == "onnxruntime" else HalfServer(framework)
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
        module = importlib.import_module(framework)
        told = {"version": str(module.__version__)}
        if framework == "onnxruntime":
            return {**told, "providers": module.get_available_providers()}, {}
        importlib.import_module(_HALVES[framework][0])
    except (ImportError, OSError, AttributeError) as error:
        return {"error": f"{framework} is installed but does not import ({type(error).__name__}: {error})"}, {}
    return told, {}


def _answer(server: HalfServer | OnnxServer, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Answer:
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


class HalfServer:
    """Models in torch or MindSpore."""

    def __init__(self, framework: str):
        module, kind = _HALVES[framework]
        self._kind = getattr(importlib.import_module(module), kind)
        self.opened: dict[int, Any] = {}
        self.work: dict[str, Callable[..., Answer]] = {"open": self.open, "run": self.run, "parts": self.parts}

    def open(self, arrays: Mapping[str, np.ndarray], number: int, record: str, options: dict[str, Any]) -> Answer:
        """arrays: the weights. options: arguments of the half's runner."""
        spec = Record.from_json(record, "the model").spec
        runner = self.opened[number] = self._kind(spec, arrays, **{**options, "stages": tuple(options["stages"])})
        return {"device": runner.device, "environment": runner.environment()}, {}

    def run(self, arrays: Mapping[str, np.ndarray], number: int) -> Answer:
        """arrays: `images`."""
        return {}, self.opened[number].run(arrays["images"])

    def parts(self, arrays: Mapping[str, np.ndarray], number: int) -> Answer:
        """arrays: `images`, and the stages that the others are computed from."""
        maps = {name: array for name, array in arrays.items() if name != "images"}
        return {}, self.opened[number].parts(arrays["images"], maps)


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
