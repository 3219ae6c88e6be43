"""Pixels in: from an image file to the network's input, as MindOCR, PaddleOCR and MhLiao/DB each do it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from dbnet.errors import DbnetError
from dbnet.image_header import claims_too_much, is_cut_off, pixels_of
from dbnet.spec import STRIDE, PixelFormat, check_size

#: Most pixels of an input (its float32 tensor then takes 0.8 GB): an absurd aspect ratio must not eat the memory.
MAX_PIXELS = 2**26


@dataclass(frozen=True, eq=False)
class Prepared:
    """The network's input, and what is needed to find the way back to the image.

    tensor: (1, 3, h, w) float32. original_size: (height, width) of the image in pixels. resized_size: (height, width)
    of the part of the tensor that shows the image, from its top left; the rest is padding.
    """

    tensor: np.ndarray
    original_size: tuple[int, int]
    resized_size: tuple[int, int]


def read_image(path: str | Path, ignore_orientation: bool = False) -> np.ndarray:
    """Reads an image file: (H, W, 3) uint8, BGR.

    Turned as its EXIF orientation says, like `cv2.imread` in all the projects, unless `ignore_orientation`; grey
    becomes BGR, an alpha channel is dropped, 16 bits become 8. Raises DbnetError if the file is missing or is no image.
    """
    return decode_image(read_bytes(path), path, ignore_orientation)


def read_bytes(path: str | Path) -> np.ndarray:
    """An image file as it is, (N,) uint8. Raises DbnetError if it cannot be read."""
    try:
        return np.fromfile(path, np.uint8)  # cv2.imread cannot open every path on every system
    except OSError as error:
        raise DbnetError(f"{path}: cannot be read ({error.strerror or error}); give an image file") from error


def decode_image(data: np.ndarray, path: str | Path, ignore_orientation: bool = False) -> np.ndarray:
    """The image in the bytes of a file, as `read_image` returns it; `path` names the file in errors."""
    if claims_too_much(data):
        raise DbnetError(f"{path}: claims {pixels_of(data)} pixels in {data.size} bytes, more than any picture has; "
                         f"give a JPEG or PNG file")
    flags = cv2.IMREAD_COLOR | (cv2.IMREAD_IGNORE_ORIENTATION if ignore_orientation else 0)
    try:
        image = cv2.imdecode(data, flags) if data.size and not is_cut_off(data) else None
    except cv2.error as error:
        raise DbnetError(f"{path}: cannot be decoded ({error.err}); give a JPEG or PNG file") from error
    if image is None:
        raise DbnetError(f"{path}: not an image that OpenCV can read, or cut off; give a JPEG or PNG file")
    return image


def prepare(image: np.ndarray, pixels: PixelFormat) -> Prepared:
    """Resizes and normalises one image, (H, W, 3) uint8 in BGR, for a network with that pixel format.

    Each resize rule computes in the order and precision of the project that it comes from: MindOCR's, PaddleOCR's
    `short_side_min`, MhLiao/DB's `short_side`, MMOCR 1.x's `fit_pad_after`; there the tensor equals that project's bit
    for bit. Two projects borrow another's rule, and differ from their own tensors in a float32's last bits: PaddleOCR's
    `stretch` (DB++, det_mv3_db) is normalised as MindOCR does it, and MMOCR 0.x, which normalises in float64, as
    MMOCR 1.x does it. Raises DbnetError if the pixel format leads to a size that no network here takes, and
    ValueError if `image` is not such an array.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"an image is (H, W, 3) uint8, not {image.shape} {image.dtype}")
    if not all(pixels.std):
        raise DbnetError(f"the pixel format divides by zero: std {pixels.std}")
    height, width = image.shape[:2]
    resized, padded = input_size(height, width, pixels)
    floats = pixels.resize == "short_side"  # MhLiao/DB resizes floats; the others round to 8 bits again
    if pixels.colour == "RGB":
        image = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2RGB)
    image = np.ascontiguousarray(image, np.float32 if floats else np.uint8)
    image = cv2.resize(image, resized[::-1], interpolation=cv2.INTER_LINEAR)
    after = pixels.resize == "fit_pad_after"
    if padded != resized and not after:
        image = cv2.copyMakeBorder(image, 0, padded[0] - resized[0], 0, padded[1] - resized[1], cv2.BORDER_CONSTANT)
    tensor = np.empty((1, 3, *padded), np.float32)
    if after:
        tensor[:] = 0
    target = tensor[0, :, :resized[0], :resized[1]] if after else tensor[0]
    (_normalise_floats if floats else normalise_bytes)(cv2.split(image), pixels, target)
    return Prepared(tensor, (height, width), resized)


