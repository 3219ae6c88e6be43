"""Pictures of results: the probability map as a tint, outlines over it, and texts cut out. Images are (H, W, 3) uint8
in BGR.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import cv2
import numpy as np

from dbnet.errors import DbnetError

#: Pixels of the largest picture that is drawn; a larger image is shown smaller. 8192 x 4096.
MAX_PICTURE = 2**25
#: The longest side that a JPEG file can have is 65,535 pixels; libjpeg stops a little before.
MAX_SIDE = 65_000
#: OpenCV warps no image with a side beyond this.
MAX_WARPED = 32_000
#: Probabilities from here on are shown: below it a trained network means nothing by them.
SHOWN_FROM = 0.1
JPEG_QUALITY = 90
OUTLINE = (60, 255, 60)
#: A text this much taller than wide runs downwards, and is turned to be read (PaddleOCR, MindOCR: 1.5).
UPRIGHT_RATIO = 1.5


def shown(image: np.ndarray) -> tuple[np.ndarray, float]:
    """The image as it is, or a smaller one if it is too large for a picture, and by which factor (1 at most)."""
    height, width = image.shape[:2]
    scale = min(1.0, math.sqrt(MAX_PICTURE / (height * width)), MAX_SIDE / max(height, width))
    if scale == 1.0:
        return image, scale
    size = max(1, math.floor(width * scale)), max(1, math.floor(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), scale


def tint(image: np.ndarray, probability: np.ndarray) -> None:
    """Colours the image, in place, where the map, (h, w) of floats in 0..1, says text; nothing else changes.

    Most of a photograph is no text: only the pixels that change are computed.
    """
    level = cv2.convertScaleAbs(probability, alpha=255)
    if level.max(initial=0) < SHOWN_FROM * 255:
        return
    if level.shape != image.shape[:2]:
        level = cv2.resize(level, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    where = np.flatnonzero(level >= SHOWN_FROM * 255)
    if len(where):  # else it was lost in resizing, and OpenCV takes no empty arrays
        pixels = image.reshape(-1, 3)  # a view: images are contiguous
        pixels[where] = cv2.addWeighted(pixels[where], 0.5, _colours()[level.reshape(-1)[where]], 0.5, 0)


@functools.cache
def _colours() -> np.ndarray:
    """(256, 3) uint8, from violet for 0 to yellow for 1."""
    colours: np.ndarray = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_PLASMA).reshape(256, 3)
    return colours


def outline(image: np.ndarray, polygons: Sequence[np.ndarray], scale: float = 1.0) -> None:
    """Draws polygons, each (P, 2) in pixels before `scale`, in place. Lines grow with the image."""
    thickness = max(2, round(min(image.shape[:2]) / 360))
    points = [np.round(np.asarray(polygon, np.float64) * scale).astype(np.int32) for polygon in polygons]
    cv2.polylines(image, points, True, OUTLINE, thickness)


def encoded(image: np.ndarray, suffix: str) -> bytes:
    """The content of an image file; suffix: .jpg or .png. Raises DbnetError for a size that the format cannot have."""
    try:
        done, data = cv2.imencode(suffix, image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix == ".jpg" else [])
    except cv2.error as error:
        raise DbnetError(f"a picture of {image.shape[0]} x {image.shape[1]} pixels cannot be written as {suffix}: "
                         f"{error.err}") from error
    if not done:
        raise DbnetError(f"a picture of {image.shape[0]} x {image.shape[1]} pixels cannot be written as {suffix}")
    content: bytes = data.tobytes()
    return content


def cut_out(image: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """One text as an upright rectangle of its own size; a polygon, (P, 2) in pixels, by its smallest rectangle.

    A text that is 1.5 times as tall as wide is turned to the left, as PaddleOCR and MindOCR do before recognition.
    """
    corners = np.asarray(polygon, np.float32)
    if len(corners) != 4:
        corners = _from_top_left(cv2.boxPoints(cv2.minAreaRect(corners)))
    low = np.clip(np.floor(corners.min(axis=0)), 0, np.array(image.shape[1::-1]) - 1).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)), low, np.array(image.shape[1::-1]) - 1).astype(int)
    part = image[low[1]:high[1] + 1, low[0]:high[0] + 1]
    sides = np.linalg.norm(corners - np.roll(corners, -1, axis=0), axis=1)
    width, height = (max(1, round(float(max(sides[i], sides[i + 2])))) for i in (0, 1))
    if max(*part.shape[:2], width, height) <= MAX_WARPED:
        target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
        turn = cv2.getPerspectiveTransform(corners - low.astype(np.float32), target)
        part = cv2.warpPerspective(part, turn, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    if part.shape[0] >= UPRIGHT_RATIO * part.shape[1]:
        part = cv2.rotate(part, cv2.ROTATE_90_COUNTERCLOCKWISE)
    return part


def _from_top_left(corners: np.ndarray) -> np.ndarray:
    """Four corners clockwise from the top left, (4, 2): the two on the left, upper one first, and so on."""
    left, right = np.split(corners[np.argsort(corners[:, 0], kind="stable")], 2)
    upper_left, lower_left = left[np.argsort(left[:, 1])]
    upper_right, lower_right = right[np.argsort(right[:, 1])]
    return np.array([upper_left, upper_right, lower_right, lower_left], np.float32)
