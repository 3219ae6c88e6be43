"""Runs the MindSpore half on arrays, in graph mode."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from dbnet.errors import DbnetError
from dbnet.running import (
    Device,
    check_images,
    check_stages,
    driver_version,
    parse_device,
    require_training_branch,
    runnable,
)
from dbnet.spec import STAGES, TRAINING_STAGES, ModelSpec
from ms_models import compat
from ms_models.dbnet import DBNet

#: What a .mindir can give: alone they are computed as it computes them.
_OF_FILES = ("logits", "probability")


class WideSigmoid(nn.Cell):
    """The sigmoid by way of float64. MindSpore's own on the CPU is up to 8.1e-7 from the exact value, this 3.0e-8."""

    def construct(self, x: Tensor) -> Tensor:
        return ops.cast(ops.sigmoid(ops.cast(x, ms.float64)), x.dtype)


def widen(net: nn.Cell) -> None:
    """Puts `WideSigmoid` in the place of every sigmoid; before the first graph of `net`."""
    for _, cell in list(net.cells_and_names()):
        for name, inner in list(cell.name_cells().items()):
            if isinstance(inner, nn.Sigmoid):
                if isinstance(cell, nn.SequentialCell):
                    cell[int(name)] = WideSigmoid()  # it calls a list of its own, which an attribute would not reach
                else:
                    setattr(cell, name, WideSigmoid())


class Stages(nn.Cell):
    """Some of a network's stages as one graph, so that nothing else is computed."""

    def __init__(self, net: DBNet, stages: tuple[str, ...]):
        super().__init__(auto_prefix=False)  # else every parameter would silently be renamed to net.*
        self.net = net
        self.with_training_maps = any(stage in TRAINING_STAGES for stage in stages)
        self.chosen = tuple((STAGES + TRAINING_STAGES).index(stage) for stage in stages)

    def construct(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.net.stages(x)
        if self.with_training_maps:
            maps = maps + self.net.head.training_maps(maps[8], maps[10])
        chosen = ()
        for i in self.chosen:
            chosen = chosen + (maps[i],)
        return chosen


class Parts(nn.Cell):
    """Every stage from the maps given for those before it, as one graph."""

    def __init__(self, net: DBNet):
        super().__init__(auto_prefix=False)
        self.net = net

    def construct(self, x: Tensor, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self.net.parts(x, maps)


class MindSporeRunner:
    """A model in evaluation mode; see `evaluation.runners.Runner`. One compilation serves all sizes.

    weights: canonical names, any float type. device: `cpu`, `gpu`, `ascend:0`, ...; default the one this process has
    set, or the best present. jit_level: None leaves it to MindSpore. arithmetic: see `compat.set_arithmetic`. On a CPU
    the layers' sigmoids are computed by way of float64, unless nothing but `logits` and `probability` is asked for,
    which a .mindir gives. Switches the process to graph mode, and its CPU operators to AVX2 where `compat.cure_avx512`
    says why. MindSpore takes its CPU threads from the cores the process may use (`taskset`); none of its settings
    changed their number on 2.10.
    Raises DbnetError for a device that is not there, and for weights that are not the spec's.
    """

    name = "mindspore"
    digest: str | None = None

    def __init__(self, spec: ModelSpec, weights: Mapping[str, np.ndarray], device: str | None = None,
                 stages: tuple[str, ...] = ("probability",), jit_level: Literal["O0", "O1", "O2"] | None = None,
                 arithmetic: compat.Arithmetic = "exact"):
        self.spec, self.stages, self.jit_level = spec, check_stages(stages), jit_level
        require_training_branch(self.stages, weights)
        arrays = runnable(spec, weights)
        self._device = compat.set_device(None if device is None else parse_device(device))
        self.device = "cpu" if self._device.kind == "cpu" else f"{self._device.kind}:{self._device.index}"
        self._precision = compat.set_arithmetic(self._device.kind, arithmetic)
        ms.set_context(mode=ms.GRAPH_MODE)
        compat.cure_avx512()
        self.net = DBNet(spec)
        self.net.set_train(False)
        for parameter in self.net.get_parameters():
            parameter.set_data(Tensor(arrays[parameter.name]))
        # Only the CPU's is coarse, and no NPU has float64.
        self._wide = self.device == "cpu" and not set(self.stages) <= set(_OF_FILES)
        if self._wide:
            widen(self.net)
        self._graph = Stages(self.net, self.stages)
        self._graph.set_train(False)
        self._graph.set_inputs(Tensor(shape=[None, 3, None, None], dtype=ms.float32))
        if jit_level is not None:
            compat.set_jit_level(self._graph, jit_level)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The stages of (N, 3, H, W) float32 images, which must be multiples of 32 px. Raises DbnetError otherwise."""
        x = Tensor(check_images(images))
        try:
            with compat.kept_signals():
                maps = [tensor.asnumpy() for tensor in self._graph(x)]
        except (RuntimeError, MemoryError) as error:
            raise DbnetError(f"MindSpore failed on {self.device} at {images.shape}: {compat.first_sentence(error)}; "
                             f"try a smaller image or another device") from error
        return dict(zip(self.stages, maps, strict=True))

    def parts(self, images: np.ndarray, maps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every stage from the `maps` given for those before it; compiled anew for every size. Raises DbnetError."""
        check_images(images)
        graph = Parts(self.net)
        graph.set_train(False)
        try:
            given = tuple(Tensor(np.ascontiguousarray(maps[stage], np.float32)) for stage in STAGES)
            with compat.kept_signals():
                out = [tensor.asnumpy() for tensor in graph(Tensor(images), given)]
        except (RuntimeError, MemoryError) as error:
            raise DbnetError(f"MindSpore failed on {self.device} at {images.shape}: {compat.first_sentence(error)}; "
                             f"try a smaller image or another device") from error
        return dict(zip(STAGES, out, strict=True))

    def environment(self) -> dict[str, Any]:
        """What can move a number: versions, device, precision, jit level, threads."""
        told = environment_of(self._device, self._precision, self.jit_level)
        return {**told, "sigmoid": "float64" if self._wide else "own"}


def environment_of(device: Device, precision: Mapping[str, Any], jit_level: str | None) -> dict[str, Any]:
    """The same for what runs on a device. precision: what `compat.set_arithmetic` has returned."""
    return {
        "framework": "mindspore", "version": ms.__version__, "numpy": np.__version__,
        "device": "cpu" if device.kind == "cpu" else f"{device.kind}:{device.index}",
        "device_name": compat.device_name(device), "driver": driver_version(device.kind),
        "cann": compat.cann_version(), "precision": "float32", **precision, "jit_level": jit_level or "default",
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "onednn_max_isa": compat.isa_limit(),
    }
