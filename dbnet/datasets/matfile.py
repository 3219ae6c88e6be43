"""MATLAB level 5 .mat files, read with NumPy alone: the container, and many small matrices at a time.

A variable is one matrix element, or a zlib stream of one (MATLAB's "MAT-File Format", version 5; SciPy's scipy.io
reads and writes the same). SynthText's labels are cells of a million small matrices, so the headers of all matrices of
a cell are taken apart together. Nothing is believed: a size must fit what is there, a stream may not grow beyond what
it says, and a cell in a cell is opened only when it is asked for.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dbnet.datasets.matfile_values import MATRIX, Matrices, Walk
from dbnet.errors import DbnetError

HEADER_BYTES = 128
COMPRESSED, OPAQUE = 15, 17
#: Most bytes that a compressed variable may unfold to: this many, or so many times its own size, if that is more.
#: zlib can reach a thousand; SynthText's variables have 2 to 20.
MOST_BYTES, MOST_TIMES = 2**28, 100
#: Bytes of a variable's beginning in which its name and shape must stand.
HEAD = 1024
PIECE = 2**18


@dataclass(frozen=True, eq=False)
class Variable:
    """A variable of a file. shape: rows, columns and more. raw: its bytes in the file, with the tag before them.

    order: "<" or ">", the byte order of everything in it. where: what errors call it.
    """

    name: str
    mclass: int
    shape: tuple[int, ...]
    order: str
    compressed: bool
    raw: memoryview
    where: str

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Its matrix element with the tag, bit by bit. Raises DbnetError if a stream is damaged or not of its size."""
        if not self.compressed:
            yield self.raw
            return
        decoder, size, sent = zlib.decompressobj(), 8, 0
        for begin in range(8, len(self.raw), PIECE):
            piece: bytes | memoryview = self.raw[begin:begin + PIECE]
            while piece and not decoder.eof:
                part = _inflate(decoder, piece, 16 * PIECE, self.where)
                piece = decoder.unconsumed_tail
                if not sent and len(part) >= 8:
                    size = 8 + self._claimed(part)
                sent += len(part)
                if sent > size:
                    raise DbnetError(f"{self.where}: its stream holds more than the {size} bytes that it claims; the "
                                     f"file is damaged, fetch it again")
                yield part
        if sent != size or not decoder.eof:
            raise DbnetError(f"{self.where}: its stream ends after {sent} of {size} bytes; the file is damaged, fetch "
                             f"it again")

    def _claimed(self, part: bytes) -> int:
        kind, claimed = struct.unpack_from(self.order + "II", part)
        if kind != MATRIX or claimed > max(MOST_BYTES, MOST_TIMES * len(self.raw)):
            raise DbnetError(f"{self.where}: {len(self.raw)} bytes that claim to unfold to {claimed}; this is no label "
                             f"file")
        return int(claimed)

    def matrix(self) -> Matrices:
        """The variable as the one matrix that it is, unfolded where it is compressed. Raises DbnetError."""
        data = self.raw
        if self.compressed:
            begin = _inflate(zlib.decompressobj(), self.raw[8:8 + 2 * HEAD], 8, self.where)
            whole = np.empty(8 + self._claimed(begin), np.uint8)  # memory is taken only as far as it is filled
            at = 0
            for part in self.pieces():
                whole[at:at + len(part)] = np.frombuffer(part, np.uint8)
                at += len(part)
            data = whole.data
        return Matrices.parse(data, self.order, self.where, np.zeros(1, np.int64))

    def cells(self) -> Matrices:
        """The matrices in a cell array, column by column. Raises DbnetError if it is none."""
        return self.matrix().cells(0)


# The container --------------------------------------------------------------------------------------------------------


def open_variables(path: Path) -> dict[str, Variable]:
    """The variables of a file, none of them read yet; the file stays mapped as long as one of them is in use.

    Raises DbnetError, naming the file, if it cannot be read, is cut off or of another kind.
    """
    try:
        if path.exists() and not path.is_file():
            raise DbnetError(f"{path}: is no file; give the .mat file itself")
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except OSError as error:
        raise DbnetError(f"{path}: cannot be read ({error.strerror or error}); give a .mat file") from error
    return read_variables(data, f"{path}")


