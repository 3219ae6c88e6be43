"""Writing .mat files like SynthText's gt.mat: cells of small matrices, packed by the thousand, folded by many threads.

No date goes into a file, and a stream's pieces do not depend on the threads: the same labels make the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dbnet import writing
from dbnet.datasets.matfile import COMPRESSED, HEADER_BYTES
from dbnet.datasets.matfile_values import CELL, CHAR, DOUBLE, MATRIX
from dbnet.errors import DbnetError

#: Storage types that are written, and those of a matrix's own parts.
DOUBLES, UTF8 = 9, 16
INT8, INT32, UINT32 = 1, 5, 6
#: zlib's level. 6, the usual, takes four times as long and makes boxes smaller by a tenth.
LEVEL = 1
#: The end of a stream of pieces: an empty last block.
LAST_BLOCK = b"\x03\x00"
MOST = 2**32
#: Bytes that are hashed and written together.
AT_ONCE = 2**22


# Packing --------------------------------------------------------------------------------------------------------------


def pack_boxes(quads: np.ndarray, counts: Sequence[int], order: str) -> bytes:
    """Matrices (2, 4, W) of doubles, one for each of `counts`, from the boxes of all, (K, 4, 2) float64.

    order: "<" or ">". An image without boxes gets an empty matrix, as MindOCR's converter writes one.
    """
    data = np.ascontiguousarray(quads, order + "f8").tobytes()
    head, empty = struct.Struct(order + "16I").pack, _empty(DOUBLE, DOUBLES, order)
    parts, at = [], 0
    for count in counts:
        size = 64 * count
        if count:
            parts.append(head(MATRIX, 56 + size, UINT32, 8, DOUBLE, 0, INT32, 12, 2, 4, count, 0, INT8, 0, DOUBLES,
                              size))
            parts.append(data[at:at + size])
        else:
            parts.append(empty)
        at += size
    return b"".join(parts)


def pack_words(words: Sequence[Sequence[str]], order: str) -> bytes:
    """A matrix of characters for each image, a word in each row, padded with blanks."""
    head, empty = struct.Struct(order + "14I").pack, _empty(CHAR, UTF8, order)
    parts = []
    for row in words:
        if not row:
            parts.append(empty)
            continue
        width = max(map(len, row))
        lines = "".join([word.ljust(width) for word in row]).replace("\0", "\ufffd")  # a NUL ends a row for readers
        columns = "".join([lines[i::width] for i in range(width)]) if len(row) > 1 else lines
        data = columns.encode("utf-8", "replace")
        size = len(data)
        if size > 4:
            tag, rest = (UTF8, size), data + bytes(-size % 8)
        else:  # so little stands in the tag itself
            tag, rest = (size << 16 | UTF8, struct.unpack(order + "I", data.ljust(4, b"\0"))[0]), b""
        parts.append(head(MATRIX, 48 + len(rest), UINT32, 8, CHAR, 0, INT32, 8, len(row), width, INT8, 0, *tag))
        parts.append(rest)
    return b"".join(parts)


def _empty(mclass: int, kind: int, order: str) -> bytes:
    return struct.pack(order + "14I", MATRIX, 48, UINT32, 8, mclass, 0, INT32, 8, 0, 0, INT8, 0, kind, 0)


# Folding --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Folded:
    """A piece of a zlib stream. size, checksum: bytes and Adler-32 of what it unfolds to."""

    data: bytes
    size: int
    checksum: int


def fold(data: bytes | memoryview) -> Folded:
    """Compresses a piece so that other pieces can stand before and behind it. Other threads go on meanwhile."""
    packer = zlib.compressobj(LEVEL, wbits=-15)
    return Folded(packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH), len(data), zlib.adler32(data))


def write_header(stream: Output, order: str) -> None:
    """What a file begins with."""
    text = b"MATLAB 5.0 MAT-file, written by dbnet-parity".ljust(HEADER_BYTES - 12) + bytes(8)
    stream.write(text + struct.pack(order + "HH", 0x0100, 0x4D49))


def write_cells(stream: Output, name: str, count: int, pieces: Sequence[Folded], order: str) -> None:
    """A compressed variable: a cell array of one row and `count` columns, whose matrices are in `pieces`.

    Raises DbnetError if it becomes larger than such a file can hold.
    """
    title = name.encode("latin-1")
    inner = struct.pack(f"{order}10I", UINT32, 8, CELL, 0, INT32, 8, 1, count, INT8, len(title)) + title + bytes(
        -len(title) % 8)
    size = len(inner) + sum(piece.size for piece in pieces)
    head = fold(struct.pack(order + "II", MATRIX, size % MOST) + inner)
    length = 2 + sum(len(piece.data) for piece in (head, *pieces)) + len(LAST_BLOCK) + 4
    if max(size, length) >= MOST:
        raise DbnetError(f"{name} takes {size} bytes, more than a variable of a MATLAB 5 file can have; convert the "
                         f"set in parts")
    checksum = zlib.adler32(b"")
    stream.write(struct.pack(order + "II", COMPRESSED, length) + b"\x78\x01")
    for piece in (head, *pieces):
        stream.write(piece.data)
        checksum = _joined(checksum, piece)
    stream.write(LAST_BLOCK + struct.pack(">I", checksum))


def _joined(checksum: int, piece: Folded) -> int:
    """Adler-32 of a text and the piece behind it: sums of bytes, and of those sums, modulo a prime (RFC 1950)."""
    prime = 65521
    low = (checksum & 0xFFFF) - 1
    high = (checksum >> 16) + (piece.checksum >> 16) + piece.size % prime * low
    return (low + (piece.checksum & 0xFFFF)) % prime | high % prime << 16


# Files ----------------------------------------------------------------------------------------------------------------


class Output:
    """A file that is being written; `sha256` is that of all bytes so far."""

    def __init__(self, stream: BinaryIO):
        self.stream, self._hash = stream, hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        for begin in range(0, len(data), AT_ONCE):
            piece = data[begin:begin + AT_ONCE]
            self._hash.update(piece)
            self.stream.write(piece)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def check_target(target: Path, source: Path, force: bool) -> None:
    """Raises DbnetError if `target` cannot be written, or is something that --force is not meant for."""
    if target.suffix.lower() != ".mat":
        raise DbnetError(f"{target}: SynthText's labels stay a .mat file; name the output gt_processed.mat, for one")
    writing.check_target(target, source, force)
    if target.exists() and not _replaceable(target):
        raise DbnetError(f"{target}: exists and is no .mat file; name another file")


def _replaceable(target: Path) -> bool:
    if not target.is_file():
        return False
    with target.open("rb") as stream:
        begin = stream.read(HEADER_BYTES)
    return not begin or begin[126:128] in (b"IM", b"MI")


@contextlib.contextmanager
def nowhere() -> Iterator[Output]:
    """A file that is only hashed."""
    with open(os.devnull, "wb") as stream:
        yield Output(stream)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Output]:
    """A new file that takes the place of `target` when the block ends well. Raises DbnetError as `writing` does."""
    with writing.replacing(target) as (stream, _):
        yield Output(stream)
