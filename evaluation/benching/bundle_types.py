"""What a benchmark's bundle holds; see `evaluation.benching.bundle`, which reads and writes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dbnet.sample import Detection
from evaluation.store import plain

VERDICTS = ("same", "within tolerance", "different")


@dataclass(frozen=True)
class Model:
    """id: what rows call it, `m1`. file: its name without folder. format: `onnx`, `ckpt`, ... spec: of
    `dbnet.spec.SPECS`, or `opaque`. weights_sha256: of the canonical weights, or of the file where its weights are not
    read. semantics, pixels, boxes: as a record has them.
    """

    id: str
    file: str
    format: str
    spec: str
    weights_sha256: str
    semantics: dict[str, Any]
    pixels: dict[str, Any]
    boxes: dict[str, Any]


@dataclass(frozen=True)
class Seconds:
    """imported, load, graph_compile, first_run: one number for each fresh process; no graph_compile where a runtime has
    no graph. network, pixels, boxes, whole: of each call, for each round; whole is from file to boxes. train_compile:
    before the first step, where a training has a graph. train_step: of each step, for each round.
    """

    imported: list[float] = field(default_factory=list, metadata={"name": "import"})
    load: list[float] = field(default_factory=list)
    graph_compile: list[float] = field(default_factory=list)
    first_run: list[float] = field(default_factory=list)
    network: list[list[float]] = field(default_factory=list)
    pixels: list[list[float]] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)
    whole: list[list[float]] = field(default_factory=list)
    train_compile: list[float] = field(default_factory=list)
    train_step: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True)
class Scores:
    """By one protocol. interval: of the F-score, 95 %. counts: for each image, for each variant of the protocol,
    `evaluation.protocols.COLUMNS`.
    """

    precision: float
    recall: float
    fscore: float
    interval: list[float]
    counts: list[list[list[float]]]


@dataclass(frozen=True)
class Parity:
    """reference: index of the row that this one was compared with. verdict: one of VERDICTS, as `dbnet compare` has it.
    max_abs: of the probabilities, None where maps cannot be subtracted. tolerance: of that. images: how many were
    compared. boxes_same: with the same corners, of boxes_all in either.
    """

    reference: int
    verdict: str
    max_abs: float | None
    tolerance: float
    images: int
    boxes_same: int
    boxes_all: int


@dataclass(frozen=True)
class Row:
    """One model in one runner. runner: as it was named. shape: (height, width) of the input, None for each image at its
    own. threads: None for the runner's own choice. error: why it could not be measured to the end; what is known stands
    all the same. detections: key of `Bundle.detections`. parity: None for a row that others are compared with.
    training: size ([height, width]) of the crops of `train_step`, first_step (seconds), peak_memory_bytes.
    """

    model: str
    runner: str
    device: str
    precision: str
    environment: dict[str, Any]
    shape: list[int] | None
    batch: int
    threads: int | None
    cards: int = 1
    jit_level: str | None = None
    error: str | None = None
    seconds: Seconds = field(default_factory=Seconds)
    peak_memory_bytes: int | None = None
    detections: str | None = None
    scores: dict[str, Scores] = field(default_factory=dict)
    parity: Parity | None = None
    notes: list[str] = field(default_factory=list)
    training: dict[str, Any] | None = None


@dataclass(frozen=True)
class Bundle:
    """made: command, started (ISO 8601, UTC), seconds, `dbnet-parity` (version). machine: cpu, cores, memory_bytes,
    system, accelerators (a list; each with name, count, driver, firmware, cann or cuda), label. settings: rounds (that
    are complete), asked_rounds, interrupted, warmup, calls, threads, seed, order, groups (of places of rows that took
    turns), busy ([load average at the start, at the end]). data: kind, seed, size, images, names, names_sha256,
    images_sha256, labels_sha256 (None without labels), protocol (None too; the first of `protocols`), image_sha256s and
    label_sha256s, whose `digest_of` two of the former are, and of a part of the images `shard`: {index, count, images
    (of the whole)}.
    detections: by `detections_digest`, for each image in the order of the names {name, detections}.
    """

    made: dict[str, Any]
    machine: dict[str, Any]
    settings: dict[str, Any]
    data: dict[str, Any]
    models: list[Model]
    rows: list[Row]
    detections: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def model(self, row: Row) -> Model:
        return next(model for model in self.models if model.id == row.model)

    def found(self, row: Row) -> dict[str, list[Detection]] | None:
        """What a row found by image, in the order of the names; None if it came to nothing."""
        return None if row.detections is None else detections_of(self.detections[row.detections])


def plain_detections(names: Sequence[str], found: Iterable[Sequence[Detection]]) -> list[dict[str, Any]]:
    """As a bundle holds them."""
    return [{"name": name, "detections": [plain(detection) for detection in each]}
            for name, each in zip(names, found, strict=True)]


def detections_of(images: list[dict[str, Any]]) -> dict[str, list[Detection]]:
    """The way back."""
    return {image["name"]: [Detection(np.array(one["polygon"], np.float32), one["score"])
                            for one in image["detections"]] for image in images}


def detections_digest(images: list[dict[str, Any]]) -> str:
    """The sha256 under which a bundle holds them."""
    return digest_of(images)


def digest_of(value: Any) -> str:
    """The sha256 of a plain value; of names, settings and detections alike."""
    text = json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
