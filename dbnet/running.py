"""What every runner has in common: the weights, images and stages it takes, and the device it is asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dbnet.errors import DbnetError
from dbnet.parameters import parameters
from dbnet.spec import STAGES, TRAINING_STAGES, ModelSpec, check_size

DeviceKind = Literal["cpu", "gpu", "ascend"]

_KINDS: dict[str, DeviceKind] = {"cpu": "cpu", "cuda": "gpu", "gpu": "gpu", "ascend": "ascend", "npu": "ascend"}
_ASCEND_DRIVER = Path("/usr/local/Ascend/driver/version.info")
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Device:
    """What was asked for, in no framework's words. index: which of several; always 0 for the CPU."""

    kind: DeviceKind
    index: int = 0


def parse_device(text: str) -> Device:
    """`cpu`, `cuda`, `cuda:1`, `gpu`, `ascend`, `npu:0`, in any case. Raises DbnetError for anything else."""
    match = re.fullmatch(r"(cpu|cuda|gpu|ascend|npu)(?::(\d{1,3}))?", text.strip().lower(), re.ASCII)
    if match is None or (match[1] == "cpu" and int(match[2] or 0)):
        raise DbnetError(f"unknown device {text!r}; choose cpu, cuda, cuda:1, gpu, ascend, npu:0, ...")
    return Device(_KINDS[match[1]], int(match[2] or 0))


def check_stages(stages: Iterable[str]) -> tuple[str, ...]:
    """The stages as a tuple. Raises DbnetError for none, or an unknown one."""
    stages = tuple(stages)
    unknown = [stage for stage in stages if stage not in STAGES + TRAINING_STAGES]
    if unknown or not stages:
        problem = f"unknown stage {unknown[0]!r}" if unknown else "no stages asked for"
        raise DbnetError(f"{problem}; choose from {', '.join(STAGES + TRAINING_STAGES)}")
    return stages


def check_images(images: np.ndarray) -> np.ndarray:
    """The images, C-contiguous. Raises DbnetError unless (N, 3, H, W) float32 with sides that are multiples of 32."""
    shape = getattr(images, "shape", None)
    if not isinstance(images, np.ndarray) or images.dtype != np.float32 or images.ndim != 4 or images.shape[1] != 3:
        kind = f"{getattr(images, 'dtype', '')} {type(images).__name__}".strip()
        raise DbnetError(f"images must be a float32 array of shape (N, 3, H, W), not {kind} of shape {shape}")
    if not len(images):
        raise DbnetError("no images to run: the first side of the array is 0")
    check_size(*images.shape[2:])
    return np.ascontiguousarray(images)


def told_logits(found: np.ndarray, path: Path) -> str | None:
    """What to tell a user where the map of an ordinary image holds no fractions, so logits; None where it does.

    Raises DbnetError for NaN and Inf.
    """
    if not np.isfinite(found).all():
        raise DbnetError(f"{path}: gives NaN or Inf for an ordinary image, so no probability map; is it damaged?")
    low, high = float(found.min()), float(found.max())
    if low >= 0 and high <= 1:
        return None
    return (f"{path.name} is taken to give logits, for its values are no fractions ({low:.3g} to {high:.3g}): a "
            f"sigmoid is applied")


def runnable(spec: ModelSpec, weights: Mapping[str, np.ndarray], dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Copies of exactly the parameters of `spec`, canonical names and order, as `dtype` (from any float type).

    An inference subset (no training branch at all) is filled up with zeros: see `has_training_branch`. Raises
    DbnetError if anything else is missing, unexpected or misshapen.
    """
    table = {p.name: p for p in parameters(spec)}
    missing = [name for name, p in table.items()
               if name not in weights and (has_training_branch(weights) or not p.training_only)]
    unexpected = [name for name in weights if name not in table]
    misshapen = [name for name, array in weights.items() if name in table and array.shape != table[name].shape]
    found = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    problems = [f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
                for what, names in found.items() if names]
    if problems:
        raise DbnetError(f"these weights are not those of {spec.name}: {'; '.join(problems)}")
    return {name: np.array(weights[name], dtype, order="C") if name in weights else np.zeros(p.shape, dtype)
            for name, p in table.items()}


def has_training_branch(weights: Mapping[str, np.ndarray]) -> bool:
    """False for an inference subset, which gives neither threshold nor binary map."""
    return any(name.startswith("head.thresh.") for name in weights)


def require_training_branch(stages: Iterable[str], weights: Mapping[str, np.ndarray]) -> None:
    """Raises DbnetError if a training stage is wanted from an inference subset."""
    wanted = [stage for stage in stages if stage in TRAINING_STAGES]
    if wanted and not has_training_branch(weights):
        raise DbnetError(f"no stage {wanted[0]}: these weights have no training branch (head.thresh)")


def driver_version(kind: DeviceKind) -> str | None:
    """The version of the device's driver; None for the CPU, or where the driver does not tell."""
    if kind == "gpu" and _NVIDIA_DRIVER.is_file():
        match = re.search(r"Module\D*([\d.]+)", _NVIDIA_DRIVER.read_text(errors="replace"))
    elif kind == "ascend" and _ASCEND_DRIVER.is_file():
        match = re.search(r"^Version=(\S+)", _ASCEND_DRIVER.read_text(errors="replace"), re.MULTILINE)
    else:
        return None
    return match[1] if match else None
