"""What a benchmark's own process does once its framework is there: open, run, detect, and take its turns."""

from __future__ import annotations

import gc
import hashlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from converters.delivery_note import texts_of
from converters.load import LoadedModel, SourceOptions, load_model
from converters.weights import digest
from dbnet.errors import DbnetError, UnknownNetworkError
from dbnet.pixel_formats import PIXEL_PARTS, OpaqueSpec
from dbnet.postprocess import boxes_from_map
from dbnet.preprocess import Prepared, decode_image, prepare, read_bytes
from dbnet.record import RECORD_KEY, Record
from dbnet.spec import PixelFormat
from evaluation.benching.plan import shaped
from evaluation.benching.training import TrainingSteps
from evaluation.benching.worker import Answer, peak_memory
from evaluation.opening import GRAPH_RUNNERS
from evaluation.pipeline import naming
from evaluation.runners import open_loaded, open_runner
from evaluation.store import plain
from evaluation.weightless import is_weightless

#: How the names begin of the parameters that only training needs, see `dbnet.running.has_training_branch`.
TRAINING_BRANCH = "head.thresh."
#: Calls before the first that counts, of runtimes that compile a size once more when so many images of it have come.
_SETTLING = {"openvino": 17}


class Work:
    """Everything that is measured of one row; each `do_` answers one message of `evaluation.benching.process`."""

    def __init__(self, framework: str):
        self.framework = framework
        self.runner: Any = None
        self.model: LoadedModel | None = None
        self.pixels: PixelFormat
        self.steps: TrainingSteps | None = None

    def do_open(self, path: str, runner: str, device: str | None, threads: int | None, precision: str,
                keep_float32: list[str], options: dict[str, Any], shape: list[int] | None) -> Answer:
        """threads: that the runner is told of. shape: (height, width) that every image gets."""
        if threads is not None:
            cv2.setNumThreads(threads)
        asked: dict[str, Any] = {"runner": runner, "device": device, "stages": ("probability",), "threads": threads,
                                 "options": SourceOptions(**options), "precision": precision,
                                 "keep_float32": keep_float32}
        load, compiled = self._open(Path(path), asked)
        spec = self.runner.spec
        self.pixels = shaped(spec.pixels, None if shape is None else (shape[0], shape[1]))
        worker = _worker_of(self.runner)
        imported = None if worker is None else worker.import_seconds
        started = 0.0 if worker is None else worker.start_seconds
        graph = self.framework in GRAPH_RUNNERS or self.framework == "mindspore_lite"
        if not graph or compiled is None:
            load, compiled = load + (compiled or 0.0), None
        if worker is not None:  # its start is none of the model's
            load, compiled = (max(load - started, 0.0), None) if compiled is None else \
                (load, max(compiled - started, 0.0))
        return {"load": load, "graph_compile": compiled, "import": imported, "device": self.runner.device,
                "environment": self.runner.environment(), "notes": list(getattr(self.runner, "notes", ())),
                **self._told(Path(path))}, {}

    def _open(self, path: Path, asked: dict[str, Any]) -> tuple[float, float | None]:
        """Seconds of reading the file, and of making a runner of it; None for that where both are one step."""
        begin = time.perf_counter()
        if not is_weightless(path, asked["runner"]):
            try:
                self.model = load_model(path, asked["options"])
            except UnknownNetworkError:
                begin = time.perf_counter()
            else:
                read = time.perf_counter()
                self.runner = open_loaded(self.model, **asked)
                return read - begin, time.perf_counter() - read
        self.runner = open_runner(path, **asked)
        return time.perf_counter() - begin, None

    def _told(self, path: Path) -> dict[str, Any]:
        """model: of `evaluation.benching.bundle_types.Model`. computes: equal where results can be compared; an
        exported file's colours and means may stand in its graph, and it says itself which weights it was made of.
        """
        spec, whole = self.runner.spec, getattr(self.runner, "weights_digest", None)
        whole = whole or getattr(self.runner, "digest", None) or _digest(path)
        model = {"format": self.model.format if self.model else path.suffix.lstrip(".").lower(), "spec": spec.name,
                 "weights_sha256": whole, "semantics": spec.semantics(), "pixels": asdict(spec.pixels),
                 "boxes": asdict(spec.boxes)}
        sizes = {name: model["pixels"][name] for name in PIXEL_PARTS["resize_rule"]}
        return {"model": model, "computes": [self._weights(path) or whole, spec.name, model["semantics"], sizes,
                                             model["boxes"]]}

    def _weights(self, path: Path) -> str | None:
        """The sha256 of the weights that it runs by, those of training left out, as they are in files for a runtime;
        what such a file says of those that it was made of; None if it says nothing.
        """
        if self.model is not None:
            return digest({name: array for name, array in self.model.weights.items()
                           if not name.startswith(TRAINING_BRANCH)})
        text = texts_of(path).get(RECORD_KEY) if is_weightless(path) else None
        return None if text is None else Record.from_json(text, str(path)).sha256

    def do_first(self, paths: list[str]) -> Answer:
        """The first run, and from then on what an ordinary one takes."""
        tensor, _ = self._batch(paths)
        first = _timed(lambda: self.runner.run(tensor))
        again = [_timed(lambda: self.runner.run(tensor)) for _ in range(max(2, _SETTLING.get(self.framework, 0)))]
        return {"first_run": first, "usual": statistics.median(again), "shape": list(tensor.shape[2:])}, {}

    def do_detect(self, paths: list[str], keep: int, maps: bool) -> Answer:
        """What is found in the first `keep` of a batch, and their probability maps."""
        tensor, ready = self._batch(paths)
        found = self._maps(tensor)
        boxes = [[plain(one) for one in self._boxes(map_, each)]
                 for map_, each in zip(found[:keep], ready[:keep], strict=True)]
        return {"detections": boxes}, {str(i): found[i] for i in range(keep)} if maps else {}

    def do_turn(self, batches: list[list[str]], warmup: int) -> Answer:
        """Seconds of each part of each batch. warmup: batches before them that do not count."""
        seconds: dict[str, list[float]] = {"pixels": [], "network": [], "boxes": [], "whole": []}
        gc.collect()
        gc.disable()
        try:
            for i in range(-warmup, len(batches)):
                marks = [time.perf_counter()]
                tensor, ready = self._batch(batches[i % len(batches)])
                marks.append(time.perf_counter())
                maps = self._maps(tensor)
                marks.append(time.perf_counter())
                for map_, each in zip(maps, ready, strict=True):
                    self._boxes(map_, each)
                marks.append(time.perf_counter())
                if i >= 0:
                    for name, begin, end in (("pixels", 0, 1), ("network", 1, 2), ("boxes", 2, 3), ("whole", 0, 3)):
                        seconds[name].append(marks[end] - marks[begin])
        finally:
            gc.enable()
        return seconds, {}

    def do_memory(self) -> Answer:
        """Of the process that has the framework, which is another one's where the environment is another."""
        worker = _worker_of(self.runner)
        return {"of_runner": peak_memory("self" if worker is None else worker.pid)}, {}

    def do_train_open(self, size: list[int], batch: int, precision: str, device: str | None, seed: int) -> Answer:
        """Makes a trainer; what its graph and its first step take."""
        if self.model is None or isinstance(self.runner.spec, OpaqueSpec):
            raise DbnetError("only a network that is known here is trained")
        self.steps = TrainingSteps(self.framework, self.model, (size[0], size[1]), batch, precision, device, seed)
        return self.steps.begin(), {}

    def do_train_turn(self, steps: int, warmup: int) -> Answer:
        """Seconds of each step."""
        assert self.steps is not None
        return {"train_step": self.steps.run(steps, warmup)}, {}

    def _batch(self, paths: Sequence[str]) -> tuple[np.ndarray, list[Prepared]]:
        ready = []
        for path in paths:
            with naming(Path(path)):
                ready.append(prepare(decode_image(read_bytes(path), path, self.pixels.ignore_orientation),
                                     self.pixels))
        for path, each in zip(paths, ready, strict=True):
            if each.tensor.shape != ready[0].tensor.shape:
                sizes = ["x".join(map(str, one.tensor.shape[2:])) for one in (ready[0], each)]
                raise DbnetError(f"{Path(paths[0]).name} is run at {sizes[0]} and {Path(path).name} at {sizes[1]}: a "
                                 f"batch needs one size for all; give --shape, or --batch 1")
        return np.concatenate([each.tensor for each in ready]) if len(ready) > 1 else ready[0].tensor, ready

    def _maps(self, tensor: np.ndarray) -> np.ndarray:
        """(N, H, W). Raises DbnetError for another shape."""
        found = np.asarray(self.runner.run(tensor)["probability"])
        if found.shape != (len(tensor), 1, *tensor.shape[2:]):
            raise DbnetError(f"{self.runner.name} returned a probability map of shape {found.shape} for images of "
                             f"{tensor.shape}")
        maps: np.ndarray = found[:, 0]
        return maps

    def _boxes(self, found: np.ndarray, ready: Prepared) -> Any:
        return boxes_from_map(found, **asdict(self.runner.spec.boxes), resized_size=ready.resized_size,
                              original_size=ready.original_size)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _worker_of(runner: Any) -> Any:
    """The process of another environment that a runner runs in (`evaluation.elsewhere.Worker`), None without."""
    for part in (runner, getattr(runner, "ort", None)):
        if (worker := getattr(part, "worker", None)) is not None:
            return worker
    return None


def _timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
