"""What is done to an image before the network learns from it: colour, flip, turn, scale, and a crop that cuts no text.

The steps and their ranges are those of MindOCR's recipes (`RandomColorAdjust`, `RandomHorizontalFlip`, `RandomRotate`,
`RandomScale`, `RandomCropWithBBox`, `ValidatePolygons`). There each step makes a new image; here the steps are drawn
first and put together, so that the image is resampled once, and only where the crop looks; once more for what a recipe
does behind the crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import shapely

#: Share of red, green and blue in grey (ITU-R BT.601), by which PIL, MindSpore and torchvision change the saturation.
GREY = np.array([0.299, 0.587, 0.114])
#: Longest side of an image in pixels that OpenCV moves; a longer one is reduced first.
LONGEST = 2**15 - 2
ORDER = ("flip", "rotate", "scale", "crop")


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random steps. Each step happens with its probability; the defaults are the recipes' own.

    brightness, saturation: factors are drawn from 1 - value to 1 + value. rotate: degrees, counterclockwise on the
    screen, whole ones. expand_canvas: a turned image keeps its corners. scale: factors. crop_size: (height, width) in
    pixels, what the network gets; the crop is enlarged or reduced to it and padded with black to the right and below.
    min_crop_ratio: shortest sides of a crop, fractions of the image's. max_tries: crops tried before the whole image is
    taken. min_area: square pixels; nobody cares about a text of which less is to be seen. order: of the steps; colour
    is changed pixel by pixel and has no place in it. Behind the crop the size stays, so nothing is scaled and no canvas
    expanded there. size_limits: shortest and longest side in pixels of a scaled image: the range that the factor is
    drawn from is narrowed so that both sides stay within them, as far as the range lets them.
    """

    brightness: float = 0.1255
    saturation: float = 0.5
    flip_p: float = 0.5
    rotate: tuple[int, int] = (-10, 10)
    rotate_p: float = 1.0
    expand_canvas: bool = False
    scale: tuple[float, float] = (0.5, 3.0)
    scale_p: float = 1.0
    crop_size: tuple[int, int] = (640, 640)
    crop_p: float = 1.0
    max_tries: int = 10
    min_crop_ratio: float = 0.1
    min_area: float = 1.0
    order: tuple[str, ...] = ORDER
    size_limits: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if sorted(self.order) != sorted(ORDER):
            raise ValueError(f"an order of {', '.join(ORDER)}, not {self.order}")
        _, behind = self.around_crop
        if (self.scale_p and "scale" in behind) or (self.rotate_p and self.expand_canvas and "rotate" in behind):
            raise ValueError("behind the crop nothing is scaled and no canvas expanded")

    @property
    def around_crop(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The steps before the crop, and those behind it."""
        place = self.order.index("crop")
        return self.order[:place], self.order[place + 1:]


@dataclass(frozen=True, eq=False)
class Crop:
    """image: (H, W, 3) uint8 RGB of the crop size. polygons: (P, 2) float64, pixels of it; they may reach beyond it.
    ignore: one flag for each."""

    image: np.ndarray
    polygons: list[np.ndarray]
    ignore: np.ndarray


@dataclass(frozen=True)
class _Drawn:
    """What happens to one image. angle: degrees; factor: of the scale, unless the sizes are limited; scales: whether
    there is one."""

    brightness: float
    saturation: float
    flips: bool
    angle: float
    factor: float
    scales: bool = True


def augment(image: np.ndarray, polygons: Sequence[np.ndarray], ignore: np.ndarray, settings: Augmentation,
            rng: np.random.Generator) -> Crop:
    """A crop of `image`, (H, W, 3) uint8 BGR, with the texts that are to be seen in it.

    polygons: (P, 2), pixels of the image from the outer corner of its first pixel; one that has a point that is no
    number, or fewer than three points, is left out. The same state of `rng` gives the same crop.
    """
    drawn, (before, behind) = _draw(settings, rng), settings.around_crop
    texts = [np.asarray(polygon, np.float64) for polygon in polygons]
    kept = [i for i, text in enumerate(texts) if len(text) > 2 and np.isfinite(text).all()]
    texts, flags = [texts[i] for i in kept], np.asarray(ignore, bool)[kept]
    matrix, canvas = _moves(before, drawn, settings, np.array(image.shape[1::-1], float))
    texts = [text @ matrix[:2, :2].T + matrix[:2, 2] for text in texts]
    start, stop = _crop(texts, flags, canvas, settings, rng)
    size = np.array(settings.crop_size[::-1], float)
    factor = float(min(size / (stop - start)))
    shown = np.maximum(np.round((stop - start) * factor), 1)
    zoom = np.array([[factor, 0, -start[0] * factor], [0, factor, -start[1] * factor], [0, 0, 1]])
    pixels = _warped(image, zoom @ matrix, shown, settings.crop_size)
    texts, flags = _visible([(text - start) * factor for text in texts], flags, shown, settings.min_area)
    matrix, _ = _moves(behind, drawn, settings, size)
    if not np.array_equal(matrix, np.eye(3)):
        pixels = _warped(pixels, matrix, size, settings.crop_size)
        texts, flags = _visible([text @ matrix[:2, :2].T + matrix[:2, 2] for text in texts], flags, size,
                                settings.min_area)
    return Crop(_coloured(pixels, drawn), texts, flags)


def _draw(settings: Augmentation, rng: np.random.Generator) -> _Drawn:
    """Draws as many numbers whatever happens, so that a step that is left out changes no other."""
    bright, saturated = (rng.uniform(1 - range_, 1 + range_) for range_ in (settings.brightness, settings.saturation))
    flips, angle, turns = rng.random() < settings.flip_p, rng.integers(*settings.rotate, endpoint=True), rng.random()
    factor, scales = rng.uniform(*settings.scale), rng.random() < settings.scale_p
    return _Drawn(bright, saturated, flips, float(angle) if turns < settings.rotate_p else 0.0,
                  factor if scales else 1.0, scales)


def _coloured(image: np.ndarray, drawn: _Drawn) -> np.ndarray:
    """BGR -> RGB with another brightness, then another saturation; (H, W, 3) uint8."""
    factor = drawn.brightness
    if factor > 1:  # what becomes too bright is cut before the grey is taken from it
        image, factor = cv2.convertScaleAbs(image, alpha=factor), 1.0
    matrix = (drawn.saturation * np.eye(3) + (1 - drawn.saturation) * np.tile(GREY, (3, 1))) * factor
    return cv2.transform(image, matrix[:, ::-1].astype(np.float32))


# Where things come to lie ---------------------------------------------------------------------------------------------


def _moves(steps: Sequence[str], drawn: _Drawn, settings: Augmentation,
           size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where steps put an image of `size` (width, height): a matrix for points, (3, 3), and the size of the canvas."""
    matrix, canvas = np.eye(3), size
    for step in steps:
        move = np.eye(3)
        if step == "flip" and drawn.flips:
            move[0] = -1, 0, canvas[0]
        elif step == "rotate" and drawn.angle:
            centre = canvas / 2
            move[:2] = cv2.getRotationMatrix2D((float(centre[0]), float(centre[1])), drawn.angle, 1)
            if settings.expand_canvas:
                canvas = np.abs(move[:2, :2]) @ canvas
                move[:2, 2] += canvas / 2 - centre
        elif step == "scale":
            factor = _limited(drawn, settings, canvas)
            move[:2] *= factor
            canvas = canvas * factor
        matrix = move @ matrix
    return matrix, canvas


def _limited(drawn: _Drawn, settings: Augmentation, canvas: np.ndarray) -> float:
    """The factor for an image of that size: in a narrowed range it stands where it stands in the whole one."""
    if settings.size_limits is None or not drawn.scales:
        return drawn.factor
    low, high = settings.scale
    share = (drawn.factor - low) / (high - low) if high > low else 0.0
    shortest, longest = sorted(settings.size_limits)
    low, high = max(low, shortest / float(canvas.min())), min(high, longest / float(canvas.max()))
    return low + (high - low) * share


def _crop(polygons: Sequence[np.ndarray], ignore: np.ndarray, canvas: np.ndarray, settings: Augmentation,
          rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """First and last corner, x and y in pixels of the canvas, of a crop that holds a text and cuts none."""
    size = np.maximum(np.round(canvas).astype(int), 1)
    whole = np.zeros(2), canvas
    texts = [polygon for polygon, is_ignored in zip(polygons, ignore, strict=True) if not is_ignored]
    if not texts or rng.random() >= settings.crop_p:
        return whole
    low = np.array([text.min(axis=0) for text in texts])
    high = np.array([text.max(axis=0) for text in texts])
    free = [_free(low[:, axis], high[:, axis], int(size[axis])) for axis in (0, 1)]
    if not len(free[0]) or not len(free[1]):
        return whole
    least = np.maximum(np.ceil(size * settings.min_crop_ratio), 1)
    for _ in range(settings.max_tries):
        ends = np.sort([places[rng.integers(len(places), size=2)] for places in free], axis=1)
        start, stop = ends[:, 0], ends[:, 1]
        if (stop - start >= least).all() and ((high > start) & (low < stop)).all(axis=1).any():
            return start.astype(float), stop.astype(float)
    return whole


def _free(low: np.ndarray, high: np.ndarray, size: int) -> np.ndarray:
    """The whole pixels along one axis that lie in no text."""
    is_free = np.ones(size, bool)
    limits = np.clip([np.round(low), np.round(high) + 1], 0, size).astype(int)
    for start, stop in limits.T.tolist():
        is_free[start:stop] = False
    return np.flatnonzero(is_free)


def _warped(image: np.ndarray, matrix: np.ndarray, shown: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 of `size`; the image moved by `matrix` (3, 3), black beyond `shown` (width, height)."""
    longest = max(image.shape[:2])
    if longest > LONGEST:
        image = cv2.resize(image, None, fx=LONGEST / longest, fy=LONGEST / longest, interpolation=cv2.INTER_AREA)
        matrix = matrix @ np.diag([longest / LONGEST, longest / LONGEST, 1])
    # Points count from the corner of the first pixel, OpenCV from its centre.
    centred = matrix[:2].copy()
    centred[:, 2] += centred[:, :2].sum(axis=1) * 0.5 - 0.5
    width, height = (min(int(side), limit) for side, limit in zip(shown, size[::-1], strict=True))
    # Black comes in where the image is turned; else all that is shown lies in it, and black would shade its margins.
    border = cv2.BORDER_CONSTANT if matrix[0, 1] else cv2.BORDER_REPLICATE
    part = cv2.warpAffine(image, centred, (width, height), flags=cv2.INTER_LINEAR, borderMode=border)
    if (height, width) == tuple(size):
        return part
    return cv2.copyMakeBorder(part, 0, size[0] - height, 0, size[1] - width, cv2.BORDER_CONSTANT)


def _visible(polygons: Sequence[np.ndarray], ignore: np.ndarray, shown: np.ndarray,
             min_area: float) -> tuple[list[np.ndarray], np.ndarray]:
    """The texts that reach into what is shown, and which of them nobody cares about."""
    kept, flags = [], []
    for polygon, is_ignored in zip(polygons, ignore.tolist(), strict=True):
        low, high = polygon.min(axis=0), polygon.max(axis=0)
        if (high < 0).any() or (low > shown).any():
            continue
        if (low < 0).any() or (high > shown).any():
            area = _area_within(polygon, shown)
            if area is None:
                continue
            is_ignored = is_ignored or area < min_area
        kept.append(polygon)
        flags.append(is_ignored)
    return kept, np.array(flags, bool)


def _area_within(polygon: np.ndarray, shown: np.ndarray) -> float | None:
    """Square pixels of a text that are to be seen, by the even-odd rule; None if it is nowhere in the picture."""
    shape = shapely.make_valid(shapely.Polygon(polygon))
    border = shapely.box(0, 0, *shown)
    return float(shape.intersection(border).area) if shape.intersects(border) else None
