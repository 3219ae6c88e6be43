"""Boards and words painted into a scene, in colours that stand out from what is behind them."""

from __future__ import annotations

import cv2
import numpy as np

from dbnet.datasets.synth_block import Placed
from dbnet.datasets.synth_texture import clouds, colours

#: Weights of blue, green and red in brightness.
GREY = np.array([0.114, 0.587, 0.299])
#: Bits of a pixel's fractions in OpenCV's coordinates.
SHIFT = 4
#: Colours from which the one of a text is chosen.
CANDIDATES = 14


def paint(canvas: np.ndarray, block: Placed, with_board: bool, rng: np.random.Generator) -> None:
    """Paints into `canvas`, (H, W, 3) uint8 BGR, in place: first the board, then the ink."""
    if with_board and block.board is not None:
        _board(canvas, block.board, rng)
    x, y = block.at
    height, width = block.mask.shape
    edge = 2 + int(block.letter * 0.12)
    x0, y0 = max(0, x - edge), max(0, y - edge)
    region = canvas[y0:y + height + edge, x0:x + width + edge]
    right, bottom = region.shape[1] - (x - x0) - width, region.shape[0] - (y - y0) - height
    mask = cv2.copyMakeBorder(block.mask, y - y0, bottom, x - x0, right, cv2.BORDER_CONSTANT)
    behind, spread = (value[:, 0] for value in cv2.meanStdDev(region))
    ink = _ink(behind, float(spread @ GREY), rng)
    floats = region.astype(np.float32)
    _effect(floats, mask, ink, block.letter, rng)
    if rng.random() < 0.2:  # the letters themselves are not all of one brightness
        ink = ink + clouds(mask.shape[0], mask.shape[1], rng, 0.8)[..., np.newaxis] * np.float32(rng.uniform(3, 18))
    _blend(floats, mask, ink, float(rng.uniform(0.82, 1.0)))
    region[:] = np.clip(np.rint(floats), 0, 255)


def _blend(region: np.ndarray, mask: np.ndarray, colour: np.ndarray, strength: float) -> None:
    region += (mask.astype(np.float32) * np.float32(strength / 255))[..., np.newaxis] * (colour - region)


def _ink(behind: np.ndarray, spread: float, rng: np.random.Generator) -> np.ndarray:
    """(3,) float32 BGR: a colour, of some drawn, that is brighter or darker enough than what is behind, or the most so.
    """
    candidates = colours(rng, CANDIDATES, strong=0.35)
    candidates[-2:] = [[250, 250, 250], [12, 12, 12]]
    distance = np.abs((candidates - behind) @ GREY) + 0.15 * np.abs(candidates - behind).max(axis=1)
    wanted = rng.uniform(35, 120) + min(spread, 50)
    fitting = np.flatnonzero(distance >= wanted)
    return candidates[int(fitting[0]) if len(fitting) else int(distance.argmax())].astype(np.float32)


def _effect(region: np.ndarray, mask: np.ndarray, ink: np.ndarray, letter: float, rng: np.random.Generator) -> None:
    """A shadow, an edge in another colour, or a glow behind the letters; mostly nothing."""
    kind = rng.random()
    if kind > 0.24:
        return
    contrary = np.float32(20 if float(ink @ GREY) > 128 else 235)
    colour = np.full(3, contrary, np.float32) if rng.random() < 0.6 else colours(rng, 1)[0]
    if kind < 0.1:
        shift = np.round(rng.normal(0, 0.05 * letter, 2) + 0.5).astype(int)
        moved = cv2.warpAffine(mask, np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32), mask.shape[::-1])
        _blend(region, cv2.GaussianBlur(moved, (0, 0), 0.4 + 0.03 * letter), np.float32(0.3) * colour, 0.8)
    elif kind < 0.2:
        wide = 2 * max(1, round(letter * rng.uniform(0.02, 0.06))) + 1
        _blend(region, cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (wide, wide))), colour, 1.0)
    else:
        _blend(region, cv2.GaussianBlur(mask, (0, 0), 0.5 + 0.08 * letter), 0.5 * (ink + 255), 0.7)


def _board(canvas: np.ndarray, outline: np.ndarray, rng: np.random.Generator) -> None:
    """A sign, plate or banner; what is behind shines through now and then."""
    (x0, y0), (x1, y1) = np.floor(outline.min(axis=0)).astype(int) - 4, np.ceil(outline.max(axis=0)).astype(int) + 4
    x0, y0 = max(x0, 0), max(y0, 0)
    region = canvas[y0:max(y1, 0), x0:max(x1, 0)]
    points = [np.round((outline - (x0, y0) - 0.5) * 2**SHIFT).astype(np.int32)]
    covered = cv2.fillPoly(np.zeros(region.shape[:2], np.uint8), points, 255, cv2.LINE_AA, SHIFT)
    colour, other = colours(rng, 2, strong=0.45)
    fill = np.empty(region.shape, np.uint8)
    fill[:] = np.clip(colour, 0, 255)
    if rng.random() < 0.4:
        shades = np.clip(colour + rng.normal(0, 22, (2, 2, 1)), 0, 255).astype(np.float32)
        fill[:] = cv2.resize(shades, region.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.45:
        edge = int(rng.integers(1, 6))
        cv2.polylines(fill, points, True, other.tolist(), 2 * edge, cv2.LINE_AA, SHIFT)
    if rng.random() < 0.2:
        share = float(rng.uniform(0.5, 0.95))
        fill = cv2.addWeighted(fill, share, region, 1 - share, 0)
    _mix(region, fill, covered)


def _mix(region: np.ndarray, fill: np.ndarray, covered: np.ndarray) -> None:
    """Puts `fill` where `covered` is 255, in place, and mixes at its edges."""
    cv2.copyTo(fill, cv2.compare(covered, 255, cv2.CMP_EQ), region)
    ys, xs = np.nonzero((covered > 0) & (covered < 255))
    share = covered[ys, xs, np.newaxis].astype(np.float32) / 255
    region[ys, xs] = np.rint(region[ys, xs] * (1 - share) + fill[ys, xs] * share)
