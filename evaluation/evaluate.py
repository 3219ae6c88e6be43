"""A detector on a data set: every image through one runtime, or anybody's result files, scored by any protocols."""

from __future__ import annotations

import os
import platform
import zlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyclipper
import shapely

from dbnet.errors import DbnetError
from dbnet.preprocess import read_bytes
from dbnet.sample import Detection, Sample
from dbnet.shards import Shard
from dbnet.spec import BoxRule, PixelFormat
from dbnet.version import VERSION
from evaluation import pipeline
from evaluation.part import names_digest, part_of
from evaluation.protocols import COLUMNS, Protocol, Result
from evaluation.protocols.table import find, score
from evaluation.report import Evaluation
from evaluation.runners import Runner
from evaluation.scoring import Scoring
from evaluation.store import Store, StoredDetections, open_store

__all__ = ["Evaluation", "evaluate", "evaluate_results", "versions"]

#: Of `versions()`, what turns maps into boxes; the others only score them.
BOX_VERSIONS = ("dbnet-parity", "numpy", "opencv", "pyclipper")
#: Gives `Scoring.finish` of every sample, in their order.
Detecting = Callable[[Sequence[Sample], Scoring], Generator[tuple[bytes, list[np.ndarray]], None, None]]


def evaluate(
    runner: Runner, samples: Sequence[Sample], pixels: PixelFormat, boxes: BoxRule,
    protocols: Iterable[str] = ("rrc",), *, sweep: Sequence[BoxRule] = (), save: Path | None = None,
    workers: int | None = None, progress: Callable[[int, int], object] | None = None, shard: Shard | None = None,
    detecting: Detecting | None = None,
) -> Evaluation:
    """Detects in every sample's image under `boxes`, and scores by each protocol.

    sweep: more box rules, under which every map is scored too. save: keep the detections in this file as they come; a
    run that was interrupted goes on in it, and a finished one is only scored again. workers: see `pipeline.run`.
    progress: called after every image with (images done, images in all), and once for those that were taken over.
    shard: only this part of `samples`, the same ones on every machine; `evaluation.shards` puts parts together.
    detecting: who runs the model in the place of `runner`, which then only says what it is (`evaluation.clusters`).

    Raises DbnetError, naming the image, if one cannot be read or the network's output on it is unusable; if an image
    is there twice; for unknown protocols; for more parts than images; and if `save` cannot be written or holds
    something else.
    """
    names, chosen, rules = image_names(samples), find(protocols), [boxes, *sweep]
    part, whole = None, names_digest(names)
    if shard is not None:
        part = part_of(shard, names, samples)
        names, samples = list(shard.of(names)), shard.of(samples)
    called = {sample.image: name for sample, name in zip(samples, names, strict=True)}
    pipeline.check_workers(workers)
    settings = {"runner": runner.name, "model": getattr(runner, "digest", None), "spec": runner.spec.name,
                "semantics": runner.spec.semantics(), "pixels": asdict(pixels), "boxes": asdict(boxes),
                "images": len(samples)}
    environment = runner.environment()
    counts = _Counts(chosen, len(rules), len(samples))
    scoring = Scoring(pixels, rules, tuple(protocol.name for protocol in chosen), called)
    made_with = {name: version for name, version in versions().items() if name in BOX_VERSIONS}
    header = settings | {"sweep": [asdict(rule) for rule in sweep], "names_sha256": whole,
                         "versions": made_with | {"runner": environment}}
    if part is not None:
        header |= {"shard": f"{part.shard} of {part.images} images"}
    with open_store(save, header, len(samples)) as store:
        resumed = store.done
        for i, sample in enumerate(samples[:resumed]):
            counts.put(i, scoring.counts(sample, _taken_over(store, i, names[i], sample, len(rules))))
        if resumed and progress:
            progress(resumed, len(samples))
        rest = samples[resumed:]
        with closing(detecting(rest, scoring) if detecting is not None else
                     pipeline.run(runner, rest, pixels, rules, scoring.finish, workers)) as results:
            for i, (line, numbers) in enumerate(results, start=resumed):
                store.append(line)
                counts.put(i, numbers)
                if progress:
                    progress(i + 1, len(samples))
    swept = [(values, counts.results(i)) for i, values in enumerate(_varied(boxes, sweep), start=1)]
    return Evaluation(counts.results(0), StoredDetections(store, names), swept, versions() | {"runner": environment},
                      settings, resumed, part)


