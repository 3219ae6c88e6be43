"""A weight file mapped into memory, and the limits that any of them must keep."""

from __future__ import annotations

import mmap
import stat
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np

from converters.protobuf_wire import MalformedError, messages, read_numbers, text_at
from dbnet.errors import DbnetError
from dbnet.safetensors_layout import MAX_DIMS, MAX_ENTRIES


class MappedFile:
    """A file's bytes, read-only and mapped into memory: pages come in when they are used, and can be given back."""

    def __init__(self, path: Path):
        """Raises DbnetError if the file cannot be read, is no regular file (a pipe would block) or is empty."""
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise DbnetError(f"{path}: is not a regular file; name the weight file")
            with path.open("rb") as stream:
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:  # mmap's answer to a file of no bytes
            raise DbnetError(f"{path}: is empty; copy or download it again") from error
        except OSError as error:
            raise DbnetError(f"{path}: cannot be read ({error.strerror}); check the path") from error
        self.view = memoryview(self._map)
        self._base = np.frombuffer(self.view, np.uint8).__array_interface__["data"][0]

    def array(self, dtype: np.dtype, shape: tuple[int, ...], start: int) -> np.ndarray:
        """A read-only view at byte `start`, possibly unaligned. The caller has checked that it fits."""
        return np.frombuffer(self.view, dtype, prod(shape), start).reshape(shape)

    def discard(self, start: int, stop: int) -> None:
        """Gives back the pages of these bytes; they are read again if they are used again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            first = start - start % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, first, stop - first)

    def release(self, array: np.ndarray) -> None:
        """`discard` for an array; nothing happens to one that does not lie in the file."""
        start = array.__array_interface__["data"][0] - self._base
        if start >= 0 and start + array.nbytes <= len(self.view) and array.nbytes:
            self.discard(start, start + array.nbytes)


# Of formats that are protocol buffers ---------------------------------------------------------------------------------


def more_dims(dims: list[int], view: memoryview, wire_type: int, begin: int, stop: int, tensor: int) -> list[int]:
    """`dims` and those that stand in one more field of the tensor at byte `tensor`. Raises MalformedError."""
    if len(dims) >= MAX_DIMS or stop - begin > 10 * MAX_DIMS:
        raise MalformedError(f"the tensor at byte {tensor} has more than {MAX_DIMS} dimensions")
    return dims + read_numbers(view, wire_type, begin, stop)


def add_entry(table: dict[str, str], what: str, view: memoryview, begin: int, stop: int) -> None:
    """Adds a key and its value, fields 1 and 2 of the message that lies there, to `table`. Raises MalformedError."""
    entry = {number: text_at(view, *place) for number, *place in messages(view, begin, stop)}
    if set(entry) - {1, 2} or entry.get(1, "") in table or len(table) >= MAX_ENTRIES:
        raise MalformedError(f"its {what} at byte {begin} are no table of texts")
    table[entry.get(1, "")] = entry.get(2, "")


def require_room(tensors: Mapping[str, np.ndarray], name: str) -> None:
    """Raises MalformedError if there is a tensor of that name already, or there are too many."""
    if name in tensors:
        raise MalformedError(f"{name} is in it twice")
    if len(tensors) >= MAX_ENTRIES:
        raise MalformedError(f"it has more than {MAX_ENTRIES} tensors")
