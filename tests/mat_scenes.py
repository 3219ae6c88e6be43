"""MATLAB 5 files written plainly, byte order, storage and padding at will: what scipy.io.savemat does not write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

KINDS = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 9, "i8": 12, "u8": 13}
TEXT_KINDS = {"uint8": (2, "latin-1"), "uint16": (4, "utf-16"), "utf-8": (16, "utf-8"), "utf-16": (17, "utf-16"),
              "utf-32": (18, "utf-32")}
CLASSES = {"f8": 6, "f4": 7, "i1": 8, "u1": 9, "i2": 10, "u2": 11, "i4": 12, "u4": 13}


@dataclass(frozen=True)
class Writer:
    """order: "<" or ">". small: whether up to four bytes go into the tag."""

    order: str = "<"
    small: bool = True

    def part(self, kind: int, data: bytes) -> bytes:
        if self.small and 0 < len(data) <= 4:
            return struct.pack(self.order + "I", len(data) << 16 | kind) + data.ljust(4, b"\0")
        return struct.pack(self.order + "II", kind, len(data)) + data + bytes(-len(data) % 8)

    def matrix(self, mclass: int, shape: Sequence[int], content: bytes, name: str = "", flags: int = 0) -> bytes:
        dims = struct.pack(f"{self.order}{len(shape)}i", *shape)
        inner = (self.part(6, struct.pack(self.order + "II", flags | mclass, 0)) + self.part(5, dims)
                 + self.part(1, name.encode("latin-1")) + content)
        return struct.pack(self.order + "II", 14, len(inner)) + inner

    def numbers(self, array: np.ndarray, stored: str | None = None, name: str = "") -> bytes:
        """stored: the type in the file, where it is another than the array's own."""
        values = array.astype(self.order + (stored or array.dtype.str[1:])).tobytes(order="F")
        return self.matrix(CLASSES[array.dtype.str[1:]], array.shape, self.part(KINDS[stored or array.dtype.str[1:]],
                                                                                values), name)

    def text(self, rows: Sequence[str], storage: str = "uint16", pad: str = " ", name: str = "",
             units: bool = False) -> bytes:
        """A matrix of characters. units: the width counts UTF-16's units, as MATLAB has it."""
        kind, codec = TEXT_KINDS[storage]
        width = max(map(len, rows), default=0)
        lines = [row.ljust(width, pad) for row in rows]
        columns = "".join(line[i] for i in range(width) for line in lines)
        if codec in ("utf-16", "utf-32"):
            codec += "-le" if self.order == "<" else "-be"
        if units:
            width = len(columns.encode("utf-16-le")) // 2
        return self.matrix(4, (len(rows), width), self.part(kind, columns.encode(codec)), name)

    def cells(self, children: Sequence[bytes], name: str = "", shape: Sequence[int] | None = None) -> bytes:
        return self.matrix(1, shape or (1, len(children)), b"".join(children), name)

    def header(self) -> bytes:
        return b"MATLAB 5.0 MAT-file, plain".ljust(116) + bytes(8) + struct.pack(self.order + "HH", 0x0100, 0x4D49)

    def file(self, *variables: bytes, compress: bool = False) -> bytes:
        if compress:
            variables = tuple(self.folded(variable) for variable in variables)
        return self.header() + b"".join(variables)

    def folded(self, variable: bytes, level: int = 6) -> bytes:
        data = zlib.compress(variable, level)
        return struct.pack(self.order + "II", 15, len(data)) + data


def cell_row(values: Sequence[object]) -> np.ndarray:
    """(1, N) object array, as scipy.io takes and gives a row of cells."""
    row = np.empty((1, len(values)), object)
    for i, value in enumerate(values):
        row[0, i] = value
    return row
