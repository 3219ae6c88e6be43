"""Photographs for the backgrounds of drawn scenes: read when one is asked for, and named by their contents."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import cv2
import numpy as np

from dbnet.datasets.image_facts import inspect_image
from dbnet.datasets.pairing import find_images
from dbnet.errors import DbnetError
from dbnet.image_header import size_of
from dbnet.preprocess import read_bytes

#: A photograph whose shorter side has more than twice so many pixels is read at a half, quarter or eighth.
LEAST_SIDE = 1100
#: Photographs below so many pixels a side show nothing when they are enlarged.
SMALLEST = 64
REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4,
           8: cv2.IMREAD_REDUCED_COLOR_8}


@dataclass(frozen=True)
class Found:
    """files: the photographs that can be used, each once, in the order of their contents' hashes, wherever they lie.
    sha256: of those hashes. left_out: name of each file that cannot be used, and why.
    """

    files: tuple[Path, ...]
    sha256: str
    left_out: tuple[tuple[str, str], ...]


class Photographs(Sequence[np.ndarray]):
    """Files as (H, W, 3) uint8 BGR, read when they are asked for; the last few are kept."""

    def __init__(self, files: Sequence[Path]):
        self.files = tuple(files)

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> Photographs: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | Photographs:
        return Photographs(self.files[index]) if isinstance(index, slice) else _read(self.files[index])


@functools.lru_cache(8)
def _read(path: Path) -> np.ndarray:
    """Raises DbnetError if the file has been changed or taken away meanwhile."""
    data = read_bytes(path)
    shorter = min(size_of(data[:2**18].tobytes()) or (0, 0))
    factor = max(factor for factor in REDUCED if factor == 1 or shorter >= factor * LEAST_SIDE)
    image = cv2.imdecode(data, REDUCED[factor]) if data.size else None
    if image is None:
        raise DbnetError(f"{path}: cannot be read any more; was it changed meanwhile?")
    return image


def find_photographs(folder: Path) -> Found:
    """The photographs in a folder and below. Raises DbnetError if there is none that can be used."""
    files = find_images(folder)
    with ThreadPoolExecutor() as pool:
        looked = list(pool.map(_look, files))
    left_out = [(str(file), fault) for file, (_, fault) in zip(files, looked, strict=True) if fault]
    usable = {digest: file for file, (digest, fault) in reversed(list(zip(files, looked, strict=True))) if not fault}
    if not usable:
        name, fault = left_out[0]
        raise DbnetError(f"{folder}: none of its {len(files)} images can be a background: {name} {fault}")
    total = hashlib.sha256("".join(sorted(usable)).encode())
    return Found(tuple(usable[digest] for digest in sorted(usable)), total.hexdigest(), tuple(left_out))


def _look(file: Path) -> tuple[str, str | None]:
    """SHA-256 of the file, and why it cannot be used."""
    facts = inspect_image(file)
    fault = facts.damage or (None if facts.opencv else "is no format that OpenCV reads")
    if fault is None and min(facts.size) < SMALLEST:
        fault = f"has {facts.size[1]} x {facts.size[0]} pixels, less than {SMALLEST}"
    return hashlib.sha256(read_bytes(file).tobytes()).hexdigest(), fault
