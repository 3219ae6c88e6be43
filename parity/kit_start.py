"""Starts what this folder is for: a text detector's proofs on a machine with an Ascend NPU. README.md says how.

Needs Python 3.10, NumPy and MindSpore, and this folder as it was made: every file is checked before anything starts.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys

OLDEST_PYTHON = (3, 10)
#: A file longer than this is read piece by piece.
PIECE = 1 << 22


def main() -> int:
    """The exit code: 0 done, 1 the numbers are not the same within tolerance, 2 usage, 3 could not do it."""
    folder = os.path.dirname(os.path.abspath(__file__))
    if sys.version_info < OLDEST_PYTHON:  # an old host must get a line, no traceback
        have, need = (".".join(map(str, version[:2])) for version in (sys.version_info, OLDEST_PYTHON))
        return failed(f"this is Python {have}; start it with Python {need} or newer that has NumPy and MindSpore")
    problem = damage(folder)
    if problem:
        return failed(problem)
    sys.dont_write_bytecode = True  # the folder stays as it came
    sys.path.insert(0, os.path.join(folder, "lib"))
    try:
        from parity.kit_run import run
    except ImportError as error:
        return failed(f"{error}; start it with the interpreter that has NumPy and MindSpore")
    return run(folder, sys.argv[1:])


def damage(folder: str) -> str | None:
    """What is wrong with the folder's files, None if nothing; by kit.json, which has the size and SHA-256 of each."""
    path = os.path.join(folder, "kit.json")
    try:
        with open(path, "rb") as stream:
            kit = json.loads(stream.read())
        files, digest = kit["files"], kit.pop("digest")
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror}); copy the whole folder again"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{path}: is damaged; copy the whole folder again"
    if hashlib.sha256(json.dumps(kit, sort_keys=True).encode()).hexdigest() != digest:
        return f"{path}: is damaged; copy the whole folder again"
    for name, (size, sha256) in sorted(files.items()):
        path = os.path.join(folder, *name.split("/"))
        try:
            if os.path.getsize(path) != size or sha256_of(path) != sha256:
                return f"{path}: was damaged on the way (it is not what the kit was made with); copy it again"
        except OSError as error:
            return f"{path}: cannot be read ({error.strerror}); copy the whole folder again"
    return None


def sha256_of(path: str) -> str:
    """Of a file, hexadecimal."""
    found = hashlib.sha256()
    with open(path, "rb") as stream:
        for piece in iter(lambda: stream.read(PIECE), b""):
            found.update(piece)
    return found.hexdigest()


def failed(line: str) -> int:
    """Tells why it could not be done."""
    sys.stderr.write(f"run.py: {line}\n")
    return 3


if __name__ == "__main__":
    sys.exit(main())
