"""The part of a kit's run that has MindSpore in it: one process, one way of computing, one compilation.

Takes a job as JSON on its command line and orders on standard input, a line of JSON each, and answers each of them with
one. What MindSpore prints goes to standard error.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dbnet.errors import DbnetError, short
from dbnet.record import Record
from dbnet.spec import STAGES
from parity.trace import PIXELS, Recorder, TracedImage, machine
from parity.trace_file import read_trace, write_traces
from parity.trace_statistics import sha256_of

#: PR_SET_PDEATHSIG of Linux.
_DIE_WITH_PARENT = 1
#: What the import of a MindSpore raises whose libraries or CANN do not fit.
_IMPORTING = (ImportError, OSError, RuntimeError, ValueError, TypeError, AttributeError)


def main() -> None:
    """Serves until there are no more orders."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(data: dict[str, Any]) -> None:
        answers.write(json.dumps(data) + "\n")
        answers.flush()

    job = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(job["parent"])
    problem = _import_problem()
    if problem is not None:
        answer(problem)
        return
    try:
        serve: Callable[[dict[str, Any]], dict[str, Any]]
        if job["do"] == "preflight":
            answer(_preflight(job))
            return
        began = time.monotonic()
        worker = Worker(job)
        answer({"seconds": time.monotonic() - began, "environment": worker.runner.environment()})
        serve = worker.serve
        for line in sys.stdin:
            answer(_told(serve, json.loads(line)))
    except DbnetError as error:
        answer({"error": str(error)})


def _import_problem() -> dict[str, Any] | None:
    """Why MindSpore does not import, None if it does. absent: it is not installed here."""
    try:
        import mindspore  # noqa: F401
    except _IMPORTING as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == "mindspore"
        return {"error": f"MindSpore does not import: {short(str(error).strip() or type(error).__name__)}",
                "absent": absent}
    return None


def _told(serve: Callable[[dict[str, Any]], dict[str, Any]], order: dict[str, Any]) -> dict[str, Any]:
    try:
        return serve(order)
    except DbnetError as error:
        return {"error": str(error)}


def _die_with(parent: int) -> None:
    """Has the system end this process when the one that started it is gone, however that ended: an NPU must not stay
    taken by nobody."""
    with contextlib.suppress(OSError, AttributeError):  # another system than Linux
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


