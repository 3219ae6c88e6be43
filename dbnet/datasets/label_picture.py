"""A picture of an image's labels: what can be read green, what is ignored grey, what was repaired red."""

from __future__ import annotations

import cv2
import numpy as np

from dbnet.datasets.preparing import Outcome
from dbnet.drawing import shown
from dbnet.preprocess import read_image

READABLE, IGNORED, REPAIRED, BEFORE = (60, 200, 60), (150, 150, 150), (40, 40, 255), (0, 160, 255)
FONT = cv2.FONT_HERSHEY_SIMPLEX
#: Characters of a transcription that a picture shows; the list beside it has all.
MOST = 24


def states(outcome: Outcome) -> dict[int, str]:
    """Text of the labels as they were read, from 0 -> readable, ignored, or what was done to it."""
    found = {index: "ignored" if ignore else "readable" for index, ignore in enumerate(outcome.entry.sample.ignore)}
    for repair in outcome.repairs:
        if repair.index is not None and repair.effect == "repaired":
            found[repair.index] = repair.kind
    return found


def picture(outcome: Outcome) -> np.ndarray:
    """(H, W, 3) uint8 in BGR: the image with its labels, each with its number from 0 and its transcription.

    Outlines that were repaired are drawn as they were, too, thin and orange. Raises DbnetError if the image cannot be
    read, and ValueError if there is none.
    """
    if outcome.entry.image is None:
        raise ValueError(f"{outcome.name} has no image")
    canvas, scale = shown(read_image(outcome.entry.image, ignore_orientation=outcome.as_stored))
    told, before = states(outcome), outcome.entry.sample.polygons
    thickness = max(1, round(min(canvas.shape[:2]) / 400))
    mended = [] if outcome.sample is None else list(zip(outcome.kept, outcome.sample.polygons, strict=True))
    for index, state in told.items():
        if state not in ("readable", "ignored"):
            _outline(canvas, before[index] * scale, BEFORE, 1)
    for index, polygon in mended:
        colour = {"readable": READABLE, "ignored": IGNORED}.get(told[index], REPAIRED)
        _outline(canvas, polygon * scale, colour, thickness)
    # Numbers last, so that no outline hides them.
    places = dict(enumerate(before)) | dict(mended)
    for index, polygon in places.items():
        colour = {"readable": READABLE, "ignored": IGNORED}.get(told[index], REPAIRED)
        _caption(canvas, _said(index, outcome.entry.sample.texts[index], told[index]), polygon[0] * scale, colour)
    return canvas


def _said(index: int, text: str, state: str) -> str:
    """The number and what can be drawn of the transcription: OpenCV's fonts have ASCII only and draw `?` for the rest.
    """
    readable = text if state != "ignored" and text.isascii() and text.isprintable() else ""
    return f"{index} {state if state == 'dropped' else readable[:MOST]}".rstrip()


def _outline(canvas: np.ndarray, polygon: np.ndarray, colour: tuple[int, int, int], thickness: int) -> None:
    points = np.clip(np.round(polygon), -20_000, 20_000).astype(np.int32)
    cv2.polylines(canvas, [points], True, colour, thickness, cv2.LINE_AA)


def _caption(canvas: np.ndarray, text: str, corner: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Above the corner, moved into the picture, dark on the colour."""
    size = max(0.35, min(canvas.shape[:2]) / 1600)
    (width, height), below = cv2.getTextSize(text, FONT, size, 1)
    x = int(np.clip(corner[0], 0, max(0, canvas.shape[1] - width)))
    y = int(np.clip(corner[1] - 3, height, max(height, canvas.shape[0] - below)))
    cv2.rectangle(canvas, (x, y - height - 1), (x + width, y + below - 1), colour, cv2.FILLED)
    cv2.putText(canvas, text, (x, y), FONT, size, (0, 0, 0), 1, cv2.LINE_AA)
