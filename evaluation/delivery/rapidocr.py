"""Target rapidocr: an .onnx that takes the place of rapidocr-onnxruntime's detector, `RapidOCR(det_model_path=OUT)`.

RapidOCR gives its detector (x / 255 - 0.5) / 0.5 in BGR, sides multiples of 32 and the shorter one at least 736 pixels,
and makes boxes as PaddleOCR does, with its own thresholds. The model's own mean, deviation and colours therefore go
into the file, in front of the network. Source: config.yaml, ch_ppocr_det of rapidocr-onnxruntime 1.4.4.
"""

from __future__ import annotations

from pathlib import Path

from converters.load import LoadedModel
from dbnet.errors import DbnetError
from dbnet.spec import BoxRule, PixelFormat
from evaluation.delivery.common import refuse, write_onnx
from evaluation.delivery.settings import Delivered, ExportSettings

PIXELS = PixelFormat("BGR", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5), "short_side_min", (736, 736))
BOXES = BoxRule("paddle", "quad", 0.3, 0.5, 1.6, 1000, "fast", True)


def write(model: LoadedModel, out: Path, settings: ExportSettings) -> Delivered:
    """Raises DbnetError, also for what RapidOCR cannot use."""
    refuse(settings, "RapidOCR's images have many sizes; leave it out", data_shape=None)
    if settings.batch not in (None, 1):
        raise DbnetError(f"--target rapidocr takes one image at once, not {settings.batch}; leave out --batch")
    refuse(settings, "RapidOCR makes boxes of probabilities; leave it out", output="probability")
    return write_onnx(model, out, settings, pixels=PIXELS, boxes=BOXES)
