"""Lines of words as masks of ink, each word with its outline: set in a font, level or along an arc."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from dbnet.datasets.synth_fonts import Face, has, ink_of
from dbnet.datasets.synth_words import UNSPACED, word

#: Points on each side of a bent word's outline.
SIDE_POINTS = 7
#: Words tried for one place before it stays empty: a font may lack a sign, say the one for dollars.
TRIES = 5
#: Columns at which the ink of a bent word is measured from outside.
EDGE_POINTS = 64


@dataclass(frozen=True, eq=False)
class Line:
    """A line of words. mask: (H, W) uint8, how much ink. polygons: one for each word, (P, 2) float64, pixels of the
    mask, clockwise from the word's own top left, half of the points above it and half below. texts: the words."""

    mask: np.ndarray
    polygons: list[np.ndarray]
    texts: list[str]


def set_line(face: Face, script: str, size: int, words: int, rng: np.random.Generator,
             longest: float = np.inf) -> Line | None:
    """A level line of at most so many words, in a font of `size` pixels, at most `longest` pixels long.

    None if no word fits, or the font draws nothing.
    """
    unspaced = script in UNSPACED
    stroke = max(1, round(size * rng.uniform(0.02, 0.05))) if rng.random() < 0.1 else 0
    tracking = size * rng.uniform(0.05, 0.35) if rng.random() < 0.1 else 0.0
    gap = size * (rng.uniform(0.8, 2) if unspaced else rng.uniform(0.22, 0.5)) + 1.5 * tracking
    room = size * rng.uniform(0.02, 0.07)  # annotators leave a little air
    texts, inks, tops, lefts, x = [], [], [], [], 0.0
    for _ in range(1 + (words > 2) if unspaced else words):
        text = _drawable(face, script, rng)
        ink, top = _tracked(face, text, size, stroke, tracking)
        if ink.shape[0] < 2 or ink.shape[1] < 2:
            continue
        if x + ink.shape[1] + 2 * room > longest:
            break
        texts.append(text)
        inks.append(ink)
        tops.append(top)
        lefts.append(round(x))
        x += ink.shape[1] + gap
    return _joined(texts, inks, tops, lefts, room) if texts else None


def _drawable(face: Face, script: str, rng: np.random.Generator) -> str:
    """A word of which the font has every sign; an empty one where it has too few."""
    for _ in range(TRIES):
        text = word(script, rng, partial(has, face.path))
        if all(has(face.path, letter) for letter in text):
            return text
    return ""


def _tracked(face: Face, text: str, size: int, stroke: int, tracking: float) -> tuple[np.ndarray, int]:
    """Ink of a word and its top, with wide spaces between its letters where `tracking` is above 0 (pixels)."""
    if not tracking or len(text) < 2:
        ink, top, _ = ink_of(face, text, size, stroke)
        return ink, top
    parts, x = [], 0.0
    for letter in text:
        ink, top, advance = ink_of(face, letter, size, stroke)
        if ink.size:
            parts.append((ink, top, round(x)))
        x += advance + tracking
    if not parts:
        return np.zeros((0, 0), np.uint8), 0
    return _pasted(parts, 0)


def _pasted(parts: list[tuple[np.ndarray, int, int]], margin: int) -> tuple[np.ndarray, int]:
    """Inks at their (top, left) in one mask, which begins at the highest of them; and where that was."""
    highest = min(top for _, top, _ in parts)
    height = max(top + ink.shape[0] for ink, top, _ in parts) - highest
    width = max(left + ink.shape[1] for ink, _, left in parts)
    mask = np.zeros((height + 2 * margin, width + 2 * margin), np.uint8)
    for ink, top, left in parts:
        y, x = top - highest + margin, left + margin
        place = mask[y:y + ink.shape[0], x:x + ink.shape[1]]
        np.maximum(place, ink, out=place)
    return mask, highest


def _joined(texts: list[str], inks: list[np.ndarray], tops: list[int], lefts: list[int], room: float) -> Line:
    margin = int(room) + 2
    mask, highest = _pasted(list(zip(inks, tops, lefts, strict=True)), margin)
    polygons = []
    for ink, top, left in zip(inks, tops, lefts, strict=True):
        x0, y0 = left + margin - room, top - highest + margin - room
        x1, y1 = left + margin + ink.shape[1] + room, top - highest + margin + ink.shape[0] + room
        polygons.append(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]))
    return Line(mask, polygons, texts)


def bend(line: Line, curvature: float) -> Line:
    """The line along an arc that spans `curvature` radians, upwards where it is positive; outlines of 14 points.

    A line that is too short and high for that stays level.
    """
    height, width = line.mask.shape
    radius = width / abs(curvature)
    if radius < height * 1.2:
        return line
    up = curvature > 0
    middle = radius + height / 2 if up else radius - height / 2

    def place(points: np.ndarray) -> np.ndarray:
        angle = (points[:, 0] - width / 2) / radius
        away = middle - points[:, 1] if up else middle + points[:, 1]
        y = -np.cos(angle) * away if up else np.cos(angle) * away
        return np.stack([np.sin(angle) * away, y], axis=1)

    edge = np.stack([np.tile(np.linspace(0, width, EDGE_POINTS), 2), np.repeat([0.0, height], EDGE_POINTS)], axis=1)
    origin = np.floor(place(edge).min(axis=0)) - 1
    size = np.ceil(place(edge).max(axis=0) - origin).astype(int) + 1
    # Pixels have their middles at .5 in the coordinates of outlines, and at whole numbers in those of OpenCV.
    x = (np.arange(size[0], dtype=np.float32) + np.float32(origin[0] + 0.5))[np.newaxis]
    y = (np.arange(size[1], dtype=np.float32) + np.float32(origin[1] + 0.5))[:, np.newaxis]
    away, angle = np.hypot(x, y), np.arctan2(x, -y if up else y)
    source_x = angle * np.float32(radius) + np.float32(width / 2 - 0.5)
    source_y = (np.float32(middle) - away if up else away - np.float32(middle)) - np.float32(0.5)
    mask = cv2.remap(line.mask, source_x, source_y, cv2.INTER_LINEAR)
    return Line(mask, [place(_sided(polygon)) - origin for polygon in line.polygons], line.texts)


def _sided(polygon: np.ndarray) -> np.ndarray:
    """A level rectangle with `SIDE_POINTS` points above and below, clockwise."""
    (x0, y0), (x1, y1) = polygon[0], polygon[2]
    xs = np.linspace(x0, x1, SIDE_POINTS)
    return np.concatenate([np.stack([xs, np.full_like(xs, y0)], 1), np.stack([xs[::-1], np.full_like(xs, y1)], 1)])
