"""OpenCV's own text detection, `cv2.dnn.TextDetectionModel_DB`, on an exported file: what the deploying team will see.

It wants an output (H, W), which `dbnet export --target opencv` gives. Whether its boxes are those of the box rule
`opencv` on the source's map is the question that this answers; nothing of ours makes these boxes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dbnet.box_opencv import scale_back
from dbnet.errors import DbnetError, short
from dbnet.preprocess import input_size
from dbnet.silence import silent_stderr
from dbnet.spec import BoxRule, PixelFormat

#: Before, `setInputScale` took one number for all channels.
_SCALE_OF_CHANNELS = (4, 8)


def db_api_boxes(path: str | Path, image: np.ndarray, pixels: PixelFormat,
                 rule: BoxRule) -> list[tuple[np.ndarray, float]]:
    """The texts that `detect` finds in an image (H, W, 3) uint8 in BGR: quads (4, 2) float32 in pixels of the image, as
    they come (bottom left first, some beyond the image), and their scores.

    pixels: those that the file takes. Where they are a plain stretch, OpenCV resizes itself; an image that is padded is
    resized and padded here, and the quads are brought back to its own pixels. MhLiao/DB's resizing of floats, and
    MMOCR's padding with the mean, OpenCV can only do in whole values of 0..255. rule: its thresholds, whoever's.
    A quad with corners at INT_MIN, which OpenCV gives where two corners fall on one pixel, is left out.
    Raises DbnetError for what OpenCV says, and if it is older than 4.8 and the channels are divided by three numbers.
    """
    height, width = image.shape[:2]
    resized, padded = input_size(height, width, pixels)
    if padded != resized:
        image = cv2.resize(image, resized[::-1], interpolation=cv2.INTER_LINEAR)
        fill = _mean_of_bgr(pixels) if pixels.resize == "fit_pad_after" else (0, 0, 0)
        image = cv2.copyMakeBorder(image, 0, padded[0] - resized[0], 0, padded[1] - resized[1], cv2.BORDER_CONSTANT,
                                   value=fill)
    try:
        with silent_stderr():
            quads, scores = _model(os.fspath(path), padded, pixels, rule).detect(np.ascontiguousarray(image))
    except (cv2.error, MemoryError) as error:
        said = short(" ".join(str(getattr(error, "err", "") or error).split()))
        raise DbnetError(f"{path}: OpenCV {cv2.__version__} does not detect with it: {said}; write it with dbnet "
                         f"export --target opencv, for OpenCV 5 if it has deformable convolutions") from error
    found = [(np.array(quad, np.float32).reshape(4, 2), float(score))
             for quad, score in zip(quads, scores, strict=True) if np.min(quad) > np.iinfo(np.int32).min]
    if padded == resized:
        return found
    back = scale_back(resized, (height, width))
    return [(quad * back, score) for quad, score in found]


def _model(path: str, size: tuple[int, int], pixels: PixelFormat, rule: BoxRule) -> Any:
    """A new one for every image: OpenCV 4 gives other maps where one net gets images of two sizes."""
    model = cv2.dnn.TextDetectionModel_DB(cv2.dnn.readNetFromONNX(path))
    # scale * (x - mean), both in the order in which the network takes the channels.
    model.setInputParams(1 / pixels.std[0], size[::-1], pixels.mean, pixels.colour == "RGB", False)
    if len(set(pixels.std)) > 1:
        if tuple(map(int, cv2.__version__.split(".")[:2])) < _SCALE_OF_CHANNELS:
            raise DbnetError(f"{path}: OpenCV {cv2.__version__} divides all channels by one number, and this file "
                             f"wants three; install OpenCV 4.8 or later")
        model.setInputScale([1 / value for value in pixels.std])
    model.setBinaryThreshold(rule.binary_thresh)
    model.setPolygonThreshold(rule.box_thresh)
    model.setUnclipRatio(rule.unclip_ratio)
    model.setMaxCandidates(rule.max_candidates)
    return model


def _mean_of_bgr(pixels: PixelFormat) -> tuple[int, ...]:
    mean = pixels.mean if pixels.colour == "BGR" else pixels.mean[::-1]
    return tuple(round(value) for value in mean)
