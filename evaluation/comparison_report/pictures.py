"""The pictures of a comparison: where a stage's error lies, and an image with the boxes and maps of both models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from dbnet.drawing import encoded
from dbnet.sample import Detection
from evaluation.compare_maps import TOLERANCE
from evaluation.comparison_report.words import count, part, real, sequence

#: How many images a report shows; the others are rows of a table.
PICTURED = 12
#: The same where no image differs.
EXAMPLES = 3
#: Longest sides of a picture of an image, and of a heat map, in pixels.
WIDTH, HEIGHT, HEAT = 880, 900, 640
QUALITY = 80
#: BGR: boxes of A alone, of B alone, and of both. Tell apart for all kinds of eyes, and B's are dashed.
OF_A, OF_B, OF_BOTH, DARK = (255, 128, 32), (0, 140, 255), (150, 200, 150), (30, 30, 30)
#: Grey between the parts of a picture, on light and dark pages alike.
GAP = 40
_DASH, _SPACE = 9, 6
Boxes = Sequence["Detection | np.ndarray"]


@dataclass(frozen=True, eq=False)
class Picture:
    """content: of a .png or .jpg file. image: the name of the image it shows, which joins it to that image's numbers;
    None for a heat map. top: the value of its lightest colour, where its colours are a scale that begins at 0.
    """

    title: str
    caption: str
    content: bytes
    image: str | None = None
    top: float | None = None


def worst_images(data: Mapping[str, Any], most: int = PICTURED) -> list[str]:
    """The images to show, worst first; where none differs, a few that come closest to it."""
    images = {name: part(row) for name, row in part(data, "images").items()}
    ordered = sorted(images, key=lambda name: rank(images[name]), reverse=True)
    return [name for name in ordered if differs(images[name])][:most] or ordered[:min(most, EXAMPLES)]


def differs(row: Mapping[str, Any]) -> bool:
    """Whether an image's numbers are those of two different models."""
    boxes = part(row, "boxes")
    return (any(count(boxes.get(kind)) for kind in ("moved", "lost", "invented")) or _two_sizes(row)
            or bool(row.get("not_finite"))
            or (real(row.get("max_abs")) or 0.0) > (real(row.get("tolerance")) or TOLERANCE))


def _two_sizes(row: Mapping[str, Any]) -> bool:
    sizes = sequence(row, "sizes")
    return len(sizes) == 2 and sizes[0] != sizes[1]


def rank(row: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Of an image's numbers, greater is worse."""
    boxes = part(row, "boxes")
    return (float(count(boxes.get("lost")) + count(boxes.get("invented"))), real(boxes.get("max_shift")) or 0.0,
            float(_two_sizes(row)), real(row.get("max_abs")) or 0.0)


def heat_map(a: np.ndarray, b: np.ndarray, stage: str) -> Picture | None:
    """Where two maps of one stage differ: (N, C, H, W) or (H, W) floats of one shape.

    Of the image with the largest error, the largest absolute error over its channels. None where nothing can be shown:
    the shapes differ, are no maps, or nothing differs.
    """
    if a.shape != b.shape or a.ndim < 2 or a.size == 0:
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))
    channels, height, width = [1, *apart.shape][-3:]
    apart = apart.reshape(-1, channels, height, width)
    known = np.isfinite(apart)
    top = float(apart[known].max(initial=0.0))
    apart[~known] = 2 * top or 1.0
    errors = apart[int(apart.reshape(len(apart), -1).max(axis=1).argmax())].max(axis=0)
    if not errors.any():
        return None
    y, x = np.unravel_index(int(errors.argmax()), errors.shape)
    level = cv2.convertScaleAbs(_fitted(np.minimum(errors / (top or 1.0), 1)), alpha=255)
    half = float((errors > 0.5 * errors.max()).mean())
    broken = int(known.size - np.count_nonzero(known))
    caption = (f"Largest absolute error over the channels of {stage}, {width} x {height} cells. The worst is at x {x}, "
               f"y {y}; {_share(half)} of the cells have more than half of its error."
               + (f" {broken:,} values are NaN or infinite, drawn as the worst." if broken else ""))
    picture = cv2.applyColorMap(level, cv2.COLORMAP_INFERNO)
    return Picture(f"Where {stage} differs most", caption, encoded(picture, ".png"), top=top or None)


