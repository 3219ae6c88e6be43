"""The demo's model: the one that comes with the package, trained by this suite (dbnet/embedded/README.md)."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dbnet.spec import SPECS, ModelSpec

if TYPE_CHECKING:
    import numpy as np

    from dbnet.sample import Detection

SPEC, IMAGES = "dbnet_mobilenetv3", 2
WEIGHTS = Path(__file__).resolve().parents[1] / "embedded" / f"{SPEC}.safetensors"
HEIGHT, WIDTH = 320, 640


def embedded_spec() -> ModelSpec:
    """What the record of the embedded weights says."""
    spec = SPECS[SPEC]
    return replace(spec, pixels=replace(spec.pixels, resize="short_side", size=(1088, 1088)))


def boxes_of(probability: np.ndarray) -> list[Detection]:
    """The boxes of one map under the embedded model's own rule."""
    from dbnet.postprocess import boxes_from_map
    return boxes_from_map(probability, **asdict(embedded_spec().boxes))
