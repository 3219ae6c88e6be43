"""Traces: what a model computed on some images, for a comparison on another machine.

A run is one model in one runner on N images. Of every stage of every image it keeps a digest, statistics and a sketch
(`parity.trace_statistics`); at level `sampled` 4096 values more, at level `full` all of them. NumPy is all that this
module needs, so that a machine with nothing but a framework can record.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dbnet.errors import DbnetError
from dbnet.sample import Detection
from dbnet.spec import STAGES, TRAINING_STAGES
from parity.trace_statistics import SAMPLE, WIDTH, sample_of, sha256_of, statistics_of

#: Of the files. A reader refuses what is newer.
VERSION = 1
LEVELS = ("statistics", "sampled", "full")
#: The network's input, the first stage of a trace.
PIXELS = "pixels"
#: The stages that a trace may hold, in the order in which they are computed.
ORDER = (PIXELS, *STAGES, *TRAINING_STAGES)


@dataclass(frozen=True)
class TracedImage:
    """name: as in results. sha256: of the image's file, hexadecimal; None of a picture that was no file. size: height
    and width of the image in pixels. covered: height and width of the part of the input that shows it, from the top
    left. shape: of the input, (N, 3, H, W).
    """

    name: str
    sha256: str | None
    size: tuple[int, int]
    covered: tuple[int, int]
    shape: tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Trace:
    """A run. about: who computed it, plain values. stages: in the order of `ORDER`. arrays: by the names that
    `trace_file` documents.
    """

    about: dict[str, Any]
    level: str
    stages: tuple[str, ...]
    images: list[TracedImage]
    arrays: Mapping[str, np.ndarray]

    def shape(self, image: int, stage: str) -> tuple[int, ...]:
        """(N, C, H, W)."""
        return tuple(int(side) for side in self.arrays[f"shape/{stage}"][image])

    def sha256(self, image: int, stage: str) -> str:
        """Of the map, as `trace_statistics.sha256_of` takes it."""
        return bytes(self.arrays[f"sha256/{stage}"][image]).hex()

    def statistics(self, image: int, stage: str) -> np.ndarray:
        """(WIDTH,) float64, see `trace_statistics.statistics_of`."""
        return self.arrays[f"statistics/{stage}"][image]

    def sample(self, image: int, stage: str) -> np.ndarray | None:
        """(SAMPLE,) float32, see `trace_statistics.sample_of`; None at level `statistics`."""
        if (array := self.full(image, stage)) is not None:
            return sample_of(array)
        table = self.arrays.get(f"sample/{stage}")
        return None if table is None else table[image]

    def full(self, image: int, stage: str) -> np.ndarray | None:
        """(N, C, H, W) float32, where it was kept."""
        return self.arrays.get(f"full/{image}/{stage}")

    def boxes(self, image: int) -> list[Detection] | None:
        """In pixels of the image; None where none were made."""
        counts = self.arrays["boxes/counts"]
        if counts[image] < 0:
            return None
        before = int(np.maximum(counts[:image], 0).sum())
        if not counts[image]:
            return []
        lengths = self.arrays["boxes/lengths"]
        edges = np.concatenate([[0], np.cumsum(lengths)])
        return [Detection(self.arrays["boxes/points"][edges[i]:edges[i + 1]], float(self.arrays["boxes/scores"][i]))
                for i in range(before, before + int(counts[image]))]


@dataclass
class Recorder:
    """Collects a run image by image. about, level, stages: as `Trace`. keep: stages that are kept in full whatever the
    level. spill: the folder for what is kept in full, until it is written; None keeps it in memory.
    """

    about: dict[str, Any]
    stages: tuple[str, ...]
    level: str
    spill: Path | None = None
    keep: Collection[str] = ()
    _images: list[TracedImage] = field(default_factory=list)
    _rows: dict[str, list[np.ndarray]] = field(default_factory=dict)
    _full: dict[str, Any] = field(default_factory=dict)
    _spilled: Any = None
    _boxes: list[list[Detection] | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stages = tuple(stage for stage in ORDER if stage in self.stages)

    def add(self, image: TracedImage, maps: Mapping[str, np.ndarray], boxes: list[Detection] | None = None,
            keep: Collection[str] | None = None) -> None:
        """maps: every stage of `stages`, float32. keep: other stages than `self.keep` for this image."""
        kept = self.stages if self.level == "full" else self.keep if keep is None else keep
        for stage in self.stages:
            array = np.ascontiguousarray(maps[stage], np.float32)
            rows = {"shape": np.array(array.shape, np.int64), "sha256": sha256_of(array),
                    "statistics": statistics_of(array)}
            if self.level == "sampled":
                rows["sample"] = sample_of(array)
            for kind, row in rows.items():
                self._rows.setdefault(f"{kind}/{stage}", []).append(row)
            if stage in kept:
                self._full[f"full/{len(self._images)}/{stage}"] = self._stored(array)
        self._images.append(image)
        self._boxes.append(boxes)

    def trace(self) -> Trace:
        """What was added so far."""
        full = self._full
        if self._spilled is not None:  # one map of one file: every map of its own would hold a descriptor
            self._spilled.flush()
            whole = np.memmap(self._spilled, np.float32, "r")
            full = {name: whole[first:first + math.prod(shape)].reshape(shape) for name, (first, shape) in full.items()}
        arrays = {name: np.array(rows) for name, rows in self._rows.items()} | full | _of_boxes(self._boxes)
        return Trace(self.about, self.level, self.stages, list(self._images), arrays)

    def _stored(self, array: np.ndarray) -> Any:
        """The array; where there is a folder for it, its place and shape in a file without a name, for many images do
        not fit into memory. Raises DbnetError for a full disk."""
        if self.spill is None:
            return array.copy()
        try:
            if self._spilled is None:
                self._spilled = tempfile.TemporaryFile(dir=self.spill)  # noqa: SIM115 - until the run is written
            first = self._spilled.tell() // array.itemsize
            self._spilled.write(array.reshape(-1).data)
        except OSError as error:
            raise DbnetError(f"{self.spill}: cannot be written ({error.strerror}); make room, or write the trace to "
                             f"another folder") from error
        return first, array.shape


def _of_boxes(boxes: Sequence[list[Detection] | None]) -> dict[str, np.ndarray]:
    """Without those arrays that would be empty, which the format has no place for."""
    every = [box for found in boxes for box in found or ()]
    arrays = {"boxes/counts": np.array([-1 if found is None else len(found) for found in boxes], np.int64)}
    if every:
        arrays |= {"boxes/lengths": np.array([len(box.polygon) for box in every], np.int64),
                   "boxes/points": np.concatenate([np.asarray(box.polygon, np.float64) for box in every]),
                   "boxes/scores": np.array([box.score for box in every], np.float64)}
    return arrays


def shapes_of(trace: Trace) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """The type and shape that every array of a trace must have, but for those of boxes and of stages kept in full."""
    count = len(trace.images)
    rows: dict[str, tuple[np.dtype, tuple[int, ...]]] = {
        "shape": (np.dtype(np.int64), (count, 4)), "sha256": (np.dtype(np.uint8), (count, 32)),
        "statistics": (np.dtype(np.float64), (count, WIDTH))}
    if trace.level == "sampled":
        rows["sample"] = np.dtype(np.float32), (count, SAMPLE)
    return {f"{kind}/{stage}": row for stage in trace.stages for kind, row in rows.items()} | {
        "boxes/counts": (np.dtype(np.int64), (count,))}


def machine() -> dict[str, Any]:
    """What of this machine can move a number: the processor and how many cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return {"processor": name, "cores": cores, "system": platform.system(), "python": platform.python_version()}
