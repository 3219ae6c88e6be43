"""The demo's model: seeded until a trained one is embedded."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from dbnet.spec import SPECS, ModelSpec

if TYPE_CHECKING:
    import numpy as np

    from dbnet.sample import Detection

SPEC, SEED, IMAGES = "dbnet_mobilenetv3", 2030, 2
#: Untrained maps lie around 0.5: at the usual 0.3 everything would be one text and nothing left to compare.
BINARY_THRESH = 0.5
HEIGHT, WIDTH = 320, 640


def embedded_spec() -> ModelSpec:
    """The embedded model: a known network with a threshold of its own, which travels in its record."""
    return replace(SPECS[SPEC], boxes=replace(SPECS[SPEC].boxes, binary_thresh=BINARY_THRESH))


def boxes_of(probability: np.ndarray) -> list[Detection]:
    """The boxes of one map under the embedded model's own rule."""
    from dbnet.postprocess import boxes_from_map
    return boxes_from_map(probability, **asdict(embedded_spec().boxes))
