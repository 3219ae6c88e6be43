"""The folder of a hand-off: what in it is ours, what is in the way, and how a new one takes an earlier one's place.

A file is an earlier hand-off's if our mark in the folder names it and it still has the digest that stands there. Links
are never followed out of the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from dbnet.version import VERSION
from evaluation.delivery.handoff_data import SCENES

SUMS = "SHA256SUMS"
#: Names what a hand-off wrote, with digests: only that is replaced.
MARK = ".dbnet-handoff.json"
#: What stands in it, so that nobody's file is taken for one.
TITLE = "hand-off of dbnet-parity"
#: Files of every hand-off, or of most.
TEXTS = ("README.md", "verify.py", "detect.cpp", "network.hpp", "check.hpp", "CMakeLists.txt", "preprocess.json", SUMS,
         MARK)
IMAGES = ("README.txt", *(f"scene_{number}.png" for number in range(len(SCENES))))
SET = "test_data_set_"


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def seal(made: Path, own: Iterable[str]) -> None:
    """Writes SHA256SUMS, as `sha256sum -c` reads it, and the mark. own: names that the mark leaves out, because they
    are the user's: an exported file that the hand-off is made around.
    """
    files = sorted(path for path in made.rglob("*") if path.is_file())
    digests = {path.relative_to(made).as_posix(): sha256(path) for path in files}
    (made / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()), encoding="utf-8")
    digests[SUMS] = sha256(made / SUMS)
    told = {"written_by": TITLE, "version": VERSION,
            "about": "files that still have these digests are replaced by the next hand-off with --force",
            "files": {name: digest for name, digest in digests.items() if name not in own}}
    (made / MARK).write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def own_files(folder: Path, files: Iterable[Path]) -> set[str]:
    """Of the exported files the names of those that lie in the folder themselves."""
    return {path.name for path in files if path.exists() and (folder / path.name).exists()
            and os.path.samefile(path, folder / path.name)}


def in_the_way(folder: Path, files: Sequence[Path] = ()) -> list[str]:
    """Names of what lies where a hand-off writes, and is no earlier one's, or was changed since. Raises OSError."""
    own = own_files(folder, files)
    ours = {*_earlier(folder), *own}
    names = dict.fromkeys([*TEXTS, *(path.name for path in files)])
    found = [name for name in names if os.path.lexists(folder / name)]
    for holder in sorted(folder.iterdir()):
        if holder.name != "images" and not holder.name.startswith(SET):
            continue
        if holder.is_symlink() or not holder.is_dir():
            found.append(holder.name)
        else:  # verify.py takes every data set that it finds
            found += [f"{holder.name}/{path.name}" for path in sorted(holder.iterdir())
                      if holder.name != "images" or path.name in IMAGES]
    return [name for name in found if name not in ours]


def place(made: Path, folder: Path, files: Sequence[Path]) -> None:
    """Moves everything to the folder and an earlier hand-off's files away: all or nothing. Raises OSError."""
    if not os.path.lexists(folder):
        os.replace(made, folder)
        return
    own = own_files(folder, files)
    new = sorted(path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file())
    new = [name for name in new if name not in own]
    earlier = sorted(set(_earlier(folder)) - own)
    old = Path(tempfile.mkdtemp(prefix=".old-", dir=made))
    put: list[str] = []
    done = False
    try:
        for name in earlier:
            (old / name).parent.mkdir(exist_ok=True)
            os.replace(folder / name, old / name)
        for name in new:
            (folder / name).parent.mkdir(exist_ok=True)
            put.append(name)
            os.replace(made / name, folder / name)
        done = True
    finally:
        if not done:
            _undo(folder, old, put, earlier)
        for holder in {Path(name).parent for name in (*earlier, *new) if "/" in name}:
            if (folder / holder).is_dir() and not os.listdir(folder / holder):
                (folder / holder).rmdir()


def _undo(folder: Path, old: Path, put: Sequence[str], earlier: Sequence[str]) -> None:
    for name in put:
        (folder / name).unlink(missing_ok=True)
    for name in earlier:
        if (old / name).exists():
            (folder / name).parent.mkdir(exist_ok=True)
            os.replace(old / name, folder / name)


def _earlier(folder: Path) -> list[str]:
    """The files of an earlier hand-off, those that are as it left them."""
    mark = folder / MARK
    if mark.is_symlink() or not mark.is_file():
        return []
    try:
        told = json.loads(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    files = told.get("files") if isinstance(told, dict) and told.get("written_by") == TITLE else None
    if not isinstance(files, dict):
        return []
    return [MARK, *(name for name, digest in files.items() if name != MARK and _inside(folder, name)
                    and sha256(folder / name) == digest)]


def _inside(folder: Path, name: str) -> bool:
    """Whether a mark's entry is a file where hand-offs write, and no link leads there."""
    parts = PurePosixPath(name).parts
    if name != "/".join(parts) or len(parts) not in (1, 2):
        return False
    if len(parts) == 2 and not re.fullmatch(rf"images|{SET}\d+", parts[0]):
        return False
    path = folder / name
    return not any(step.is_symlink() for step in (path, path.parent) if step != folder) and path.is_file()
