"""What `--runner` names: a framework of this environment, or one of another: `mindspore@/path/to/env/bin/python`."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from dbnet.errors import DbnetError, short

RUNNERS = ("torch", "mindspore", "onnxruntime")
#: Where an environment's folder has its interpreter.
_WITHIN = ("bin/python", "bin/python3", "python", "python3")


class RunnerNameError(DbnetError):
    """A name that means nothing on any machine: a slip of whoever typed it."""


@dataclass(frozen=True)
class RunnerName:
    """python: the interpreter of another environment, absolute, links as they are; None for this one."""

    framework: str
    python: Path | None = None

    def __str__(self) -> str:
        return self.framework if self.python is None else f"{self.framework}@{self.python}"


def parse_runner(text: str) -> RunnerName:
    """`torch`, or `torch@PYTHON`: a path of an interpreter or of its environment's folder (relative, or with ~), or
    the name of a command. Raises RunnerNameError, and DbnetError if there is no such interpreter.
    """
    framework, at, python = text.partition("@")
    if framework not in RUNNERS:
        way = f"write {RUNNERS[0]}@{short(python)}, say" if python and not framework else \
            f"choose from {', '.join(RUNNERS)}, each also as NAME@PYTHON"
        raise RunnerNameError(f"unknown runner {short(text)!r}; {way}")
    if at and not python.strip():
        raise RunnerNameError(f"{text}: the interpreter is missing; write {framework}@/path/to/env/bin/python")
    return RunnerName(framework, find_python(python) if at else None)


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
