"""Graphs that are compiled for a few sizes: which one an image takes, and how it is padded up to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from dbnet.errors import DbnetError

#: (height, width) in pixels.
Size = tuple[int, int]
#: The converters of MindSpore Lite and CANN take so many.
MOST = 100


def bucket_for(size: Size, sizes: Iterable[Size]) -> Size | None:
    """The smallest of the sizes into which an image of that size fits; None if it is too large for all."""
    return min((one for one in sizes if one[0] >= size[0] and one[1] >= size[1]), key=area, default=None)


def padded_run(run: Callable[[np.ndarray], np.ndarray], images: np.ndarray, sizes: Sequence[Size],
               where: str) -> np.ndarray:
    """The map of images (N, 3, H, W) from a graph that takes these sizes only: padded with zeros, the mean colour, at
    the bottom and the right, and cut back. where: the file. Raises DbnetError if they are too large for every size.
    """
    height, width = images.shape[2:]
    size = bucket_for((height, width), sizes)
    if size is None:
        known = ", ".join(told_size(one) for one in sorted(sizes, key=area))
        raise DbnetError(f"{where}: takes images of {known}, and one of {height}x{width} is larger than each; "
                         f"export it again with that size in --buckets, or choose smaller pixels (--pixels)")
    bottom, right = size[0] - height, size[1] - width
    found = run(np.pad(images, ((0, 0), (0, 0), (0, bottom), (0, right)))) if bottom or right else run(images)
    return np.ascontiguousarray(found[:, :, :height, :width])


def area(size: Size) -> tuple[int, int]:
    """To sort by."""
    return size[0] * size[1], size[0]


def told_size(size: Size) -> str:
    """`736x1280`."""
    return f"{size[0]}x{size[1]}"
