"""Curves of a training as a picture: the loss and its parts, the scores, and the rate, by epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from dbnet.drawing import encoded
from evaluation.training_journal import Row

#: One panel's height, the picture's width, and the room around a panel: left, right, above, below. Pixels.
HEIGHT, WIDTH, MARGINS = 300, 960, (76, 24, 34, 36)
#: BGR.
_COLOURS = ((180, 90, 20), (40, 120, 220), (60, 150, 60), (150, 60, 150))
_INK, _GRID = (60, 60, 60), (225, 225, 225)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
#: title -> the rows' columns, and the name of each in the picture.
PANELS: dict[str, dict[str, str]] = {
    "loss": {"loss": "loss", "dice": "dice", "l1": "L1", "cross_entropy": "cross entropy"},
    "scores": {"fscore": "f-score", "recall": "recall", "precision": "precision"},
    "learning rate": {"lr": "lr"},
}


def curves(rows: Sequence[Row]) -> bytes:
    """A .png with a panel for each of `PANELS` that has numbers, by epoch."""
    panels = []
    for title, columns in PANELS.items():
        lines = {name: [(row.epoch, getattr(row, column)) for row in rows if getattr(row, column) is not None]
                 for column, name in columns.items()}
        if any(lines.values()):
            panels.append(_panel(f"{title} by epoch", lines, rows, top=1.0 if title == "scores" else None))
    return encoded(np.vstack(panels) if panels else np.full((HEIGHT, WIDTH, 3), 255, np.uint8), ".png")


def _panel(title: str, lines: dict[str, list[tuple[int, float]]], rows: Sequence[Row],
           top: float | None) -> np.ndarray:
    """(HEIGHT, WIDTH, 3) uint8. top: of the scale; default what the numbers need. The scale begins at 0."""
    image = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    left, right, above, below = MARGINS
    first, last = rows[0].epoch, rows[-1].epoch
    ticks = nice_ticks(top or max(value for line in lines.values() for _, value in line))
    width, height = WIDTH - left - right, HEIGHT - above - below

    def place(epoch: float, value: float) -> tuple[float, float]:
        share = (epoch - first) / (last - first) if last > first else 0.5
        return left + share * width, above + height * (1 - value / ticks[-1])

    for tick in ticks:
        y = round(place(first, tick)[1])
        cv2.line(image, (left, y), (WIDTH - right, y), _GRID, 1)
        _write(image, f"{tick:g}", (left - 8, y + 4), align=1.0)
    for epoch in sorted({first + round((last - first) * i / 8) for i in range(9)}):
        _write(image, str(epoch), (round(place(epoch, 0)[0]), HEIGHT - below + 18), align=0.5)
    _write(image, title, (left, above - 12))
    x = WIDTH - right
    for i, (name, line) in reversed(list(enumerate(lines.items()))):
        colour = _COLOURS[i % len(_COLOURS)]
        x -= _write(image, name, (x, above - 12), colour, align=1.0) + 18
        _draw(image, [place(epoch, value) for epoch, value in line], colour)
    return image


def _draw(image: np.ndarray, points: Sequence[tuple[float, float]], colour: tuple[int, int, int]) -> None:
    """A line through the points, which are marked where they are few. Coordinates have 4 binary places."""
    scaled = [np.round(np.array(points) * 16).astype(np.int32).reshape(-1, 1, 2)]
    cv2.polylines(image, scaled, False, colour, 1, cv2.LINE_AA, 4)
    for x, y in points if len(points) <= 60 else ():
        cv2.circle(image, (round(x * 16), round(y * 16)), 40, colour, -1, cv2.LINE_AA, 4)


def _write(image: np.ndarray, text: str, at: tuple[int, int], colour: tuple[int, int, int] = _INK,
           align: float = 0.0) -> int:
    """align: share of the text that is to the left of `at`. Its width in pixels."""
    (width, _), _ = cv2.getTextSize(text, _FONT, 0.45, 1)
    cv2.putText(image, text, (round(at[0] - align * width), at[1]), _FONT, 0.45, colour, 1, cv2.LINE_AA)
    return int(width)


def nice_ticks(most: float) -> list[float]:
    """From 0 in even steps of 1, 2 or 5 times a power of ten to the first that is `most` or more."""
    if not most > 0:
        return [0.0, 1.0]
    raw = most / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    return [i * step for i in range(math.ceil(most / step - 1e-9) + 1)]
