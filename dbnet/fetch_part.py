"""The partial file of a download: one process at a time has it, and a note beside it says of which version it is."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dbnet.errors import DbnetError

ROOM = "make room, or choose another folder (--cache DIR, --out FILE)"


@contextlib.contextmanager
def locked(part: Path, patience: float, tell: Callable[[str], None]) -> Iterator[io.FileIO]:
    """The partial file, created if it must be, unbuffered and ours alone: a second process waits for the first.

    patience: seconds in which the other must write something. Raises DbnetError after that, and if it cannot be opened.
    """
    told, size, since = False, -1, time.monotonic()
    while True:
        with writing(part):
            stream = io.FileIO(os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "r+")
            stream.name = str(part)
        with stream:
            if _lock(stream) and _is_still(part, stream):
                yield stream
                return
            now = os.fstat(stream.fileno()).st_size
        if now != size:
            size, since = now, time.monotonic()
        if time.monotonic() - since > patience:
            raise DbnetError(f"{part}: another process holds it, and has written nothing for {patience:g} s; end it, "
                             f"or choose another folder (--cache DIR)")
        if not told:
            tell(f"another process is fetching {part.name.removesuffix('.part')}; waiting for it")
            told = True
        time.sleep(0.1)


def _lock(stream: io.FileIO) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: a mix-up of two writers is found by the digest
        return True
    return True


def _is_still(part: Path, stream: io.FileIO) -> bool:
    """False if the one who had the lock has meanwhile renamed or removed the file."""
    try:
        return os.path.samestat(os.stat(part), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def writing(path: object) -> Iterator[None]:
    """A disk's refusal as DbnetError: it is not the network's."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise DbnetError(f"{path}: cannot be written ({'the disk is full' if full else error.strerror}); "
                         f"{ROOM if full else ROOM.removeprefix('make room, or ')}") from error


def write_all(stream: io.FileIO, chunk: bytes) -> None:
    """An unbuffered file may take less than it is given."""
    view = memoryview(chunk)
    while view:
        view = view[stream.write(view):]


def read_memo(path: Path) -> dict[str, Any]:
    """The address that the bytes of a partial file came from, and the validator of their version; {} if not known."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and _is_header(found.get("validator")) else {}


def write_memo(path: Path, url: str, validator: str | None) -> None:
    """What `read_memo` reads; without a validator there is nothing to keep."""
    path.unlink(missing_ok=True)
    if _is_header(validator):
        with path.open("x", encoding="utf-8") as stream:
            json.dump({"url": url, "validator": validator}, stream)


def _is_header(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and value.isprintable() and len(value) < 500