def _share(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def _fitted(errors: np.ndarray) -> np.ndarray:
    """Cells as squares of whole pixels; a larger map by the largest of its cells, so that no single one is lost."""
    longest = max(errors.shape)
    if longest <= HEAT:
        times = max(1, HEAT // longest)
        return np.kron(errors, np.ones((times, times)))
    block = -(-longest // HEAT)
    rows, columns = (-(-side // block) for side in errors.shape)
    padded = np.zeros((rows * block, columns * block))
    padded[:errors.shape[0], :errors.shape[1]] = errors
    largest: np.ndarray = padded.reshape(rows, block, columns, block).max(axis=(1, 3))
    return largest


def side_by_side(image: np.ndarray, map_a: np.ndarray, boxes_a: Boxes, map_b: np.ndarray, boxes_b: Boxes, *,
                 name: str = "", covered: tuple[tuple[int, int] | None, tuple[int, int] | None] = (None, None),
                 ) -> Picture:
    """An image with the boxes of both models, and below it both probability maps with each model's own boxes.

    image: (H, W, 3) uint8 BGR. map_a, map_b: (h, w) floats in 0..1, of any sizes. boxes_a, boxes_b: polygons (P, 2) in
    pixels of the image. covered: (height, width) of the part of each map that the image covers, where the rest is
    padding.
    """
    polygons = [[np.asarray(getattr(box, "polygon", box), np.float64).reshape(-1, 2) for box in boxes]
                for boxes in (boxes_a, boxes_b)]
    scale = min(1.0, WIDTH / image.shape[1], HEIGHT / image.shape[0])
    height, width = (max(2, round(side * scale)) for side in image.shape[:2])
    large = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    both = {_key(polygon) for polygon in polygons[0]} & {_key(polygon) for polygon in polygons[1]}
    for polygon in [*polygons[0], *polygons[1]]:  # a dark ground, so that the lines are seen on light ones too
        _outline(large, polygon * scale, DARK, width=4)
    for polygon in polygons[0]:
        _outline(large, polygon * scale, OF_BOTH if _key(polygon) in both else OF_A, width=2)
    for polygon in polygons[1]:
        if _key(polygon) not in both:
            _outline(large, polygon * scale, OF_B, width=2, dashed=True)
    half = max(1, (width - 8) // 2), max(1, round(height * (width - 8) / 2 / width))
    small = [_map(probability, part_of, half) for probability, part_of in zip((map_a, map_b), covered, strict=True)]
    for panel, mine, colour, tag in zip(small, polygons, (OF_A, OF_B), "AB", strict=True):
        for polygon in mine:
            _outline(panel, polygon * (half[0] / image.shape[1]), colour, width=1, dashed=tag == "B")
        _tag(panel, tag, colour)
    sheet = np.full((height + 8 + half[1], width, 3), GAP, np.uint8)
    sheet[:height] = large
    sheet[height + 8:, :half[0]] = small[0]
    sheet[height + 8:, width - half[0]:] = small[1]
    caption = (f"Boxes of A alone blue, of B alone orange and dashed, of both pale: {len(polygons[0])} and "
               f"{len(polygons[1])}, {len(both)} of them the same. Below, the probability maps of A and B.")
    done, data = cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done
    return Picture(name or "Image", caption, data.tobytes(), image=name)


def _key(polygon: np.ndarray) -> bytes:
    return polygon.tobytes()


def _map(probability: np.ndarray, covered: tuple[int, int] | None, size: tuple[int, int]) -> np.ndarray:
    """A probability map in colours. size: (width, height)."""
    if covered is not None:
        probability = probability[:max(1, covered[0]), :max(1, covered[1])]
    level = np.clip(np.nan_to_num(np.asarray(probability, np.float32)), 0, 1)
    level = cv2.resize(level, size, interpolation=cv2.INTER_AREA)
    coloured: np.ndarray = cv2.applyColorMap(cv2.convertScaleAbs(level, alpha=255), cv2.COLORMAP_INFERNO)
    return coloured


def _outline(picture: np.ndarray, polygon: np.ndarray, colour: tuple[int, int, int], width: int,
             dashed: bool = False) -> None:
    """A closed line through pixels of the picture, in place."""
    if len(polygon) < 2 or not np.isfinite(polygon).all():
        return
    points = np.clip(polygon, -1e4, 1e4)
    pieces = _dashes(points) if dashed else [points]
    cv2.polylines(picture, [np.round(piece * 16).astype(np.int32) for piece in pieces], not dashed, colour, width,
                  cv2.LINE_AA, 4)


def _dashes(polygon: np.ndarray) -> list[np.ndarray]:
    """The dashes of a closed outline."""
    found = []
    for begin, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        length = float(np.linalg.norm(end - begin))
        for at in np.arange(0.0, max(length, 1e-9), _DASH + _SPACE):
            found.append(np.array([begin + (end - begin) * (at / max(length, 1e-9)),
                                   begin + (end - begin) * (min(at + _DASH, length) / max(length, 1e-9))]))
    return found


def _tag(picture: np.ndarray, text: str, colour: tuple[int, int, int]) -> None:
    cv2.rectangle(picture, (0, 0), (22, 22), colour, -1)
    cv2.putText(picture, text, (5, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (255, 255, 255), 2, cv2.LINE_AA)
