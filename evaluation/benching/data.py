"""The images of a benchmark, and what makes sure that another machine had the same ones and the same labels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dbnet.datasets.drawn import draw
from dbnet.errors import DbnetError
from dbnet.preprocess import read_bytes
from dbnet.sample import Sample
from dbnet.shards import Shard
from evaluation.benching.bundle_types import digest_of
from evaluation.evaluate import image_names

DRAWN = "drawn"
#: Height, width and words of a drawn scene: the size of ICDAR 2015's photographs.
SIZE, WORDS = (720, 1280), 8
#: Drawn scenes unless told otherwise.
SCENES = 8


@dataclass(frozen=True, eq=False)
class BenchData:
    """kind: `drawn`, `images` (without labels), or a data set's name. names: what results call the samples' images.
    protocols: by which they are scored, none without labels. digests: sha256 of each file. seed, size: of
    drawn ones. shard: the part of the whole images that these are, and how many those are.
    """

    kind: str
    samples: Sequence[Sample]
    names: list[str]
    digests: list[str]
    protocols: tuple[str, ...]
    seed: int | None = None
    size: tuple[int, int] | None = None
    shard: tuple[Shard, int] | None = None

    def told(self) -> dict[str, Any]:
        """`Bundle.data`."""
        part = {} if self.shard is None else {"shard": {"index": self.shard[0].index, "count": self.shard[0].count,
                                                        "images": self.shard[1]}}
        labels = label_digests(self.names, self.samples) if self.protocols else None
        return {"kind": self.kind, "seed": self.seed, "size": None if self.size is None else list(self.size),
                "images": len(self.names), "names": self.names, "names_sha256": digest_of(self.names),
                "images_sha256": digest_of(self.digests), "image_sha256s": self.digests,
                "labels_sha256": None if labels is None else digest_of(labels), "label_sha256s": labels,
                "protocol": self.protocols[0] if self.protocols else None, "protocols": list(self.protocols)} | part


def drawn(folder: Path, seed: int, images: int = SCENES, size: tuple[int, int] = SIZE,
          shard: Shard | None = None, protocols: tuple[str, ...] = ("rrc",)) -> BenchData:
    """Draws scenes into `folder`, as photographs come: JPEG files. Raises DbnetError for a disk without room."""
    places = range(images) if shard is None else shard.places(images)
    samples, digests = [], []
    for place in places:
        image, sample = _scene(folder, seed, place, size)
        data = cv2.imencode(".jpg", image)[1].tobytes()
        try:
            sample.image.write_bytes(data)
        except OSError as error:
            raise DbnetError(f"there is no room for the drawn scenes in {folder} ({error.strerror}); set TMPDIR to a "
                             f"folder with some") from error
        digests.append(hashlib.sha256(data).hexdigest())
        samples.append(sample)
    names = [sample.name for sample in samples]
    return BenchData(DRAWN, samples, names, digests, protocols, seed, size,
                     None if shard is None else (shard, images))


def drawn_labels(data: dict[str, Any]) -> list[Sample]:
    """The labels of a bundle's drawn scenes: `Bundle.data` says which. Their images are not there."""
    height, width = data["size"]
    first = 0
    if (part := data.get("shard")) is not None:
        first = Shard(part["index"], part["count"]).places(part["images"]).start
    return [_scene(Path(), data["seed"], first + i, (height, width))[1] for i in range(data["images"])]


def _scene(folder: Path, seed: int, place: int, size: tuple[int, int]) -> tuple[np.ndarray, Sample]:
    image, polygons = draw(seed * 100_003 + place, *size, words=WORDS)
    return image, Sample(folder / f"scene_{place + 1:04}.jpg", polygons, np.zeros(len(polygons), bool),
                         [""] * len(polygons))


def of_samples(kind: str, samples: Sequence[Sample], protocols: tuple[str, ...],
               shard: Shard | None = None) -> BenchData:
    """Images that are there, with labels if there are protocols. Raises DbnetError for none, and if one cannot be read.
    """
    names, whole = image_names(samples), len(samples)
    if shard is not None:
        names, samples = list(shard.of(names)), shard.of(samples)
    digests = [hashlib.sha256(read_bytes(sample.image).tobytes()).hexdigest() for sample in samples]
    return BenchData(kind, samples, names, digests, protocols, shard=None if shard is None else (shard, whole))


def label_digests(names: Sequence[str], samples: Sequence[Sample]) -> list[str]:
    """Of each image's name, outlines, marks and texts. `digest_of` them is `labels_sha256` of a bundle's data."""
    return [digest_of([name, [polygon.tolist() for polygon in sample.polygons], sample.ignore.tolist(),
                       list(sample.texts)]) for name, sample in zip(names, samples, strict=True)]
