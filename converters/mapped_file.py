"""A weight file mapped into memory, and the limits that any of them must keep."""

from __future__ import annotations

import mmap
import stat
from math import prod
from pathlib import Path

import numpy as np

from dbnet.errors import DbnetError

#: An entry costs us some 300 bytes; a resume file of the largest spec has below 2,000.
MAX_ENTRIES = 100_000
#: Of one tensor, and (of packed dims) bytes: more is no tensor of a network, and not worth the memory.
MAX_DIMS = 32


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
