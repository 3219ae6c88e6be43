"""Does an exported file still compute what the model computes? Asked in its own runtime before the file appears.

Both sides get the same images under the same rules: the model as the graph of our archive form in ONNX Runtime (torch
where that is missing), the file by its own graph in the runtime. In float32 the maps decide; boxes are counted, and one
that differs where no map does sits on a threshold. In half precision the boxes decide, for every map differs. Where a
runtime makes the boxes itself, those decide that sit on no threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from converters.load import LoadedModel, SourceOptions
from dbnet.datasets.drawn import draw
from dbnet.errors import DbnetError
from dbnet.extras import OPTIONAL, installed, require
from dbnet.postprocess import boxes_from_map, boxes_of_any_opencv
from dbnet.preprocess import prepare, read_image
from dbnet.runner_names import parse_runner
from dbnet.sample import Detection
from dbnet.seeded import seeded_images
from dbnet.spec import BoxRule, ModelSpec, PixelFormat
from evaluation.compare_maps import Boxes, MapComparison, Side, compare_boxes, compare_maps
from evaluation.delivery.finders import Finder, finders
from evaluation.delivery.refused import RefusedError
from evaluation.delivery.settings import Delivered
from evaluation.detect import probability_map
from evaluation.runners import Runner, archive, open_runner

#: Largest difference in probability within ONNX Runtime: both forms are the same float32 computation in another order.
TOLERANCE = 1e-5
#: Of another runtime on the noise: 24-bit arithmetic in another order stays below.
ELSEWHERE = 1e-4
#: On whole images, which have sharper edges of text than noise: measured 1.2e-4 at most, in OpenCV 4.11, whose fast
#: convolutions (Winograd) round more than others', with PaddleOCR's trained network.
WHOLE = 5e-4
#: Of the boxes of a runtime's own rule, and of new ones in float16: what may differ, rounded down, so none of nine.
LOST = 0.1
#: A box whose score is this close to `box_thresh` may be on either side of it in another runtime.
NEAR = 0.01
#: Mean difference in probability on whole images in float16: 2.8e-5 was measured with trained networks.
HALF = 5e-3
#: Height and width of the noise, where the file takes every size.
SIZE = (96, 160)
#: Seeds of the scenes that are drawn where no images are given, and their size.
SCENES, SCENE = (1, 2, 3), (352, 640)
#: The first ONNX Runtime with DeformConv on CPUs.
DEFORM_RUNTIME = (1, 25)
#: The runners that run the graph of a file, by its suffix; every other one takes only the weights of it.
OWN_GRAPH = {".onnx": ("onnxruntime", "openvino", "opencv"), ".xml": ("openvino",), ".ms": ("mindspore_lite",),
             ".mindir": ("mindspore:mindir", "mindspore_lite")}
#: How the runners say that it is the file which does not run.
_REFUSALS = ("refuses it", "failed on", "failed at", "cannot compile it")


@dataclass(frozen=True)
class Checked:
    """A runtime that the file was compared in. noise, images: largest differences in probability on seeded noise and on
    `count` images; boxes: of the model, `same` of them identical in the file, `lost` and `invented` on one side only.
    half: it is in float16. why: it was not run.
    """

    runner: str
    runtime: str | None = None
    noise: float | None = None
    images: float | None = None
    count: int = 0
    boxes: int = 0
    same: int = 0
    lost: int = 0
    invented: int = 0
    half: bool = False
    why: str | None = None

    def describe(self, drawn: bool) -> str:
        """One line."""
        if self.why is not None:
            return f"not run: {self.why}"
        scenes = f"{self.count} {'drawn scene' if drawn else 'image'}{'s' if self.count != 1 else ''}"
        boxes = "no box in them on either side, so none is proved"
        if self.boxes or self.invented:
            moved = self.boxes - self.same - self.lost
            boxes = f"the same {self.boxes} boxes" if self.same == self.boxes and not self.invented else \
                f"{self.same} of {self.boxes} boxes the same ({self.lost} lost, {self.invented} new, {moved} moved)"
        if self.images is None:
            return f"{self.runtime} on {scenes}: {boxes}"
        same = "probability beside the archive form's" if self.half else "same probability as the archive form"
        return f"{same} in {self.runtime}: within {self.noise:.1e} on noise, {self.images:.1e} on {scenes}; {boxes}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def runners_for(own: str | None, check_in: Sequence[str]) -> tuple[str, ...]:
    """The target's own runtime, unless the user names one of its kind, and those that the user names."""
    kinds = {parse_runner(name).framework for name in check_in}
    default = (own,) if own is not None and parse_runner(own).framework not in kinds else ()
    return tuple(dict.fromkeys((*default, *check_in)))


