"""What becomes of the detections in one image: its line in a store, and what it adds to the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dbnet.sample import Detection, Sample
from dbnet.spec import BoxRule, PixelFormat
from evaluation import pipeline
from evaluation.protocols.table import find
from evaluation.store import encode


@dataclass(frozen=True, eq=False)
class Scoring:
    """Plain values, so that other processes can have it. rules: the box rule, and those of a sweep. protocols: names.
    called: what results call an image.
    """

    pixels: PixelFormat
    rules: Sequence[BoxRule]
    protocols: tuple[str, ...]
    called: Mapping[Path, str]

    def finish(self, found: pipeline.Found) -> tuple[bytes, list[np.ndarray]]:
        """The line of `store.encode`, and `counts`."""
        line = encode(self.called[found.sample.image], found.checksum, found.detections)
        return line, self.counts(found.sample, found.detections)

    def counts(self, sample: Sample, detections: Sequence[Sequence[Detection]]) -> list[np.ndarray]:
        """Of one image, (settings, variants, `COLUMNS`) for each protocol; `detections`: one list for each rule."""
        return [protocol.count([sample] * len(detections), detections) for protocol in find(self.protocols)]

    def of(self, samples: Sequence[Sample]) -> Scoring:
        """For some of the images."""
        return replace(self, called={sample.image: self.called[sample.image] for sample in samples})
