"""What a dataset says about an image, and what a detector finds in it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

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


class Samples(Sequence[Sample]):
    """Samples that are made when they are asked for."""

    @abstractmethod
    def at(self, index: int) -> Sample:
        """The sample of that place, from 0 and below the length."""

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        places = range(len(self))[index]
        return self.at(places) if isinstance(places, int) else [self.at(place) for place in places]


@dataclass(eq=False, slots=True)  # a frozen one takes three times as long to make, 1,000 on a page
class Detection:
    """One found text. polygon: (P, 2) float32, x and y in pixels; score: mean probability, a fraction."""

    polygon: np.ndarray
    score: float
