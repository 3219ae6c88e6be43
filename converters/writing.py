"""Writing that verifies itself: a temporary file in the same folder, read back, compared, synced, renamed."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TextIO

from converters.formats import SUFFIXES
from dbnet.errors import DbnetError
from dbnet.writing import replacing

WEIGHT_SUFFIXES = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)


def write_verified(target: Path, write: Callable[[BinaryIO], None], verify: Callable[[Path], None]) -> None:
    """Writes `target` so that it either is complete and verified, or was not touched. A link is followed.

    write: fills the stream. verify: reads the temporary file and raises if it is not what was meant.
    Raises DbnetError for a full disk or a folder that does not let us.
    """
    with replacing(target) as (stream, temporary):
        write(stream)
        stream.flush()
        verify(temporary)


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
