"""The files of a hand-off that are texts: preprocess.json, README.md, verify.py and the example in C++."""

from __future__ import annotations

import functools
import json
import re
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from converters.load import LoadedModel
from dbnet.spec import STRIDE, BoxRule
from dbnet.version import VERSION
from evaluation.delivery.handoff_data import tolerance_of
from evaluation.delivery.handoff_rules import padding_of, resize_of, steps_of
from evaluation.delivery.settings import Delivered
from evaluation.evaluate import versions

#: Files that a runtime of verify.py's opens.
RUN = (".onnx", ".xml")
#: Rules that the example in C++ is written for.
CPP_RULES = ("mindocr", "mhliao", "paddle", "mmocr", "opencv")


def preprocess(delivered: Delivered, model: LoadedModel, source: str, files: dict[str, str]) -> dict[str, Any]:
    """preprocess.json. source: who gave the outputs. files: of the model, name -> sha256."""
    spec = delivered.spec
    pixels, resize = spec.pixels, resize_of(spec.pixels)
    turned = "left as it is stored" if pixels.ignore_orientation else "turned as its EXIF orientation says"
    return {
        "file": opened(delivered).name, "files": files, "target": delivered.target, "spec": spec.name,
        "weights": {"sha256": model.record.sha256, "of": "sorted names, types, shapes and bytes (dbnet inspect)"},
        "opset": delivered.opset, "precision": delivered.precision,
        "input": {"name": delivered.input_name, "shape": list(delivered.input_shape), "type": "float32",
                  "layout": "NCHW", "multiple_of": STRIDE},
        "output": {"name": delivered.output_name, "rank": delivered.output_rank, "holds": delivered.output,
                   "size": "that of the input"},
        "read": f"8 bits a channel, grey as colours, no alpha, {turned} (cv2.imread, which gives BGR)",
        "colour": pixels.colour, "mean": list(pixels.mean), "std": list(pixels.std),
        "normalise": "(x - mean) / std in float32, x in 0..255, mean and std in the order of colour",
        "of_pixels_in_0_to_1": {"mean": [value / 255 for value in pixels.mean],
                                "std": [value / 255 for value in pixels.std]},
        "or": {"formula": "x * scale + shift", "scale": [1 / value for value in pixels.std],
               "shift": [-mean / std for mean, std in zip(pixels.mean, pixels.std, strict=True)]},
        "resize": {"rule": pixels.resize, "size": list(pixels.size), "words": resize.words,
                   "python": list(resize.python), "interpolation": "cv2.INTER_LINEAR",
                   "on": "float32" if pixels.resize == "short_side" else "uint8"},
        "padding": padding_of(pixels),
        "boxes": _rule_told(spec.boxes), "boxes_step_by_step": steps_of(spec.boxes),
        "tolerance": asdict(tolerance_of(delivered)), "outputs_made_with": source, "versions": versions()}


def opened(delivered: Delivered) -> Path:
    """Of its files the one that verify.py and the example open: the .onnx beside an .om, which its chip alone runs."""
    if delivered.path.suffix.lower() in RUN:
        return delivered.path
    return next((path for path in delivered.files if path.suffix.lower() in RUN), delivered.path)


def _rule_told(boxes: BoxRule) -> dict[str, Any]:
    """Its fields without those that mean nothing to it."""
    told = asdict(boxes)
    if boxes.rule != "paddle":
        told.pop("score_mode"), told.pop("dilation")
    return told


def _suffix(delivered: Delivered) -> str:
    return opened(delivered).suffix.lower()


def example_of(delivered: Delivered) -> str | None:
    """Why there is no example in C++; None if there is one."""
    if (suffix := _suffix(delivered)) not in RUN:
        return f"neither OpenCV nor OpenVINO runs a {suffix} file"
    if delivered.spec.boxes.rule not in CPP_RULES:
        return f"not written for the box rule {delivered.spec.boxes.rule}"
    return None


