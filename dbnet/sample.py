"""What a dataset says about an image, and what a detector finds in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, eq=False)
class Sample:
    """One labelled image.

    polygons: K outlines, each (P, 2) float64, x and y in pixels of the image. ignore: (K,) bool, True where the label
    says "do not care". texts: the K transcriptions.
    """

    image: Path
    polygons: list[np.ndarray]
    ignore: np.ndarray
    texts: list[str]

    @property
    def name(self) -> str:
        """The image's file name: what reports and results call it."""
        return self.image.name


@dataclass(eq=False, slots=True)  # a frozen one takes three times as long to make, 1,000 on a page
class Detection:
    """One found text. polygon: (P, 2) float32, x and y in pixels; score: mean probability, a fraction."""

    polygon: np.ndarray
    score: float
