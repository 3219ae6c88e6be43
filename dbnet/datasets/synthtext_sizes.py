"""Sizes of many images from the beginnings of their files, as they are stored (EXIF turns nothing)."""

from __future__ import annotations

import os
from collections.abc import Sequence

import cv2
import numpy as np

from dbnet.image_header import size_of

#: State of an image file: read, not there, there but no image.
FOUND, MISSING, UNREADABLE = 0, 1, 2
#: Bytes that are read of a file: enough for nearly all, for those with a thumbnail, and then all of it.
BEGINNINGS = (1024, 2**18)
#: No image of a data set is larger.
MOST_BYTES = 2**28


def read_sizes(root: str, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) int64, width and height in pixels of the images `names` below the folder `root`, and (N,) states."""
    sizes, states = np.zeros((len(names), 2), np.int64), np.zeros(len(names), np.uint8)
    for i, name in enumerate(names):
        try:
            size = _read_size(f"{root}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            states[i] = MISSING
        except (OSError, ValueError, cv2.error):  # a name with a NUL in it, for one
            states[i] = UNREADABLE
        else:
            if size is None:
                states[i] = UNREADABLE
            else:
                sizes[i] = size
    return sizes, states


def _read_size(path: str) -> tuple[int, int] | None:
    # Bare system calls: Python's own files take ten times as long. Without O_NONBLOCK a named pipe would wait.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        for length in BEGINNINGS:
            begin = os.pread(handle, length, 0)
            size = size_of(begin)
            if size is not None:
                return size[::-1] if size[0] and size[1] else None
            if len(begin) < length:
                break
        if os.fstat(handle).st_size > MOST_BYTES:
            return None
    finally:
        os.close(handle)
    data = np.fromfile(path, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION) if data.size else None
    return None if image is None else (image.shape[1], image.shape[0])
