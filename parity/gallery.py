"""What a comparison keeps of the images that it has seen: every box, and the maps of those that differ most."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dbnet.errors import DbnetError
from dbnet.preprocess import read_bytes
from dbnet.sample import Detection, Sample
from evaluation.compare_maps import Found, ImageComparison
from evaluation.comparison_report.pictures import EXAMPLES, PICTURED, Picture, differs, heat_map, rank, side_by_side
from evaluation.pictures import decode


@dataclass(eq=False)
class Gallery:
    """wanted: whether pictures will be asked for; else no maps are kept. ignore_orientation: show images as they are
    stored, which is how A sees them. paths: name -> path of the images whose files are at hand.
    """

    wanted: bool
    ignore_orientation: bool = False
    names: list[str] = field(default_factory=list)
    paths: dict[str, str] = field(default_factory=dict)
    found_a: list[list[Detection]] = field(default_factory=list)
    found_b: list[list[Detection]] = field(default_factory=list)
    _worst: list[Any] = field(default_factory=list)

    def observe(self, image: ImageComparison, path: Path | None, a: Found, b: Found) -> None:
        """An image that both models ran on (`compare_maps.Observer`)."""
        self.names.append(image.name)
        if path is not None:
            self.paths[image.name] = str(path)
        self.found_a.append(a.boxes)
        self.found_b.append(b.boxes)
        if not self.wanted or path is None or a.probability is None or b.probability is None:
            return
        row = {"max_abs": image.max_abs, "tolerance": image.tolerance, "not_finite": image.not_finite,
               "sizes": image.sizes, "boxes": asdict(image.boxes)}
        # The number decides between equals, so that images and arrays are never compared. Maps to look at need no more
        # digits than float16 has: two of 1280 x 736 pixels are 4 MB.
        entry = (rank(row), -len(self.names), differs(row), image.name, path, _small(a), _small(b))
        if len(self._worst) < PICTURED:
            heapq.heappush(self._worst, entry)
        else:
            heapq.heappushpop(self._worst, entry)

    def samples(self, labelled: Mapping[str, Sample]) -> list[Sample]:
        """Of name -> labels, those of the images that both models ran on, in the order of `found_a`."""
        return [labelled[name] for name in self.names]

    def pictures(self, stage: tuple[str, np.ndarray, np.ndarray] | None = None) -> list[Picture]:
        """The stage, with both maps (N, C, H, W), and the images that differ most, the worst first."""
        if not self.wanted:
            return []
        made: list[Picture | None] = []
        if stage is not None:
            name, ours, theirs = stage
            made.append(heat_map(ours, theirs, name))
        ordered = sorted(self._worst, key=lambda entry: entry[:2], reverse=True)
        made += map(self._shown, [entry for entry in ordered if entry[2]] or ordered[:EXAMPLES])
        return [picture for picture in made if picture is not None]

    def _shown(self, entry: tuple[Any, ...]) -> Picture | None:
        """None for an image that is gone since."""
        *_, name, path, a, b = entry
        try:
            pixels = decode(read_bytes(path), path, self.ignore_orientation)
        except DbnetError:
            return None
        return side_by_side(pixels, a.probability, a.boxes, b.probability, b.boxes, name=name,
                            covered=(a.covered, b.covered))


def _small(found: Found) -> Found:
    assert found.probability is not None
    return replace(found, probability=found.probability.astype(np.float16))
