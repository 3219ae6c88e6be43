"""Notices a foreign package where one of ours is expected.

`dbnet`, `converters` and `evaluation` are import names of other distributions on the package index. One of those can
stand in front of ours on `sys.path`, or be installed over ours in the same folder. Either way the user would meet an
AttributeError from code that has nothing to do with this project. Runs before every command, so it costs no import
and reads no other distribution unless something is wrong.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from dbnet.errors import DbnetError

#: The top-level packages of this distribution, beside `dbnet` itself.
PACKAGES = ("ms_models", "torch_reference", "converters", "evaluation", "parity")


def check_shadowing() -> None:
    """Checks that every package of ours is the one installed beside this file.

    Raises DbnetError, naming what stands in its place, if one is foreign, overwritten or missing.
    """
    home = Path(__file__).resolve().parents[1]
    for name in PACKAGES:
        found = _location(name)
        if found is None:
            raise DbnetError(f"the package {name} is missing from {home}; reinstall dbnet-parity")
        if found != home / name:
            raise DbnetError(f"another package {name} ({found}) hides the one of dbnet-parity in {home}; "
                             f"uninstall it, or leave the folder that holds it, or use an environment of its own")
    for record in home.glob("dbnet_parity-*.dist-info/RECORD"):
        _check_record(home, record)


def _location(name: str) -> Path | None:
    """The folder of the top-level package (or, for a foreign module, the file) that `import name` would take."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin).resolve() if spec.origin else None


def _check_record(home: Path, record: Path) -> None:
    """Compares the sizes of our installed modules with the list that pip wrote (lines `path,sha256=...,size`).

    A changed size alone is no error, somebody may be debugging; that another distribution lists the same file is.
    """
    for line in record.read_text(encoding="utf-8").splitlines():
        file, _, size = line.rsplit(",", 2)
        if not file.endswith(".py") or not size:
            continue
        if not (home / file).is_file():
            raise DbnetError(f"{home / file} is missing; reinstall dbnet-parity")
        if (home / file).stat().st_size != int(size) and (owner := _other_owner(home, record, file)):
            raise DbnetError(f"the distribution {owner} has overwritten {home / file}; uninstall it and reinstall "
                             f"dbnet-parity, or use an environment of its own")


def _other_owner(home: Path, ours: Path, file: str) -> str | None:
    """The distribution other than ours that lists `file` as its own."""
    for record in home.glob("*.dist-info/RECORD"):
        if record != ours and f"\n{file}," in "\n" + record.read_text(encoding="utf-8"):
            return record.parent.name.removesuffix(".dist-info").replace("-", " ")
    return None