class Worker:
    """A network in MindSpore, with all stages in one graph or, for its time, with the probability alone."""

    def __init__(self, job: dict[str, Any]):
        import mindspore as ms

        from ms_models.runner import MindSporeRunner
        self._folder = Path(job["folder"])
        self._kit = json.loads((self._folder / "kit.json").read_bytes())
        path = self._folder / "model.ckpt"
        try:
            loaded = ms.load_checkpoint(str(path))
        except (RuntimeError, ValueError) as error:
            raise DbnetError(f"{path}: MindSpore {ms.__version__} cannot load it: {short(error)}") from error
        weights = {name: value.asnumpy() for name, value in loaded.items() if not isinstance(value, str)}
        self._record = Record.from_json(self._kit["about"]["record"], "kit.json")
        self._stages = ("probability",) if job["stages"] == "probability" else STAGES
        self.runner = MindSporeRunner(self._record.spec, weights, job["device"], self._stages, job["jit_level"],
                                      job["mode"])
        self.runner.digest = self._record.sha256
        self._mode = job["mode"]

    def serve(self, order: dict[str, Any]) -> dict[str, Any]:
        """Raises DbnetError if MindSpore fails."""
        entry = self._kit["tiny"] if order["image"] < 0 else self._kit["images"][order["image"]]
        tensor = np.load(self._folder / entry["file"], allow_pickle=False)
        if order["kind"] == "timing":
            return self._timing(tensor, order["runs"])
        if order["kind"] == "repeat":
            return self._repeat(tensor, Path(order["trace"]))
        return self._record_image(tensor, entry, Path(order["trace"]), order["level"])

    def _record_image(self, tensor: np.ndarray, entry: dict[str, Any], path: Path, level: str) -> dict[str, Any]:
        began = time.monotonic()
        maps = self.runner.run(tensor)
        first = time.monotonic() - began
        began = time.monotonic()
        second = None
        if level == "full":  # the first call of the small picture holds the compilation; a second one tells how much
            self.runner.run(tensor)
            second = time.monotonic() - began
        began = time.monotonic()
        recorder = Recorder(self._about(), (PIXELS, *self._stages), level, keep=("probability",))
        recorder.add(traced_image(entry), {PIXELS: tensor, **maps})
        write_traces(path, {"image": recorder.trace()}, force=True)
        return {"first": first, "second": second, "kept": time.monotonic() - began}

    def _repeat(self, tensor: np.ndarray, path: Path) -> dict[str, Any]:
        """Whether another process gives the same bits."""
        before, began = read_trace(path), time.monotonic()
        maps = {PIXELS: tensor, **self.runner.run(tensor)}
        differ = [stage for stage in before.stages
                  if sha256_of(np.ascontiguousarray(maps[stage], np.float32)).tobytes().hex()
                  != before.sha256(0, stage)]
        return {"first": time.monotonic() - began, "differ": differ}

    def _timing(self, tensor: np.ndarray, runs: int) -> dict[str, Any]:
        seconds = []
        for _ in range(runs + 1):
            began = time.monotonic()
            self.runner.run(tensor)
            seconds.append(time.monotonic() - began)
        return {"first": seconds[0], "each": seconds[1:], "shape": list(tensor.shape)}

    def _about(self) -> dict[str, Any]:
        """As `parity.traced.about_of` has it, of what there is here."""
        environment = json.loads(json.dumps(self.runner.environment() | {"arithmetic": self._mode}))
        versions = {"dbnet-parity": self._kit["version"], "python": platform.python_version(), "numpy": np.__version__,
                    "mindspore": environment["version"]}
        return {**self._kit["about"], "runner": self.runner.name, "device": self.runner.device,
                "environment": environment, "machine": machine(), "versions": versions, "notes": []}


def traced_image(entry: dict[str, Any]) -> TracedImage:
    """Of an entry of kit.json."""
    return TracedImage(entry["name"], entry["sha256"], *(tuple(entry[key]) for key in ("size", "covered", "shape")))


def _preflight(job: dict[str, Any]) -> dict[str, Any]:
    """What only MindSpore knows: its version, and whether it has the device."""
    import mindspore as ms

    from dbnet.running import driver_version, parse_device
    from ms_models import compat
    device = parse_device(job["device"])
    told = {"mindspore": ms.__version__, "numpy": np.__version__, "cann_wanted": compat.cann_wanted(),
            "driver": driver_version(device.kind), "device": None, "chip": None}
    try:
        compat.set_device(device)
        if device.kind == "ascend" and hasattr(ms, "device_context"):
            with compat.quiet():
                told["chip"] = compat.device_name(device)
                if not ms.device_context.ascend.is_available():
                    why = _plugin_problem()
                    return told | {"device": "its package finds no Ascend plugin that loads" + (f" ({why})" if why
                                                                                                else "")}
                count = ms.device_context.ascend.device_count()
                if device.index >= count:
                    there = f"there {'is' if count == 1 else 'are'} {count}"
                    return told | {"device": f"{there}, so the last is Ascend:{count - 1}"}
    except (DbnetError, RuntimeError, ValueError) as error:
        told["device"] = compat.first_sentence(error.__cause__ or error)
        if device.kind == "ascend" and (why := _plugin_problem()):
            told["device"] += f" ({why})"
    return told


def _plugin_problem() -> str | None:
    """Why MindSpore's own libraries for Ascend could not be loaded, by a part that no document promises; None if it is
    mute."""
    try:
        from mindspore._c_expression import MSContext
        lines = str(MSContext.get_instance().load_plugin_error()).splitlines()
    except (ImportError, AttributeError, RuntimeError, TypeError):
        return None
    # Of several libraries the first is the one that the others wait for.
    return next((short(line.strip().rstrip(".")) for line in lines if line.strip()), None)
