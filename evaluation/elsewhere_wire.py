"""What two processes say to each other: a header of JSON, then the bytes of arrays. Nothing in it can run.

A message is `DBNW`, the header's length (8 bytes, little-endian), the header, and the arrays in the header's order,
C-contiguous and little-endian. It also runs in other interpreters, from Python 3.10 on, with NumPy 1 or 2.
"""

from __future__ import annotations

import json
import math
import os
import select
import struct
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

#: Both ends have it from the same source; an end that says another one is no end of ours.
PROTOCOL = 1
#: Bytes of a header, arrays of a message and their bytes, at most: more than any model of ours has.
LONGEST_HEADER, MOST_ARRAYS, MOST_BYTES = 1 << 24, 1 << 16, 1 << 37
_MAGIC, _LENGTH = b"DBNW", struct.Struct("<Q")
_DTYPES = {np.dtype(kind).str for kind in ("<f2", "<f4", "<f8", "<i2", "<i4", "<i8", "<u2", "<u4", "<u8", "i1", "u1",
                                           "?")}


class WireError(Exception):
    """What came is no message, or there is no room for it."""


class Wire:
    """One end of a pair of pipes. Owns both descriptors, which other programs started from here do not inherit."""

    def __init__(self, read: int, write: int):
        for end in (read, write):
            os.set_inheritable(end, False)
        self.read, self.write, self._open = read, write, {read, write}

    def close(self) -> None:
        """Both descriptors. Once is enough."""
        self.say_no_more()
        if self.read in self._open:
            self._open.remove(self.read)
            os.close(self.read)

    def say_no_more(self) -> None:
        """The other end learns that nothing comes."""
        if self.write in self._open:
            self._open.remove(self.write)
            os.close(self.write)

    def send(self, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
        """header: plain values. Raises BrokenPipeError if nobody reads, WireError for an array of other types."""
        contents = {name: _plain(name, array) for name, array in (arrays or {}).items()}
        outline = [[name, array.dtype.str, list(array.shape)] for name, array in contents.items()]
        text = json.dumps({**header, "arrays": outline}).encode()
        self._write(memoryview(_MAGIC + _LENGTH.pack(len(text)) + text))
        for array in contents.values():
            self._write(array.reshape(-1).view(np.uint8).data)

    def receive(self, seconds: float | None = None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The header and the arrays of the next message.

        Raises EOFError if there is none to come, TimeoutError if it is not whole after `seconds`, WireError.
        """
        end = None if seconds is None else time.monotonic() + seconds
        begin = bytes(self._read(len(_MAGIC) + _LENGTH.size, end))
        length = _LENGTH.unpack(begin[len(_MAGIC):])[0]
        if begin[:len(_MAGIC)] != _MAGIC or length > LONGEST_HEADER:
            raise WireError("no message of ours came")
        try:
            header = json.loads(bytes(self._read(length, end)))
            outline = [(str(name), str(kind), tuple(map(int, shape))) for name, kind, shape in header.pop("arrays")]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise WireError("the header of a message is damaged") from error
        _check(outline)
        return header, {name: self._array(kind, shape, end) for name, kind, shape in outline}

    def _array(self, kind: str, shape: tuple[int, ...], end: float | None) -> np.ndarray:
        dtype = np.dtype(kind)
        return self._read(dtype.itemsize * math.prod(shape), end).view(dtype).reshape(shape)

    def _read(self, count: int, end: float | None) -> np.ndarray:
        """So many bytes."""
        try:
            found = np.empty(count, np.uint8)
        except MemoryError as error:
            raise WireError(f"there is no memory for the {count} bytes of an array") from error
        rest = found.data
        while len(rest):
            if end is not None and not _readable(self.read, end - time.monotonic()):
                raise TimeoutError
            got = os.readv(self.read, [rest])
            if not got:
                raise EOFError
            rest = rest[got:]
        return found

    def _write(self, rest: memoryview) -> None:
        while len(rest):
            rest = rest[os.write(self.write, rest[:1 << 30]):]


def _readable(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(seconds, 0) * 1000))


def _plain(name: str, array: np.ndarray) -> np.ndarray:
    """C-contiguous and little-endian."""
    wanted = array.dtype.newbyteorder("<")
    if wanted.str not in _DTYPES:
        raise WireError(f"{name} has the type {array.dtype}, which is not passed on")
    return np.ascontiguousarray(array, wanted).reshape(array.shape)  # which makes an axis for a scalar


def _check(outline: list[tuple[str, str, tuple[int, ...]]]) -> None:
    """Raises WireError for more, or other, arrays than are passed on."""
    if len(outline) > MOST_ARRAYS or len({name for name, _, _ in outline}) < len(outline):
        raise WireError("a message has too many arrays, or two of the same name")
    total = 0
    for name, kind, shape in outline:
        if kind not in _DTYPES or len(shape) > 16 or any(side < 0 for side in shape):
            raise WireError(f"{name!r} is no array that is passed on")
        total += np.dtype(kind).itemsize * math.prod(shape)
    if total > MOST_BYTES:
        raise WireError(f"the arrays of a message have {total} bytes")
