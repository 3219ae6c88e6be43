"""Published weights on this machine: from the cache, a folder or the network, and only with the right digest.

The digest is the first 8 hex digits of the file's SHA-256, and stands in its name. MindCV, whose download site and
naming MindOCR shares, writes that rule down in its configs/README.md ("Model Checkpoint Format", mindspore-lab/mindcv
at 04d3293): {model_name}_{specification}-{sha256sum}.ckpt, with the first 8 characters of what sha256sum prints. A
.mindir has the digest of the .ckpt it was made of and behind that its own (read off the names; no text says so);
`910v2` stands behind the digest. 32 bits find every accident, but not a forger: that is what https is for.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from dbnet.errors import DbnetError
from dbnet.fetch_address import OTHERWISE, check_address, mirrored, shown
from dbnet.fetch_http import Pace, Progress, download
from dbnet.fetch_part import locked, writing
from dbnet.published import Entry
from dbnet.writing import check_target, replacing

CACHE_VARIABLE, MIRROR_VARIABLE = "DBNET_CACHE", "DBNET_MIRROR"
_BLOCK = 1 << 20
_PAGE = (b"<!doctype", b"<html", b"<?xml", b"<head", b"{")


def _silent(*_: object) -> None:
    """No progress, no notes."""


@dataclass(frozen=True)
class Means:
    """How to get at files. folder: a folder (or file) to copy from, instead of the network. mirror: replaces scheme
    and host of the addresses. offline: never connect. force: replace a wrong file that is not the cache's. progress:
    called with (bytes, bytes in all or None). tell: gets notes.
    """

    cache: Path
    folder: Path | None = None
    mirror: str | None = None
    offline: bool = False
    force: bool = False
    pace: Pace = field(default_factory=Pace)
    progress: Progress = _silent
    tell: Callable[[str], None] = _silent


@dataclass(frozen=True)
class Fetched:
    """path: of the file, whose digest is right. how: cached, copied or downloaded."""

    path: Path
    how: str


def cache_folder(given: Path | None = None) -> Path:
    """`given`, else $DBNET_CACHE, else dbnet/ in $XDG_CACHE_HOME or ~/.cache. Raises DbnetError without a home."""
    if given is not None:
        return given
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # others are to be ignored, by its standard
        return Path(base) / "dbnet"
    try:
        return Path.home() / ".cache" / "dbnet"
    except RuntimeError as error:
        raise DbnetError(f"no home folder to keep weights in; set {CACHE_VARIABLE} or give --cache DIR") from error


def sha256(path: Path) -> str:
    """Of a file, in hex. Raises DbnetError if it cannot be read."""
    try:
        if not path.is_file():
            raise DbnetError(f"{path}: is no file")
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DbnetError(f"{path}: cannot be read ({error.strerror})") from error


def is_right(path: Path, entry: Entry) -> bool:
    """Whether a file is the published one. Raises DbnetError if it cannot be read."""
    return sha256(path).startswith(entry.digest)


def fetch(entry: Entry, means: Means, out: Path | None = None) -> Fetched:
    """The file, verified. out: the file to write, instead of one in the cache (which is then only read).

    Raises DbnetError for whatever keeps it from being there: the old file, if there was one, is then unchanged.
    """
    cached = means.cache / entry.file
    target = cached if out is None else out
    if _present(target, entry, means, ours=out is None):
        return Fetched(target, "cached")
    if out is not None:
        check_target(target, force=True)
    source: Path | None = None
    if means.folder is not None:
        source = find_in(means.folder, entry, means.tell)
    elif out is not None and _readable(cached) and is_right(cached, entry):
        source = cached
    elif means.offline:
        raise DbnetError(f"{target}: is not there, and --offline forbids to fetch it; --from DIR copies it from a "
                         f"folder")
    if out is None:
        _make_folder(means.cache, f"choose another with --cache DIR or {CACHE_VARIABLE}, or --out FILE")
    return _downloaded(entry, means, target) if source is None else _copied(source, target, entry)


@contextlib.contextmanager
def made(folder: Path) -> Iterator[None]:
    """A folder, with those above it, for what is done meanwhile; those that stay empty are gone again afterwards."""
    new = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    _make_folder(folder, "name another folder with --out")
    try:
        yield
    finally:
        for path in new:
            with contextlib.suppress(OSError):  # it is empty no more
                path.rmdir()


def part_of(target: Path, entry: Entry) -> Path:
    """Where the bytes of a download are until it is complete."""
    return Path(os.path.realpath(target)).parent / f"{entry.file}.part"


def find_in(folder: Path, entry: Entry, tell: Callable[[str], None] = _silent) -> Path:
    """The file of that name, anywhere below a folder, or the file itself, with the right digest. Raises DbnetError."""
    if folder.is_file():
        candidates: Iterator[Path] = iter([folder])
    elif folder.is_dir():
        candidates = (Path(where, entry.file) for where, _, names in os.walk(folder) if entry.file in names)
    else:
        raise DbnetError(f"{folder}: no such folder; --from names one that has {entry.file}")
    wrong = ""
    for path in candidates:
        if not path.is_file():
            continue
        if not _readable(path):
            wrong = "it cannot be read"
            continue
        if is_right(path, entry):
            return path
        wrong = why_wrong(path, entry)
        tell(f"{path}: {wrong}; not taken")
    if wrong:
        raise DbnetError(f"{folder}: {entry.file} is there, but {wrong}")
    raise DbnetError(f"{folder}: {entry.file} is not there, also not in the folders below")


def why_wrong(path: Path, entry: Entry) -> str:
    """What a file is instead, as half a sentence: its digest, its size, and whether it is a page."""
    with path.open("rb") as stream:
        head = stream.read(200).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    size = path.stat().st_size
    if head.startswith(_PAGE):
        return f"it is a web page or a message of {size:,} bytes, not the file (a login, or an error?)"
    if head.startswith(b"version https://git-lfs"):
        return "it is a git-lfs pointer, not the file (run git lfs pull)"
    return f"its SHA-256 begins with {sha256(path)[:8]}, not with {entry.digest} ({size:,} bytes)"


def _present(target: Path, entry: Entry, means: Means, ours: bool) -> bool:
    """Whether the file is there already. One in the cache is replaced if it is wrong, a user's own file is not."""
    if target.is_dir():
        raise DbnetError(f"{target}: is a folder; name a file in it")
    if not os.path.lexists(target) or not target.exists():
        return False
    if is_right(target, entry):
        return True
    wrong = why_wrong(target, entry)
    if ours and means.offline and means.folder is None:
        raise DbnetError(f"{target}: {wrong}; --offline forbids to fetch it again")
    if not ours and not means.force:
        raise DbnetError(f"{target}: exists, and {wrong}; name another file, or add --force to replace it")
    means.tell(f"{target}: {wrong}; fetched again")
    return False


