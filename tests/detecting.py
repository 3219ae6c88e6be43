"""What the tests of `dbnet detect` share: a small seeded model that finds something, drawn photographs, the command."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import converters
from dbnet.__main__ import main
from dbnet.datasets.drawn import draw
from dbnet.sample import Sample
from dbnet.seeded import seeded_weights
from dbnet.spec import PADDLE_PIXELS, SPECS

#: A network that was never trained, with thresholds that leave something to compare, and small inputs.
SPEC = replace(SPECS["dbnet_mobilenetv3"], pixels=replace(PADDLE_PIXELS, size=(192, 192)),
               boxes=replace(SPECS["dbnet_mobilenetv3"].boxes, binary_thresh=0.5))


def write_model(path: Path) -> Path:
    converters.save_weights(seeded_weights(SPEC, 2030), path, spec=SPEC)
    return path


def write_image(path: Path, seed: int = 0, height: int = 200, width: int = 320) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, draw(seed, height, width)[0])[1].tobytes())
    return path


def write_photos(folder: Path, count: int = 5, suffix: str = ".png") -> list[Path]:
    return [write_image(folder / f"img_{i}{suffix}", i, 200 + 20 * (i % 5)) for i in range(1, count + 1)]


def write_labels(folder: Path, count: int = 5) -> Path:
    """ICDAR 2015's labels of `write_photos`."""
    folder.mkdir()
    for i in range(1, count + 1):
        polygons = draw(i, 200 + 20 * (i % 5), 320)[1]
        lines = [",".join(f"{value:.0f}" for value in polygon.ravel()) + ",word" for polygon in polygons]
        (folder / f"gt_img_{i}.txt").write_text("\n".join(lines))
    return folder


def sample(path: Path) -> Sample:
    return Sample(path, [], np.zeros(0, bool), [])


def dbnet(monkeypatch: pytest.MonkeyPatch, *arguments: object, code: int = 0) -> None:
    """Runs the command in this process; what it prints is the test's to capture."""
    monkeypatch.setattr(sys, "argv", ["dbnet", *map(str, arguments)])
    done: object = 0
    try:
        main()
    except SystemExit as stop:
        done = stop.code
    assert done == code
