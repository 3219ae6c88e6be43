"""Steps of training on drawn scenes, for their time: the halves' own trainers with the recipes' usual settings."""

from __future__ import annotations

import importlib
import time
from typing import Any

import numpy as np

from converters.load import LoadedModel
from dbnet.datasets.drawn import draw
from dbnet.initial import initial_weights
from dbnet.loss_settings import LossSettings
from dbnet.targets import make_targets
from dbnet.train_settings import OptimizerSettings
from dbnet.training_set import Example, stacked

#: Who trains.
TRAINERS = {"torch": "torch_reference.train", "mindspore": "ms_models.train"}
#: What a recipe calls the precision.
AMP = {"float32": "O0", "fp16": "O2", "bf16": "bf16"}
#: Height and width of the crops of every recipe here.
CROP = (640, 640)
#: So small that weights, and with them the work of a step, stay what they are.
_RATE = 1e-6


class TrainingSteps:
    """A trainer with one batch. Weights without a training branch are trained from new ones, which takes as long."""

    def __init__(self, framework: str, model: LoadedModel, size: tuple[int, int], batch: int, precision: str,
                 device: str | None, seed: int):
        module = importlib.import_module(TRAINERS[framework])
        spec = model.record.spec
        weights = model.weights if model.subset == "complete" else initial_weights(spec, seed)
        self._losses = module.losses
        self._trainer: Any = module.Trainer(spec, weights, OptimizerSettings(), LossSettings(), device, AMP[precision])
        self._batch = drawn_batch(seed, batch, *size)

    def begin(self) -> dict[str, Any]:
        """Seconds of what comes before the first step, and of that."""
        begin = time.perf_counter()
        self._trainer.prepare(self._batch)
        prepared = time.perf_counter()
        self._step()
        return {"prepare": prepared - begin, "first_step": time.perf_counter() - prepared}

    def run(self, steps: int, warmup: int) -> list[float]:
        """Seconds of each step, to the end of its work on the device."""
        seconds = []
        for i in range(-warmup, steps):
            begin = time.perf_counter()
            self._step()
            if i >= 0:
                seconds.append(time.perf_counter() - begin)
        return seconds

    def _step(self) -> None:
        self._losses(self._trainer.step(self._batch, _RATE))  # waits for the device


def drawn_batch(seed: int, count: int, height: int, width: int) -> Example:
    """Scenes of that size with their maps."""
    return stacked([_drawn(seed * 100_003 + i, height, width) for i in range(count)])


def _drawn(seed: int, height: int, width: int) -> Example:
    image, polygons = draw(seed, height, width)
    maps = make_targets(polygons, [False] * len(polygons), height, width)
    return Example(np.ascontiguousarray(image[:, :, ::-1]), maps.binary_map.astype(np.uint8),
                   maps.mask.astype(np.uint8), maps.thresh_map, maps.thresh_mask.astype(np.uint8), (f"drawn {seed}",))
