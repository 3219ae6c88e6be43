"""Texts that belong together: lines in one font, below one another, on one plane, with a board behind them or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from dbnet.datasets.synth_fonts import Face
from dbnet.datasets.synth_text import Line, bend, set_line

#: Pixels of a mask for one of the scene: it is set larger, so that it stays sharp.
OVERSAMPLING = 1.5
#: Share of blocks that begin with a bent line, and how far it bends, radians.
BENT, BENDING = 0.14, (0.4, 1.9)
#: Share of blocks on a board.
BOARDS = 0.45


@dataclass(frozen=True, eq=False)
class Placed:
    """A block in the scene. flat: (h, w) uint8, its ink before it was placed, and matrix: (3, 3), how that was done.
    polygons: one for each word, (P, 2) float64 in the scene's pixels. board: (P, 2) float64 outline of what is behind,
    or None. letter: size of the font in pixels."""

    flat: np.ndarray
    matrix: np.ndarray
    polygons: list[np.ndarray]
    texts: list[str]
    board: np.ndarray | None
    letter: float

    @cached_property
    def at(self) -> tuple[int, int]:
        """Left and top of the ink in the scene, pixels."""
        x, y = np.floor(np.concatenate(self.polygons).min(axis=0)).astype(int).tolist()
        return x, y

    @cached_property
    def mask(self) -> np.ndarray:
        """(h, w) uint8: the ink in the scene."""
        right, bottom = np.ceil(np.concatenate(self.polygons).max(axis=0)).astype(int).tolist()
        # Pixels have their middles at .5 in the coordinates of outlines, and at whole numbers in those of OpenCV.
        half, local = np.eye(3), np.eye(3)
        half[:2, 2], local[:2, 2] = 0.5, (-self.at[0] - 0.5, -self.at[1] - 0.5)
        return cv2.warpPerspective(self.flat, local @ self.matrix @ half, (right - self.at[0], bottom - self.at[1]))


def set_block(face: Face, script: str, letter: float, longest: float, rng: np.random.Generator) -> Line | None:
    """One to four lines, the first bent now and then, in a font of `letter` pixels of the scene, none longer than
    `longest`. None where nothing can be drawn."""
    size = max(8, round(letter * OVERSAMPLING))
    lines: list[Line] = []
    for number in range(int(rng.integers(1, 5))):
        smaller = size if rng.random() < 0.7 or not number else max(8, round(size * rng.uniform(0.5, 1)))
        line = set_line(face, script, smaller, int(rng.integers(1, 5)), rng, longest * OVERSAMPLING)
        if line is not None:
            bent = not lines and rng.random() < BENT
            lines.append(bend(line, float(rng.uniform(*BENDING) * rng.choice([-1, 1]))) if bent else line)
    if not lines:
        return None
    return _stacked(lines, size * float(rng.uniform(0.1, 0.6)), float(rng.choice([0, 0.5, 0.5, 1])))


def _stacked(lines: Sequence[Line], gap: float, aligned: float) -> Line:
    """The lines below one another. aligned: 0 to the left, 0.5 in the middle, 1 to the right."""
    if len(lines) == 1:
        return lines[0]
    width = max(line.mask.shape[1] for line in lines)
    height = sum(line.mask.shape[0] for line in lines) + round(gap) * (len(lines) - 1)
    mask = np.zeros((height, width), np.uint8)
    polygons, texts, top = [], [], 0
    for line in lines:
        left = round((width - line.mask.shape[1]) * aligned)
        mask[top:top + line.mask.shape[0], left:left + line.mask.shape[1]] = line.mask
        polygons += [polygon + (left, top) for polygon in line.polygons]
        texts += line.texts
        top += line.mask.shape[0] + round(gap)
    return Line(mask, polygons, texts)


def view(length: float, rng: np.random.Generator) -> np.ndarray:
    """(3, 3) from a plane to the picture, both from the block's middle: turned, and seen from the side.

    length: of the block in pixels; from how many times as far it is seen is drawn.
    """
    choice = rng.random()
    roll = rng.normal(0, 5) if choice < 0.8 else rng.uniform(-45, 45) if choice < 0.96 else rng.normal(
        90 * rng.choice([-1, 1]), 5)
    yaw = np.clip(rng.normal(0, 24), -55, 55) if rng.random() < 0.55 else 0.0
    pitch = np.clip(rng.normal(0, 11), -30, 30) if rng.random() < 0.55 else 0.0
    roll, yaw, pitch = np.deg2rad([roll, yaw, pitch])
    about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    matrix = about_z @ about_y @ about_x
    distance = length * rng.uniform(1.3, 5)
    return np.array([[*matrix[0, :2], 0], [*matrix[1, :2], 0], [*(matrix[2, :2] / distance), 1]])


def board(line: Line, letter: float, rng: np.random.Generator) -> np.ndarray | None:
    """(P, 2) float64 outline in pixels of the line's mask, mostly a rectangle; None for a text without a board."""
    if rng.random() >= BOARDS:
        return None
    size = letter * OVERSAMPLING
    left, top, right, bottom = rng.uniform(0.1, 1.5, 4) * size
    points = np.concatenate(line.polygons)
    (x0, y0), (x1, y1) = points.min(axis=0) - (left, top), points.max(axis=0) + (right, bottom)
    kind = rng.random()
    if kind < 0.7:
        return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    if kind < 0.9:  # round corners
        radius = min(x1 - x0, y1 - y0) * rng.uniform(0.1, 0.5)
        return circle * radius + np.where(circle > 0, (x1 - radius, y1 - radius), (x0 + radius, y0 + radius))
    return circle * ((x1 - x0) * 0.71, (y1 - y0) * 0.71) + ((x0 + x1) / 2, (y0 + y1) / 2)


def place(line: Line, outline: np.ndarray | None, matrix: np.ndarray, letter: float, size: tuple[int, int],
          rng: np.random.Generator, margin: int = 2) -> Placed | None:
    """The block somewhere in a scene of `size` (height, width), its words `margin` pixels or more from the edges.

    None where it does not fit into it.
    """
    height, width = line.mask.shape
    to_middle = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, OVERSAMPLING]])
    whole = matrix @ to_middle
    points = _moved(np.concatenate(line.polygons), whole)
    least, most = margin - points.min(axis=0), np.array(size[::-1]) - margin - points.max(axis=0)
    if (least > most).any():
        return None
    shift = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float64)
    shift[:2, 2] = least + rng.random(2) * (most - least)
    whole = shift @ whole
    return Placed(line.mask, whole, [_moved(polygon, whole) for polygon in line.polygons], line.texts,
                  None if outline is None else _moved(outline, whole), letter)


def _moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(P, 2) points through a (3, 3) homography."""
    x, y, w = matrix @ np.concatenate([points.T, np.ones((1, len(points)))])
    return np.stack([x / w, y / w], axis=1)
