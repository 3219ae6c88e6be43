"""What an image file is: its size, orientation and pixels, and whether a detector will be able to read it.

OpenCV is what everybody trains and detects with, so it decides. Pillow knows what OpenCV does not tell (orientation,
frames, bits) and reads gif.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from dbnet.image_header import claims_too_much, is_cut_off
from dbnet.preprocess import MAX_PIXELS, read_bytes

#: How a file begins -> its reader. Not Image.open, which refuses large images before it tells their size.
READERS: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile), (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (b"GIF8", GifImagePlugin.GifImageFile), (b"BM", BmpImagePlugin.BmpImageFile),
    (b"II*\0", TiffImagePlugin.TiffImageFile), (b"MM\0*", TiffImagePlugin.TiffImageFile),
    (b"RIFF", WebPImagePlugin.WebPImageFile),
)
SUFFIXES = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "gif": "GIF", "bmp": "BMP", "tif": "TIFF", "tiff": "TIFF",
            "webp": "WEBP"}
#: Formats that OpenCV reads unless the file is at fault.
EVERYDAY = ("JPEG", "PNG", "BMP")
#: What Pillow raises for damaged files.
DAMAGE = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, EOFError,
          struct.error, zlib.error, Image.DecompressionBombError)
ORIENTATION = 0x0112
#: Sides beyond these, in pixels, are noted.
SMALL, LARGE = 10, 10_000
#: Of an image that OpenCV takes at all (CV_IO_MAX_IMAGE_PIXELS).
OPENCV_PIXELS = 2**30

# What is wrong with a file is told by ImageFacts, and not in lines of Pillow's beside it.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class ImageFacts:
    """An image file. size: height and width in pixels as stored. orientation: EXIF's, 1 for upright.

    notes: (kind, detail) of `dbnet.datasets.repair.KINDS`. damage: why nobody can read it. opencv: whether OpenCV can.
    """

    size: tuple[int, int]
    orientation: int = 1
    notes: tuple[tuple[str, str], ...] = ()
    damage: str | None = None
    opencv: bool = True

    @property
    def shown_size(self) -> tuple[int, int]:
        """Height and width once it is turned as its orientation says, as `cv2.imread` does."""
        return self.size[::-1] if self.orientation >= 5 else self.size


def inspect_image(path: Path) -> ImageFacts:
    """Reads and decodes an image file, a JPEG at an eighth of its size. Raises DbnetError if the file is not there."""
    data = read_bytes(path)
    raw = data.tobytes()
    try:
        image = _opened(raw)
        if image is None:
            begin = "is empty" if not raw else f"begins with {raw[:8]!r}"
            return ImageFacts((0, 0), damage=f"is no image: {begin}")
        width, height = image.size
        notes = [*_notes(image, raw), *_suffix(path, image)]
        orientation = _orientation(image)
        if image.format != "JPEG" and width * height <= MAX_PIXELS:
            image.load()  # finds damage without the messages that OpenCV's readers print
    except DAMAGE as error:
        return ImageFacts((0, 0), damage=f"cannot be decoded ({error})")
    opencv = image.format != "GIF" and _opencv_reads(data, image.format == "JPEG", width * height)
    damage = None
    if not opencv and image.format in EVERYDAY:
        damage = "is too large for OpenCV" if width * height > OPENCV_PIXELS else "is cut off or damaged"
    return ImageFacts((height, width), orientation, tuple(notes), damage, opencv)


def first_frame(path: Path) -> np.ndarray:
    """The first frame of an image that Pillow reads, (H, W, 3) uint8 in BGR, as stored.

    Raises one of `DAMAGE`; `inspect_image` tells beforehand.
    """
    image = _opened(path.read_bytes())
    if image is None:
        raise ValueError(f"{path} is no image")
    return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])


def _opened(raw: bytes) -> ImageFile.ImageFile | None:
    """The image with its header read; None for what begins like no image."""
    reader = next((reader for begin, reader in READERS if raw.startswith(begin)), None)
    return reader(io.BytesIO(raw)) if reader else None


def _opencv_reads(data: np.ndarray, is_jpeg: bool, pixels: int) -> bool:
    """Whether OpenCV decodes the file; one that would take gigabytes is told by its size only."""
    if is_cut_off(data) or claims_too_much(data):
        return False
    if not is_jpeg and pixels > MAX_PIXELS:
        return pixels <= OPENCV_PIXELS
    flags = cv2.IMREAD_REDUCED_GRAYSCALE_8 if is_jpeg else cv2.IMREAD_GRAYSCALE
    try:
        return cv2.imdecode(data, flags | cv2.IMREAD_IGNORE_ORIENTATION) is not None
    except cv2.error:
        return False


def _notes(image: ImageFile.ImageFile, raw: bytes) -> Iterator[tuple[str, str]]:
    """Kind and detail of what a reader should know."""
    width, height = image.size
    deep = (image.format == "PNG" and raw[24:25] == b"\x10") or image.mode.startswith(("I", "F"))
    told = [*(["16 bits or more"] if deep else []),
            *(["grey"] if image.mode.startswith(("L", "I", "F", "1")) else []),
            *(["transparent"] if "A" in image.mode or "transparency" in image.info else []),
            *(["CMYK"] if image.mode == "CMYK" else [])]
    if told:
        yield "pixels", ", ".join(told)
    if getattr(image, "is_animated", False):
        yield "frames", f"{image.format} with more than one"
    if min(width, height) < SMALL or max(width, height) > LARGE:
        yield "size", f"{width} x {height} pixels"


def _suffix(path: Path, image: ImageFile.ImageFile) -> Iterator[tuple[str, str]]:
    named = SUFFIXES.get(path.suffix.lower().lstrip("."))
    if named is not None and named != image.format:
        yield "suffix", f"is a {image.format}"


def _orientation(image: ImageFile.ImageFile) -> int:
    """EXIF's orientation, 1 to 8; 1 where there is none or it cannot be read."""
    if image.format == "PNG" and "exif" not in image.info and image.width * image.height > MAX_PIXELS:
        return 1  # Pillow would take the memory for all pixels and decode them, to look for EXIF behind them
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except DAMAGE:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
