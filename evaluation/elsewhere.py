"""A framework of another Python environment, in a process of its own: other versions side by side, crashes apart.

The other interpreter needs NumPy and the framework, nothing of ours: see `evaluation.elsewhere_worker`.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dbnet.errors import DbnetError, short
from dbnet.extras import module_of
from dbnet.portable import copy_modules
from dbnet.record import Record
from dbnet.running import check_images, check_stages, require_training_branch
from dbnet.spec import STAGES, ModelSpec
from evaluation.elsewhere_end import how_it_ended, package_of, status_within, why_it_did_not_start
from evaluation.elsewhere_wire import PROTOCOL, Wire, WireError

#: Seconds for an interpreter to start, and then for the framework to be imported, which a cold disk makes long.
START_SECONDS, IMPORT_SECONDS = 60.0, 600.0
#: Seconds that a process has for its own end.
PATIENCE = 5.0
#: Bytes of what a worker printed last that are kept.
_KEPT = 1 << 16
#: framework -> our modules that run it, copied for it.
_ENTRIES = {"torch": ["torch_reference.runner"], "mindspore": ["ms_models.runner", "ms_models.mindir"],
            "openvino": ["evaluation.openvino_runner"], "opencv": ["evaluation.opencv_runner", "evaluation.opencv_db"],
            "mindspore_lite": ["evaluation.lite_runner"]}
#: What such a module imports beside the framework, which needs it itself.
_ALONG = {"mindspore": ("google",)}
#: Read by any Python, however old.
_START = """
import sys
if sys.version_info < (3, 10):
    sys.exit("dbnet: old %d.%d" % sys.version_info[:2])
import importlib.util
sys.path.insert(0, sys.argv[1])
for name in ("numpy", sys.argv[5]):
    if importlib.util.find_spec(name) is None:
        sys.exit("dbnet: lacks " + name)
from evaluation.elsewhere_worker import main
main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
"""


class Worker:
    """A process of another interpreter that has imported one framework, and answers until this object is gone.

    about: `version`, `python`, `numpy`, and `providers` of ONNX Runtime. start_seconds: until then; import_seconds: of
    the framework. Raises DbnetError if it does not come to that.
    """

    def __init__(self, python: Path, framework: str):
        self.python, self.framework = python.absolute(), framework
        self._lock, self._numbers = threading.Lock(), itertools.count()
        self._forgotten: list[int] = []
        self._over: str | None = None
        begin, self.import_seconds = time.perf_counter(), 0.0
        folder = _copies(framework)
        try:
            self._process, self._wire = _start(self.python, framework, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._words: deque[bytes] = deque(maxlen=64)
        self._listener = threading.Thread(target=_listen, args=(self._process.stdout, self._words), daemon=True)
        self._listener.start()
        self.close = weakref.finalize(self, _end, os.getpid(), self._process, self._wire, self._listener, folder)
        self.about: dict[str, Any] = {}
        try:
            self.about = self._greeted()
        except BaseException:
            self._process.kill()
            self.close()
            raise
        self.start_seconds = time.perf_counter() - begin

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def title(self) -> str:
        """For people; no path of this machine."""
        return f"{self.framework} {self.about['version']} of another environment"

    @property
    def note(self) -> str:
        return f"runs in {self.title} (Python {self.about['python']}, NumPy {self.about['numpy']})"

    def _greeted(self) -> dict[str, Any]:
        try:
            hello, _ = self._wire.receive(START_SECONDS)
            if (hello.get("protocol"), hello.get("framework")) != (PROTOCOL, self.framework):
                raise WireError("another program answered")
            begin = time.perf_counter()
            ready, _ = self._wire.receive(IMPORT_SECONDS)
            self.import_seconds = time.perf_counter() - begin
        except TimeoutError:
            raise DbnetError(f"{self.python}: did not come to import {self.framework} in time; does it start by "
                             f"hand? {self.python} -c 'import {module_of(self.framework)}'") from None
        except (EOFError, WireError) as error:
            raise DbnetError(why_it_did_not_start(self.python, self.framework, status_within(PATIENCE, self._process),
                                                  self._last_words(), short(error))) from error
        if "error" in ready:
            raise DbnetError(f"{self.python}: {short(ready['error'])}; install it again there: {self.python} -m pip "
                             f"install --force-reinstall {package_of(module_of(self.framework))}")
        return {**hello, **ready}

    def number(self) -> int:
        """For the next model that is opened."""
        return next(self._numbers)

    def forget(self, number: int) -> None:
        """A model that is not needed any more; the worker hears of it with the next call."""
        self._forgotten.append(number)

    def call(self, do: str, arrays: Mapping[str, np.ndarray],
             **header: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The worker's answer. Raises DbnetError for what it could not do, and if it is gone, or goes meanwhile."""
        with self._lock:
            if self._over is not None:
                raise DbnetError(self._over)
            forgotten, self._forgotten = self._forgotten, []
            try:
                self._wire.send({"do": do, "forget": forgotten, **header}, arrays)
                answer, found = self._wire.receive()
            except (EOFError, BrokenPipeError, WireError) as error:
                ended = how_it_ended(self.framework, self.python, status_within(PATIENCE, self._process),
                                     self._last_words(), short(error))
                self._stop(f"not run: {ended} before; start again, without what it was running then")
                raise DbnetError(ended) from error
            except BaseException:  # an interrupt: what comes next on the pipes belongs to nobody
                self._stop(f"not run: {self.framework} of {self.python} was interrupted before")
                raise
        if "error" in answer:
            raise DbnetError(str(answer["error"]))
        return answer, found

    def _stop(self, why: str) -> None:
        self._over = why
        self.close()

    def _last_words(self) -> list[str]:
        self._listener.join(1)  # with what the process left in the pipe
        lines = b"".join(self._words).decode(errors="replace").splitlines()
        return [line.strip() for line in lines if line.strip()]