def needs_openvino(delivered: Delivered) -> str | None:
    """Why OpenCV 4 cannot run the network, of some version or of all; None if it can."""
    spec = delivered.spec
    if _suffix(delivered) == ".xml":
        return "OpenCV reads no .xml of OpenVINO's."
    if delivered.target == "rapidocr":
        return "OpenCV 4.6 refuses the Gather that turns RapidOCR's BGR round."
    if delivered.precision == "fp16":
        return "OpenCV 4.6 reads no FLOAT16."
    if spec.deformable != "none":
        return "OpenCV 4 refuses deformable convolutions, OpenCV 5 runs them."
    if spec.relevant_semantics().get("upsampling") == "align_corners":
        return "OpenCV 4 refuses a Resize with aligned corners."
    if spec.relevant_semantics().get("fusion") in ("asf", "asf_spatial"):
        return "OpenCV 4.6 refuses the adaptive scale fusion; from 4.10 on -DWITH_OPENVINO=OFF works too."
    return None


def runtimes_of(delivered: Delivered) -> list[str]:
    """Which runtimes verify.py may use, the first by default."""
    if _suffix(delivered) == ".xml":
        return ["openvino"]
    if _suffix(delivered) != ".onnx":
        return []
    return ["onnxruntime", "openvino", "opencv"] if needs_openvino(delivered) is None else ["onnxruntime", "openvino"]


def json_of(about: dict[str, Any]) -> str:
    """For people too: lists of numbers stay on their line."""
    text = json.dumps(about, indent=1, ensure_ascii=False)
    return re.sub(r"\[\n[^][{}]{1,120}\]", lambda found: _on_one_line(found[0]), text) + "\n"


def _on_one_line(numbers: str) -> str:
    return "[" + ", ".join(part.strip() for part in numbers.strip("[]").split(",\n")) + "]"


def written(delivered: Delivered, notes: dict[str, Any]) -> dict[str, str]:
    """File name -> content. notes: what README.md says of this hand-off besides."""
    names = ["README.md", "verify.py"]
    if example_of(delivered) is None:
        names += ["detect.cpp", "network.hpp", "check.hpp", "CMakeLists.txt"]
    shown = {**_of_model(delivered), **notes}
    return {name: _environment().get_template(f"{name}.jinja").render(shown) for name in names}


def _of_model(delivered: Delivered) -> dict[str, Any]:
    spec = delivered.spec
    pixels, boxes, tolerance = spec.pixels, spec.boxes, tolerance_of(delivered)
    resize, batch = resize_of(pixels), delivered.input_shape[0]
    why, name = needs_openvino(delivered), opened(delivered).name
    return {
        "delivered": delivered, "file": name, "plain": _plain(name), "quoted": shlex.quote(name),
        "version": VERSION, "spec": spec.name, "pixels": pixels, "boxes": boxes, "stride": STRIDE,
        "batch": batch if isinstance(batch, int) else 1, "floats": pixels.resize == "short_side",
        "logits": delivered.output == "logits", "mmocr": boxes.rule == "mmocr",
        "slow": boxes.rule == "paddle" and boxes.score_mode == "slow", "resize": resize, "padding": padding_of(pixels),
        "words": textwrap.wrap(_sentence(resize.words), 110), "mean": _floats(pixels.mean), "std": _floats(pixels.std),
        "numbers": {"mean": _numbers(pixels.mean), "std": _numbers(pixels.std)},
        "key": "quads" if boxes.box_type == "poly" else "detections", "unclip": boxes.unclip_ratio,
        "runtimes": runtimes_of(delivered), "openvino": why is not None, "no_example": example_of(delivered),
        "why_openvino": why or "OpenCV runs this model itself.", "tolerance": tolerance,
        "steps": steps_of(boxes)}


def _floats(values: Sequence[float]) -> str:
    """As C++ writes float32."""
    return ", ".join(f"{np.float32(value)!s}f" for value in values)


def _plain(name: str) -> str:
    """A file's name for comments and docstrings, without what could end one."""
    return re.sub(r"[^\w .,+@=()~-]", "_", name)


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.9g}" for value in values)


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:] + "."


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(  # texts, no HTML: nothing is escaped
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("template")), trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["sentence"] = _sentence
    return environment


