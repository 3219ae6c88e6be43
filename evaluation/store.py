"""Detections on disk, one line of JSON for each image: memory stays flat, and an interrupted run goes on where it was.

The first line says what the detections were made with and for which images. The others are those images in order:
`{"name", "crc32", "detections": [{"polygon": [[x, y], ...], "score"}], "sweep": [detections, ...]}`, in pixels of the
image; crc32 is that of its file, and `sweep` holds the detections under the other box rules of a sweep. `line_crc32`,
the last entry, is that of everything before it, so that a line that was edited is not believed. Numbers are
written so that reading gives the same bits.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import math
import os
import tempfile
import time
import weakref
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converters.writing import check_report
from dbnet.errors import DbnetError
from dbnet.sample import Detection

log = logging.getLogger("dbnet")

#: How every file of ours begins.
MAGIC = b'{"dbnet": "detections", "version": 1, '
#: What comes last in a line, before its own checksum.
LINE_CRC = b',"line_crc32":'
#: Bytes of the longest line: 1,000 boxes under 700 rules. A foreign file may claim anything.
MAX_LINE = 2**26
#: A run that is killed loses nothing that was written; a machine that loses its power loses this much.
SECONDS_UNSYNCED = 5.0


class Store:
    """An open file of detections. done: how many images are in it, the first ones.

    name: of the file, in errors. expected: how many images there will be. durable: it shall survive a loss of power.
    ends: where the first line ends in the file, and the line of each image.
    """

    def __init__(self, handle: int, name: str, expected: int, durable: bool):
        self.handle, self.name, self.expected, self._durable = handle, name, expected, durable
        self.ends: list[int] = []
        self._synced = time.monotonic()
        self.close = weakref.finalize(self, os.close, handle)

    @property
    def done(self) -> int:
        return len(self.ends) - 1

    def append(self, line: bytes) -> None:
        """Adds the next image, a line of `encode`. Raises DbnetError for a full disk; what was there before stays."""
        if len(line) >= MAX_LINE:
            raise DbnetError(f"{self.name}: image {self.done + 1} of {self.expected} has {len(line)} bytes of boxes, "
                             f"more than {MAX_LINE}; sweep fewer settings")
        start = self.ends[-1] if self.ends else 0
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.pwrite(self.handle, rest, start + len(line) - len(rest)):]
            if time.monotonic() - self._synced > SECONDS_UNSYNCED:
                self._sync()
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self.handle, start)
            kept = f"; it holds {self.done} of {self.expected} images, and the same command goes on from there"
            raise _unwritable(self.name, error, kept if self.done > 0 else "") from error
        self.ends.append(start + len(line))

    def sync(self) -> None:
        """Makes what was written survive a loss of power. Raises DbnetError."""
        try:
            self._sync()
        except OSError as error:
            raise _unwritable(self.name, error) from error

    def _sync(self) -> None:
        if self._durable:
            os.fsync(self.handle)
        self._synced = time.monotonic()

    def read(self, index: int, name: str) -> tuple[int, list[list[Detection]]]:
        """CRC-32 of an image's file, and its detections under each box rule.

        Raises DbnetError if the line is damaged, or is another image's.
        """
        start, end = self.ends[index:index + 2]
        try:
            return decode(os.pread(self.handle, end - start, start), name)
        except (OSError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise DbnetError(f"{self.name}, line {index + 2}: is damaged ({error}); delete the file, or choose "
                             f"another") from error


class StoredDetections(Mapping[str, list[Detection]]):
    """The detections by image, under the first box rule, read when asked for."""

    def __init__(self, store: Store, names: Sequence[str]):
        self._store, self._index = store, {name: i for i, name in enumerate(names)}

    def __getitem__(self, name: str) -> list[Detection]:
        return self._store.read(self._index[name], name)[1][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)


def encode(name: str, checksum: int, detections: Sequence[Sequence[Detection]]) -> bytes:
    """One image's line; `detections[0]` are those of the evaluation itself, the others of its sweep."""
    first, *others = [[plain(detection) for detection in found] for found in detections]
    line = {"name": name, "crc32": checksum, "detections": first} | ({"sweep": others} if others else {})
    body = json.dumps(line, separators=(",", ":"), allow_nan=False)[:-1].encode()
    return body + _ending(body)


def plain(detection: Detection) -> dict[str, Any]:
    """A detection as JSON values, from which the same bits can be read."""
    return {"polygon": detection.polygon.tolist(), "score": float(detection.score)}


def _ending(body: bytes) -> bytes:
    return LINE_CRC + b"%d}\n" % zlib.crc32(body)


def decode(line: bytes, name: str) -> tuple[int, list[list[Detection]]]:
    """What `encode` was given. Raises ValueError, KeyError, TypeError or RecursionError for anything else."""
    body = line[:line.rfind(LINE_CRC)]
    if line != body + _ending(body):
        raise ValueError("its checksum is another")
    data = json.loads(line.decode())
    if data["name"] != name:
        raise ValueError(f"it is of {str(data['name'])[:80]!r}, not {name!r}")
    return int(data["crc32"]), [[detection_of(item) for item in found]
                                for found in (data["detections"], *data.get("sweep", ()))]


