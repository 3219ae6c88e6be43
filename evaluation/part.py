"""One machine's part of an evaluation, and what its report has beside any other's, so that parts can be put together.

A merge has neither labels nor images. So a part's report holds of every image the counts of all variants of a protocol
(which is the best is decided over all images), of a sweep the exact sums, and digests of what the parts must share.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dbnet.sample import Detection, Sample
from dbnet.shards import Shard
from evaluation.protocols import COLUMNS, Result, exact_sums

#: Of what a report has under `shard`.
VERSION = 1
#: Where it stands, and where an image has its counts of all variants.
KEY, VARIANTS = "shard", "variants"


@dataclass(frozen=True)
class Part:
    """shard: which. first: the place of its first image in the whole. images: of the whole. names, labels: SHA-256 of
    the whole's names and outlines, hexadecimal; results: of the result files' detections, None of a model.
    """

    shard: Shard
    first: int
    images: int
    names: str
    labels: str
    results: str | None = None

    @property
    def places(self) -> range:
        """Of its images in the whole."""
        return self.shard.places(self.images)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        told = {"version": VERSION, "part": str(self.shard), "first": self.first, "images": self.images,
                "names_sha256": self.names, "labels_sha256": self.labels}
        return told | ({} if self.results is None else {"results_sha256": self.results})


def part_of(shard: Shard, names: Sequence[str], samples: Sequence[Sample],
            detections: Sequence[Sequence[Detection]] | None = None) -> Part:
    """names, samples, detections: of the whole. Raises DbnetError for more parts than images."""
    found = None if detections is None else _digest(_detections_bytes(each) for each in detections)
    return Part(shard, shard.places(len(samples)).start, len(samples), names_digest(names),
                _digest(map(_label_bytes, samples)), found)


def names_digest(names: Sequence[str]) -> str:
    """SHA-256 of the images' names in their order."""
    return hashlib.sha256(json.dumps(names if isinstance(names, list) else list(names)).encode()).hexdigest()


def sweep_sums(results: dict[str, Result]) -> dict[str, Any]:
    """By protocol: two parts of the sums over the images, (V, 4) each, both exact."""
    return {name: [numbers(part) for part in exact_sums(result.counts)] for name, result in results.items()}


def variants_of(results: dict[str, Result]) -> dict[str, list[str]]:
    """Of the protocols that have several."""
    return {name: list(result.protocol.variants) for name, result in results.items()
            if len(result.protocol.variants) > 1}


def numbers(array: np.ndarray) -> Any:
    """Nested lists, whole numbers as such."""
    if array.ndim:
        return [numbers(row) for row in array]
    value = float(array)
    return int(value) if value.is_integer() else value


def counts_of(entry: dict[str, Any], name: str, variants: int) -> list[list[float]]:
    """An image's counts by a protocol, (variants, 4), from what a part's report has of it. Raises ValueError, KeyError
    or TypeError for what has none.
    """
    rows = entry[VARIANTS][name] if variants > 1 else [[entry["counts"][name][column] for column in COLUMNS]]
    if len(rows) != variants or not all(len(row) == len(COLUMNS) and set(map(type, row)) <= {int, float}
                                        for row in rows):
        raise ValueError("counts that are no counts")
    return list(rows)


def _digest(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.hexdigest()


def _label_bytes(sample: Sample) -> bytes:
    ignored = np.asarray(sample.ignore, np.uint8).tobytes()
    return b"".join([ignored, *(_outline(polygon, "<f8") for polygon in sample.polygons)])


def _detections_bytes(found: Sequence[Detection]) -> bytes:
    return b"".join(_outline(each.polygon, "<f4") + np.array(each.score, "<f8").tobytes() for each in found)


def _outline(polygon: np.ndarray, kind: str) -> bytes:
    return len(polygon).to_bytes(4, "little") + np.ascontiguousarray(polygon, kind).tobytes()
