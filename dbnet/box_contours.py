"""From a probability map to contours: the checked map, its bitmap, OpenCV's contours, simplified polygons."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from dbnet.errors import DbnetError

#: The bits of the highest float32 that passes for a probability. ONNX Runtime's sigmoid can be a last bit above 1.
HIGHEST = 0x3F800008


def text_contours(
    probability: np.ndarray, threshold: float, at_threshold: bool, dilation: bool = False
) -> tuple[np.ndarray, Sequence[np.ndarray]]:
    """The text pixels of a map (H, W) float32 as a bitmap (H, W) uint8 of 0 and 1, and their contours.

    at_threshold: a pixel equal to `threshold` is text. dilation: text grows by one pixel to the right and down first
    (PaddleOCR's 2 x 2 kernel). Contours are (N, 1, 2) int32, x and y, in OpenCV's order. Raises DbnetError for a value
    that is no probability.
    """
    is_text = np.greater_equal if at_threshold else np.greater
    limit = np.float32(threshold)
    rows = np.flatnonzero(is_text(_row_maxima(probability), limit))
    bitmap = np.zeros(probability.shape, np.uint8)
    if not len(rows):
        return bitmap, ()
    # Only between the first and the last row with text is there anything to compare and to trace: OpenCV's order of
    # contours does not depend on the blank rows around.
    first, stop = int(rows[0]), int(rows[-1]) + 1
    is_text(probability[first:stop], limit, out=bitmap[first:stop].view(bool))
    if dilation:
        stop = min(stop + 1, len(bitmap))
        bitmap[first:stop] = cv2.dilate(bitmap[first:stop], np.ones((2, 2), np.uint8))
    contours = cv2.findContours(bitmap[first:stop], cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE, offset=(0, first))[0]
    return bitmap, contours


def simplified(contour: np.ndarray, epsilon: float) -> np.ndarray:
    """A polygon (P, 2) int32 that strays from the contour by no more than the fraction `epsilon` of its length."""
    return cv2.approxPolyDP(contour, epsilon * cv2.arcLength(contour, True), True)[:, 0]


def _row_maxima(probability: np.ndarray) -> np.ndarray:
    """The highest value of each row, (H,) float32. Raises DbnetError unless all of the map is between 0 and 1, give or
    take a few last bits."""
    # Floats from 0 to 1 are ordered as their bits are, and every other float has higher bits (negative ones, infinity,
    # NaN): one pass tells the maxima and whether all is well.
    maxima = probability.view(np.uint32).max(axis=1)
    if maxima.max() <= HIGHEST:
        return maxima.view(np.float32)
    low, high = float(probability.min()), float(probability.max())
    if not (low >= 0 and high <= np.uint32(HIGHEST).view(np.float32)):  # also where one of them is NaN
        raise DbnetError(f"the probability map holds values from {low:g} to {high:g}, not between 0 and 1: "
                         f"the network's output is broken, or not a probability")
    return probability.max(axis=1)  # there was a negative zero
