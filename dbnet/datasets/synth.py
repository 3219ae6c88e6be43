"""Drawn scenes: texts in many fonts and scripts, level, turned, in perspective or bent, on walls, boards, photographs.

For training without anybody's photographs, and for tests of detectors whose truth is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from dbnet.datasets.synth_background import background
from dbnet.datasets.synth_block import Placed, board, place, set_block, view
from dbnet.datasets.synth_camera import photographed
from dbnet.datasets.synth_fonts import Face, by_script, choose, find_faces
from dbnet.datasets.synth_paint import paint

__all__ = ["Scene", "draw_scene", "find_faces"]

#: Places tried for each block of texts before it is left out; at every second try it is set smaller.
TRIES, SMALLER = 6, 0.8
#: Blocks of a scene, and sizes of their fonts: powers of two of pixels, and at most that share of the height.
BLOCKS, LETTERS, TALLEST = (2, 13), (3.35, 6.6), 0.25
#: A word lower or shorter than this, in pixels, is not asked for.
LEAST_HEIGHT, LEAST_LENGTH = 8.0, 4.0
#: Brightness (of 255) by which a word's ink must differ from what is around it, and how many times the deviation of
#: what is left when both are taken away. Below either nobody could read it, and it is not asked for.
LEAST_CONTRAST, LEAST_RATIO = 14.0, 1.0
#: Pixels of a word that are looked at for that, about.
JUDGED_PIXELS = 3000


@dataclass(frozen=True, eq=False)
class Scene:
    """image: (H, W, 3) uint8 BGR. polygons: one for each word, (P, 2) float64 pixels, clockwise from the word's top
    left. texts: the words. ignore: (K,) bool, words that are too faint or too small to be asked for. fonts: for each
    word its font.
    """

    image: np.ndarray
    polygons: list[np.ndarray]
    texts: list[str]
    ignore: np.ndarray
    fonts: list[Face] = field(default_factory=list)


def draw_scene(seed: int | Sequence[int], faces: Sequence[Face], height: int = 720, width: int = 1280,
               photographs: Sequence[np.ndarray] = ()) -> Scene:
    """One scene. The same seed, fonts and photographs draw the same one (with the same Pillow and OpenCV).

    photographs: (H, W, 3) uint8 BGR without any text, for backgrounds.
    """
    rng = np.random.default_rng([*np.ravel(seed).tolist(), 0xDB])
    canvas = background(height, width, rng, photographs)
    taken, ink = (np.zeros((height, width), np.uint8) for _ in range(2))
    offered = by_script(faces)
    polygons: list[np.ndarray] = []
    texts: list[str] = []
    fonts: list[Face] = []
    # Small pictures have room for fewer.
    blocks = max(1, round(int(rng.integers(*BLOCKS)) * min(1.0, height * width / (720 * 1280)) ** 0.5))
    for _ in range(blocks):
        face, script = choose(offered, rng)
        block = _placed(face, script, taken, rng)
        if block is None:
            continue
        paint(canvas, block, _is_free(block.board, taken), rng)
        _mark(block, taken)
        x, y = block.at
        ink[y:y + block.mask.shape[0], x:x + block.mask.shape[1]] |= block.mask
        polygons += block.polygons
        texts += block.texts
        fonts += [face] * len(block.texts)
    image = photographed(canvas, rng)
    ignore = np.array([not legible(image, ink, polygon) for polygon in polygons], bool)
    return Scene(image, polygons, texts, ignore, fonts)


def _placed(face: Face, script: str, taken: np.ndarray, rng: np.random.Generator) -> Placed | None:
    """A block where there is none yet; None where no place was found."""
    height, width = taken.shape
    letter = float(np.clip(2 ** rng.uniform(*LETTERS), 9, max(9, height * TALLEST)))
    line = set_block(face, script, letter, width * 0.9, rng)
    if line is None:
        return None
    outline = board(line, letter, rng)
    matrix = view(max(line.mask.shape) / 1.5, rng)
    for attempt in range(TRIES):
        block = place(line, outline, matrix, letter, (height, width), rng)
        if block is not None and _is_free(_hull(block), taken):
            return block
        if attempt % 2:
            letter *= SMALLER
            matrix = np.diag([SMALLER, SMALLER, 1]) @ matrix
    return None


def _hull(block: Placed) -> np.ndarray:
    points = np.concatenate(block.polygons).astype(np.float32)
    return cv2.convexHull(points)[:, 0]


def _is_free(outline: np.ndarray | None, taken: np.ndarray) -> bool:
    """Whether an outline, (P, 2) in pixels, covers nothing that is taken; without one there is nothing to cover."""
    if outline is None:
        return True
    size = np.array(taken.shape[::-1])
    x0, y0 = np.clip(np.floor(outline.min(axis=0)).astype(int) - 1, 0, size)
    x1, y1 = np.clip(np.ceil(outline.max(axis=0)).astype(int) + 2, 0, size)
    there = taken[y0:y1, x0:x1]
    if not there.any():
        return True
    covered = cv2.fillPoly(np.zeros(there.shape, np.uint8), [np.round(outline - (x0, y0)).astype(np.int32)], 1)
    return not (covered & there).any()


def _mark(block: Placed, taken: np.ndarray) -> None:
    points = np.round(_hull(block)).astype(np.int32)
    cv2.fillConvexPoly(taken, points, 1)
    cv2.polylines(taken, [points], True, 1, 2 * max(2, int(block.letter * 0.2)))


def legible(image: np.ndarray, ink: np.ndarray, polygon: np.ndarray) -> bool:
    """Whether a word can be read in the finished image, (H, W, 3) uint8 BGR. ink: (H, W) uint8, where words were drawn.
    """
    half = len(polygon) // 2
    if np.linalg.norm(polygon[:half] - polygon[half:][::-1], axis=1).mean() < LEAST_HEIGHT:
        return False
    if np.linalg.norm(np.diff(polygon[:half], axis=0), axis=1).sum() < LEAST_LENGTH:
        return False
    (x0, y0), (x1, y1) = np.floor(polygon.min(axis=0)).astype(int), np.ceil(polygon.max(axis=0)).astype(int)
    step = max(1, int(((x1 - x0) * (y1 - y0) / JUDGED_PIXELS) ** 0.5))
    part = np.ascontiguousarray(image[y0:y1:step, x0:x1:step])
    share = ink[y0:y1:step, x0:x1:step].astype(np.float32) / 255
    corners = [np.round((polygon - (x0, y0)) / step).astype(np.int32)]
    inside = cv2.fillPoly(np.zeros(share.shape, np.uint8), corners, 1) > 0
    share, pixels = share[inside], part[inside].astype(np.float32)
    grey = cv2.cvtColor(part, cv2.COLOR_BGR2GRAY)[inside].astype(np.float32)
    pixels = np.concatenate([pixels, grey[:, np.newaxis]], axis=1)
    on, off = float(share.sum()), float((1 - share).sum())
    if on < 1 or off < 1:
        return False
    share = share[:, np.newaxis]  # multiplied and added up: BLAS's products would depend on its threads
    letters, around = (share * pixels).sum(axis=0) / on, ((1 - share) * pixels).sum(axis=0) / off
    contrast = letters - around
    rest = (pixels - around - share * contrast).std(axis=0)
    return bool(((np.abs(contrast) >= LEAST_CONTRAST) & (np.abs(contrast) >= LEAST_RATIO * rest)).any())
