"""Writing that leaves a whole file or the old one: a temporary file in the same folder, synced, renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dbnet.errors import DbnetError


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


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file, to write and to read, and where it lies; it takes the place of `target` when the block ends well.

    Otherwise nothing is left behind. A link is followed. Raises DbnetError for a full disk or a folder that does not
    let us.
    """
    temporary: Path | None = None
    target = Path(os.path.realpath(target))
    try:
        # The suffix is kept: some readers, and our own, choose by it.
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".dbnet-", suffix=target.suffix)
        temporary = Path(name)
        with os.fdopen(handle, "w+b") as stream:
            yield stream, temporary
            stream.flush()
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
