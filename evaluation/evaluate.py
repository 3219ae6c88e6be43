"""A detector on a data set: every image through one runtime, scored by the data set's protocol."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pyclipper
import shapely

from dbnet.errors import DbnetError
from dbnet.preprocess import read_image
from dbnet.sample import Detection, Sample
from dbnet.spec import BoxRule, PixelFormat
from dbnet.version import VERSION
from evaluation.detect import detect
from evaluation.protocols import Counts, Score, rrc

if TYPE_CHECKING:
    from evaluation.runners import Runner


@dataclass(frozen=True, eq=False)
class Evaluation:
    """scores: protocol -> score. detections, counts: by the image's file name, in the samples' order. versions: of
    everything that can move a score, the runner's environment under `runner`. settings: what was chosen.
    """

    scores: dict[str, Score]
    detections: dict[str, list[Detection]]
    counts: dict[str, Counts]
    versions: dict[str, Any]
    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values: scores, images (name -> detections: polygon in pixels of the image, score), versions, settings.

        A documented format: other people's scripts read it.
        """
        return {
            "scores": {protocol: asdict(score) for protocol, score in self.scores.items()},
            "images": {name: {"detections": [{"polygon": d.polygon.tolist(), "score": d.score} for d in found]}
                       for name, found in self.detections.items()},
            "versions": self.versions,
            "settings": self.settings,
        }

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=1) + "\n"


def evaluate(
    runner: Runner, samples: Sequence[Sample], pixels: PixelFormat, boxes: BoxRule,
    progress: Callable[[int, int], object] | None = None,
) -> Evaluation:
    """Detects in every sample's image and scores by the official ICDAR 2015 protocol (`rrc`).

    progress: called after every image with (images done, images in all). Raises DbnetError, naming the image, if one
    cannot be read or the network's output on it is unusable, and if two images share a file name.
    """
    if not samples:
        raise DbnetError("no images to evaluate")
    detections: dict[str, list[Detection]] = {}
    for done, sample in enumerate(samples, start=1):
        if sample.name in detections:
            raise DbnetError(f"{sample.image}: another image is called {sample.name} too, and results are kept by file "
                             f"name; rename one of them")
        image = read_image(sample.image)
        try:
            detections[sample.name] = detect(runner, image, pixels, boxes)
        except DbnetError as error:
            raise DbnetError(f"{sample.image}: {error}") from error
        if progress:
            progress(done, len(samples))
    score, counts = rrc.score(samples, list(detections.values()))
    settings = {"runner": runner.name, "spec": runner.spec.name, "semantics": runner.spec.semantics(),
                "pixels": asdict(pixels), "boxes": asdict(boxes), "images": len(samples)}
    return Evaluation({"rrc": score}, detections, dict(zip(detections, counts, strict=True)),
                      versions() | {"runner": runner.environment()}, settings)


def versions() -> dict[str, str]:
    """Of what turns maps into boxes and boxes into scores; a change in any of them can move a box or a score."""
    return {"dbnet-parity": VERSION, "python": platform.python_version(), "numpy": np.__version__,
            "opencv": cv2.__version__, "shapely": shapely.__version__, "geos": shapely.geos_version_string,
            "pyclipper": getattr(pyclipper, "__version__", "unknown")}
