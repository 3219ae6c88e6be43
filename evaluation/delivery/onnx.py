"""Target onnx: for ONNX Runtime and whatever else reads the standard; dynamic sizes, or fixed ones."""

from __future__ import annotations

from pathlib import Path

from converters.load import LoadedModel
from evaluation.delivery.common import write_onnx
from evaluation.delivery.settings import Delivered, ExportSettings


def write(model: LoadedModel, out: Path, settings: ExportSettings) -> Delivered:
    """IR 8 and opset 13 unless the settings ask for a newer one. Raises DbnetError."""
    return write_onnx(model, out, settings)
