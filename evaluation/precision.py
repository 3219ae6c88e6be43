"""What half precision does to a model on images: which layers overflow or lose values, how far the probabilities drift,
which boxes that moves, and what it costs in F.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from converters.load import LoadedModel, SourceOptions
from dbnet.errors import DbnetError
from dbnet.precision import (
    FORMATS,
    Counts,
    HalfFormat,
    Precision,
    always_float32,
    count_weights,
    kept_layers,
    layers,
    taken,
)
from dbnet.preprocess import prepare, read_bytes
from dbnet.running import runnable
from dbnet.sample import Detection, Sample
from dbnet.spec import BoxRule
from evaluation import pictures
from evaluation.compare_maps import Boxes, MapComparison, Side, compare_maps
from evaluation.compare_scores import ScoreComparison, compare_scores
from evaluation.half import HALF_RUNNERS, open_half

#: Images on which the values of every layer are counted, which takes several times as long as running them.
COUNTED = 4
#: Largest difference in probability that is taken for no difference, unless told otherwise.
GOAL = 1e-3
Images = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Setup:
    """A model that is read, and how it is run. rule: how its boxes come from its map."""

    model: LoadedModel
    precision: Precision
    runner: str
    rule: BoxRule
    device: str | None = None
    threads: int | None = None
    options: SourceOptions = field(default_factory=SourceOptions)

    def __post_init__(self) -> None:
        if self.precision not in FORMATS:
            raise DbnetError(f"precision {self.precision!r} is no half precision; choose from {', '.join(FORMATS)}")
        if self.runner not in HALF_RUNNERS:
            raise DbnetError(f"half precision runs in {' and '.join(HALF_RUNNERS)}, not in {self.runner}")

    @property
    def form(self) -> HalfFormat:
        return FORMATS[self.precision]

    @property
    def layers(self) -> tuple[str, ...]:
        return layers(self.model.record.spec)

    def open(self, precision: Precision, keep: Collection[str] = (), counting: bool = False) -> Any:
        """A runner for the probability. Raises DbnetError."""
        return open_half(self.model, self.runner, self.device, ("probability",), self.threads, self.options,
                         precision=precision, keep_float32=keep, counting=self.form if counting else None)


# Drift ----------------------------------------------------------------------------------------------------------------


class Finite:
    """A runner whose values that are no numbers become zeros, no text, and are counted."""

    def __init__(self, runner: Any):
        self._runner, self.nonfinite = runner, 0
        self.name, self.device, self.spec = runner.name, runner.device, runner.spec

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        maps = self._runner.run(images)
        bad = ~np.isfinite(maps["probability"])
        self.nonfinite += int(bad.sum())
        return {"probability": np.where(bad, np.float32(0), maps["probability"])}

    def environment(self) -> dict[str, Any]:
        told: dict[str, Any] = self._runner.environment()
        return told


@dataclass(frozen=True, eq=False)
class Drift:
    """Float32 against half precision on the same images. nonfinite: of the probabilities in half precision."""

    maps: MapComparison
    nonfinite: int
    scores: ScoreComparison | None = None

    @property
    def boxes(self) -> Boxes:
        return self.maps.boxes

    def same_boxes(self) -> bool:
        """Whether no box differs, and every probability is a number. False if nothing was compared."""
        return bool(self.maps.images) and not self.nonfinite and self.boxes.same

    def within(self, goal: float) -> bool:
        """Whether moreover no probability differs by more than `goal`."""
        far = self.maps.max_abs
        return self.same_boxes() and far is not None and far <= goal

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"max_abs": self.maps.max_abs, "mean_abs": self.maps.mean_abs, "nonfinite": self.nonfinite,
                "boxes": asdict(self.boxes),
                "images": {image.name: {"max_abs": image.max_abs, "mean_abs": image.mean_abs,
                                        "boxes": asdict(image.boxes)} for image in self.maps.images},
                "failed": self.maps.failed, "scores": self.scores.to_dict() if self.scores else None}


def measure(setup: Setup, reference: Any, candidate: Any, images: Images, samples: Sequence[Sample] = (),
            protocols: Sequence[str] = (), progress: Callable[[int], object] | None = None) -> Drift:
    """The reference against the candidate, both runners, on `images` (name, path). samples: their labels.

    An image that fails is told in the drift's maps. progress: told how many images are done.
    """
    finite = Finite(candidate)
    found: list[tuple[list[Detection], list[Detection]]] = []
    maps = compare_maps(Side(reference, setup.rule), Side(finite, setup.rule), images,
                        lambda done, _: progress and progress(len(done.images) + len(done.failed)),
                        lambda _compared, _path, a, b: found.append((a.boxes, b.boxes)))
    scores = None
    if samples and maps.images:
        by_name = {name: sample for (name, _), sample in zip(images, samples, strict=True)}
        labelled = [by_name[image.name] for image in maps.images]
        scores = compare_scores(labelled, [a for a, _ in found], [b for _, b in found], protocols)
    return Drift(maps, finite.nonfinite, scores)


# Layers ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerCounts:
    """A layer, or an operator between layers (is_layer: False). weights: what storing them in half precision does to
    them. float32: its output in the float32 network, and what rounding would do to it. half: its output in the network
    in half precision, where what comes in is rounded too. taken, taken_half: what it takes in both; in half precision
    that is beyond the format only where a layer before it stays float32.
    """

    name: str
    is_layer: bool
    weights: Counts
    float32: Counts
    half: Counts
    taken: Counts
    taken_half: Counts

    @property
    def overflows(self) -> bool:
        """Whether it is to blame: its own weights or values are beyond the format, or it makes those infinite that a
        layer in float32 gives it.
        """
        return self.weights.overflows or self.float32.overflows or bool(self.taken_half.beyond)

    @property
    def nonfinite(self) -> int:
        """Inf and NaN in half precision, inherited ones too."""
        return self.half.nonfinite + self.half.beyond

    def headroom(self, form: HalfFormat) -> float | None:
        """How many times the largest value fits; None where all are zero."""
        return form.largest / self.float32.largest if self.float32.largest else None

    def to_dict(self, form: HalfFormat) -> dict[str, Any]:
        """Plain values."""
        return {"layer": self.name, "has_weights": bool(self.weights.size), "overflows": self.overflows,
                "headroom": self.headroom(form), "weights": asdict(self.weights), "float32": asdict(self.float32),
                "half": asdict(self.half), "taken": asdict(self.taken), "taken_half": asdict(self.taken_half)}


def layer_counts(setup: Setup, float32: dict[str, Counts], half: dict[str, Counts]) -> list[LayerCounts]:
    """In the order of the network. float32, half: the runners' counts."""
    spec = setup.model.record.spec
    weights = count_weights(spec, runnable(spec, setup.model.weights), setup.form)
    known = set(setup.layers)
    for name in always_float32(spec):
        weights[name] = replace(weights[name], nonfinite=0, beyond=0, flushed=0, subnormal=0)
    inputs = {taken(name): name for name in known}
    return [LayerCounts(name, name in known, weights.get(name, Counts()), float32[name], half.get(name, Counts()),
                        *(table.get(taken(name), Counts()) for table in (float32, half)))
            for name in float32 if name not in inputs]


