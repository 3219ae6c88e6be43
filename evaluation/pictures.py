"""What `dbnet detect` reads and shows: one more kind of file than OpenCV reads, and a picture of every result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dbnet import drawing
from dbnet.errors import DbnetError
from dbnet.image_header import pixels_of
from dbnet.preprocess import decode_image
from dbnet.sample import Detection
from evaluation.pipeline import View

#: A GIF may claim 4 gigapixels in ten bytes.
MAX_GIF = 2**26


def decode(data: np.ndarray, path: str | Path, ignore_orientation: bool = False) -> np.ndarray:
    """`decode_image`, which also reads GIF: its first frame, by Pillow, for most builds of OpenCV read none."""
    if data[:4].tobytes() != b"GIF8":
        return decode_image(data, path, ignore_orientation)
    if (pixels_of(data) or 0) > MAX_GIF:
        raise DbnetError(f"{path}: claims to have more than {MAX_GIF} pixels, too many for a GIF; save it as PNG")
    from dbnet.datasets.image_facts import DAMAGE, first_frame
    try:
        return first_frame(Path(path))
    except DAMAGE as error:
        raise DbnetError(f"{path}: is no whole GIF ({error}); save it as PNG") from error


def picture(view: View, detections: Sequence[Detection], overlay: bool, suffix: str) -> bytes:
    """An image file that shows the boxes, and with `overlay` the map as a tint. Draws on `view.image`."""
    image, scale = drawing.shown(view.image)
    if overlay:
        drawing.tint(image, view.probability)
    drawing.outline(image, [detection.polygon for detection in detections], scale)
    return drawing.encoded(image, suffix)


def crops(view: View, detections: Sequence[Detection], suffix: str) -> list[bytes]:
    """An image file for each text, cut out and turned upright."""
    return [drawing.encoded(drawing.cut_out(view.image, detection.polygon), suffix) for detection in detections]
