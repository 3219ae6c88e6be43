"""What the runners of graph files have in common, whoever runs them: which outputs, which sizes, how many calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from dbnet.errors import DbnetError
from dbnet.spec import STAGES

#: Calls at once in one runtime: each needs memory for its own maps.
MAX_AT_ONCE = 8


class OtherGraphError(DbnetError):
    """An .onnx that does not give what was wanted under our names. foreign: it is no graph that we write."""

    def __init__(self, message: str, foreign: bool):
        super().__init__(message)
        self.foreign = foreign


def stages_of(where: str, outputs: Sequence[str], wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """The stages to run of a graph with outputs of these names; wanted: None for all that it gives. Raises
    OtherGraphError if one is missing. where: the file, for errors."""
    given = tuple(stage for stage in STAGES if stage in outputs)
    stages = wanted or (given if "probability" in given else ("probability",))
    missing = [stage for stage in stages if stage not in outputs]
    if missing:
        raise OtherGraphError(f"{where}: has no output {', '.join(missing)}, only {', '.join(outputs)}; is it a DBNet? "
                              f"dbnet export and dbnet convert --stages name them so", "probability" in missing)
    return stages


def check_fixed_shape(where: str, fixed: Sequence[int | None], shape: tuple[int, ...]) -> None:
    """Raises DbnetError unless a file whose input is `fixed`, None where any number will do, takes (N, 3, H, W)."""
    wrong = [side not in (None, given) for side, given in zip(fixed, shape, strict=True)]
    if not any(wrong):
        return
    told = ", ".join("any" if side is None else str(side) for side in fixed)
    if wrong[1]:
        raise DbnetError(f"{where}: takes images of shape ({told}), so of {fixed[1]} channels, and images have "
                         f"{shape[1]} here; export the model with 3")
    sides = "x".join(str(side or given) for side, given in zip(fixed[2:], shape[2:], strict=True))
    hint = "a file written by dbnet convert takes every number of images" if not any(wrong[2:]) else (
        f"say in --pixels how they come to that size: resize=stretch,size={sides}, or resize=keep_ratio_pad (a "
        f"file written by dbnet convert takes every size)")
    raise DbnetError(f"{where}: takes images of shape ({told}) only, not {shape}; {hint}")


def as_stage(array: np.ndarray) -> np.ndarray:
    """A stage (N, C, H, W) float32. An output (H, W), which OpenCV's TextDetectionModel_DB wants, is (1, 1, H, W)."""
    return np.asarray(array if array.ndim != 2 else array[np.newaxis, np.newaxis], np.float32)


def in_batches(images: np.ndarray, batch: int | None,
               run: Callable[[np.ndarray], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The maps of any number of images from a file that takes exactly `batch` at once, several; the last image fills
    up what is missing, and its copies are left out. None or 1: all as they come.
    """
    count = len(images)
    if batch in (None, 1, count):
        return run(images)
    assert batch is not None
    filled = np.concatenate([images, np.repeat(images[-1:], -count % batch, axis=0)])
    found = [run(filled[i:i + batch]) for i in range(0, len(filled), batch)]
    return {stage: np.concatenate([maps[stage] for maps in found])[:count] for stage in found[0]}


def batch_notes(shape: Sequence[int | None]) -> list[str]:
    """What a user should know of a file whose input is `shape`: how single images run in it. A line, or none."""
    if not shape or shape[0] in (None, 1):
        return []
    return [f"takes {shape[0]} images at once: what is missing is filled up with copies, and each image costs as much "
            f"as {shape[0]}; export it without --batch for single images"]


def as_given(maps: Mapping[str, np.ndarray], matrices: Collection[str]) -> dict[str, np.ndarray]:
    """The stages of one image as the file gave them. matrices: the outputs that it gives as (H, W)."""
    return {stage: map_[0, 0] if stage in matrices else map_ for stage, map_ in maps.items()}


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
