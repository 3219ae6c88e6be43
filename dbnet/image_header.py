"""How large an image is, read from its first bytes before the memory for it is taken."""

from __future__ import annotations

import struct

import numpy as np

#: Bytes that are looked at: a JPEG may begin with a thumbnail and a colour profile.
BEGINNING = 2**18
#: Pixels that any file may claim, and for each of its bytes beyond that; a blank page, bit by bit, has 1,000 to 2,000.
FEW_PIXELS, PIXELS_A_BYTE = 2**24, 2000
#: Bytes of a chunk of a PNG; encoders write much smaller ones.
LARGE_CHUNK = 2**24
#: JPEG markers that begin a frame (C4, C8 and CC are tables), and those without a length.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
#: TIFF's tags and types.
_WIDTH, _LENGTH, _SHORT, _LONG = 256, 257, 3, 4
_BARE = frozenset((0x00, 0x01, *range(0xD0, 0xD8)))


def pixels_of(data: np.ndarray) -> int | None:
    """Height times width of the image in the bytes of a file, (N,) uint8; None where its header does not tell."""
    is_tiff = data[:4].tobytes() in (b"II*\0", b"MM\0*")  # which may have its header at its end
    size = size_of(data[:None if is_tiff else BEGINNING].tobytes())
    return None if size is None else size[0] * size[1]


def size_of(begin: bytes) -> tuple[int, int] | None:
    """Height and width in pixels as they are stored, from how a file begins; None where that does not tell.

    PNG, JPEG, GIF, BMP, WebP and TIFF are known, the last if its first directory is in there. The numbers are the
    file's own claim.
    """
    try:
        if begin.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = struct.unpack_from(">II", begin, 16)
        elif begin.startswith(b"\xff\xd8"):
            return _jpeg(begin)
        elif begin.startswith((b"GIF87a", b"GIF89a")):
            width, height = struct.unpack_from("<HH", begin, 6)
        elif begin.startswith(b"BM"):
            width, height = map(abs, struct.unpack_from("<ii", begin, 18))
        elif begin.startswith(b"RIFF") and begin[8:12] == b"WEBP":
            return _webp(begin)
        elif begin.startswith((b"II*\0", b"MM\0*")):
            return _tiff(begin)
        else:
            return None
    except struct.error:  # cut off
        return None
    return height, width


def claims_too_much(data: np.ndarray) -> bool:
    """Whether an image, (N,) uint8, claims more pixels than such a file has: a few bytes can stand for gigabytes."""
    pixels = pixels_of(data)
    return pixels is not None and pixels > max(FEW_PIXELS, PIXELS_A_BYTE * len(data))


def is_cut_off(data: np.ndarray) -> bool:
    """Whether a chunk of a PNG, (N,) uint8, claims more than `LARGE_CHUNK` bytes that are not there.

    OpenCV takes up to 2 GiB for what a chunk claims, and looks afterwards whether the file has it.
    """
    raw, at = data.data, 8
    if bytes(raw[:8]) != b"\x89PNG\r\n\x1a\n":
        return False
    while at + 8 <= len(raw):
        size, = struct.unpack_from(">I", raw, at)
        at += 12 + size
        if at > len(raw) and size > LARGE_CHUNK:
            return True
    return False


def _jpeg(begin: bytes) -> tuple[int, int] | None:
    """From segment to segment, each `FF marker length`, to the frame's own: `precision height width`.

    As libjpeg looks for a marker: whatever stands before it is skipped, so that nothing can hide from here.
    """
    at = 2
    while (at := begin.find(b"\xff", at)) >= 0:
        while at < len(begin) and begin[at] == 0xFF:
            at += 1
        if at + 8 > len(begin):
            return None
        marker, at = begin[at], at + 1
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", begin, at + 3)
            return height, width
        if marker not in _BARE:
            at += max(2, begin[at] << 8 | begin[at + 1])
    return None


def _webp(begin: bytes) -> tuple[int, int] | None:
    """Of the first chunk: a lossy frame, a lossless one, or what announces several chunks."""
    kind = begin[12:16]
    if kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", begin, 26))
    elif kind == b"VP8L":
        bits, = struct.unpack_from("<I", begin, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8X":
        width, height = (int.from_bytes(begin[at:at + 3], "little") + 1 for at in (24, 27))
    else:
        return None
    return height, width


def _tiff(data: bytes) -> tuple[int, int] | None:
    """ImageWidth and ImageLength of the first directory."""
    order = "<" if data[:1] == b"I" else ">"
    at, = struct.unpack_from(order + "I", data, 4)
    count, = struct.unpack_from(order + "H", data, at)
    sides: dict[int, int] = {}
    for entry in range(at + 2, min(at + 2 + 12 * count, len(data) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in (_WIDTH, _LENGTH) and kind in (_SHORT, _LONG):
            sides[tag], = struct.unpack_from(order + ("H" if kind == _SHORT else "I"), data, entry + 8)
    return (sides[_LENGTH], sides[_WIDTH]) if len(sides) == 2 else None
