"""Optional packages: imported when a command needs them, and asked for in one line when they are missing."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType, ModuleType
from typing import Any

from dbnet.errors import DbnetError

#: import name -> (extra of this distribution, what it is needed for)
OPTIONAL = {
    "torch": ("torch", "the PyTorch half"),
    "mindspore": ("mindspore", "the MindSpore half"),
    "onnxruntime": ("onnxruntime", "running .onnx files"),
    "openvino": ("openvino", "running in OpenVINO"),
    "ray": ("ray", "working on a cluster (--ray)"),
}
#: What a package does without, and must. `import openvino` sends a message to Google Analytics, unless
#: openvino_telemetry cannot be imported meanwhile.
_WITHOUT = {"openvino": "openvino_telemetry"}


def module_of(framework: str) -> str:
    """The module of a framework that `--runner` names."""
    return "cv2" if framework == "opencv" else framework


def installed(module: str) -> bool:
    """True if `module` can be found, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # refused by an import hook, or half taken out of sys.modules
        return False


def require(module: str) -> ModuleType:
    """Imports an optional package.

    Raises DbnetError, naming the extra to install, if it is missing or broken; KeyboardInterrupt if a ^C came
    meanwhile, whatever the package made of it.
    """
    if module == "mindspore_lite" and not installed(module):
        raise DbnetError("mindspore_lite is not installed; no package index has it: its wheel comes with MindSpore "
                         "Lite, for some Pythons on Linux (mindspore.cn/lite, Downloads)")
    extra, purpose = OPTIONAL[module]
    if not installed(module):
        raise DbnetError(f"{module} is not installed, and {purpose} needs it: pip install 'dbnet-parity[{extra}]'")
    try:
        with _interrupts_stay_interrupts(), _hidden(_WITHOUT.get(module)):
            return importlib.import_module(module)
    except (ImportError, OSError, AttributeError) as error:
        raise DbnetError(f"{module} is installed but does not import ({error}); reinstall it: "
                         f"pip install --force-reinstall 'dbnet-parity[{extra}]'") from error


def onnxruntime_errors(ort: Any) -> tuple[type[Exception], ...]:
    """Everything that ONNX Runtime raises: its own exceptions share no base class; a message that is no text is a
    UnicodeDecodeError, which is a ValueError."""
    state = vars(ort.capi.onnxruntime_pybind11_state).values()
    own = (kind for kind in state if isinstance(kind, type) and issubclass(kind, Exception))
    return (*own, RuntimeError, ValueError)


@contextlib.contextmanager
def _hidden(module: str | None) -> Iterator[None]:
    """Nobody can import `module` within, as if it were not installed; unless somebody has already."""
    hide = module is not None and module not in sys.modules
    if hide:
        sys.modules[module] = None  # type: ignore[index, assignment]
    try:
        yield
    finally:
        if hide:
            sys.modules.pop(module, None)  # type: ignore[arg-type]


@contextlib.contextmanager
def _interrupts_stay_interrupts() -> Iterator[None]:
    """Raises KeyboardInterrupt for whatever became of one within. Extension modules turn it into an ImportError, often
    without a trace of the cause, and some packages go on without the part that it hit.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        signal.default_int_handler(number, frame)

    watched = threading.current_thread() is threading.main_thread() and \
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if watched:
        signal.signal(signal.SIGINT, note)
    try:
        yield
    except BaseException as error:
        if came or _of_interrupt(error):
            raise KeyboardInterrupt from error
        raise
    finally:
        if watched and signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt


def _of_interrupt(error: BaseException) -> bool:
    """Whether a KeyboardInterrupt is among the causes of an error."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        part = waiting.pop()
        if isinstance(part, KeyboardInterrupt):
            return True
        if part is not None and id(part) not in seen:
            seen.add(id(part))
            waiting += [part.__cause__, part.__context__]
    return False