def _readable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.R_OK)


def _make_folder(folder: Path, otherwise: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DbnetError(f"{folder}: cannot be created ({error.strerror}); {otherwise}") from error


def _copied(source: Path, target: Path, entry: Entry) -> Fetched:
    """Copies, and compares what was written: a file that changes meanwhile is found."""
    with replacing(target) as (stream, temporary), source.open("rb") as original:
        _copy(original, stream)
        stream.flush()
        if not is_right(temporary, entry):
            raise DbnetError(f"{source}: changed while it was copied; try again")
    return Fetched(target, "copied")


def _copy(source: BinaryIO, target: BinaryIO) -> None:
    while block := source.read(_BLOCK):
        target.write(block)


def _downloaded(entry: Entry, means: Means, target: Path) -> Fetched:
    url = mirrored(entry.download.url, None if means.mirror is None else check_address(means.mirror))
    part = part_of(target, entry)
    memo = part.with_name(f"{part.name}.json")
    with locked(part, 4 * means.pace.timeout, means.tell) as stream:
        if target.is_file() and is_right(target, entry):  # another process was quicker
            part.unlink(missing_ok=True)
            return Fetched(target, "cached")
        _fill(entry, url, stream, part, memo, means)
        with writing(part):
            os.fsync(stream.fileno())
            os.replace(part, os.path.realpath(target))  # a link is followed
            memo.unlink(missing_ok=True)
    return Fetched(target, "downloaded")


def _fill(entry: Entry, url: str, stream: io.FileIO, part: Path, memo: Path, means: Means) -> None:
    """Until the digest is right. Parts may be of different versions: then all is fetched once more."""
    if kept := os.fstat(stream.fileno()).st_size:
        means.tell(f"{kept:,} bytes are here already")
    try:
        in_parts = download(url, stream, memo, means.pace, means.progress, means.tell)
        if in_parts and not is_right(part, entry):
            means.tell("the parts do not fit together; all is fetched again")
            os.truncate(part, 0)
            download(url, stream, memo, means.pace, means.progress, means.tell)
    except DbnetError:
        if not is_right(part, entry):  # a server may announce more bytes than the file has
            raise
    finally:
        if not os.fstat(stream.fileno()).st_size:
            for path in (part, memo):
                path.unlink(missing_ok=True)
    if not part.exists() or not is_right(part, entry):
        wrong = why_wrong(part, entry) if part.exists() else "it is empty"
        for path in (part, memo):
            path.unlink(missing_ok=True)
        raise DbnetError(f"{shown(url)}: {wrong}; it was thrown away; {OTHERWISE}")
