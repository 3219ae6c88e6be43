"""What a hand-off proves with: images, the network's input and the source model's output for each, and the boxes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from converters.load import LoadedModel
from dbnet.datasets.drawn import draw
from dbnet.errors import DbnetError
from dbnet.extras import installed
from dbnet.postprocess import boxes_from_map
from dbnet.preprocess import Prepared, input_size, prepare, read_bytes
from dbnet.running import runnable
from dbnet.sample import Detection
from dbnet.spec import PixelFormat
from evaluation.delivery.settings import Delivered
from evaluation.pictures import decode
from evaluation.pipeline import naming

#: Seeds, heights and widths of the scenes that are drawn where no images are given.
SCENES = ((101, 360, 640), (102, 480, 640), (103, 720, 960))
#: Resize rules that bring every image to one size.
ONE_SIZE = ("stretch", "keep_ratio_pad")
#: Of an input that is over four times its image: beyond 736 x 10880 a strip of a few pixels took all memory.
MOST_PIXELS = 8_000_000
#: A box may be missing on one side if its score is so near to the threshold: `cv2.fillPoly` differs between versions.
SCORE_TOLERANCE = 0.01


@dataclass(frozen=True)
class Tolerance:
    """map_largest, map_mean: differences in probability. corner: of a box, pixels. score: a fraction."""

    map_largest: float
    map_mean: float
    corner: float
    score: float


#: Both are the same float32 computation; whole images of trained models are within 1e-4 in every runtime.
FLOAT32 = Tolerance(1e-4, 1e-5, 0.01, SCORE_TOLERANCE)
#: Half precision moves a box here and there by a pixel of the map.
FP16 = Tolerance(0.2, 1e-3, 4.0, 0.02)
#: Pixels of a corner under MMOCR's rule, which grows outlines with notches: Clipper rounds where such an outline
#: crosses itself, the example does not.
MMOCR_CORNER = 2.0


def tolerance_of(delivered: Delivered) -> Tolerance:
    """What a runtime may differ by from the source."""
    tolerance = FP16 if delivered.precision == "fp16" else FLOAT32
    if delivered.spec.boxes.rule == "mmocr":
        return replace(tolerance, corner=max(MMOCR_CORNER, tolerance.corner))
    return tolerance


@dataclass(frozen=True, eq=False)
class Scene:
    """name: below images/. image: (H, W, 3) uint8, BGR. ours: drawn, so that it is handed over too."""

    name: str
    image: np.ndarray
    ours: bool


@dataclass(frozen=True, eq=False)
class Proof:
    """One data set. tensor: what the file takes. output: what the source gives, in the file's shape. picture: the
    resized image, (h, w, 3) uint8, BGR. boxes: what boxes.json says."""

    tensor: np.ndarray
    output: np.ndarray
    picture: np.ndarray
    boxes: dict[str, Any]


class Source:
    """The weights in the graph of our archive form, or in torch: not the file that is handed over."""

    def __init__(self, model: LoadedModel, delivered: Delivered):
        """Raises DbnetError without ONNX Runtime and torch."""
        own, self.taken = model.record.spec.pixels, delivered.spec.pixels
        #: Resized as the file's users do it, normalised as the weights were trained.
        self.own = replace(self.taken, colour=own.colour, mean=own.mean, std=own.std)
        self._delivered = delivered
        stages = ("logits", "probability") if delivered.output == "logits" else ("probability",)
        self._runner = _runner(model, stages)

    @property
    def title(self) -> str:
        """Which framework gave the outputs, with its version."""
        environment = self._runner.environment()
        return f"{environment['framework']} {environment['version']}"

    def proof(self, scene: Scene) -> Proof:
        """Raises DbnetError if the image cannot become an input of the file."""
        _check_growth(scene.image, self.taken)
        ready = prepare(scene.image, self.taken)
        _check_shape(ready.tensor.shape, self._delivered)
        maps = self._maps(scene.image, self.own)
        picture = resized_picture(scene.image, ready, self.taken)
        of_picture = maps
        if self.taken.resize == "short_side":  # whose resized image is no picture of 8 bits
            of_picture = self._maps(picture, replace(self.own, resize="stretch", size=ready.resized_size))
        batch = self._delivered.input_shape[0]
        repeats = batch if isinstance(batch, int) else 1
        output = maps[self._delivered.output].repeat(repeats, axis=0)
        if self._delivered.output_rank == 2:
            output = output[0, 0]
        return Proof(ready.tensor.repeat(repeats, axis=0), output, picture,
                     self._boxes(scene, ready, maps["probability"], of_picture["probability"]))

    def _maps(self, image: np.ndarray, pixels: PixelFormat) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = self._runner.run(prepare(image, pixels).tensor)
        return found

    def _boxes(self, scene: Scene, ready: Prepared, first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
        rule, tolerance = self._delivered.spec.boxes, tolerance_of(self._delivered)
        found = {"detections": (rule, first), "detections_of_resized": (rule, second)}
        if rule.box_type == "poly":  # the C++ example finds rectangles
            quads = replace(rule, box_type="quad")
            found |= {"quads": (quads, first), "quads_of_resized": (quads, second)}
        told = {key: [_told(detection) for detection in boxes_from_map(
            map_[0, 0], **asdict(boxes), resized_size=ready.resized_size, original_size=ready.original_size)]
            for key, (boxes, map_) in found.items()}
        return {"file": scene.name, "original_size": list(ready.original_size),
                "resized_size": list(ready.resized_size), "input_size": list(ready.tensor.shape[2:]),
                "box_thresh": rule.box_thresh, "score_tolerance": tolerance.score,
                "corner_tolerance": tolerance.corner, **told}


def _runner(model: LoadedModel, stages: tuple[str, ...]) -> Any:
    from evaluation.runners import OnnxRuntimeRunner, archive
    spec = model.record.spec
    if installed("onnxruntime"):
        return OnnxRuntimeRunner(archive(spec, model.weights, len(stages) > 1), spec, "cpu", stages)
    if not installed("torch"):
        raise DbnetError("a hand-off holds the source model's outputs, and there is no framework to compute them: "
                         "pip install 'dbnet-parity[onnxruntime]'")
    from torch_reference.runner import TorchRunner
    return TorchRunner(spec, runnable(spec, model.weights), "cpu", stages)


def _check_growth(image: np.ndarray, pixels: PixelFormat) -> None:
    """Raises DbnetError for a strip that its short side makes a huge input, for which memory may not do."""
    height, width = image.shape[:2]
    rows, columns = input_size(height, width, pixels)[1]
    if rows * columns > max(MOST_PIXELS, 4 * height * width):
        raise DbnetError(f"an image of {height} x {width} pixels becomes {rows} x {columns} by the resize rule "
                         f"{pixels.resize}, too much to prove with; leave it out of --images, or crop it")


def _check_shape(shape: Sequence[int], delivered: Delivered) -> None:
    """Raises DbnetError if the file has another fixed size."""
    fixed = delivered.input_shape[2:]
    if all(side in (taken, str(side)) or not isinstance(side, int)
           for side, taken in zip(fixed, shape[2:], strict=True)):
        return
    sides = "x".join(map(str, fixed))
    raise DbnetError(f"becomes {shape[2]} x {shape[3]} by the resize rule {delivered.spec.pixels.resize}, and the file "
                     f"takes {fixed[0]} x {fixed[1]} only; give images of that shape, or export with "
                     f"--pixels resize=stretch,size={sides}")


def resized_picture(image: np.ndarray, ready: Prepared, pixels: PixelFormat) -> np.ndarray:
    """(h, w, 3) uint8 in BGR: what is normalised, without padding."""
    height, width = ready.resized_size
    if pixels.resize != "short_side":
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    floats = cv2.resize(np.float32(image), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(np.rint(floats), 0, 255).astype(np.uint8)


def _told(detection: Detection) -> dict[str, Any]:
    return {"polygon": np.asarray(detection.polygon, np.float64).tolist(), "score": round(detection.score, 6)}


# Images ---------------------------------------------------------------------------------------------------------------


def scenes(images: Sequence[Path], delivered: Delivered) -> Iterator[Scene]:
    """The user's images, one after the other, or else three drawn ones. Raises DbnetError for one that is none."""
    if not images:
        fixed = [side for side in delivered.input_shape[2:] if isinstance(side, int)]
        for number, (seed, height, width) in enumerate(SCENES):
            if len(fixed) == 2 and delivered.spec.pixels.resize not in ONE_SIZE:
                height, width = fixed
            yield Scene(f"scene_{number}.png", draw(seed, height, width)[0], ours=True)
        return
    for path, name in zip(images, names_of(images), strict=True):
        with naming(path):
            image = decode(read_bytes(path), path, delivered.spec.pixels.ignore_orientation)
        yield Scene(name, image, ours=False)


