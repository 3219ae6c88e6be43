"""What is to be measured: models, runners, shapes, batches, and how often."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dbnet.errors import DbnetError
from dbnet.pixel_formats import EXACT
from dbnet.spec import PixelFormat

#: (height, width); None for each image at the model's own evaluation size.
Shape = tuple[int, int] | None
#: (two environments) -> the largest difference in probability of two that are the same.
Tolerance = Callable[[Mapping[str, Any], Mapping[str, Any]], float]


@dataclass(frozen=True)
class Plan:
    """options: of `converters.load.SourceOptions`, plain values. rounds: turns of each row. calls: batches of a turn.
    warmup: batches before those, which do not count. threads: None for each runtime's own choice. together: processes
    that live at the same time. train: time steps of training too.
    """

    models: Sequence[Path]
    runners: Sequence[str]
    shapes: Sequence[Shape]
    batches: Sequence[int]
    tolerance: Tolerance
    rounds: int = 5
    calls: int = 8
    warmup: int = 1
    threads: int | None = None
    device: str | None = None
    precision: str = "float32"
    keep_float32: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    together: int = 8
    train: bool = False
    seed: int = 0

    def check(self, images: int) -> None:
        """Raises DbnetError for a batch that is larger than all images."""
        if max(self.batches) > images:
            there = "there is 1 image" if images == 1 else f"there are {images} images"
            raise DbnetError(f"--batch {max(self.batches)}: {there}; take a smaller batch, or more images (--limit)")

    def timed(self, paths: Sequence[str], batch: int) -> list[list[str]]:
        """The `calls` batches of a turn: spread over all images, none twice while there are others."""
        few = self.calls * batch <= len(paths)
        starts = [i * len(paths) // self.calls if few else i * batch for i in range(self.calls)]
        return [[paths[(start + k) % len(paths)] for k in range(batch)] for start in starts]


def shaped(pixels: PixelFormat, size: Shape) -> PixelFormat:
    """The pixels for inputs of exactly that size: by the model's own rule if it gives such, else padded."""
    if size is None:
        return pixels
    return replace(pixels, resize=pixels.resize if pixels.resize in EXACT else "keep_ratio_pad", size=size)
