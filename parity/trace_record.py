"""Recording what a model computes on images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from dbnet.errors import DbnetError
from dbnet.postprocess import boxes_from_map
from dbnet.preprocess import Prepared, prepare, read_bytes
from dbnet.sample import Detection
from dbnet.shards import Shard
from dbnet.spec import BoxRule, PixelFormat
from evaluation.pictures import decode
from evaluation.pipeline import naming
from parity.staged import StagedModel
from parity.trace import ORDER, PIXELS, Recorder, Trace, TracedImage
from parity.trace_part import SHARD, told_part
from parity.traced import about_of


class MissingInputError(DbnetError):
    """An image that was recorded is not at hand, and neither is its input."""


def record(side: StagedModel, rule: BoxRule, images: Sequence[tuple[str, str]], level: str,
           stages: Sequence[str] | None = None, spill: Path | None = None, keep: Sequence[str] = (),
           progress: Callable[[int, int], object] = lambda done, count: None, shard: Shard | None = None,
           read: Callable[[str], np.ndarray] = read_bytes) -> Trace:
    """A trace of a model on images, (name, path), with its own pixels.

    stages: None for all that it gives; the input and the probability are always among them. spill, keep: as
    `Recorder`. progress: (images done, images in all). shard: only this part of `images`, see `parity.trace_merge`.
    read: as `read_bytes`, for files that lie elsewhere.
    Raises DbnetError at the first image that cannot be read or run: a trace that lacks one would be compared on the
    others without a word.
    """
    wanted, about = recorded_stages(side, stages), about_of(side, rule)
    if shard is not None:
        about |= {SHARD: told_part(shard, [name for name, _ in images])}
        images = shard.of(images)
    recorder = Recorder(about, wanted, level, spill, keep)
    for number, (name, path) in enumerate(images, 1):
        with naming(Path(path)):
            data = read(path)
            ready = prepare(decode(data, path, side.pixels.ignore_orientation), side.pixels)
            maps = maps_of(side, ready.tensor, wanted)
            image = TracedImage(name, hashlib.sha256(data.data).hexdigest(), ready.original_size, ready.resized_size,
                                ready.tensor.shape)  # type: ignore[arg-type]
            recorder.add(image, maps, boxes_of(maps["probability"], rule, ready))
        progress(number, len(images))
    return recorder.trace()


def recorded_stages(side: StagedModel, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """In the order of `ORDER`. Raises DbnetError for one that the model does not give."""
    given = {PIXELS, *side.stages, "probability"}
    if missing := [stage for stage in wanted or () if stage not in given]:
        names = ", ".join(stage for stage in ORDER if stage in given)
        raise DbnetError(f"{side.path}: gives no stage {missing[0]} in {side.runner.name}; it gives {names}")
    chosen = given if wanted is None else {PIXELS, "probability", *wanted}
    return tuple(stage for stage in ORDER if stage in chosen)


def maps_of(side: StagedModel, tensor: np.ndarray, stages: Sequence[str]) -> dict[str, np.ndarray]:
    """The stages of (1, 3, H, W) float32, `pixels` among them. Raises DbnetError."""
    only = set(stages) <= {PIXELS, "probability"}
    found: Mapping[str, np.ndarray] = (side.for_images() if only else side).run(tensor)
    maps = {stage: np.asarray(found[stage], np.float32) for stage in stages if stage != PIXELS}
    if "probability" in maps and maps["probability"].shape != (1, 1, *tensor.shape[2:]):
        raise DbnetError(f"{side.runner.name} returned a probability map of shape {maps['probability'].shape} for "
                         f"{tensor.shape[2]} x {tensor.shape[3]} px")
    return {PIXELS: tensor, **maps}


def boxes_of(probability: np.ndarray, rule: BoxRule, ready: Prepared | TracedImage) -> list[Detection]:
    """Of a map (1, 1, H, W), in pixels of the image."""
    original, resized = ((ready.size, ready.covered) if isinstance(ready, TracedImage) else
                         (ready.original_size, ready.resized_size))
    return boxes_from_map(probability[0, 0], **asdict(rule), resized_size=resized, original_size=original)


def input_of(image: TracedImage, recorded: np.ndarray | None, path: str | None, pixels: PixelFormat) -> np.ndarray:
    """What the network was fed: (1, 3, H, W) float32, as it was recorded, or made anew from the image's file. Raises
    DbnetError without either."""
    if recorded is not None:
        return np.array(recorded, np.float32)
    if path is None:
        raise MissingInputError(f"{image.name}: none of the --images is the file that was recorded (sha256 "
                         f"{(image.sha256 or 'of no file')[:12]}...), and the trace does not keep its input")
    tensor = prepare(decode(read_bytes(path), path, pixels.ignore_orientation), pixels).tensor
    if tensor.shape != image.shape:
        raise DbnetError(f"{path}: becomes {tensor.shape} here, and was {image.shape} where it was recorded")
    return tensor
