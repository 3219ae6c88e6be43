"""Which CANN is installed, Ascend's own software below every framework: read from its files, nothing of it is run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

#: Where its `set_env.sh` says that it lies.
HOMES = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
#: Where it says how it is called, below its home; the folders of processors have it in some versions.
_NAMES = ("ascend_toolkit_install.info", "*-linux/ascend_toolkit_install.info", "version.cfg", "compiler/version.info")
#: What MindSpore looks into.
_COMPILER = "compiler/version.info"


@dataclass(frozen=True)
class Cann:
    """home: its folder. version: as its installation calls itself, `8.0.RC2`; `unknown` if it does not tell. compiler:
    of its compiler, `7.3`, which is what MindSpore goes by; None if it does not tell.
    """

    home: Path
    version: str
    compiler: str | None


def find_cann(environ: Mapping[str, str]) -> Cann | None:
    """The installation that the environment names; None if none is named or its folder is not there."""
    home = next((Path(environ[name]) for name in HOMES if environ.get(name)), None)
    if home is None or not home.is_dir():
        return None
    names = (version for pattern in _NAMES for path in sorted(home.glob(pattern)) if (version := _told(path)))
    compiler = re.match(r"\d+\.\d+", _told(home / _COMPILER) or "")
    return Cann(home, next(names, "unknown"), compiler[0] if compiler else None)


def _told(path: Path) -> str | None:
    """The first version in a file of lines `name=value`."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return None
    pairs = (line.partition("=") for line in lines)
    # `Version=7.3.0.1.231`, `version=8.0.RC2`, `runtime_running_version=[7.3.0.1.231:8.0.RC2]`.
    found = (value.strip().strip("[]").rpartition(":")[2] for name, _, value in pairs if "version" in name.lower())
    return next(filter(None, found), None)
