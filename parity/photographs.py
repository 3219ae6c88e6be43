"""One image as each of two models sees it: an EXIF orientation turns it for one, and not for another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dbnet.preprocess import read_bytes
from dbnet.spec import PixelFormat
from evaluation.pictures import decode


@dataclass(frozen=True, eq=False)
class Photograph:
    """upright, stored: (H, W, 3) uint8 BGR, turned as its EXIF orientation says, and as it is stored. note: what a
    reader should know of how it was chosen.
    """

    upright: np.ndarray
    stored: np.ndarray
    note: str = ""

    @classmethod
    def read(cls, path: str | Path) -> Photograph:
        """Raises DbnetError for what is no image."""
        data = read_bytes(path)
        return cls(decode(data, path), decode(data, path, ignore_orientation=True))

    @classmethod
    def of(cls, picture: Picture, note: str = "") -> Photograph:
        """An array is upright."""
        return picture if isinstance(picture, Photograph) else cls(picture, picture, note)

    @property
    def is_upright(self) -> bool:
        return np.array_equal(self.upright, self.stored)

    def seen_by(self, pixels: PixelFormat) -> np.ndarray:
        return self.stored if pixels.ignore_orientation else self.upright


#: What models are compared on.
Picture = np.ndarray | Photograph
