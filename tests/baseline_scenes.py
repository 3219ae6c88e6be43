"""What the tests of the upgrade alarm share: a run of made-up numbers, and pytest within pytest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dbnet.record import Record
from dbnet.sample import Detection
from dbnet.spec import SPECS, STAGES
from parity.baseline_runs import KEY
from parity.trace import PIXELS, Recorder, Trace, TracedImage
from tests.conftest import ROOT

SPEC = SPECS["dbnet_mobilenetv3"]
ORDER = (PIXELS, *STAGES)
PASSED, FAILED, USAGE, NOTHING = 0, 1, 4, 5


def plain(table: Any) -> dict[str, Any]:
    """As JSON gives it back."""
    return dict(json.loads(json.dumps(asdict(table))))


def about(**changed: Any) -> dict[str, Any]:
    """Who recorded; `environment`, `machine`, `versions` and `baseline` are added to, the rest is replaced."""
    found: dict[str, Any] = {
        "record": Record(SPEC, "seeded", "ab" * 32).to_json(), "origin": "seeded", "file": "m.safetensors",
        "runner": "mindspore", "device": "cpu", "digest": "ab" * 32, "pixels": plain(SPEC.pixels),
        "boxes": asdict(SPEC.boxes), "notes": [],
        "environment": {"framework": "mindspore", "version": "2.8.0", "numpy": "1.26.4", "device": "cpu",
                        "precision": "float32", "threads": 2, "onednn_max_isa": "AVX2"},
        "machine": {"processor": "P", "cores": 2, "system": "Linux", "python": "3.11.7"},
        "versions": {"dbnet-parity": "0.1", "numpy": "1.26.4", "opencv": "4.11.0"},
        KEY: {"of": "networks", "variables": {}, "instructions": "avx2", "code": "c"}}
    for name, value in changed.items():
        found[name] = {**found[name], **value} if name in ("environment", "machine", "versions", KEY) else value
    return found


def maps(seed: int = 0) -> dict[str, np.ndarray]:
    """Every stage (1, C, H, W) float32, of two sizes: one that a sample holds as a whole, and one that it does not."""
    rng = np.random.default_rng(seed)
    return {stage: rng.normal(0.3, 1, (1, 3, 16 if i % 2 else 64, 64)).astype(np.float32)
            for i, stage in enumerate(ORDER)}


def boxes(shift: float = 0.0, score: float = 0.9) -> list[Detection]:
    corners = np.array([[10, 10], [60, 10], [60, 30], [10, 30]], np.float32)
    return [Detection(corners, 0.8), Detection(corners + np.float32(100 + shift), score)]


def run(images: Mapping[str, dict[str, np.ndarray]] | None = None, found: list[Detection] | None = None,
        level: str = "sampled", stages: tuple[str, ...] = ORDER, **changed: Any) -> Trace:
    """images: name -> maps; the sha256 of an image is that of its name's first letter, sixty-four times."""
    recorder = Recorder(about(**changed), stages, level)
    for name, each in (images or {"a.png": maps()}).items():
        image = TracedImage(name, name[0] * 64, (64, 64), (64, 64), each[PIXELS].shape)  # type: ignore[arg-type]
        recorder.add(image, each, boxes() if found is None else found)
    return recorder.trace()


class Pytest:
    """pytest within pytest, in a folder."""

    def __init__(self, capfd: pytest.CaptureFixture[str], folder: Path):
        self._capfd, self.folder = capfd, folder

    def __call__(self, *arguments: str, where: Path = ROOT / "parity") -> tuple[int, str]:
        """Exit code, and what it printed."""
        self._capfd.readouterr()
        code = pytest.main([str(where), "-p", "no:cacheprovider", "-p", "no:faulthandler",
                            f"--rootdir={ROOT}", f"-c{ROOT / 'pyproject.toml'}", *arguments])
        printed = self._capfd.readouterr()
        assert "Traceback" not in printed.out + printed.err and "INTERNALERROR" not in printed.out + printed.err
        return int(code), printed.out + printed.err