def check(delivered: Delivered, model: LoadedModel, own: str | None, check_in: Sequence[str], images: Sequence[Path],
          scratch: Path) -> list[Checked]:
    """Compares the file with the model that it was made from, in every runtime that it is asked for.

    own: runner of the target; it is told where that is not installed, while one of `check_in` must be. images: none
    means drawn scenes, which are put into `scratch`. Raises DbnetError if they differ, or one cannot be run;
    RefusedError if the runtime does not take the file.
    """
    names = runners_for(own, check_in)
    rows: list[Checked] = []
    named: list[tuple[str, str]] = []
    reference, pixels = None, delivered.spec.pixels
    for name in names:
        if name not in check_in and (why := missing(name, delivered)) is not None:
            rows.append(Checked(name, why=why))
            continue
        if not named:
            pixels, named = scenes(delivered, images, scratch)
            reference = _reference(model, pixels)
        if reference is None:
            rows.append(Checked(name, why="nothing runs the model itself: pip install 'dbnet-parity[onnxruntime]'"))
            continue
        rows.append(_compared(delivered, model, name, reference, named, pixels))
    if rows and reference is not None:
        rows += [_found(delivered, model, finder, named) for finder in finders(delivered, names)]
    return rows


def require_own_graph(suffix: str, check_in: Sequence[str]) -> None:
    """Raises DbnetError for a runner that would take the weights of such a file and not its graph: what it computes
    says nothing of the file.
    """
    own = OWN_GRAPH.get(suffix.lower(), ())
    for name in check_in:
        who = parse_runner(name)
        if who.framework not in own and who.here not in own:
            able = f"choose from {', '.join(own)}" if own else "no runner opens one; leave out --check-in"
            raise DbnetError(f"--check-in {name} would run the weights of a {suffix} file in a graph of ours, which "
                             f"proves nothing of the file's own; {able}")


def missing(name: str, delivered: Delivered) -> str | None:
    """Why the target's own runtime cannot be asked here, None if it can."""
    framework = parse_runner(name).framework
    if framework in OPTIONAL and not installed(framework):
        return f"{framework} is not installed (pip install 'dbnet-parity[{OPTIONAL[framework][0]}]')"
    if framework == "onnxruntime" and (delivered.opset or 0) >= 19 and _is_native(delivered):
        version = str(require("onnxruntime").__version__)
        if tuple(map(int, version.split(".")[:2])) < DEFORM_RUNTIME:
            return f"ONNX Runtime {version} has no DeformConv"
    return None


def _is_native(delivered: Delivered) -> bool:
    from converters.onnx_outline import read_outline
    return any(node.operator == "DeformConv" for node in read_outline(delivered.path).nodes)


def scenes(delivered: Delivered, images: Sequence[Path], scratch: Path) -> tuple[PixelFormat, list[tuple[str, str]]]:
    """What the file is compared on, (name, path), and with which pixels: images, or scenes that are drawn into
    `scratch`. Those need no resizing, which at the sizes of photographs takes much time; a file of one size takes that.
    """
    pixels = delivered.spec.pixels
    if images:
        return pixels, [(path.name, str(path)) for path in images]
    if not isinstance(delivered.input_shape[2], int):
        pixels = replace(pixels, resize="grid")
    paths = [scratch / f"scene_{seed}.png" for seed in SCENES]
    for seed, path in zip(SCENES, paths, strict=True):
        cv2.imwrite(str(path), draw(seed, *SCENE)[0])
    return pixels, [(path.name, str(path)) for path in paths]


# Both sides -----------------------------------------------------------------------------------------------------------


