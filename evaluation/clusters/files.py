"""Files that a worker reads from the same path, if they are the same there, and else gets from the driver."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converters.onnx_outline import read_outline
from dbnet.errors import DbnetError
from dbnet.preprocess import read_bytes


def sha256(data: Any) -> str:
    """Of bytes, or of an array's."""
    return hashlib.sha256(data).hexdigest()


def digests_of(model: Path) -> dict[Path, str]:
    """Of a model file, and of what it needs beside it. Raises DbnetError for one that cannot be read."""
    return {path: sha256(content_of(path)) for path in _files_of(model.absolute())}


def _files_of(model: Path) -> list[Path]:
    found = [model]
    if model.suffix.lower() == ".onnx":
        found += [model.parent / location for location in sorted(read_outline(model).locations)]
    elif model.suffix.lower() in (".xml", ".ms", ".mindir"):
        found += sorted(path for path in model.parent.glob(f"{model.stem}*") if path.is_file() and path != model)
    return found


def content_of(path: Path) -> bytes:
    """Of a model's file. Raises DbnetError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DbnetError(f"{path}: cannot be read ({error.strerror}); give a model file") from error


def is_there(path: Path, digest: str) -> bool:
    try:
        return sha256(path.read_bytes()) == digest
    except OSError:
        return False


@dataclass(frozen=True)
class ImageFile:
    """sha256: hexadecimal. data: its bytes, None where the path is tried first."""

    path: Path
    sha256: str
    data: bytes | None = None

    def read(self) -> np.ndarray | None:
        """(N,) uint8; None if the file is not there as it was on the driver."""
        if self.data is not None:
            return np.frombuffer(self.data, np.uint8)
        try:
            found = np.fromfile(self.path, np.uint8)
        except OSError:
            return None
        return found if sha256(found.data) == self.sha256 else None


def image_file(path: Path, ship: bool) -> ImageFile:
    """On the driver. Raises DbnetError if it cannot be read."""
    found = read_bytes(path)
    return ImageFile(path.absolute(), sha256(found.data), found.tobytes() if ship else None)
