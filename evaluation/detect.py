"""One image through any runtime: pixels in, network, boxes out."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from dbnet.errors import DbnetError
from dbnet.postprocess import boxes_from_map
from dbnet.preprocess import prepare
from dbnet.sample import Detection
from dbnet.spec import BoxRule, PixelFormat

if TYPE_CHECKING:
    from evaluation.runners import Runner


def detect(runner: Runner, image: np.ndarray, pixels: PixelFormat, boxes: BoxRule) -> list[Detection]:
    """The texts in one image, (H, W, 3) uint8 in BGR, in pixels of that image.

    Raises DbnetError if the network's output is no probability map of the input's size.
    """
    prepared = prepare(image, pixels)
    probability = np.asarray(runner.run(prepared.tensor)["probability"])
    expected = (1, 1, *prepared.tensor.shape[2:])
    if probability.shape != expected:
        raise DbnetError(f"{runner.name} returned a probability map of shape {probability.shape}, not {expected}")
    return boxes_from_map(probability[0, 0], **asdict(boxes), resized_size=prepared.resized_size,
                          original_size=prepared.original_size)
