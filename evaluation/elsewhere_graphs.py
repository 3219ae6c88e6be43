"""A graph in OpenVINO, OpenCV, MindSpore Lite, or MindSpore's own of a .mindir, of another Python environment."""

from __future__ import annotations

import os
import weakref
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dbnet.pixel_formats import AnySpec
from dbnet.running import check_images
from dbnet.spec import BoxRule, PixelFormat
from evaluation.elsewhere import Worker
from evaluation.graph_files import OtherGraphError


class DbApiElsewhere:
    """OpenCV's own text detection of another environment, called as `evaluation.opencv_db.db_api_boxes` is."""

    def __init__(self, python: Path):
        self.worker = Worker(python, "opencv")
        self.title = self.worker.title

    def __call__(self, path: str | Path, image: np.ndarray, pixels: PixelFormat,
                 rule: BoxRule) -> list[tuple[np.ndarray, float]]:
        _, found = self.worker.call("db_boxes", {"image": image}, path=os.path.abspath(path), pixels=asdict(pixels),
                                    rule=asdict(rule))
        return [(quad, float(score)) for quad, score in zip(found["quads"], found["scores"], strict=True)]


class ElsewhereGraphRunner:
    """In the place of that framework's runner here, see `evaluation.runners.Runner`: a file is opened there by its
    path, with whatever lies beside it; bytes are sent. One call at a time.

    spec: what it computes, passed through. stages: None means all that it gives. Raises what the runner there does.
    """

    digest: str | None = None
    weights_digest: str | None = None
    at_once = 1

    def __init__(self, worker: Worker, source: str | Path | bytes, spec: AnySpec, device: str | None = None,
                 stages: tuple[str, ...] | None = ("probability",), threads: int | None = None):
        self.name, self.title, self.spec, self.worker = worker.framework, worker.title, spec, worker
        self._number = worker.number()
        path = None if isinstance(source, bytes) else os.path.abspath(source)
        data = {"model": np.frombuffer(source, np.uint8)} if isinstance(source, bytes) else {}
        options = {} if threads is None else {"threads": threads}
        told, _ = worker.call("open_graph", data, number=self._number, path=path, device=device, stages=stages,
                              options=options)
        if "other" in told:
            raise OtherGraphError(told["other"], bool(told["foreign"]))
        self.device: str = told["device"]
        self.stages = tuple(told["stages"])
        self.shape: tuple[int | None, ...] = tuple(told["shape"])
        self.threads: int | None = told["threads"]
        self.digest = told["digest"]
        self.notes = [worker.note, *told["notes"]]
        self._environment = {**told["environment"], "python": worker.about["python"], "process": "its own"}
        weakref.finalize(self, worker.forget, self._number).atexit = False

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The stages of (N, 3, H, W) float32 images, sides multiples of 32 px. Raises DbnetError otherwise."""
        _, found = self.worker.call("run", {"images": check_images(images)}, number=self._number)
        return {stage: found[stage] for stage in self.stages}

    def environment(self) -> dict[str, Any]:
        """What can move a number, as the other environment tells it; known when it has crashed, too."""
        return dict(self._environment)