def detection_of(item: Any) -> Detection:
    """What `plain` was given. Raises ValueError, KeyError or TypeError for anything else."""
    polygon, score = np.array(item["polygon"], np.float32), item["score"]
    if polygon.ndim != 2 or polygon.shape[1] != 2 or not np.isfinite(polygon).all():
        raise ValueError("a polygon is no list of points")
    if not isinstance(score, float) or not math.isfinite(score):
        raise ValueError("a score is no number")
    return Detection(polygon, score)


# Opening --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_store(path: Path | None, header: Mapping[str, Any], images: int) -> Iterator[Store]:
    """A store for `images` images made as `header` says (JSON values), to write in; afterwards it can still be read.

    path: None is a temporary file that goes with the Store. An existing file is gone on with after its last whole
    line. Raises DbnetError, leaving the file as it was, if it is not one of ours, was made otherwise, or is being
    written by another process; and if it cannot be written.
    """
    name = f"a temporary file in {tempfile.gettempdir()}" if path is None else str(path)
    try:
        store = Store(_temporary() if path is None else _locked(path), name, images, durable=path is not None)
    except OSError as error:
        raise _unwritable(name, error) from error
    try:
        _go_on(store, json.loads(json.dumps(header, allow_nan=False)))
        yield store
        store.sync()
        with contextlib.suppress(OSError):  # where files cannot be locked
            fcntl.flock(store.handle, fcntl.LOCK_UN)
    except BaseException:
        store.close()
        raise


def _temporary() -> int:
    with tempfile.TemporaryFile() as stream:  # has no name, so that nothing is left behind whatever happens
        return os.dup(stream.fileno())


def _locked(path: Path) -> int:
    """An existing or new file, which no other process then writes. Raises OSError, and DbnetError if one does."""
    check_report(path)
    if path.exists() and not path.is_file():
        raise DbnetError(f"{path}: is no regular file; choose another")
    handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise DbnetError(f"{path}: another run is writing it; wait for it, or choose another file") from error
    except OSError as error:
        log.warning("%s: cannot be locked (%s); see to it that only one run writes it", path, error.strerror)
    return handle


def _go_on(store: Store, header: dict[str, Any]) -> None:
    """Finds the whole lines of a file that is to be gone on with, and cuts off what follows; begins an empty one."""
    with os.fdopen(os.dup(store.handle), "rb") as stream:
        stream.seek(0)
        first = stream.readline(MAX_LINE)
        if first.endswith(b"\n"):
            _check_header(store.name, first, header)
            store.ends.append(len(first))
            while (line := stream.readline(MAX_LINE)).endswith(b"\n") and store.done < store.expected:
                store.ends.append(store.ends[-1] + len(line))
            if len(line) == MAX_LINE or (store.done == store.expected and line):
                raise DbnetError(f"{store.name}, line {store.done + 2}: is damaged; delete the file, or choose another")
        elif not (first.startswith(MAGIC) or MAGIC.startswith(first)):
            raise _foreign(store.name)
    if store.ends:
        os.ftruncate(store.handle, store.ends[-1])
    else:
        os.ftruncate(store.handle, 0)
        store.append(MAGIC + json.dumps(header)[1:].encode() + b"\n")
    store.sync()


def _check_header(name: str, line: bytes, header: dict[str, Any]) -> None:
    """Raises DbnetError unless the first line of a file says what `header` says."""
    if not line.startswith(MAGIC):
        raise _foreign(name)
    try:
        found = json.loads(line)
        theirs, ours = leaves(found), leaves({"dbnet": found["dbnet"], "version": found["version"], **header})
    except (ValueError, RecursionError) as error:
        raise _foreign(name) from error
    differing = [key for key in {**theirs, **ours} if theirs.get(key, _ABSENT) != ours.get(key, _ABSENT)]
    if differing:
        told = [f"{key[-60:]} {_shown(theirs, key)} there, {_shown(ours, key)} now" for key in differing[:3]]
        more = f", and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise DbnetError(f"{name}: its detections were made otherwise: {'; '.join(told)}{more}; choose another file, "
                         f"or delete it")


_ABSENT = object()


def leaves(data: Any, path: str = "") -> dict[str, Any]:
    """Nested values by dotted path."""
    if not isinstance(data, dict):
        return {path: data}
    return {key: leaf for name, value in data.items()
            for key, leaf in leaves(value, f"{path}.{name}" if path else str(name)).items()}


def _shown(values: Mapping[str, Any], key: str) -> str:
    text = json.dumps(values[key]) if key in values else "nothing"
    return text if len(text) <= 40 else f"{text[:36]} ..."


def _foreign(name: str) -> DbnetError:
    return DbnetError(f"{name}: exists, and holds no detections of an evaluation; choose another file")


def _unwritable(name: str, error: OSError, kept: str = "") -> DbnetError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    reason = "the disk is full" if full else error.strerror
    return DbnetError(f"{name}: cannot be written ({reason}){kept or '; choose another file with --save'}")
