"""The demo's model: the one that comes with the package, trained by this suite (dbnet/embedded/README.md)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dbnet.spec import SPECS, ModelSpec

SPEC, IMAGES = "dbnet_mobilenetv3", 4
WEIGHTS = Path(__file__).resolve().parents[1] / "embedded" / f"{SPEC}.safetensors"
HEIGHT, WIDTH = 320, 640


def embedded_spec() -> ModelSpec:
    """What the record of the embedded weights says."""
    spec = SPECS[SPEC]
    return replace(spec, pixels=replace(spec.pixels, resize="short_side", size=(1088, 1088)))