@dataclass(frozen=True, eq=False)
class PrecisionReport:
    """goal: largest difference in probability. kept: layers that were float32 from the start, as the user wished.
    layers: in the order of the network, counted on `counted` images. environments: of both runners.
    """

    setup: Setup
    goal: float
    kept: tuple[str, ...]
    layers: list[LayerCounts]
    drift: Drift
    counted: int
    environments: tuple[dict[str, Any], dict[str, Any]]

    @property
    def fine(self) -> bool:
        return self.drift.within(self.goal)

    @property
    def overflowing(self) -> list[LayerCounts]:
        """Those to blame, in order, but for those that are float32."""
        spec = self.setup.model.record.spec
        kept = kept_layers(spec, self.kept) | always_float32(spec)
        return [layer for layer in self.layers if layer.overflows and layer.name not in kept]


def examine(setup: Setup, images: Images, samples: Sequence[Sample] = (), protocols: Sequence[str] = (), *,
            goal: float = GOAL, keep: Sequence[str] = (),
            progress: Callable[[int], object] | None = None) -> PrecisionReport:
    """Runs the model in float32 and in half precision on every image, and counts on those with the largest drift. keep:
    layers, or modules that hold some, that stay float32. Raises DbnetError if the model cannot be run so, or no image
    can be used.
    """
    reference, candidate = setup.open("float32"), setup.open(setup.precision, keep)
    drift = measure(setup, reference, candidate, images, samples, protocols, progress)
    if not drift.maps.images:
        raise DbnetError(f"nothing could be measured: {len(drift.maps.failed)} image(s) failed; the first: "
                         f"{drift.maps.failed[0] if drift.maps.failed else 'there is none'}")
    counted = worst_images(drift, images, COUNTED)
    found = [_count(setup, precision, kept, counted) for precision, kept in (("float32", ()), (setup.precision, keep))]
    return PrecisionReport(setup, goal, tuple(keep), layer_counts(setup, *found), drift, len(counted),
                           (reference.environment(), candidate.environment()))


def worst_images(drift: Drift, images: Images, number: int) -> Images:
    """Those with the largest drift, the worst first."""
    paths = dict(images)
    worst = sorted(drift.maps.images, key=lambda image: image.max_abs or 0.0, reverse=True)
    return [(image.name, paths[image.name]) for image in worst[:number]]


def _count(setup: Setup, precision: Precision, keep: Sequence[str], images: Images) -> dict[str, Counts]:
    runner = setup.open(precision, keep, counting=True)
    for _, path in images:
        runner.run(input_of(setup, path))
    counts: dict[str, Counts] = runner.counts
    return counts


def input_of(setup: Setup, path: str) -> np.ndarray:
    """An image as the network takes it. Raises DbnetError."""
    pixels = setup.model.record.spec.pixels
    return prepare(pictures.decode(read_bytes(Path(path)), Path(path), pixels.ignore_orientation), pixels).tensor
