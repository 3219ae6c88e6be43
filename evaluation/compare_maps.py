"""Two models on the same images: how far their probability maps are apart, and which boxes that moves."""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dbnet.errors import DbnetError
from dbnet.postprocess import boxes_from_map
from dbnet.preprocess import Prepared, prepare, read_bytes
from dbnet.sample import Detection
from dbnet.spec import BoxRule
from dbnet.sums import mean
from evaluation import pictures
from evaluation.box_pairs import Pairs, pair_boxes
from evaluation.box_reasons import MOST, BoxDifference, OneSide, Rank, differences
from evaluation.detect import probability_map
from evaluation.pipeline import naming
from evaluation.runners import Runner

#: Largest difference in probability of two models that are the same: 24-bit arithmetic in another order stays below.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Boxes:
    """What became of the boxes of A in B. a, b: how many there are. identical: with the same corners; moved: with other
    corners that overlap by IoU > 0.5, at most by `max_shift` pixels of the image (Hausdorff distance of the
    outlines); lost: in A only; invented: in B only.
    """

    a: int = 0
    b: int = 0
    identical: int = 0
    moved: int = 0
    max_shift: float = 0.0
    lost: int = 0
    invented: int = 0

    def __add__(self, other: Boxes) -> Boxes:
        return Boxes(self.a + other.a, self.b + other.b, self.identical + other.identical, self.moved + other.moved,
                     max(self.max_shift, other.max_shift), self.lost + other.lost, self.invented + other.invented)

    @property
    def same(self) -> bool:
        return self.identical == self.a == self.b


@dataclass(frozen=True)
class ImageComparison:
    """max_abs, mean_abs: of the maps' difference, None where their sizes differ or one holds NaN or Inf (not_finite);
    at_least: `max_abs` is what the largest difference is at least, for not every value is known. sizes: (height, width)
    of both maps. crc32: of the image's file. differences: the boxes that are not the same, the worst of them first,
    with reasons, as far as they can be among those that a report tells of. tolerance: of the maps' difference.
    """

    name: str
    max_abs: float | None
    mean_abs: float | None
    sizes: tuple[tuple[int, int], tuple[int, int]]
    boxes: Boxes
    crc32: int
    differences: Sequence[BoxDifference] = ()
    tolerance: float = TOLERANCE
    not_finite: bool = False
    at_least: bool = False

    @property
    def same(self) -> bool:
        return self.max_abs is not None and self.max_abs <= self.tolerance and self.boxes.same


@dataclass
class MapComparison:
    """images: those that both models could run on. failed: why the others could not be compared, one line each."""

    images: list[ImageComparison] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """False too if nothing was compared."""
        return bool(self.images) and all(image.same for image in self.images)

    @property
    def boxes(self) -> Boxes:
        return sum((image.boxes for image in self.images), Boxes())

    @property
    def max_abs(self) -> float | None:
        """Of all images whose maps can be subtracted; None if there are none."""
        return max((image.max_abs for image in self.images if image.max_abs is not None), default=None)

    @property
    def mean_abs(self) -> float | None:
        """Of the images' means; None where one is not known."""
        means = [image.mean_abs for image in self.images if image.max_abs is not None]
        known = [mean for mean in means if mean is not None]
        return sum(known) / len(known) if known and len(known) == len(means) else None

    @property
    def other_sizes(self) -> int:
        """How many images have maps of two sizes."""
        return sum(image.max_abs is None and not image.not_finite for image in self.images)

    @property
    def not_finite(self) -> int:
        """How many images have NaN or Inf in a map."""
        return sum(image.not_finite for image in self.images)

    @property
    def at_least(self) -> bool:
        """Whether `max_abs` is a lower bound."""
        return any(image.at_least for image in self.images)

    @property
    def tolerance(self) -> float:
        """Of the maps' difference."""
        return max((image.tolerance for image in self.images), default=TOLERANCE)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json: verdict (None if nothing was compared), stages, boxes, images, failed."""
        passed = self.max_abs is not None and self.max_abs <= self.tolerance and not (
            self.other_sizes or self.not_finite)
        stage = {"stage": "probability", "max_abs": self.max_abs, "mean_abs": self.mean_abs,
                 "tolerance": self.tolerance, "passed": passed, "other_sizes": self.other_sizes,
                 "not_finite": self.not_finite, "at_least": self.at_least}
        verdict = "same" if self.same else "different"
        return {
            "verdict": verdict if self.images else None, "stages": [stage],
            "boxes": asdict(self.boxes) | {"differences": self._differences()},
            "images": {image.name: {**{name: getattr(image, name) for name in (
                "max_abs", "mean_abs", "crc32", "tolerance", "not_finite", "at_least")},
                "sizes": [list(size) for size in image.sizes], "boxes": asdict(image.boxes)} for image in self.images},
            "failed": self.failed}

    def _differences(self) -> list[dict[str, Any]]:
        """The worst of all images, the worst first."""
        found = [(image.name, difference) for image in self.images for difference in image.differences]
        found.sort(key=lambda one: one[1].rank, reverse=True)
        return [{"image": name} | difference.to_dict() for name, difference in found[:MOST]]


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two models. rule: how its boxes come from its map; its pixels are those of its spec."""

    runner: Runner
    rule: BoxRule


