"""How large an image is, read from its first bytes before the memory for it is taken."""

from __future__ import annotations

import struct

import numpy as np

#: Bytes that are looked at: a JPEG may begin with a thumbnail and a colour profile.
BEGINNING = 2**18
#: JPEG markers that begin a frame (C4, C8 and CC are tables), and those without a length.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset((0x01, *range(0xD0, 0xD8)))


def pixels_of(data: np.ndarray) -> int | None:
    """Height times width of the image in the bytes of a file, (N,) uint8; None where its header does not tell."""
    size = size_of(data[:BEGINNING].tobytes())
    return None if size is None else size[0] * size[1]


def size_of(begin: bytes) -> tuple[int, int] | None:
    """Height and width in pixels as they are stored, from how a file begins; None where that does not tell.

    PNG, JPEG, GIF and BMP are known. The numbers are the file's own claim.
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
        else:
            return None
    except struct.error:  # cut off
        return None
    return height, width


def _jpeg(begin: bytes) -> tuple[int, int] | None:
    """From segment to segment, each `FF marker length`, to the frame's own: `precision height width`."""
    at = 2
    while at + 9 <= len(begin) and begin[at] == 0xFF:
        marker = begin[at + 1]
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", begin, at + 5)
            return height, width
        if marker == 0xFF:  # filling
            at += 1
        elif marker in _BARE:
            at += 2
        else:
            at += 2 + (begin[at + 2] << 8 | begin[at + 3])
    return None
