"""What each row finds in every image, and how far it is from the first row of the same model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dbnet.errors import DbnetError
from dbnet.sample import Detection
from evaluation.benching.bundle_types import Parity, detections_of
from evaluation.benching.entry import Entry
from evaluation.benching.plan import Tolerance
from evaluation.compare_maps import Boxes, compare_boxes

#: Images whose probability maps are compared, the first ones, with the rest of a batch: one of 736 x 1280 has 3.8 MB.
MOST_MAPS = 64
#: Images that this machine looks at itself where a cluster looks at all.
CHECKED = 8
#: What a row finds in all images, as a bundle holds it, by the workers of a cluster.
Everywhere = Callable[[Entry], list[dict[str, Any]]]


@dataclass
class Collected:
    """images: what was found, as a bundle holds it. parity: None for a row that others are compared with."""

    images: list[dict[str, Any]] = field(default_factory=list)
    parity: Parity | None = None


@dataclass
class _Difference:
    """Of two rows so far. max_abs: None as soon as maps cannot be subtracted."""

    max_abs: float | None = 0.0
    maps: int = 0
    boxes: Boxes = field(default_factory=Boxes)

    def add(self, ours: np.ndarray, theirs: np.ndarray) -> None:
        """Two maps of one image."""
        self.maps += 1
        if ours.shape != theirs.shape or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
            self.max_abs = None
        elif self.max_abs is not None:
            self.max_abs = max(self.max_abs, float(np.abs(ours - theirs).max()))

    def verdict(self, tolerance: float) -> str:
        """As `dbnet compare` has it."""
        if self.max_abs is None or self.max_abs > tolerance or not self.boxes.same:
            return "different"
        return "within tolerance" if self.max_abs else "same"


class Collector:
    """Runs each row over all images once. folder: for the maps of rows that others are compared with. everywhere: where
    a cluster runs over them, and this machine over the first ones alone.
    """

    def __init__(self, paths: Sequence[str], names: Sequence[str], folder: Path, tolerance: Tolerance,
                 everywhere: Everywhere | None = None):
        self._paths, self._names, self._folder, self._tolerance = paths, names, folder, tolerance
        self._everywhere = everywhere
        #: What is computed -> the first row that computed it, and what it found.
        self._references: dict[str, tuple[Entry, Collected]] = {}

    def collect(self, entry: Entry) -> Collected:
        """Raises DbnetError as the row's process does."""
        reference = self._references.get(entry.computes)
        result, difference = Collected(), _Difference()
        images = len(self._paths) if self._everywhere is None else min(CHECKED, len(self._paths))
        for first in range(0, images, entry.batch):
            places = range(first, min(first + entry.batch, images))
            batch = [self._paths[(first + k) % len(self._paths)] for k in range(entry.batch)]
            found, maps = entry.detect(batch, len(places), first < MOST_MAPS)
            result.images += [{"name": self._names[place], "detections": each}
                              for place, each in zip(places, found, strict=True)]
            for place, map_ in zip(places[:len(maps)], maps, strict=True):
                if reference is None:
                    self._keep(entry, place, map_)
                else:
                    difference.add(map_, np.load(self._file(reference[0], place)))
        if self._everywhere is not None:
            everything = self._everywhere(entry)
            apart = sum(here != there for here, there in zip(result.images, everything[:images], strict=True))
            if apart:
                entry.notes.append(f"{entry.title}: in {apart} of the first {images} images the cluster finds other "
                                   f"boxes than this machine")
            result.images = everything
        if reference is None:
            self._references[entry.computes] = entry, result
        else:
            self._compare(entry, result, *reference, difference)
        return result

    def _compare(self, entry: Entry, result: Collected, other: Entry, theirs: Collected,
                 difference: _Difference) -> None:
        ours, others = _lists(result), _lists(theirs)
        difference.boxes = sum((compare_boxes(a, b) for a, b in zip(others, ours, strict=True)), Boxes())
        boxes, tolerance = difference.boxes, self._tolerance(other.environment, entry.environment)
        result.parity = Parity(other.place, difference.verdict(tolerance), difference.max_abs, tolerance,
                               difference.maps, boxes.identical, boxes.a + boxes.invented)

    def _keep(self, entry: Entry, place: int, map_: np.ndarray) -> None:
        file = self._file(entry, place)
        try:
            np.save(file, map_)
        except OSError as error:
            raise DbnetError(f"{file}: there is no room for the maps that are compared ({error.strerror}); set TMPDIR "
                             f"to a folder with some") from error

    def _file(self, entry: Entry, place: int) -> Path:
        return self._folder / f"map_{entry.place}_{place}.npy"


def _lists(found: Collected) -> list[list[Detection]]:
    return list(detections_of(found.images).values())