def names_of(images: Sequence[Path]) -> list[str]:
    """File names; paths below the folder that holds them all where two would be the same, with / between folders."""
    names = [path.name for path in images]
    if len(set(names)) < len(names):
        whole = [os.path.abspath(path) for path in images]
        if len(set(whole)) < len(whole):
            raise DbnetError("an image is given twice; name each once")
        top = os.path.commonpath([os.path.dirname(path) for path in whole])
        names = [os.path.relpath(path, top).replace(os.sep, "/") for path in whole]
    for name in names:
        if any(ord(character) < 32 or 0xD800 <= ord(character) < 0xE000 for character in name):
            raise DbnetError(f"{name!r}: its name is no plain text, and boxes.json could not hold it; rename it")
    return names


# Files ----------------------------------------------------------------------------------------------------------------


def write_proof(folder: Path, proof: Proof, delivered: Delivered) -> None:
    """The four files of a data set. Raises OSError."""
    from onnx import numpy_helper
    folder.mkdir()
    for file, array, name in (("input_0.pb", proof.tensor, delivered.input_name),
                              ("output_0.pb", proof.output, delivered.output_name)):
        tensor = numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name)
        (folder / file).write_bytes(tensor.SerializeToString())
    write_png(folder / "resized.png", proof.picture)
    (folder / "boxes.json").write_text(boxes_json(proof.boxes), encoding="utf-8")


def boxes_json(boxes: dict[str, Any]) -> str:
    """A box a line. Characters as they are: OpenCV, which reads this in C++, knows no \\u."""
    lines = []
    for key, value in boxes.items():
        many = isinstance(value, list) and value and isinstance(value[0], dict)
        text = "[\n  " + ",\n  ".join(_line(entry) for entry in value) + "\n ]" if many else _line(value)
        lines.append(f" {_line(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def write_png(path: Path, image: np.ndarray) -> None:
    """(H, W, 3) uint8 in BGR, as every reader of PNG shows it. Raises OSError."""
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