class _As:
    """A runner with other pixels, whose file may take several images at once only."""

    def __init__(self, runner: Any, spec: ModelSpec, batch: int = 1):
        self._runner, self._batch = runner, batch
        self.name, self.device, self.spec = runner.name, runner.device, spec

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        if len(images) % self._batch == 0:
            return self._runner.run(images)  # type: ignore[no-any-return]
        found = [self._runner.run(np.repeat(image[np.newaxis], self._batch, axis=0)) for image in images]
        return {"probability": np.stack([maps["probability"][0] for maps in found])}

    def environment(self) -> dict[str, Any]:
        return self._runner.environment()  # type: ignore[no-any-return]


def _reference(model: LoadedModel, pixels: PixelFormat) -> Runner | None:
    """The model itself, with the geometry of the file's pixels; None where nothing here runs it."""
    own = model.record.spec
    spec = replace(own, pixels=replace(pixels, colour=own.pixels.colour, mean=own.pixels.mean, std=own.pixels.std))
    if installed("onnxruntime"):
        from evaluation.onnx_runner import OnnxRuntimeRunner
        return OnnxRuntimeRunner(archive(spec, model.weights, False), spec)
    if installed("torch"):
        from torch_reference.runner import TorchRunner
        return TorchRunner(spec, model.weights, "cpu", ("probability",))
    return None


def _compared(delivered: Delivered, model: LoadedModel, name: str, reference: Any, images: list[tuple[str, str]],
              pixels: PixelFormat) -> Checked:
    batch = delivered.input_shape[0]
    try:
        opened = open_runner(delivered.path, name, stages=("probability",), options=SourceOptions())
        # Those of the file; of the model itself in a runtime that takes no more than the weights of it.
        given = opened.spec.pixels
        spec = replace(delivered.spec, pixels=replace(pixels, colour=given.colour, mean=given.mean, std=given.std))
        candidate = _As(opened, spec, batch if isinstance(batch, int) else 1)
        noise = _noise(delivered, model.record.spec.pixels, given)
        far = _far(reference.run(noise[0]), candidate.run(noise[1]))
        maps = compare_maps(Side(reference, spec.boxes), Side(candidate, spec.boxes), images, tolerance=WHOLE)
    except DbnetError as error:
        if any(mark in str(error) for mark in _REFUSALS):
            raise RefusedError(name, name, str(error), path=delivered.path) from error
        raise
    if maps.failed:
        raise DbnetError(f"not compared in {name}: {maps.failed[0]}")
    boxes = maps.boxes
    row = Checked(name, _runtime(opened), far, maps.max_abs, len(maps.images), boxes.a, boxes.identical, boxes.lost,
                  boxes.invented, delivered.precision == "fp16")
    (_require_boxes if row.half else _require_same)(row, maps)
    return row


def _noise(delivered: Delivered, own: PixelFormat, given: PixelFormat) -> tuple[np.ndarray, np.ndarray]:
    """Images with `own` pixels, and the same with those that are given to the file."""
    batch, _, *sides = delivered.input_shape
    height, width = (side if isinstance(side, int) else tried for side, tried in zip(sides, SIZE, strict=True))
    wanted = seeded_images(batch if isinstance(batch, int) else 2, height, width)

    def column(values: tuple[float, float, float]) -> np.ndarray:
        return np.array(values, np.float64).reshape(1, 3, 1, 1)

    raw = wanted * column(own.std) + column(own.mean)
    raw = raw[:, ::-1] if own.colour != given.colour else raw
    same = (own.colour, own.mean, own.std) == (given.colour, given.mean, given.std)
    return wanted, wanted if same else ((raw - column(given.mean)) / column(given.std)).astype(np.float32)


def _far(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """Largest difference; NaN where one is no number."""
    return float(np.abs(a["probability"] - b["probability"]).max())


def _runtime(runner: Any) -> str:
    told = runner.environment()
    names = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "opencv": "OpenCV", "mindspore": "MindSpore",
             "torch": "PyTorch"}
    return f"{names.get(told['framework'], told['framework'])} {told['version']}"


