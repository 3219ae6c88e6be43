"""Folders and zips of small text files: how labels and results of text detection are handed around."""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from dbnet.errors import DbnetError

#: Bytes of the largest text file that is read; the data sets' own have a few thousand. A zip may claim anything.
MAX_BYTES = 2**22
MAX_FILES = 100_000


def read_texts(path: Path) -> dict[str, str]:
    """The .txt files of a folder, or of a zip without unpacking it: file name -> text.

    Folders inside a zip are ignored, and so are hidden files. UTF-8, a byte order mark is dropped and what is not
    UTF-8 becomes U+FFFD, as in the official ICDAR scripts. Raises DbnetError if `path` cannot be read.
    """
    try:
        raw = _read_folder(path) if path.is_dir() else _read_zip(path)
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        # RuntimeError: an encrypted zip, or one with an unknown compression.
        raise DbnetError(f"{path}: cannot be read ({error}); give a folder or a zip of .txt files") from error
    return {name: data.decode("utf-8-sig", errors="replace") for name, data in raw.items()}


def _read_folder(path: Path) -> dict[str, bytes]:
    files = [file for file in path.iterdir() if _wanted(file.name) and file.is_file()]
    for file in files:
        _check_size(f"{file}", file.stat().st_size)
    return {file.name: file.read_bytes() for file in files}


def _read_zip(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir() and _wanted(entry.filename)]
        if len(entries) > MAX_FILES:
            raise DbnetError(f"{path}: {len(entries)} text files, more than {MAX_FILES}; this is no set of labels")
        for entry in entries:
            _check_size(f"{path}: {entry.filename}", entry.file_size)
        return {PurePosixPath(entry.filename).name: archive.read(entry) for entry in entries}


def _wanted(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return name.lower().endswith(".txt") and not parts[-1].startswith(".") and "__MACOSX" not in parts


def _check_size(where: str, size: int) -> None:
    if size > MAX_BYTES:
        raise DbnetError(f"{where}: {size} bytes, more than {MAX_BYTES}; this is no label file")


def natural_order(name: str) -> list[str | int]:
    """Sort key by which img_2 comes before img_10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]{1,18})", name))]


def parse_coordinates(fields: list[str], where: str) -> list[float]:
    """Numbers of one label line, in pixels. Raises DbnetError, naming `where`, if one is no sensible number."""
    try:
        numbers = [float(field.replace("_", "?")) for field in fields]  # Python's own 1_000 is no number here
    except ValueError as error:
        raise DbnetError(f"{where}: {error}; coordinates must be numbers") from error
    if not all(abs(number) < 1e6 for number in numbers):  # False for NaN too
        raise DbnetError(f"{where}: a number is out of range: {','.join(fields)[:80]}")
    return numbers
