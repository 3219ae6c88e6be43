"""What a trace keeps of a map: a digest, statistics, a sketch, a sample. The same bits on any machine and any NumPy.

Every sum is one of `dbnet.sums`. NumPy is all that this module needs.
"""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np

from dbnet.sums import total, tree_sum

#: Tiles of the height and of the width, groups of the channels, numbers of the sketch.
TILES, GROUPS, SKETCH = 8, 64, 256
#: What stands first in a row of statistics.
FIELDS = ("size", "not_finite", "min", "max", "mean", "std", "l2")
#: Where tiles, groups and the sketch stand in a row. Of each tile and group the least, the largest and the mean.
TILE_PART = slice(len(FIELDS), len(FIELDS) + 3 * TILES * TILES)
GROUP_PART = slice(TILE_PART.stop, TILE_PART.stop + 3 * GROUPS)
SKETCH_PART = slice(GROUP_PART.stop, GROUP_PART.stop + SKETCH)
#: Numbers in a row.
WIDTH = SKETCH_PART.stop
#: Values in a sample.
SAMPLE = 4096
#: Length of the repeated table of signs. It has no factor in common with SKETCH, so that of two values in one place of
#: the sketch the signs are independent, but for those 16 million values apart.
_SIGNS = 65521


def sha256_of(array: np.ndarray) -> np.ndarray:
    """(32,) uint8: SHA-256 of the type, the shape and the values' little-endian bytes."""
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    found = hashlib.sha256(f"{plain.dtype.str}{list(array.shape)}".encode())
    found.update(plain.reshape(-1).view(np.uint8).data)
    return np.frombuffer(found.digest(), np.uint8)


def sample_places(size: int, count: int = SAMPLE) -> np.ndarray:
    """(count,) int64: where a map of `size` values is sampled, spread by the golden ratio; all of a small map."""
    if size <= count:
        return np.arange(size)
    steps = np.arange(count, dtype=np.uint64) * np.uint64(2654435769) & np.uint64(0xFFFFFFFF)
    return (steps * np.uint64(size) >> np.uint64(32)).astype(np.int64)


def sample_of(array: np.ndarray, count: int = SAMPLE) -> np.ndarray:
    """(count,) float32: the map at `sample_places`; what a small map does not fill is 0."""
    values = array.reshape(-1)[sample_places(array.size, count)].astype(np.float32)
    return np.pad(values, (0, count - len(values)))


def statistics_of(array: np.ndarray) -> np.ndarray:
    """(WIDTH,) float64 of (N, C, H, W): FIELDS, then the tiles, the channel groups and the sketch.

    NaN and Inf are counted and left out of all else. The expected square of the length of two sketches' difference is
    that of the maps' difference, with a relative standard deviation of sqrt(2 / SKETCH), 9 %.
    """
    finite = np.isfinite(array)
    missing = int(array.size - np.count_nonzero(finite))
    clean = np.where(finite, array, array.dtype.type(0)) if missing else array
    row = np.zeros(WIDTH)
    if not array.size:
        return row
    planes = clean.reshape(-1, *clean.shape[-2:])  # (N * C, H, W)
    by_pixel, by_channel = tree_sum(planes, 0), tree_sum(tree_sum(planes, 2), 1)
    mean = float(tree_sum(by_channel, 0)) / array.size
    squares = _squares(planes, 0.0), _squares(planes, mean)
    # Which of 0 and -0 is the least is decided by the processor: + 0 makes both the same.
    row[:len(FIELDS)] = (array.size, missing, planes.min() + 0.0, planes.max() + 0.0, mean,
                         np.sqrt(squares[1] / array.size), np.sqrt(squares[0]))
    row[TILE_PART] = _tiles(planes, by_pixel)
    row[GROUP_PART] = _groups(planes, by_channel)
    row[SKETCH_PART] = _sketch(clean.reshape(-1))
    return row


def _squares(planes: np.ndarray, mean: float) -> float:
    """The sum of the squared distances from `mean`, plane by plane, for memory's sake."""
    sums = np.empty(len(planes))
    for i, plane in enumerate(planes):
        apart = plane.astype(np.float64) - mean
        sums[i] = total(apart * apart)
    return total(sums)


def _edges(length: int, parts: int) -> list[tuple[int, int]]:
    """Where the parts of a side begin and end; they overlap where there are fewer values than parts."""
    return [(i * length // parts, max((i + 1) * length // parts, i * length // parts + 1)) for i in range(parts)]


def _tiles(planes: np.ndarray, by_pixel: np.ndarray) -> np.ndarray:
    low, high = planes.min(axis=0), planes.max(axis=0)
    found = []
    for top, bottom in _edges(low.shape[0], TILES):
        for left, right in _edges(low.shape[1], TILES):
            place = slice(top, bottom), slice(left, right)
            count = len(planes) * low[place].size
            found += [low[place].min(), high[place].max(), total(by_pixel[place]) / count]
    return np.array(found, np.float64) + 0.0


def _groups(planes: np.ndarray, by_channel: np.ndarray) -> np.ndarray:
    low, high = (getattr(planes.reshape(len(planes), -1), name)(axis=1) for name in ("min", "max"))
    found = []
    for begin, end in _edges(len(planes), GROUPS):
        count = (end - begin) * planes[0].size
        found += [low[begin:end].min(), high[begin:end].max(), total(by_channel[begin:end]) / count]
    return np.array(found, np.float64) + 0.0


@cache
def _signs() -> np.ndarray:
    """(_SIGNS,) float32, 1 or -1: bits of a SHA-256 counter, which no version of a generator can change."""
    blocks = [hashlib.sha256(number.to_bytes(8, "little")).digest() for number in range(-(-_SIGNS // 256))]
    bits = np.unpackbits(np.frombuffer(b"".join(blocks), np.uint8))[:_SIGNS]
    return (bits.astype(np.float32) * 2 - 1).astype(np.float32)


def _sketch(values: np.ndarray) -> np.ndarray:
    """(SKETCH,) float64: value i, with its sign, added to place i % SKETCH."""
    chunk = SKETCH * 8192  # a multiple of SKETCH, so that every chunk begins at its first place
    signs = np.resize(_signs(), chunk + _SIGNS)
    sums = []
    for begin in range(0, len(values), chunk):
        part = values[begin:begin + chunk]
        signed = part * signs[begin % _SIGNS:][:len(part)]
        whole = np.pad(signed, (0, -len(signed) % SKETCH))
        sums.append(tree_sum(whole.reshape(-1, SKETCH), 0))
    return tree_sum(np.array(sums), 0)
