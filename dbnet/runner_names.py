"""What `--runner` names, NAME[:VARIANT][@PYTHON]: a framework, how it runs, and whose: `mindspore:O1@/env`."""

from __future__ import annotations

import difflib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from dbnet.errors import DbnetError, short
from dbnet.onnx_providers import PROVIDERS, short_name

#: They run the weights of any network that is known here, and give every stage of it.
FRAMEWORKS = ("torch", "mindspore", "onnxruntime")
#: Everything that `--runner` takes. The others run a file that is made for them, or our graph of the weights.
RUNNERS = (*FRAMEWORKS, "openvino", "opencv", "mindspore_lite")
#: How each can run, what it does without being told first. Of ONNX Runtime they are providers, by any of their names.
VARIANTS: dict[str, tuple[str, ...]] = {
    "torch": ("eager", "compile"),
    "mindspore": ("graph", "O0", "O1", "O2", "mindir"),
    "onnxruntime": tuple(PROVIDERS),
    "openvino": ("cpu", "gpu", "npu", "auto"),
    "opencv": (),
    "mindspore_lite": ("cpu", "ascend"),
}
#: What people call them.
_ALSO = {"pytorch": "torch", "ms": "mindspore", "ort": "onnxruntime", "onnx": "onnxruntime", "cv2": "opencv",
         "opencv_dnn": "opencv", "ov": "openvino", "mslite": "mindspore_lite", "lite": "mindspore_lite",
         "mindspore-lite": "mindspore_lite"}
#: Where an environment's folder has its interpreter.
_WITHIN = ("bin/python", "bin/python3", "python", "python3")


class RunnerNameError(DbnetError):
    """A name that means nothing on any machine: a slip of whoever typed it."""


@dataclass(frozen=True)
class RunnerName:
    """python: the interpreter of another environment, absolute, links as they are; None for this one. variant: one of
    VARIANTS, of ONNX Runtime a provider (`dbnet.onnx_providers`); None where none was said.
    """

    framework: str
    python: Path | None = None
    variant: str | None = None

    def __str__(self) -> str:
        return self.here if self.python is None else f"{self.here}@{self.python}"

    @property
    def says_device(self) -> bool:
        """Whether the variant is where it runs, so that no device need be named, and no other can."""
        return self.variant is not None and self.framework in ("onnxruntime", "openvino", "mindspore_lite")

    @property
    def here(self) -> str:
        """Without the interpreter: `mindspore:O1`."""
        return self.framework if self.variant is None else f"{self.framework}:{self.variant}"


def parse_runner(text: str) -> RunnerName:
    """`torch`, `torch:compile`, each also as `torch@PYTHON`: a path of an interpreter or of its environment's folder
    (relative, or with ~), or the name of a command. Raises RunnerNameError, and DbnetError if there is no such
    interpreter.
    """
    name, at, python = text.partition("@")
    framework, colon, variant = name.partition(":")
    if framework not in RUNNERS:
        raise RunnerNameError(f"unknown runner {short(text)!r}; {_instead(framework, python)}")
    chosen = _variant(framework, variant) if colon else None
    if at and not python.strip():
        raise RunnerNameError(f"{text}: the interpreter is missing; write {name}@/path/to/env/bin/python")
    return RunnerName(framework, find_python(python) if at else None, chosen)


def _instead(framework: str, python: str) -> str:
    """What to write in place of a name that is none."""
    if python and not framework:
        return f"write {RUNNERS[0]}@{short(python)}, say"
    choice = f"choose from {', '.join(RUNNERS)}, each also as NAME:VARIANT and NAME@PYTHON"
    word = framework.strip().lower()
    near = [_ALSO[word]] if word in _ALSO else difflib.get_close_matches(word, RUNNERS, 1)
    return f"did you mean {near[0]}? {choice}" if near else choice


def _variant(framework: str, text: str) -> str:
    """As it is written in VARIANTS. Raises RunnerNameError."""
    known = VARIANTS[framework]
    found = short_name(text) if framework == "onnxruntime" else \
        next((variant for variant in known if variant.lower() == text.lower()), None)
    if found is not None:
        return found
    if not known:
        raise RunnerNameError(f"unknown runner variant {short(f'{framework}:{text}')!r}; {framework} has none: write "
                              f"{framework}")
    if not text:
        raise RunnerNameError(f"{framework}: has a colon and no variant after it; write {framework}, or "
                              f"{framework}:VARIANT with one of {', '.join(known)}")
    kind, _, number = text.lower().partition(":")
    if number.isdecimal() and kind in known:
        raise RunnerNameError(f"unknown runner variant {short(f'{framework}:{text}')!r}; which of several devices is "
                              f"said apart: --runner {framework}:{kind} --device NAME:{short(number)}")
    near = difflib.get_close_matches(text.lower(), [variant.lower() for variant in known], 1)
    nearest = next((variant for variant in known if variant.lower() in near), None)
    raise RunnerNameError(f"unknown runner variant {short(f'{framework}:{text}')!r}; "
                          f"{f'did you mean {framework}:{nearest}? ' if nearest else ''}{framework} has "
                          f"{', '.join(known)}")


def find_python(text: str) -> Path:
    """An absolute path. Links stay: bin/python of a venv is one, and what it points to has other packages.

    Raises DbnetError if there is no program.
    """
    if "\0" in text:
        raise RunnerNameError(f"{short(text)}: is no path")
    try:
        # Not resolve(), nor normpath(), which make something else of a/../b where a is a link.
        path = Path(text).expanduser().absolute()
        if not path.exists() and "/" not in text and (found := shutil.which(text)):
            return Path(found).absolute()
        if path.is_dir():
            inside = next((path / name for name in _WITHIN if (path / name).is_file()), None)
            if inside is None:
                raise DbnetError(f"{path}: is a folder without bin/python, so no environment; name its interpreter, "
                                 f"NAME@/path/to/env/bin/python")
            path = inside
        if not path.is_file():
            link = f": a link to {os.readlink(path)}, which is gone" if path.is_symlink() else ""
            raise DbnetError(f"{path}: there is no such interpreter{link}; name the environment's bin/python")
    except (OSError, RuntimeError) as error:  # a name too long; nobody's ~
        why = short(getattr(error, "strerror", None) or error).rstrip(".")
        raise DbnetError(f"{short(text)}: cannot be looked up ({why}); name the environment's bin/python") from error
    if not os.access(path, os.X_OK):
        raise DbnetError(f"{path}: may not be run (no execute permission); name the environment's bin/python")
    return path
