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
    return boxes_from_map(probability_map(runner, prepared.tensor), **asdict(boxes),
                          resized_size=prepared.resized_size, original_size=prepared.original_size)


def probability_map(runner: Runner, tensor: np.ndarray) -> np.ndarray:
    """(H, W) for a tensor (1, 3, H, W) float32. Raises DbnetError if the network's output has another shape."""
    probability = np.asarray(runner.run(tensor)["probability"])
    expected = (1, 1, *tensor.shape[2:])
    if probability.shape != expected:
        raise DbnetError(f"{runner.name} returned a probability map of shape {probability.shape}, not {expected}")
    single: np.ndarray = probability[0, 0]
    return single