def read_variables(data: bytes | mmap.mmap, where: str) -> dict[str, Variable]:
    """`open_variables` of bytes; `where` names them in errors."""
    view = memoryview(data)
    order = _byte_order(view, where)
    found: dict[str, Variable] = {}
    at = HEADER_BYTES
    while at < len(view):
        if at + 8 > len(view):
            raise DbnetError(f"{where}: is cut off at byte {at}; fetch it again")
        kind, size = struct.unpack_from(order + "II", view, at)
        if kind not in (MATRIX, COMPRESSED):
            raise DbnetError(f"{where}: no variable begins at byte {at}; the file is damaged, fetch it again")
        if size > len(view) - at - 8:
            raise DbnetError(f"{where}: is cut off: {len(view) - at - 8} of {size} bytes of the variable at byte {at}; "
                             f"fetch it again")
        variable = _variable(view[at:at + 8 + size], order, kind == COMPRESSED, f"{where}, byte {at}", where)
        if variable is not None:
            if variable.name in found:
                raise DbnetError(f"{where}: holds {variable.name} twice; keep the one that counts")
            found[variable.name] = variable
        at += 8 + size
    return found


def _byte_order(view: memoryview, where: str) -> str:
    """ "<" or ">". Raises DbnetError for what is no such file, with what it may be."""
    begin = bytes(view[:HEADER_BYTES])
    hdf = b"\x89HDF\r\n\x1a\n"
    if begin.startswith(hdf) or bytes(view[512:520]) == hdf:
        raise DbnetError(f"{where}: is a MATLAB 7.3 file (HDF5), which is not read; save it in MATLAB with '-v7'")
    mark = begin[126:128]
    if len(begin) < HEADER_BYTES or mark not in (b"IM", b"MI"):
        kind = "is empty" if not begin else "is cut off" if begin.startswith(b"MATLAB 5.0") else \
            "is no MATLAB 5 file"
        raise DbnetError(f"{where}: {kind}; give the .mat file as it was published")
    order = "<" if mark == b"IM" else ">"
    version, = struct.unpack(order + "H", begin[124:126])
    if version != 0x0100:
        raise DbnetError(f"{where}: is a .mat file of version {version >> 8}.{version & 255}, and only 1.0 is read; "
                         f"save it in MATLAB with '-v7'")
    return order


def _variable(raw: memoryview, order: str, compressed: bool, where: str, file: str) -> Variable | None:
    """A variable by its beginning; None for MATLAB's own, which have no name or no shape."""
    head = bytes(raw[:HEAD])
    if compressed:
        head = _inflate(zlib.decompressobj(), raw[8:8 + 2 * HEAD], HEAD, where)
    if len(head) < 24 or struct.unpack_from(order + "I", head)[0] != MATRIX:
        raise DbnetError(f"{where}: no matrix; the file is damaged, fetch it again")
    end = min(len(head), 8 + struct.unpack_from(order + "I", head, 4)[0])
    walk = Walk(memoryview(head), order, where, np.array([8]), np.array([end]))
    mclass = walk.flags()[0]
    if mclass[0] == OPAQUE:
        return None
    shape = tuple(walk.shape()[0, :walk.ndim[0]].tolist())
    size, data = (int(part[0]) for part in walk.name())
    name = head[data:data + size].decode("latin-1")
    return Variable(name, int(mclass[0]), shape, order, compressed, raw, f"{file}, {name[:40]!r}") if name else None


def _inflate(decoder: zlib._Decompress, data: bytes | memoryview, most: int, where: str) -> bytes:
    try:
        return decoder.decompress(data, most)
    except zlib.error as error:
        raise DbnetError(f"{where}: cannot be unfolded ({error}); the file is damaged, fetch it again") from error
