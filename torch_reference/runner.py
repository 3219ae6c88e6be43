"""Runs the PyTorch half on arrays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch

from dbnet.errors import DbnetError, short
from dbnet.parameters import parameters
from dbnet.running import (
    Device,
    DeviceKind,
    check_images,
    check_stages,
    driver_version,
    parse_device,
    require_training_branch,
    runnable,
)
from dbnet.spec import STAGES, TRAINING_STAGES, ModelSpec
from torch_reference.dbnet import DBNet

#: torch's name of a kind of device -> ours.
_KINDS: dict[str, DeviceKind] = {"cpu": "cpu", "cuda": "gpu", "npu": "ascend"}


class TorchRunner:
    """A model in evaluation mode; see `evaluation.runners.Runner`.

    weights: canonical names, any float type. device: `cpu`, `cuda:0`, `npu:0`, ...; default the best present.
    threads: of this process's CPU operators; default torch's own choice. precision: `float64` is the referee; its
    stages come as float64. Raises DbnetError for a device that is not there, and for weights that are not the spec's.
    """

    name = "torch"
    digest: str | None = None

    def __init__(self, spec: ModelSpec, weights: Mapping[str, np.ndarray], device: str | None = None,
                 stages: tuple[str, ...] = ("probability",), threads: int | None = None,
                 precision: Literal["float32", "float64"] = "float32"):
        if precision not in ("float32", "float64"):
            raise DbnetError(f"precision cannot be {precision!r}; choose float32 or float64")
        self.spec, self.stages, self.precision = spec, check_stages(stages), precision
        require_training_branch(self.stages, weights)
        self._device = choose_device(device)
        self.device = str(self._device)
        if threads is not None:
            torch.set_num_threads(threads)
        arrays = runnable(spec, weights, np.dtype(precision))
        with torch.device("meta"):  # no time spent on initial values
            self.net = DBNet(spec)
        # The batch norms' counters, which have no home in the canonical names, are made by torch itself.
        self.net.load_state_dict({p.name_in("torch"): torch.from_numpy(arrays[p.name]) for p in parameters(spec)},
                                 strict=True, assign=True)
        self.net.to(self._device).train(False)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The stages of (N, 3, H, W) float32 images, which must be multiples of 32 px. Raises DbnetError otherwise."""
        check_images(images)
        with self._told(images), torch.inference_mode(), self._exact():
            x = torch.tensor(images, dtype=getattr(torch, self.precision), device=self._device)
            maps = dict(zip(STAGES, self.net.stages(x), strict=True))
            if any(stage in TRAINING_STAGES for stage in self.stages):
                training_maps = self.net.head.training_maps(maps["fused"], maps["probability"])
                maps.update(zip(TRAINING_STAGES, training_maps, strict=True))
            return {stage: maps[stage].cpu().numpy() for stage in self.stages}

    def parts(self, images: np.ndarray, maps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every stage from the `maps` given for those before it. Raises DbnetError."""
        check_images(images)
        with self._told(images), torch.inference_mode(), self._exact():
            kind = getattr(torch, self.precision)
            x = torch.tensor(images, dtype=kind, device=self._device)
            given = tuple(torch.tensor(maps[stage], dtype=kind, device=self._device) for stage in STAGES)
            return {stage: out.cpu().numpy() for stage, out in zip(STAGES, self.net.parts(x, given), strict=True)}

    @contextlib.contextmanager
    def _told(self, images: np.ndarray) -> Iterator[None]:
        """A failure of torch's own, such as too little memory, as one line."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            why = short(str(error).partition("\n")[0] or "not enough memory")
            raise DbnetError(f"torch failed on {self.device} at {images.shape}: {why}; try a smaller image or another "
                             f"device") from error

    def _exact(self) -> contextlib.AbstractContextManager[None]:
        """On NVIDIA's cards torch runs float32 convolutions in TF32 by default, which keeps three decimal digits."""
        if self._device.type != "cuda":
            return contextlib.nullcontext()
        return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)

    def environment(self) -> dict[str, Any]:
        """What can move a number: versions, device, precision, threads."""
        kind: DeviceKind = _KINDS[self._device.type]
        return {
            "framework": "torch", "version": torch.__version__, "numpy": np.__version__, "device": self.device,
            "device_name": torch.cuda.get_device_name(self._device) if kind == "gpu" else None,
            "driver": driver_version(kind), "cuda": torch.version.cuda if kind == "gpu" else None,
            "precision": self.precision, "tf32": False if kind == "gpu" else None, "hf32": None, "jit_level": None,
            "threads": torch.get_num_threads(), "onednn": torch.backends.mkldnn.is_available(),
        }


def choose_device(text: str | None) -> torch.device:
    """torch's device of that name; None: the best present. Raises DbnetError if there is none."""
    npu = getattr(torch, "npu", None)  # there once torch_npu is installed
    counts = {"gpu": torch.cuda.device_count() if torch.cuda.is_available() else 0,
              "ascend": npu.device_count() if npu is not None and npu.is_available() else 0}
    if text is None:
        wanted = Device(next((kind for kind in ("gpu", "ascend") if counts[kind]), "cpu"))
    else:
        wanted = parse_device(text)
    if wanted.kind == "cpu":
        return torch.device("cpu")
    if wanted.index >= counts[wanted.kind]:
        needs = "torch_npu and CANN" if wanted.kind == "ascend" else "a CUDA build of torch and NVIDIA's driver"
        raise DbnetError(f"no device {text} for torch {torch.__version__}, which finds {counts[wanted.kind]} of that "
                         f"kind: it needs {needs}; or use --device cpu")
    return torch.device(next(name for name, kind in _KINDS.items() if kind == wanted.kind), wanted.index)
