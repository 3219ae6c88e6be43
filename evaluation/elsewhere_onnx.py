"""ONNX Runtime of another Python environment, with as much of its own interface as the runners here use."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from dbnet.errors import DbnetError
from dbnet.runner_names import RunnerName
from evaluation.elsewhere import Worker


class ElsewhereError(Exception):
    """What ONNX Runtime raised there."""


class OnnxRuntimeElsewhere:
    """In the place of the module: `OnnxRuntimeRunner(..., ort=...)`. Raises DbnetError as `Worker` does.

    A file is opened there by its path, with whatever weights lie beside it; bytes are sent. One call at a time.
    """

    #: Where `dbnet.extras.onnxruntime_errors` looks for what it raises.
    capi = SimpleNamespace(onnxruntime_pybind11_state=SimpleNamespace(ElsewhereError=ElsewhereError))

    def __init__(self, python: Path):
        self.worker = worker = Worker(python, "onnxruntime")
        self.__version__: str = worker.about["version"]
        self.title, self.notes = worker.title, [worker.note]
        self.told = {"numpy": worker.about["numpy"], "python": worker.about["python"], "process": "its own"}

    def get_available_providers(self) -> list[str]:
        return list(self.worker.about["providers"])

    def SessionOptions(self) -> SimpleNamespace:  # noqa: N802
        """Numbers and texts may be set on it."""
        return SimpleNamespace()

    def InferenceSession(self, source: str | bytes, settings: SimpleNamespace | None = None,  # noqa: N802
                         providers: Sequence[Any] = (), **_: Any) -> ElsewhereSession:
        """Raises ElsewhereError if it is refused there."""
        return ElsewhereSession(self.worker, source, vars(settings or SimpleNamespace()), providers)


def onnxruntime_of(who: RunnerName) -> OnnxRuntimeElsewhere | None:
    """None where it is this environment's own."""
    return None if who.python is None else OnnxRuntimeElsewhere(who.python)


class ElsewhereSession:
    """A session of a worker."""

    def __init__(self, worker: Worker, source: str | bytes, settings: dict[str, Any], providers: Sequence[Any]):
        self._worker, self._number = worker, worker.number()
        path = None if isinstance(source, bytes) else os.path.abspath(source)
        model = {"model": np.frombuffer(source, np.uint8)} if isinstance(source, bytes) else {}
        named = [each if isinstance(each, str) else [each[0], dict(each[1])] for each in providers]
        told, _ = _checked(worker.call("open", model, number=self._number, path=path, settings=settings,
                                       providers=named))
        self._inputs, self._outputs = ([SimpleNamespace(**each) for each in told[which]]
                                       for which in ("inputs", "outputs"))
        self._providers: list[str] = told["providers"]
        weakref.finalize(self, worker.forget, self._number).atexit = False

    def get_inputs(self) -> list[SimpleNamespace]:
        """Each with `name`, `type` and `shape`."""
        return self._inputs

    def get_outputs(self) -> list[SimpleNamespace]:
        return self._outputs

    def get_providers(self) -> list[str]:
        return self._providers

    def run(self, names: Sequence[str] | None, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Those outputs, None for all. Raises ElsewhereError for what ONNX Runtime says there."""
        wanted = [output.name for output in self._outputs] if names is None else list(names)
        _, found = _checked(self._worker.call("run", feed, number=self._number, outputs=wanted))
        if len(found) != len(wanted):
            raise DbnetError(f"{self._worker.title} gave {len(found)} arrays for {len(wanted)} outputs")
        return [found[str(i)] for i in range(len(wanted))]


def _checked(answer: tuple[dict[str, Any], dict[str, np.ndarray]]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if "failed" in answer[0]:
        raise ElsewhereError(answer[0]["failed"])
    return answer