@dataclass(frozen=True, eq=False)
class Found:
    """What one model makes of an image: its probability map (h, w) float32, of which the image covers the top left,
    `covered` (height, width), and its boxes in pixels of the image. probability: None where a trace does not keep it.
    """

    probability: np.ndarray | None
    boxes: list[Detection]
    covered: tuple[int, int]


#: Told of every image that both models ran on: what came of it, its path if it is at hand, and what each found.
Observer = Callable[[ImageComparison, Path | None, Found, Found], object]


def compare_maps(a: Side, b: Side, images: Sequence[tuple[str, str]],
                 progress: Callable[[MapComparison, int], object] | None = None,
                 observe: Observer | None = None, tolerance: float = TOLERANCE) -> MapComparison:
    """Both models on each image, (name, path), each with its own pixels and box rule.

    An image that cannot be read, or that a model cannot run on, is told in `failed`. progress: called after every
    image with what there is so far and how many images there are in all. tolerance: of the maps' difference.
    """
    result = MapComparison()
    told: list[Rank] = []  # of the worst differences so far, the least first
    for name, path in images:
        try:
            with naming(Path(path)):
                data = read_bytes(path)
                found = _both(a, b, data, Path(path))
                compared = compare_found(name, *found, (a.rule, b.rule), told[0] if len(told) == MOST else None)
            compared = replace(compared, crc32=zlib.crc32(data.tobytes()), tolerance=tolerance)
            result.images.append(compared)
            told = heapq.nlargest(MOST, [*told, *(one.rank for one in compared.differences)])[::-1]
            if observe:
                observe(compared, Path(path), *found)
        except DbnetError as error:
            result.failed.append(str(error))
        if progress:
            progress(result, len(images))
    return result


def _both(a: Side, b: Side, data: np.ndarray, path: Path) -> tuple[Found, Found]:
    ready = _prepared(a, data, path)
    found_a = _found(a, ready)
    return found_a, _found(b, ready if a.runner.spec.pixels == b.runner.spec.pixels else _prepared(b, data, path))


def compare_found(name: str, a: Found, b: Found, rules: tuple[BoxRule, BoxRule], above: Rank | None = None,
                  ) -> ImageComparison:
    """What two models, by their rules, make of an image. above: reasons are looked for of differences of higher rank
    alone; where a map is not there, of none."""
    pairs = pair_boxes(a.boxes, b.boxes)
    if a.probability is None or b.probability is None:
        size = a.covered if a.probability is None else a.probability.shape
        return ImageComparison(name, None, None, (size, size), _counted(pairs), 0)  # type: ignore[arg-type]
    max_abs = mean_abs = None
    not_finite = not (np.isfinite(a.probability).all() and np.isfinite(b.probability).all())
    if a.probability.shape == b.probability.shape and not not_finite:
        difference = np.abs(a.probability - b.probability)
        max_abs, mean_abs = float(difference.max()), mean(difference)
    sizes = tuple((found.probability.shape[0], found.probability.shape[1])  # type: ignore[union-attr]
                  for found in (a, b))
    reasons = differences(OneSide(a.probability, a.covered, rules[0], a.boxes),
                          OneSide(b.probability, b.covered, rules[1], b.boxes), pairs, above=above)
    return ImageComparison(name, max_abs, mean_abs, (sizes[0], sizes[1]), _counted(pairs), 0, reasons,
                           not_finite=not_finite)


def _prepared(side: Side, data: np.ndarray, path: Path) -> Prepared:
    pixels = side.runner.spec.pixels
    return prepare(pictures.decode(data, path, pixels.ignore_orientation), pixels)


def _found(side: Side, ready: Prepared) -> Found:
    found = probability_map(side.runner, ready.tensor)
    return Found(found, boxes_from_map(found, **asdict(side.rule), resized_size=ready.resized_size,
                                       original_size=ready.original_size), ready.resized_size)


def compare_boxes(a: list[Detection], b: list[Detection]) -> Boxes:
    """Pairs the boxes of two models on one image, see `pair_boxes`, and counts."""
    return _counted(pair_boxes(a, b))


def _counted(pairs: Pairs) -> Boxes:
    same, moved, lost, invented = (len(part) for part in (pairs.identical, pairs.moved, pairs.lost, pairs.invented))
    return Boxes(same + moved + lost, same + moved + invented, same, moved,
                 max((shift for *_, shift in pairs.moved), default=0.0), lost, invented)
