"""What a worker's process is. It is sent to the nodes as it is and needs nothing there but Python and Ray, so that it
can say what a node lacks before anything of ours is wanted from it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: Ours; a test compares with pyproject.toml.
PACKAGES = ("dbnet", "ms_models", "torch_reference", "converters", "evaluation", "parity")
#: What turns images into boxes and boxes into scores, by the names of `evaluation.versions`, and its module.
MODULES = {"numpy": "numpy", "opencv": "cv2", "pyclipper": "pyclipper", "shapely": "shapely"}


class Process:
    """One runner, opened once, that works on piece after piece."""

    opened: Any = None

    def about(self, distributions: Sequence[str]) -> dict[str, Any]:
        """Where it is, and what is installed there. distributions: any of them is the runner's framework."""
        ray = importlib.import_module("ray")
        return {"node": ray.get_runtime_context().get_node_id(), "host": socket.gethostname(), "pid": os.getpid(),
                "processor": _processor(), "versions": versions(distributions)}

    def open(self, opening: Any, cores: tuple[int, int] | None) -> Any:
        """`opening.open()` gives the runner, and what is told of it. cores: (n-th, how many of the node's) are taken;
        None leaves them all.
        """
        if cores is not None and hasattr(os, "sched_setaffinity"):
            mine = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, {mine[(cores[0] + i) % len(mine)] for i in range(cores[1])})
        self.opened, told = opening.open()
        return told

    def work(self, piece: Any) -> Any:
        """`piece.run(runner)`."""
        return piece.run(self.opened)


def versions(distributions: Sequence[str]) -> dict[str, str | None]:
    """By name, None for what is not there; `framework` last, unless there are no distributions to look for."""
    found = {"python": platform.python_version(), "dbnet-parity": _version("dbnet.version", "VERSION"),
             "dbnet-parity's source": _digest()}
    found |= {name: _version(module, "__version__") for name, module in MODULES.items()}
    if distributions:
        found["framework"] = next(filter(None, map(_distribution, distributions)), None)
    return found


def _version(module: str, name: str) -> str | None:
    try:
        return str(getattr(importlib.import_module(module), name, "unknown"))
    except (ImportError, OSError, AttributeError):
        return None


def _distribution(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _digest() -> str | None:
    """Of our modules: two checkouts may have one version. The first 12 digits of a SHA-256."""
    total = hashlib.sha256()
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        for folder in () if found is None else found.submodule_search_locations or ():
            for path in sorted(Path(folder).rglob("*.py")):
                total.update(f"{package}/{path.relative_to(folder).as_posix()}\n".encode() + path.read_bytes())
    return total.hexdigest()[:12]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
                platform.processor() or platform.machine())
