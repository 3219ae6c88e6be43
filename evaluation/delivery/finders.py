"""Runtimes that go from an image to boxes by themselves: OpenCV's DB API and RapidOCR, with nothing of ours between."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dbnet.errors import DbnetError
from dbnet.extras import installed
from dbnet.pixel_formats import AnySpec
from dbnet.runner_names import RunnerName, parse_runner
from evaluation.delivery.refused import RefusedError
from evaluation.delivery.settings import Delivered
from evaluation.elsewhere_graphs import DbApiElsewhere
from evaluation.opencv_db import db_api_boxes


@dataclass(frozen=True)
class Finder:
    """runtime: with its version. find: (file, image, what the file takes and makes) -> quads (4, 2) in pixels of the
    image. why: it cannot be asked here.
    """

    name: str
    runtime: Callable[[], str]
    find: Callable[[Path, np.ndarray, AnySpec], Sequence[np.ndarray]]
    why: str | None = None


def finders(delivered: Delivered, runners: Sequence[str]) -> list[Finder]:
    """Those of the target. runners: in which the file was compared; OpenCV's DB API is asked in each OpenCV of these.
    Raises DbnetError if another environment's does not start.
    """
    if delivered.target == "opencv":
        return [_db_api(who) for who in map(parse_runner, runners) if who.framework == "opencv"]
    if delivered.target == "rapidocr":
        why = None if installed("rapidocr_onnxruntime") else \
            "RapidOCR itself is not installed (pip install rapidocr-onnxruntime)"
        return [Finder("rapidocr", _rapidocr_version, _rapidocr, why)]
    return []


def _db_api(who: RunnerName) -> Finder:
    boxes: Callable[..., list[tuple[np.ndarray, float]]] = db_api_boxes
    version = cv2.__version__
    if who.python is not None:
        boxes = elsewhere = DbApiElsewhere(who.python)
        version = f"{elsewhere.worker.about['version']} of another environment"

    def find(path: Path, image: np.ndarray, spec: AnySpec) -> Sequence[np.ndarray]:
        try:
            return [quad for quad, _ in boxes(path, image, spec.pixels, spec.boxes)]
        except DbnetError as error:
            raise RefusedError("opencv", f"OpenCV {version}", str(error), path=path) from error

    return Finder("TextDetectionModel_DB", lambda: f"TextDetectionModel_DB of OpenCV {version}", find)


def _rapidocr(path: Path, image: np.ndarray, _spec: AnySpec) -> Sequence[np.ndarray]:
    """The detector alone, as RapidOCR calls it."""
    boxes, _ = _engine(str(path))(image, use_cls=False, use_rec=False)
    return [] if boxes is None else [np.array(box, np.float32) for box in boxes]


@lru_cache(maxsize=1)
def _engine(path: str) -> Any:
    return importlib.import_module("rapidocr_onnxruntime").RapidOCR(det_model_path=path)


def _rapidocr_version() -> str:
    from importlib.metadata import version
    return f"RapidOCR {version('rapidocr-onnxruntime')}"
