"""Digest and bitwise comparison of weights; the same in every file format."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np


def bytes_of(array: np.ndarray) -> memoryview:
    """The little-endian bytes of an array in C order, without a copy where it already is so."""
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def header(name: str, array: np.ndarray) -> bytes:
    """What the digest sees of a tensor before its bytes."""
    return f"{name}\0{array.dtype.name}\0{','.join(map(str, array.shape))}\0".encode()


def digest(weights: Mapping[str, np.ndarray]) -> str:
    """sha256 over the sorted canonical names: name, dtype, shape (each ended by NUL), little-endian bytes."""
    sha = hashlib.sha256()
    for name in sorted(weights):
        sha.update(header(name, weights[name]))
        sha.update(bytes_of(weights[name]))
    return sha.hexdigest()


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal dtype, shape and bytes (so NaN equals itself, and -0.0 is not 0.0)."""
    if a.dtype.name != b.dtype.name or a.shape != b.shape:
        return False
    # As arrays: memoryviews are compared byte by byte, which takes four times as long.
    return np.array_equal(np.asarray(bytes_of(a)), np.asarray(bytes_of(b)))
