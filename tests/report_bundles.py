"""Benchmarks' bundles that nobody measured: seconds from a simulation, detections and scores from the real code."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dbnet.sample import Detection, Sample
from dbnet.shards import Shard
from dbnet.version import VERSION
from evaluation.bench_report.scoring import scores_of
from evaluation.benching import bundle as bundles
from evaluation.benching.bundle import Bundle, Model, Parity, Row, Scores, Seconds, digest_of
from evaluation.benching.data import drawn_labels, label_digests
from evaluation.protocols.table import PROTOCOLS

IMAGES, SIZE = 6, (180, 320)


@dataclass(frozen=True)
class Run:
    """How a run went. load: by what everything was slower for the whole of it. slower: the network. busy: load average.
    """

    seed: int = 1
    load: float = 1.0
    slower: float = 1.0
    noise: float = 0.02
    rounds: int = 6
    busy: float = 0.3

    def seconds(self, number: int) -> Seconds:
        """Of the row of that number."""
        rng = np.random.default_rng([self.seed, number])
        network, pixels, boxes = (self._rounds(rng, base) for base in (0.2 * self.slower, 0.01, 0.005))
        return Seconds([0.5], [0.2], [1.5], [0.4], network, pixels, boxes, np.sum([network, pixels, boxes], 0).tolist())

    def _rounds(self, rng: np.random.Generator, base: float) -> list[list[float]]:
        noise = rng.normal(0, self.noise, (self.rounds, 1)) + rng.exponential(self.noise, (self.rounds, 4))
        return (base * self.load * np.exp(noise)).tolist()


def data(images: int = IMAGES, seed: int = 3, shard: tuple[int, int] | None = None) -> dict[str, Any]:
    """Of drawn scenes. shard: (index, count)."""
    return dict(_data(images, seed, shard))


@functools.cache
def _data(images: int, seed: int, shard: tuple[int, int] | None) -> dict[str, Any]:
    told: dict[str, Any] = {"kind": "drawn", "seed": seed, "size": list(SIZE), "images": images, "protocol": "rrc"}
    if shard is not None:
        told |= {"images": len(Shard(*shard).places(images)),
                 "shard": {"index": shard[0], "count": shard[1], "images": images}}
    samples = samples_of(told)
    names = [sample.name for sample in samples]
    labels, pixels = label_digests(names, samples), [digest_of([seed, name]) for name in names]
    return told | {"names": names, "names_sha256": digest_of(names), "image_sha256s": pixels,
                   "images_sha256": digest_of(pixels), "label_sha256s": labels, "labels_sha256": digest_of(labels)}


def samples_of(told: dict[str, Any]) -> list[Sample]:
    """The labels of those scenes."""
    part = told.get("shard") or {"index": 1, "count": 1, "images": 0}
    return _samples(told["seed"], told["images"], *part.values())


@functools.cache
def _samples(seed: int, images: int, index: int, count: int, whole: int) -> list[Sample]:
    shard = {"shard": {"index": index, "count": count, "images": whole}} if whole else {}
    return drawn_labels({"seed": seed, "images": images, "size": list(SIZE)} | shard)


def model(number: int = 1, spec: str = "dbnet_resnet18", weights: str = "a" * 64, file: str = "r18.onnx") -> Model:
    return Model(f"m{number}", file, "onnx", spec, weights, {"stem_pool": "same"},
                 {"colour": "RGB", "size": [736, 1280]}, {"rule": "mindocr", "box_thresh": 0.5})


def found(samples: Sequence[Sample], missing: int = 1, shift: float = 1.0) -> list[list[Detection]]:
    """Every text but `missing` of each image, moved by some pixels."""
    return [[Detection((polygon + shift).astype(np.float32), 0.75) for polygon in sample.polygons[missing:]]
            for sample in samples]


def row(samples: list[Sample], runner: str = "onnxruntime", missing: int = 1,
        **changes: Any) -> tuple[Row, dict[str, Any]]:
    """A row of the model m1, with its detections under their digest."""
    digest, images, scores = _scored(tuple(samples), missing)
    made = Row("m1", runner, "cpu", "float32", {"runner": runner, "onnxruntime": "1.32.0"}, [736, 1280], 1, 2,
               peak_memory_bytes=300_000_000, detections=digest, scores={"rrc": scores})
    return replace(made, **changes), {digest: images}


@functools.cache
def _scored(samples: tuple[Sample, ...], missing: int) -> tuple[str, list[dict[str, Any]], Scores]:
    """Digest, detections and scores."""
    images = bundles.plain_detections([sample.name for sample in samples], found(samples, missing))
    [protocol] = PROTOCOLS["rrc"]
    counts = protocol.count(samples, list(bundles.detections_of(images).values()))
    return bundles.detections_digest(images), images, scores_of("rrc", counts)


def bundle(run: Run = Run(), told: dict[str, Any] | None = None, label: str | None = "lab",
           runners: tuple[str, ...] = ("onnxruntime", "torch"), missing: int = 1, **changes: Any) -> Bundle:
    """One model in several runners."""
    told = data() if told is None else told
    samples = samples_of(told)
    rows, detections = [], {}
    for i, runner in enumerate(runners):
        made, kept = row(samples, runner, missing, seconds=run.seconds(i))
        boxes = sum(len(image["detections"]) for image in next(iter(kept.values())))
        parity = Parity(0, "within tolerance", 3.1e-6, 1e-4, len(samples), boxes, boxes) if i else None
        rows.append(replace(made, parity=parity))
        detections |= kept
    machine = {"cpu": "Xeon", "cores": 2, "memory_bytes": 8 << 30, "system": "Linux 6.1", "accelerators": [],
               "label": label}
    settings = {"rounds": run.rounds, "warmup": 1, "threads": 2, "seed": 0, "order": "A B C, B C A",
                "busy": [run.busy, run.busy]}
    made = {"command": f"dbnet bench r18.onnx -o {label}.json", "started": f"2026-11-{run.seed:02}T09:00:00+00:00",
            "seconds": 60.5, "dbnet-parity": VERSION}
    return replace(Bundle(made, machine, settings, told, [model()], rows, detections), **changes)
