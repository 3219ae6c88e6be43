"""Writing that verifies itself: a temporary file in the same folder, read back, compared, synced, renamed."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TextIO

from converters.formats import SUFFIXES
from dbnet.errors import DbnetError

WEIGHT_SUFFIXES = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)


def check_target(target: Path, source: Path | None = None, force: bool = False) -> None:
    """Raises DbnetError if `target` cannot or must not be written. Called before any work is done."""
    try:
        _check_target(target, source, force)
    except OSError as error:
        raise DbnetError(f"{target}: cannot be written ({error.strerror}); choose another name or folder") from error


def _check_target(target: Path, source: Path | None, force: bool) -> None:
    if source is not None and source.exists() and target.exists() and os.path.samefile(source, target):
        raise DbnetError(f"{target}: is the source itself; name another file")
    if target.is_dir():
        raise DbnetError(f"{target}: is a folder; name a file in it")
    if target.exists() and not force:
        raise DbnetError(f"{target}: exists already; add --force to replace it")
    folder = target.parent
    if not folder.is_dir():
        raise DbnetError(f"{folder}: no such folder; create it first")
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise DbnetError(f"{folder}: no permission to write here; choose another folder")


def write_verified(target: Path, write: Callable[[BinaryIO], None], verify: Callable[[Path], None]) -> None:
    """Writes `target` so that it either is complete and verified, or was not touched. A link is followed.

    write: fills the stream. verify: reads the temporary file and raises if it is not what was meant.
    Raises DbnetError for a full disk or a folder that does not let us.
    """
    temporary: Path | None = None
    target = Path(os.path.realpath(target))
    try:
        # The suffix is kept: some readers, and our own, choose by it.
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".dbnet-", suffix=target.suffix)
        temporary = Path(name)
        with os.fdopen(handle, "w+b") as stream:
            write(stream)
            stream.flush()
            verify(temporary)
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 is for secrets
        os.replace(temporary, target)
        temporary = None
        _sync_folder(target.parent)
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else error.strerror
        raise DbnetError(f"{target}: could not be written ({reason}); nothing was changed") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Writes a report or --json file, replacing an older one. Raises DbnetError."""
    write_report(target, lambda stream: stream.write(text))


def write_report(target: Path, write: Callable[[TextIO], object]) -> None:
    """`write_text` of what `write` fills a stream with, bit by bit. Raises DbnetError."""
    check_report(target)
    if target.exists() and not target.is_file():  # a pipe or device is written to, never replaced
        with target.open("w", encoding="utf-8") as stream:
            write(stream)
        return
    write_verified(target, lambda stream: _put(stream, write), lambda path: None)


def check_report(target: Path) -> None:
    """Raises DbnetError if `write_text` could not write `target`, or would replace a weight file."""
    if target.suffix.lower() in WEIGHT_SUFFIXES:
        raise DbnetError(f"{target}: is named like a weight file; choose another name")
    try:
        if target.is_dir():
            raise DbnetError(f"{target}: is a folder; name a file in it")
        if not target.parent.is_dir():
            raise DbnetError(f"{target.parent}: no such folder; create it first")
        if not os.access(target.parent, os.W_OK | os.X_OK) and not target.exists():
            raise DbnetError(f"{target.parent}: no permission to write here; choose another folder")
        if target.is_file() and not target.stat().st_mode & 0o222:  # a rename would replace it, and root may do all
            raise DbnetError(f"{target}: is read-only, somebody wants to keep it; name another file")
    except OSError as error:
        raise DbnetError(f"{target}: cannot be written ({error.strerror}); choose another name or folder") from error


def _put(stream: BinaryIO, write: Callable[[TextIO], object]) -> None:
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    try:
        write(text)
    finally:
        text.detach()  # flushes, and leaves the stream open


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
