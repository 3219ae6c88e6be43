"""Target opencv: an .onnx for cv2.dnn and its DB API, `cv2.dnn.TextDetectionModel_DB`.

That API finds boxes in an output (H, W) only, gives every image one size, which it is stretched to unless somebody pads
it before, and makes boxes by a rule of its own.
The size is fixed in the file: OpenCV 4 silently computes another map, wrong by up to 1, where one net is given images
of a second size (4.6, 4.10 and 4.11; it fuses batch norms again), and refuses such an image if the file has a size.
Opset 12, for OpenCV 4.6 reads no Squeeze whose axes are an input.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from converters.load import LoadedModel
from dbnet.errors import DbnetError
from dbnet.pixel_formats import EXACT
from evaluation.delivery.common import write_onnx
from evaluation.delivery.settings import Delivered, ExportSettings, Size

#: Where neither the user nor the model's resize rule says one: the seed's.
SIZE: Size = (736, 1280)
OPSET = 12


def write(model: LoadedModel, out: Path, settings: ExportSettings) -> Delivered:
    """Raises DbnetError, also for what no OpenCV can do."""
    if settings.deformable == "native":
        raise DbnetError("no OpenCV reads DeformConv; leave out --deformable: made of plain operators, deformable "
                         "convolutions run in OpenCV from 5 on")
    if settings.output == "logits":
        raise DbnetError("--target opencv gives probabilities, which OpenCV's DB API makes boxes of; for logits choose "
                         "--target onnx")
    if settings.batch not in (None, 1):
        raise DbnetError(f"--target opencv takes one image at once, as OpenCV's DB API does, not {settings.batch}; "
                         f"leave out --batch")
    own = model.record.spec.pixels
    size = settings.data_shape or (own.size if own.resize in EXACT else SIZE)
    settings = replace(settings, data_shape=size, batch=1)
    pixels = replace(own, resize=own.resize if own.resize in EXACT else "stretch", size=size)
    boxes = replace(model.record.spec.boxes, rule="opencv", box_type="quad", score_mode="fast", dilation=False)
    return write_onnx(model, out, settings, pixels=pixels, boxes=boxes, rank=2, opset=OPSET)

