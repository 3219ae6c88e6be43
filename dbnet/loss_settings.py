"""What the loss is told, and what it tells, for both halves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

#: How many of the pixels without text the cross entropy looks at, and which. `mindocr`: of each image the hardest, at
#: least `least_negatives`; `batch`: the hardest of all images together (MhLiao/DB, PaddleOCR).
Mining = Literal["mindocr", "batch"]


@dataclass(frozen=True)
class LossSettings:
    """The defaults are the recipes' own.

    bce_scale, l1_scale: weights of the cross entropy and of the threshold map; dice has weight 1. bce_replace:
    `diceloss` compares the probability by dice too. negative_ratio: hard negatives for each pixel of text.
    least_negatives: of an image under `mindocr`, which keeps an image without text from having none.
    """

    bce_scale: float = 5.0
    l1_scale: float = 10.0
    eps: float = 1e-6
    bce_replace: Literal["bceloss", "diceloss"] = "bceloss"
    mining: Mining = "mindocr"
    negative_ratio: float = 3.0
    least_negatives: int = 10


class Losses(NamedTuple):
    """Of one batch: all together, and its parts without their weights. cross_entropy: dice's under `diceloss`."""

    total: float
    dice: float
    l1: float
    cross_entropy: float