def input_size(height: int, width: int, pixels: PixelFormat) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width to which an image of that size is resized, and those of the network's input, in pixels.

    Raises DbnetError if that is a size that no network here takes.
    """
    resized = _resized_size(height, width, pixels)
    if not all(resized) and all(pixels.size):
        raise DbnetError(f"an image of {height} x {width} pixels has too extreme an aspect ratio for the resize rule "
                         f"{pixels.resize}: it would become {resized[0]} x {resized[1]}; crop it")
    padded = _padded_size(resized, pixels)
    check_size(*padded)
    if math.prod(padded) > MAX_PIXELS:
        raise DbnetError(f"an image of {height} x {width} pixels would become {padded[0]} x {padded[1]} by the resize "
                         f"rule {pixels.resize}, more than {MAX_PIXELS} pixels; crop it")
    return resized, padded


def _resized_size(height: int, width: int, pixels: PixelFormat) -> tuple[int, int]:
    """Height and width, in pixels, to which the image itself is resized."""
    target_height, target_width = pixels.size
    if pixels.resize == "stretch":
        return target_height, target_width
    if pixels.resize == "short_side":  # MhLiao/DB demo.py, in its order of operations
        short = target_height
        if height < width:
            return short, math.ceil(short / height * width / STRIDE) * STRIDE
        return math.ceil(short / width * height / STRIDE) * STRIDE, short
    if pixels.resize == "fit_pad_after":  # mmcv.imrescale
        ratio = min(max(pixels.size) / max(height, width), min(pixels.size) / min(height, width))
        return int(height * ratio + 0.5), int(width * ratio + 0.5)
    if pixels.resize == "grid":
        return math.ceil(height / STRIDE) * STRIDE, math.ceil(width / STRIDE) * STRIDE
    if pixels.resize in ("short_side_min", "limit_min"):  # PaddleOCR 3's DetResizeForTest also shrinks to 4000 pixels
        ratio = max(1.0, target_height / min(height, width))
    elif pixels.resize == "limit_max":
        ratio = min(1.0, target_height / max(height, width))
    else:  # MindOCR DetResize(keep_ratio=True), padded or not
        ratio = min(target_height / height, target_width / width)
    return _round_to_stride(int(height * ratio)), _round_to_stride(int(width * ratio))


def _padded_size(resized: tuple[int, int], pixels: PixelFormat) -> tuple[int, int]:
    """Height and width of the tensor, in pixels."""
    if pixels.resize == "keep_ratio_pad":
        return pixels.size
    if pixels.resize == "fit_pad_after":
        return math.ceil(resized[0] / STRIDE) * STRIDE, math.ceil(resized[1] / STRIDE) * STRIDE
    return resized


def _round_to_stride(side: int) -> int:
    return max(round(side / STRIDE) * STRIDE, STRIDE)


# (x - mean) / std. The projects write it in three ways, which differ in the last bits of a float32.


def normalise_bytes(planes: Sequence[np.ndarray], pixels: PixelFormat, tensor: np.ndarray) -> None:
    """Normalises three planes (H, W) uint8 into `tensor` (3, H, W) float32.

    A byte has 256 values: they are normalised once, in the project's own arithmetic, and looked up for every pixel.
    """
    values = np.arange(256, dtype=np.float32)[:, np.newaxis]
    normalised = _normalise_paddle if pixels.resize == "short_side_min" else _normalise_mindocr
    table = normalised(values, pixels)
    for channel, plane in enumerate(planes):
        cv2.LUT(plane, np.ascontiguousarray(table[:, channel]), dst=tensor[channel])


def _normalise_mindocr(image: np.ndarray, pixels: PixelFormat) -> np.ndarray:
    """MindOCR NormalizeImage: in units of 0..255, float32 throughout."""
    mean, std = (np.array(values, np.float32) for values in (pixels.mean, pixels.std))
    return (image - mean) / std


def _normalise_paddle(image: np.ndarray, pixels: PixelFormat) -> np.ndarray:
    """PaddleOCR NormalizeImage: in units of 0..1, float32 throughout."""
    mean, std = (np.array(values, np.float64) / 255 for values in (pixels.mean, pixels.std))
    return (image * np.float32(1 / 255) - mean.astype(np.float32)) / std.astype(np.float32)


def _normalise_floats(planes: Sequence[np.ndarray], pixels: PixelFormat, tensor: np.ndarray) -> None:
    """MhLiao/DB demo.py, planes (H, W) float32: the mean subtracted in float64, then back to float32."""
    for plane, mean, std, out in zip(planes, pixels.mean, pixels.std, tensor, strict=True):
        np.subtract(plane, np.float64(mean), out=out, dtype=np.float64, casting="same_kind")
        np.divide(out, np.float32(std), out=out)
