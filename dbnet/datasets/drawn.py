"""Images that the project draws itself: words on a background, with their outlines. For the demo and for tests."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np

WORDS = ("EXIT", "Open daily", "Platform 7", "NO ENTRY", "Bakery", "Taxi", "PULL", "Gate 23", "Hotel", "Library")
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX)


def draw(seed: int, height: int = 360, width: int = 640, words: int = 5) -> tuple[np.ndarray, list[np.ndarray]]:
    """One image, (height, width, 3) uint8 in BGR, and the outlines of its words, each (4, 2) float64 in pixels.

    The words stand in rows that do not overlap, each turned by a few degrees. The same seed draws the same picture.
    """
    rng = np.random.default_rng(seed)
    low, high = rng.integers(30, 110, 3), rng.integers(110, 200, 3)
    ramp = np.linspace(0, 1, width)[None, :, None]
    image = np.broadcast_to(low + ramp * (high - low), (height, width, 3)).astype(np.uint8).copy()
    polygons = []
    rows = np.linspace(0, height, words + 1)
    for top, bottom in pairwise(rows):
        polygons.append(_word(image, rng, (top + bottom) / 2, bottom - top))
    noise = rng.normal(0, 6, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8), polygons


def _word(image: np.ndarray, rng: np.random.Generator, centre_y: float, room: float) -> np.ndarray:
    """Draws one word around height `centre_y`, within `room` pixels; its outline from the top left clockwise."""
    height, width = image.shape[:2]
    text, font = str(rng.choice(WORDS)), int(rng.choice(FONTS))
    (w, h), baseline = cv2.getTextSize(text, font, 1.0, 2)
    scale = min(room * 0.5 / (h + baseline), width * 0.5 / w)
    w, h = w * scale, (h + baseline) * scale
    angle = rng.uniform(-4, 4)
    centre = (float(rng.uniform(w * 0.6, width - w * 0.6)), float(centre_y))
    turn = cv2.getRotationMatrix2D(centre, angle, 1.0)
    layer = np.zeros((height, width), np.uint8)
    origin = (int(centre[0] - w / 2), int(centre[1] + h / 2 - baseline * scale))
    cv2.putText(layer, text, origin, font, scale, 255, max(1, round(scale * 2)), cv2.LINE_AA)
    layer = cv2.warpAffine(layer, turn, (width, height))
    ink = rng.integers(0, 40, 3) if image.mean() > 100 else rng.integers(215, 256, 3)
    image[:] = (image + (layer[..., None] / 255.0) * (ink - image.astype(np.float64))).astype(np.uint8)
    x, y = centre[0] - w / 2, centre[1] - h / 2
    corners = np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]])
    return cv2.transform(corners[None], turn)[0]
