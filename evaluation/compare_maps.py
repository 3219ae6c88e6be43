"""Two models on the same images: how far their probability maps are apart, and which boxes that moves."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely

from dbnet.errors import DbnetError
from dbnet.geometry import areas, intersection_areas
from dbnet.postprocess import boxes_from_map
from dbnet.preprocess import prepare, read_bytes
from dbnet.sample import Detection
from dbnet.spec import BoxRule
from evaluation import pictures
from evaluation.detect import probability_map
from evaluation.evaluate import versions
from evaluation.runners import Runner

#: Largest difference in probability of two models that are the same: 24-bit arithmetic in another order stays below.
TOLERANCE = 1e-4
#: Boxes with this intersection over union are one box that moved.
SAME_BOX = 0.5


@dataclass(frozen=True)
class Boxes:
    """What became of the boxes of A in B. a, b: how many there are. identical: with the same corners; moved: with other
    corners that overlap by IoU > SAME_BOX, at most by `max_shift` pixels of the image (Hausdorff distance of the
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
    """max_abs, mean_abs: of the maps' difference, None where their sizes differ. sizes: (height, width) of both maps.
    crc32: of the image's file.
    """

    name: str
    max_abs: float | None
    mean_abs: float | None
    sizes: tuple[tuple[int, int], tuple[int, int]]
    boxes: Boxes
    crc32: int

    @property
    def same(self) -> bool:
        return self.max_abs is not None and self.max_abs <= TOLERANCE and self.boxes.same


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
        """Of all images whose maps have one size; None if there are none."""
        return max((image.max_abs for image in self.images if image.max_abs is not None), default=None)

    @property
    def mean_abs(self) -> float | None:
        """Of the images' means."""
        means = [image.mean_abs for image in self.images if image.mean_abs is not None]
        return sum(means) / len(means) if means else None

    @property
    def other_sizes(self) -> int:
        """How many images have maps of two sizes."""
        return sum(image.max_abs is None for image in self.images)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json: verdict (None if nothing was compared), stages, boxes, images, failed."""
        passed = self.max_abs is not None and self.max_abs <= TOLERANCE and not self.other_sizes
        stage = {"stage": "probability", "max_abs": self.max_abs, "mean_abs": self.mean_abs, "tolerance": TOLERANCE,
                 "passed": passed, "other_sizes": self.other_sizes}
        verdict = "same" if self.same else "different"
        return {
            "verdict": verdict if self.images else None, "stages": [stage], "boxes": asdict(self.boxes),
            "images": {image.name: {"max_abs": image.max_abs, "mean_abs": image.mean_abs,
                                    "sizes": [list(size) for size in image.sizes], "boxes": asdict(image.boxes),
                                    "crc32": image.crc32} for image in self.images},
            "failed": self.failed}


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two models. rule: how its boxes come from its map; its pixels are those of its spec."""

    runner: Runner
    rule: BoxRule

    def settings(self, file: Path) -> dict[str, Any]:
        """What its boxes are made with, plain values."""
        spec, notes = self.runner.spec, list(getattr(self.runner, "notes", ()))
        return {"file": str(file), "runner": self.runner.name, "device": self.runner.device,
                "model": getattr(self.runner, "digest", None), "spec": spec.name, "semantics": spec.semantics(),
                "pixels": asdict(spec.pixels), "boxes": asdict(self.rule), "environment": self.runner.environment(),
                **({"notes": notes} if notes else {})}


def compare_maps(a: Side, b: Side, images: Sequence[tuple[str, str]],
                 progress: Callable[[int, int], object] | None = None) -> MapComparison:
    """Both models on each image, (name, path), each with its own pixels and box rule.

    An image that cannot be read, or that a model cannot run on, is told in `failed`. progress: called after every
    image with (images done, images in all).
    """
    result = MapComparison()
    for i, (name, path) in enumerate(images, start=1):
        try:
            result.images.append(_compared(a, b, name, Path(path)))
        except DbnetError as error:
            problem = str(error)
            result.failed.append(problem if problem.startswith(f"{path}: ") else f"{path}: {problem}")
        except MemoryError:
            result.failed.append(f"{path}: there is not enough memory for it; make the image smaller")
        except cv2.error as error:
            result.failed.append(f"{path}: OpenCV cannot work on it ({error.err}); make the image smaller")
        if progress:
            progress(i, len(images))
    return result


def report(comparison: MapComparison, sides: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """For --json. sides: `a` and `b`, the `settings` of each."""
    return {**comparison.to_dict(), **sides, "versions": versions()}


def _compared(a: Side, b: Side, name: str, path: Path) -> ImageComparison:
    data = read_bytes(path)
    (map_a, boxes_a), (map_b, boxes_b) = (_found(side, data, path) for side in (a, b))
    max_abs = mean_abs = None
    if map_a.shape == map_b.shape:
        difference = np.abs(map_a - map_b)
        max_abs, mean_abs = float(difference.max()), float(difference.mean(dtype=np.float64))
    sizes = (map_a.shape[0], map_a.shape[1]), (map_b.shape[0], map_b.shape[1])
    return ImageComparison(name, max_abs, mean_abs, sizes, compare_boxes(boxes_a, boxes_b), zlib.crc32(data.tobytes()))


def _found(side: Side, data: np.ndarray, path: Path) -> tuple[np.ndarray, list[Detection]]:
    """The probability map (h, w) float32, and the boxes in pixels of the image."""
    pixels = side.runner.spec.pixels
    ready = prepare(pictures.decode(data, path, pixels.ignore_orientation), pixels)
    found = probability_map(side.runner, ready.tensor)
    return found, boxes_from_map(found, **asdict(side.rule), resized_size=ready.resized_size,
                                 original_size=ready.original_size)


def compare_boxes(a: list[Detection], b: list[Detection]) -> Boxes:
    """Pairs the boxes of two models on one image: first those with the same corners, then the most overlapping."""
    rest_a, rest_b = [detection.polygon for detection in a], [detection.polygon for detection in b]
    identical = 0
    for polygon in list(rest_a):
        twin = next((i for i, other in enumerate(rest_b) if np.array_equal(polygon, other)), None)
        if twin is not None:
            del rest_b[twin]
            identical += 1
            rest_a = [other for other in rest_a if other is not polygon]
    shifts = []
    for i, j in _overlapping(rest_a, rest_b):
        outlines = [shapely.LinearRing(polygon) for polygon in (rest_a[i], rest_b[j])]
        shifts.append(float(shapely.hausdorff_distance(*outlines)))
    return Boxes(len(a), len(b), identical, len(shifts), max(shifts, default=0.0), len(rest_a) - len(shifts),
                 len(rest_b) - len(shifts))


def _overlapping(a: list[np.ndarray], b: list[np.ndarray]) -> list[tuple[int, int]]:
    """Pairs with IoU > SAME_BOX, each box in one at most, the most overlapping first."""
    shared = intersection_areas(a, b)
    union = areas(a)[:, np.newaxis] + areas(b) - shared
    iou = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    pairs: list[tuple[int, int]] = []
    while iou.size and iou.max() > SAME_BOX:
        i, j = (int(at) for at in np.unravel_index(iou.argmax(), iou.shape))
        pairs.append((i, j))
        iou[i], iou[:, j] = 0, 0
    return pairs
