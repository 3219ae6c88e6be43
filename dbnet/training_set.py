"""The examples that a network learns from: the same pixels in both halves, whatever the number of workers.

Everything random about an example follows from (seed, epoch, its place in the data set) alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dbnet.augment import Augmentation, augment
from dbnet.errors import DbnetError
from dbnet.preprocess import read_image
from dbnet.sample import Sample
from dbnet.targets import make_targets

log = logging.getLogger("dbnet")

#: After so many images in a row that cannot be read, the data set is taken to be broken.
MOST_UNREADABLE = 20


@dataclass(frozen=True)
class TargetSettings:
    """What `make_targets` is told; the defaults are the recipes' own. Ratios are fractions, min_text_size pixels."""

    shrink_ratio: float = 0.4
    border_shrink_ratio: float = 0.4
    min_text_size: float = 8
    thresh_min: float = 0.3
    thresh_max: float = 0.7


class Example(NamedTuple):
    """One example, or a batch of them with N in front. image: (H, W, 3) uint8 RGB; the maps of `dbnet.targets.Targets`:
    binary_map, mask, thresh_mask (H, W) uint8 of 0 and 1, thresh_map (H, W) float32. names: of the image files."""

    image: np.ndarray
    binary_map: np.ndarray
    mask: np.ndarray
    thresh_map: np.ndarray
    thresh_mask: np.ndarray
    names: tuple[str, ...]


class TrainingSet:
    """Labelled images with the random steps to take. `draw(epoch, index)` is the same for ever.

    ignore_orientation: images stay as they are stored, whatever their EXIF orientation says; the labels must fit that.
    unreadable: what is wrong with the images that others took the place of, once each.
    """

    def __init__(self, samples: Sequence[Sample], augmentation: Augmentation, targets: TargetSettings, seed: int,
                 ignore_orientation: bool = False):
        if not samples:
            raise DbnetError("no images to train on")
        self.samples, self.augmentation, self.targets, self.seed = samples, augmentation, targets, seed
        self.ignore_orientation = ignore_orientation
        self.unreadable: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def order(self, epoch: int) -> np.ndarray:
        """The places of all examples in the order of this epoch, (N,) int64."""
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.samples))

    def draw(self, epoch: int, index: int) -> Example:
        """One example. An image that cannot be read is told, and the next one takes its place.

        Raises DbnetError if a row of them cannot be read.
        """
        sample, image = self._read(index)
        rng = np.random.default_rng([self.seed, epoch, index])
        crop = augment(image, sample.polygons, sample.ignore, self.augmentation, rng)
        settings = self.targets
        maps = make_targets(crop.polygons, crop.ignore, *self.augmentation.crop_size, settings.shrink_ratio,
                            settings.min_text_size, settings.thresh_min, settings.thresh_max,
                            border_shrink_ratio=settings.border_shrink_ratio, mask_type=np.uint8)
        return Example(crop.image, maps.binary_map, maps.mask, maps.thresh_map, maps.thresh_mask, (sample.name,))

    def tell(self, problem: str) -> None:
        """Logs what is wrong with an image, once."""
        if problem not in self.unreadable:
            self.unreadable[problem] = None
            log.warning("%s; the next image takes its place", problem)

    def _read(self, index: int) -> tuple[Sample, np.ndarray]:
        tries = min(MOST_UNREADABLE, len(self.samples))
        problem = ""
        for step in range(tries):
            sample = self.samples[(index + step) % len(self.samples)]
            try:
                image = read_image(sample.image, self.ignore_orientation)
            except DbnetError as error:
                problem = str(error)
                self.tell(problem)
            else:
                return sample, image
        others = f", nor can the {tries - 1} images before it" if tries > 1 else ""
        raise DbnetError(f"{problem}{others}; look at the data set with: dbnet data check")


def stacked(examples: Sequence[Example]) -> Example:
    """A batch."""
    arrays = {field: np.stack([getattr(example, field) for example in examples]) for field in Example._fields[:-1]}
    return Example(names=tuple(name for example in examples for name in example.names), **arrays)


def batches_of(order: np.ndarray, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[np.ndarray]:
    """The places of each whole batch that worker `rank` of `world` computes; a global batch is `world` of them.

    An incomplete last batch is dropped, as in the recipes (`drop_remainder`).
    """
    size = batch_size * world
    for start in range(0, len(order) - size + 1, size):
        yield order[start + rank * batch_size:start + (rank + 1) * batch_size]