class ElsewhereRunner:
    """A model in torch or MindSpore of a worker; see `evaluation.runners.Runner`. It gives `parts` as both halves do.

    weights: canonical names, any float type. options: what else the half's own runner takes, plain values.
    """

    digest: str | None = None
    weights_digest: str | None = None
    at_once = 1

    def __init__(self, worker: Worker, spec: ModelSpec, weights: Mapping[str, np.ndarray], device: str | None = None,
                 stages: tuple[str, ...] = ("probability",), **options: Any):
        self.name, self.title, self.spec, self.worker = worker.framework, worker.title, spec, worker
        self.stages, self._weights, self._options = check_stages(stages), weights, options
        self.notes = [worker.note]
        self.threads: int | None = options.get("threads")
        require_training_branch(self.stages, weights)
        self._number = worker.number()
        plain = {name: np.asarray(array, np.float32) for name, array in weights.items()}  # bfloat16 is not NumPy's
        answer, _ = worker.call("open", plain, number=self._number, record=Record(spec, "").to_json(),
                                options={"device": device, "stages": self.stages, **options})
        self._asked: str | None = device
        self.device: str = answer["device"]
        self._environment = {**answer["environment"], "python": worker.about["python"], "process": "its own"}
        weakref.finalize(self, worker.forget, self._number).atexit = False

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The stages of (N, 3, H, W) float32 images, which must be multiples of 32 px. Raises DbnetError otherwise."""
        return self._maps("run", {"images": check_images(images)}, self.stages)

    def parts(self, images: np.ndarray, maps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every stage from the `maps` given for those before it. Raises DbnetError."""
        given = {stage: np.asarray(maps[stage], np.float32) for stage in STAGES}
        return self._maps("parts", {"images": check_images(images), **given}, STAGES)

    def narrowed(self, stages: tuple[str, ...]) -> ElsewhereRunner:
        """The same model for other stages, in the same process."""
        other = ElsewhereRunner(self.worker, self.spec, self._weights, self._asked, stages, **self._options)
        other.digest, other.weights_digest, other.notes = self.digest, self.weights_digest, self.notes
        return other

    def environment(self) -> dict[str, Any]:
        """What can move a number, as the other environment tells it; known when it has crashed, too."""
        return dict(self._environment)

    def _maps(self, do: str, arrays: Mapping[str, np.ndarray], stages: tuple[str, ...]) -> dict[str, np.ndarray]:
        _, found = self.worker.call(do, arrays, number=self._number)
        return {stage: found[stage] for stage in stages}


def _copies(framework: str) -> Path:
    """A new folder with what the worker imports."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="dbnet-"))
    except OSError as error:
        raise DbnetError(f"there is no room for temporary files ({error.strerror}); set TMPDIR to a folder with "
                         f"some") from error
    entries = ["evaluation.elsewhere_worker", *_ENTRIES.get(framework, [])]
    try:
        copy_modules(folder, entries, ("numpy", module_of(framework), *_ALONG.get(framework, ())))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _start(python: Path, framework: str, folder: Path) -> tuple[subprocess.Popen[bytes], Wire]:
    """Both talk over pipes of their own, for frameworks print on standard output."""
    (their_read, our_write), (our_read, their_write) = os.pipe(), os.pipe()
    wire = Wire(our_read, our_write)
    command = [str(python), "-c", _START, str(folder), framework, str(their_read), str(their_write),
               module_of(framework)]
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   pass_fds=(their_read, their_write), cwd=folder, env=_environment(),
                                   start_new_session=True)  # a terminal's ^C is for this process alone
    except OSError as error:
        wire.close()
        raise DbnetError(f"{python}: cannot be started ({error.strerror}), so it is no Python for this machine; name "
                         f"the environment's bin/python") from error
    finally:
        os.close(their_read)
        os.close(their_write)
    return process, wire


def _environment() -> dict[str, str]:
    """This process's, without what says where this Python's packages and libraries are (MindSpore adds its own)."""
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith("PYTHON") and name not in ("VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT")}
    libraries = [path for path in kept.get("LD_LIBRARY_PATH", "").split(os.pathsep)
                 if path and not Path(path).is_relative_to(sys.prefix)]
    kept.pop("LD_LIBRARY_PATH", None)
    return kept | ({"LD_LIBRARY_PATH": os.pathsep.join(libraries)} if libraries else {}) | {
        "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}


def _listen(stream: Any, words: deque[bytes]) -> None:
    """Keeps what a worker prints from filling its pipe, and the last of it."""
    with stream:
        while chunk := os.read(stream.fileno(), _KEPT // 64):
            words.append(chunk)


def _end(owner: int, process: subprocess.Popen[bytes], wire: Wire, listener: threading.Thread, folder: Path) -> None:
    if os.getpid() != owner:  # a fork of this process comes to its end
        return
    wire.close()  # which ends it
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    listener.join(1)
    shutil.rmtree(folder, ignore_errors=True)