def _found(delivered: Delivered, model: LoadedModel, finder: Finder, images: list[tuple[str, str]]) -> Checked:
    """What the runtime's own way from image to boxes finds, beside the model under the same rules. Raises DbnetError if
    more than LOST of the boxes are others, those apart that sit on a threshold.
    """
    if finder.why is not None:
        return Checked(finder.name, why=finder.why)
    spec, reference = delivered.spec, _reference(model, delivered.spec.pixels)
    total, others = Boxes(), 0
    for _, path in images:
        image = read_image(path, spec.pixels.ignore_orientation)
        theirs = [Detection(quad, 1.0) for quad in finder.find(delivered.path, image, spec)]
        likely, ours, sure = _by_thresholds(reference, image, spec.boxes)
        if spec.boxes.rule == "opencv":
            likely, ours, sure, theirs = map(_from_one_corner, (likely, ours, sure, theirs))
        total += compare_boxes(ours, theirs)
        missed, more = compare_boxes(sure, theirs), compare_boxes(likely, theirs)
        others += max(missed.a - missed.identical, more.b - more.identical)
    if others > int(LOST * total.a):
        raise DbnetError(f"{finder.runtime()} finds {total.b} texts where the model has {total.a}, {total.identical} "
                         f"of them the same; nothing was written, please report this")
    return Checked(finder.name, finder.runtime(), None, None, len(images), total.a, total.identical, total.lost,
                   total.invented)


def _by_thresholds(reference: Any, image: np.ndarray, rule: BoxRule) -> list[list[Detection]]:
    """The model's boxes with a `box_thresh` that is lower by NEAR, as it is, and higher; by OpenCV's rule the first are
    those that any of its versions finds, the last those that all find.
    """
    prepared = prepare(image, reference.spec.pixels)
    found = probability_map(reference, prepared.tensor)

    def boxes(by: float, certain: bool | None = None) -> list[Detection]:
        moved = replace(rule, box_thresh=rule.box_thresh + by)
        if rule.rule == "opencv" and certain is not None:
            return boxes_of_any_opencv(found, moved, certain=certain, resized_size=prepared.resized_size,
                                       original_size=prepared.original_size)
        return boxes_from_map(found, **asdict(moved), resized_size=prepared.resized_size,
                              original_size=prepared.original_size)

    return [boxes(-NEAR, certain=False), boxes(0.0), boxes(NEAR, certain=True)]


def _from_one_corner(found: Sequence[Detection]) -> list[Detection]:
    """The same quads, each from its leftmost corner on: where OpenCV's own begin depends on its version, and is no
    part of what the model computes.
    """
    return [replace(each, polygon=np.roll(each.polygon, -int(np.lexsort(each.polygon.T[::-1])[0]), axis=0))
            for each in found]


# Verdicts -------------------------------------------------------------------------------------------------------------


def _require_same(row: Checked, maps: MapComparison) -> None:
    tolerance = TOLERANCE if parse_runner(row.runner).framework == "onnxruntime" else ELSEWHERE
    for what, far, most in (("on seeded noise", row.noise, tolerance), ("on images", maps.max_abs, WHOLE)):
        if far is None or not far <= most:
            told = "a map of another size, or NaN" if far is None else f"a difference of {far:.1e}"
            raise DbnetError(f"what was written differs from the model in {row.runtime}, by {told} {what}, more than "
                             f"{most:.0e}; nothing was written, please report this")


def _require_boxes(row: Checked, maps: MapComparison) -> None:
    if row.noise is None or not np.isfinite(row.noise) or maps.not_finite:
        raise DbnetError(f"in float16 the map holds NaN or Inf in {row.runtime}; nothing was written: dbnet precision "
                         f"MODEL --images DIR says which layers to keep (--keep-float32)")
    if (changed := changed_in_half(maps)) is not None:
        raise DbnetError(f"in float16 {changed} in {row.runtime}; nothing was written: dbnet precision MODEL --images "
                         f"DIR says which layers to keep (--keep-float32)")


def changed_in_half(maps: MapComparison) -> str | None:
    """What rounding may not do to a model; None if it did not."""
    boxes = maps.boxes
    if boxes.lost:
        return f"{boxes.lost} of {boxes.a} boxes are lost"
    if boxes.invented > int(LOST * boxes.a):
        return f"{boxes.invented} boxes are new beside {boxes.a} of the model"
    if maps.mean_abs is not None and maps.mean_abs > HALF:
        return f"the probability is off by {maps.mean_abs:.1e} in the mean, more than {HALF:.0e},"
    return None
