"""The picture of the upgrade alarm: drawn in integers, so that no version of OpenCV or NumPy draws another one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

#: Height and width in pixels: multiples of 32, so that nothing is resized.
SIZE = (320, 320)
NAME = "drawn.ppm"
_WORDS = ("TAXI", "EXIT", "OPEN")
#: Seven rows of five dots, the leftmost the highest bit.
_GLYPHS = {"A": (14, 17, 17, 31, 17, 17, 17), "E": (31, 16, 16, 30, 16, 16, 31), "I": (14, 4, 4, 4, 4, 4, 14),
           "N": (17, 25, 21, 19, 17, 17, 17), "O": (14, 17, 17, 17, 17, 17, 14), "P": (30, 17, 17, 30, 16, 16, 16),
           "T": (31, 4, 4, 4, 4, 4, 4), "X": (17, 17, 10, 4, 10, 17, 17)}
#: Pixels of a dot, for each word.
_DOTS = (6, 9, 7)


def picture() -> np.ndarray:
    """(320, 320, 3) uint8 BGR: three words on a coloured ramp, with noise of a few levels."""
    y, x = np.mgrid[:SIZE[0], :SIZE[1]].astype(np.int64)
    image = np.stack([150 + x // 8, 190 - y // 10, 140 + (x + y) // 16], axis=-1)
    top = 22
    for word, dot in zip(_WORDS, _DOTS, strict=True):
        ink = _ink(word).repeat(dot, 0).repeat(dot, 1)
        left = (SIZE[1] - ink.shape[1]) // 2 + (dot - 7) * 6
        image[top:top + ink.shape[0], left:left + ink.shape[1]][ink] = (40, 30 + 10 * dot, 60)
        top += ink.shape[0] + 38
    places = (y * SIZE[1] + x)[..., np.newaxis] * 3 + np.arange(3)
    noise = (places * 2654435761 % 2**32 >> 13) * 40503 % 2**16 >> 12  # 0..15
    return (image + noise - 8).astype(np.uint8)


def _ink(word: str) -> np.ndarray:
    """(7, 6 * letters - 1) bool."""
    rows = np.array([_GLYPHS[letter] for letter in word]).T[..., np.newaxis]  # (7, letters, 1)
    dots = rows >> np.arange(5, -1, -1) & 1  # the sixth is the gap before a letter
    return dots.reshape(7, -1).astype(bool)


def write_picture(folder: Path) -> Path:
    """As a PPM file: a header and the colours, so that its bytes depend on no encoder."""
    path = folder / NAME
    path.write_bytes(b"P6\n%d %d\n255\n" % SIZE[::-1] + picture()[..., ::-1].tobytes())
    return path
