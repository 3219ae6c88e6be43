"""Many small matrices of a .mat file at a time: their headers taken apart together, their values still in place."""

from __future__ import annotations

import copy
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dbnet.errors import DbnetError

MATRIX = 14
CELL, CHAR, DOUBLE, SINGLE = 1, 4, 6, 7
NUMERIC = range(6, 16)
#: Storage type -> NumPy's name. A double may be stored as a smaller type where its values allow it.
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
#: Storage types of characters -> the codec without its byte order. uint16 is UTF-16 in MATLAB's own files.
CODECS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}


class Walk:
    """Goes through the parts of many matrices at once: `at` and `end` are (N,) int64, bytes in `buffer`."""

    def __init__(self, buffer: memoryview, order: str, where: str, at: np.ndarray, end: np.ndarray):
        self.words = np.frombuffer(buffer, order + "u4", count=len(buffer) // 4)
        self.where, self.at, self.end, self.several = where, at, end, len(at) > 1
        self.ndim = np.zeros(len(at), np.int64)
        self.numbers = np.arange(1, len(at) + 1)  # in their cell, for errors

    def only(self, which: np.ndarray) -> Walk:
        """The walk of some of the matrices from where they are."""
        part = copy.copy(self)
        part.at, part.end, part.ndim, part.numbers = (values[which] for values in (self.at, self.end, self.ndim,
                                                                                   self.numbers))
        return part

    def refuse(self, wrong: np.ndarray, reason: str) -> None:
        """Raises DbnetError, naming the first matrix that is wrong."""
        if wrong.any():
            first = int(np.argmax(wrong))
            entry = f", entry {self.numbers[first]}" if self.several else ""
            raise DbnetError(f"{self.where}{entry}: {reason}; the file is damaged, fetch it again")

    def step(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Storage type, bytes and position of the next part of each matrix."""
        self.refuse(self.at + 8 > self.end, "ends before it is complete")
        index = self.at >> 2
        first = self.words[index].astype(np.int64)
        small = first >> 16  # data of up to four bytes stand in the tag itself
        size = np.where(small > 0, small, self.words[index + 1])
        data = self.at + np.where(small > 0, 4, 8)
        self.refuse((small > 4) | (data + size > self.end), "a part of it claims more bytes than there are")
        self.at = np.minimum(np.where(small > 0, self.at + 8, data + (size + 7 & -8)), self.end)
        return np.where(small > 0, first & 0xFFFF, first), size, data

    def flags(self) -> tuple[np.ndarray, np.ndarray]:
        """Class, and whether it holds complex numbers."""
        kind, size, data = self.step()
        self.refuse((kind != 6) | (size != 8), "does not begin as a matrix")
        flags = self.words[data >> 2]
        return (flags & 0xFF).astype(np.uint8), (flags & 0x800) != 0

    def shape(self) -> np.ndarray:
        """(N, D) int64 with ones where a matrix has fewer dimensions than another; `ndim` is set."""
        kind, size, data = self.step()
        self.refuse((kind != 5) | (size < 8) | (size > 128) | (size % 4 != 0), "has no shape that can be read")
        self.ndim = size >> 2
        shape = np.ones((len(size), int(self.ndim.max(initial=2))), np.int64)
        for axis in range(shape.shape[1]):
            has = np.flatnonzero(self.ndim > axis)
            shape[has, axis] = self.words[(data[has] >> 2) + axis]
        self.refuse((shape >= 2**31).any(axis=1), "has a negative size")
        return shape

    def name(self) -> tuple[np.ndarray, np.ndarray]:
        """Bytes and position of the name."""
        kind, size, data = self.step()
        self.refuse(kind != 1, "has no name that can be read")
        return size, data


@dataclass(frozen=True, eq=False)
class Matrices:
    """N matrices in one buffer, their headers taken apart, their values still in place.

    start, length: the bytes of each with its tag. mclass: MATLAB's class. ndim, shape: (N, D), ones after `ndim`.
    kind, data, size: storage type, position and bytes of the values (of a cell: of what it holds).
    """

    buffer: memoryview
    order: str
    where: str
    start: np.ndarray
    length: np.ndarray
    mclass: np.ndarray
    ndim: np.ndarray
    shape: np.ndarray
    kind: np.ndarray
    data: np.ndarray
    size: np.ndarray

    @classmethod
    def parse(cls, buffer: memoryview, order: str, where: str, start: np.ndarray) -> Matrices:
        """The matrices that begin at the positions `start`, multiples of 8 within `buffer`. Raises DbnetError."""
        words = np.frombuffer(buffer, order + "u4", count=len(buffer) // 4)
        length = 8 + words[(start >> 2) + 1].astype(np.int64)
        walk = Walk(buffer, order, where, start, start + 8)
        walk.refuse(words[start >> 2] != MATRIX, "is no matrix")
        walk.refuse(start + length > len(buffer), "claims more bytes than there are")
        n = len(start)
        mclass, kind = np.full(n, DOUBLE, np.uint8), np.full(n, 9, np.uint8)
        ndim, shape = np.full(n, 2, np.uint8), np.zeros((n, 2), np.int32)
        data, size = start + 8, np.zeros(n, np.int64)
        full = np.flatnonzero(length > 8)  # one of no bytes at all is an empty matrix of doubles
        if len(full):
            walk.at, walk.end = start + 8, start + length
            walk = walk.only(full)
            mclass[full], imaginary = walk.flags()
            dims = walk.shape()
            ndim[full] = walk.ndim
            shape = np.ones((n, dims.shape[1]), np.int32)
            shape[:, :2] = 0
            shape[full] = dims
            walk.name()  # which only variables have
            kind[full], size[full], data[full] = _values(walk, mclass[full], imaginary, dims)
        return cls(buffer, order, where, start, length, mclass, ndim, shape, kind, data, size)

    def __len__(self) -> int:
        return len(self.start)

    def raw(self, first: int, last: int) -> memoryview:
        """The bytes of the matrices from `first` to before `last`, which must follow on each other."""
        return self.buffer[self.start[first]:self.start[last - 1] + self.length[last - 1]]

    def numbers(self, i: int) -> np.ndarray:
        """The values of a matrix of numbers in the type that they are stored in, native byte order, read-only."""
        self._check(i, NUMERIC, "a matrix of numbers")
        stored = STORED[int(self.kind[i])]
        values = np.frombuffer(self.buffer, self.order + stored, int(self.size[i]) // int(stored[1]), int(self.data[i]))
        return values.astype(stored, copy=False).reshape(self.shape[i, :self.ndim[i]], order="F")

    def rows(self, i: int) -> list[str]:
        """The rows of a matrix of characters, their padding included except for NULs at the end."""
        return next(self.texts(i, i + 1))

    def texts(self, first: int, last: int) -> Iterator[list[str]]:
        """`rows` of the matrices from `first` to before `last`. What has no values at all has no rows either."""
        part = slice(first, last)
        columns = (self.mclass[part], self.kind[part], self.data[part], self.size[part], *self.shape[part].T[:2])
        for i, (mclass, kind, data, size, height, width) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
            if not height * width:
                yield []
                continue
            if mclass != CHAR or self.ndim[first + i] > 2:
                self._check(first + i, (), "a text of one or more rows")
            text = self._characters(first + i, kind, self.buffer[data:data + size], height * width)
            rows = [text[row::height] for row in range(height)] if height > 1 else [text]
            if not text.isascii():
                rows = [row.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for row in rows]
            yield [row.rstrip("\0") for row in rows] if "\0" in text else rows

    def _characters(self, i: int, kind: int, data: memoryview, count: int) -> str:
        """`count` characters in the file's order, column by column; a character above U+FFFF may count as two."""
        codec = CODECS.get(kind, "")
        if kind in (4, 17, 18):
            codec += "-le" if self.order == "<" else "-be"
        try:
            if kind not in CODECS:
                raise ValueError(f"type {kind} is none of characters")
            text = str(data, codec, "surrogatepass" if kind > 2 else "strict")
        except ValueError as error:
            raise DbnetError(f"{self.entry(i)}: text that cannot be decoded ({error}); the file is damaged, fetch it "
                             f"again") from error
        if len(text) != count:  # dimensions count UTF-16's units in MATLAB's own files
            text = "".join(map(chr, np.frombuffer(text.encode("utf-16-le", "surrogatepass"), "<u2").tolist()))
        if len(text) != count:
            raise DbnetError(f"{self.entry(i)}: {len(text)} characters where the shape says {count}; the file is "
                             f"damaged, fetch it again")
        return text

    def cells(self, i: int) -> Matrices:
        """The matrices in a cell array, column by column. Raises DbnetError if it is none, or if they do not fit."""
        self._check(i, (CELL,), "a cell array")
        at, end = int(self.data[i]), int(self.data[i] + self.size[i])
        count = float(np.prod(self.shape[i], dtype=np.float64))
        if count * 8 > end - at:
            raise DbnetError(f"{self.entry(i)}: claims {count:.0f} entries in {end - at} bytes; the file is damaged, "
                             f"fetch it again")
        start = np.empty(int(count), np.int64)
        unpack = struct.Struct(self.order + "I").unpack_from
        for entry in range(len(start)):
            if at % 8 or at + 8 > end:
                raise DbnetError(f"{self.where}, entry {entry + 1}: does not begin where the one before it ends; the "
                                 f"file is damaged, fetch it again")
            start[entry] = at
            at += 8 + unpack(self.buffer, at + 4)[0]
        return Matrices.parse(self.buffer[:end], self.order, self.where, start)

    def entry(self, i: int) -> str:
        """What errors call a matrix."""
        return f"{self.where}, entry {i + 1}" if len(self) > 1 else self.where

    def _check(self, i: int, classes: range | tuple[int, ...], what: str) -> None:
        if self.mclass[i] not in classes:
            raise DbnetError(f"{self.entry(i)}: is not {what} (class {self.mclass[i]})")


def _values(walk: Walk, mclass: np.ndarray, imaginary: np.ndarray, dims: np.ndarray) -> tuple[np.ndarray, ...]:
    """Storage type, position and bytes of the values of each matrix; of a cell, of all that it holds."""
    kind, data, size = np.full(len(mclass), 9), walk.at.copy(), walk.end - walk.at
    count = np.prod(dims, axis=1, dtype=np.float64)
    numeric = (mclass >= NUMERIC.start) & (mclass < NUMERIC.stop)
    walk.refuse(numeric & imaginary, "holds complex numbers, which no label file has")
    plain = np.flatnonzero((numeric | (mclass == CHAR)) & ((count > 0) | (size > 0)))  # nothing may go without a part
    inner = walk.only(plain)
    kind[plain], size[plain], data[plain] = inner.step()
    width = np.zeros(256, np.int64)
    for stored, name in STORED.items():
        width[stored] = int(name[1])
    unknown = (kind[plain] > 255) | (numeric[plain] & (width[kind[plain] & 255] == 0))
    inner.refuse(unknown, "holds values of an unknown type")
    inner.refuse(numeric[plain] & (width[kind[plain]] * count[plain] != size[plain]),
                 "has not as many values as its shape says")
    return kind, size, data