def evaluate_results(samples: Sequence[Sample], detections: Sequence[Sequence[Detection]],
                     protocols: Iterable[str] = ("rrc",), score_thresholds: Sequence[float] = (),
                     shard: Shard | None = None) -> Evaluation:
    """Scores anybody's detections by each protocol; `detections[i]` were found in the image of `samples[i]`.

    score_thresholds: a sweep. Each entry leaves out the detections that score less. shard: see `evaluate`. Raises
    DbnetError if an image is there twice, for unknown protocols, and for more parts than images; ValueError if there
    are not as many lists as samples.
    """
    names, protocols = image_names(samples), tuple(protocols)
    part = None
    if shard is not None:
        part = part_of(shard, names, samples, detections)
        names, samples, detections = list(shard.of(names)), shard.of(samples), shard.of(detections)
    results = score(protocols, samples, detections)
    swept: list[tuple[dict[str, Any], dict[str, Result]]] = []
    for threshold in score_thresholds:
        kept = [[d for d in found if d.score >= threshold] for found in detections]
        swept.append(({"score": float(threshold)}, score(protocols, samples, kept)))
    return Evaluation(results, dict(zip(names, map(list, detections), strict=True)), swept, versions(),
                      {"images": len(samples)}, part=part)


def versions() -> dict[str, str]:
    """Of what turns maps into boxes and boxes into scores; a change in any of them can move a box or a score."""
    return {"dbnet-parity": VERSION, "python": platform.python_version(), "numpy": np.__version__,
            "opencv": cv2.__version__, "shapely": shapely.__version__, "geos": shapely.geos_version_string,
            "pyclipper": getattr(pyclipper, "__version__", "unknown")}


class _Counts:
    """What each image adds to the scores: for each protocol (settings, images, variants, `COLUMNS`)."""

    def __init__(self, protocols: Sequence[Protocol], settings: int, images: int):
        self._protocols = protocols
        self._arrays = [np.zeros((settings, images, len(protocol.variants), len(COLUMNS))) for protocol in protocols]

    def put(self, image: int, numbers: Sequence[np.ndarray]) -> None:
        for array, part in zip(self._arrays, numbers, strict=True):
            array[:, image] = part

    def results(self, setting: int) -> dict[str, Result]:
        return {protocol.name: Result(protocol, array[setting])
                for protocol, array in zip(self._protocols, self._arrays, strict=True)}


def image_names(samples: Sequence[Sample]) -> list[str]:
    """What results call the images: their file names, or where two would be the same, all paths below the innermost
    folder that holds them, with / between folders. Raises DbnetError for none, and for an image that is there twice.
    """
    if not samples:
        raise DbnetError("no images to evaluate")
    paths = [os.path.abspath(sample.image) for sample in samples]
    seen = set()
    for sample, path in zip(samples, paths, strict=True):
        if path in seen:
            raise DbnetError(f"{sample.image}: is there twice, and would count twice; name it in one label file, once")
        seen.add(path)
    names = [sample.name for sample in samples]
    if len(set(names)) < len(names):
        top = os.path.commonpath([os.path.dirname(path) for path in paths])
        names = [os.path.relpath(path, top).replace(os.sep, "/") for path in paths]
    return names


def _taken_over(store: Store, index: int, name: str, sample: Sample, rules: int) -> list[list[Detection]]:
    """The detections of an earlier run. Raises DbnetError if they were found in another image of that name."""
    checksum, detections = store.read(index, name)
    if checksum != zlib.crc32(read_bytes(sample.image).tobytes()) or len(detections) != rules:
        raise DbnetError(f"{store.name}: its detections were made in another {name} than {sample.image}; choose "
                         f"another file, or delete it")
    return detections


def _varied(boxes: BoxRule, sweep: Sequence[BoxRule]) -> list[dict[str, Any]]:
    """Of each rule of a sweep the settings in which any of them differs from another or from `boxes`, or all."""
    rules: list[Mapping[str, Any]] = [asdict(rule) for rule in (boxes, *sweep)]
    names = [name for name in rules[0] if len({rule[name] for rule in rules}) > 1] or list(rules[0])
    return [{name: rule[name] for name in names} for rule in rules[1:]]
