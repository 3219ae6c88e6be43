"""The numbers of docs/traces.md that the code decides, and its commands."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from dbnet.datasets.drawn import draw
from dbnet.sample import Detection
from parity.trace import ORDER, Recorder, TracedImage
from parity.trace_file import ONLY, write_traces
from parity.trace_statistics import GROUPS, SAMPLE, SKETCH, TILES, WIDTH
from tests.running import command
from tests.test_trace import EMBEDDED, SMALL

PAGE = (Path(__file__).resolve().parents[1] / "docs/traces.md").read_text(encoding="utf-8")


def test_the_numbers_of_the_page():
    assert f"{WIDTH} numbers" in PAGE and f"{SAMPLE} values more" in PAGE and f"in {SKETCH} places" in PAGE
    assert f"{TILES} x {TILES} tiles" in PAGE and f"{GROUPS} groups of channels" in PAGE
    per_image = 14 * (8 * WIDTH + 32 + 32)
    assert f"| {200 * per_image / 1e6:.0f} MB | the same image files |" in PAGE
    assert f"| {200 * (per_image + 14 * 4 * SAMPLE) / 1e6:.0f} MB | the same image files |" in PAGE
    help_text = command("trace", "--help").stdout
    assert f"{WIDTH} numbers" in help_text and str(SAMPLE) in help_text


@pytest.mark.long
def test_statistics_of_200_images_are_below_20_megabytes(tmp_path):
    """Whatever their size: a row of statistics has as many numbers for every map."""
    recorder = Recorder({}, ORDER, "statistics")
    maps = {stage: np.full((1, 2, 8, 8), 0.5, np.float32) for stage in ORDER}
    boxes = [Detection(np.arange(8.0).reshape(4, 2), 0.5)] * 30
    for i in range(200):
        recorder.add(TracedImage(f"a_long_name_of_an_image_{i}.jpg", "0" * 64, (720, 1280), (8, 8), (1, 2, 8, 8)), maps,
                     boxes)
    write_traces(tmp_path / "t.trace", {ONLY: recorder.trace()})
    size = (tmp_path / "t.trace").stat().st_size
    assert 14e6 < size < 17e6


def test_the_commands_of_the_page(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    cv2.imwrite("photos/a.png", draw(4, 96, 160)[0])
    [block] = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    lines = [line.removeprefix("$ dbnet ").split("#")[0].split() for line in block.splitlines()]
    assert len(lines) == 5
    lines.insert(0, ["trace", "model.pth", "--images", "photos", "-o", "npu.trace", "--runner", "torch"])
    for words in lines:
        words = [{"model.pth": str(EMBEDDED), "model.ckpt": str(EMBEDDED), "cuda:0": "cpu"}.get(word, word)
                 for word in words if word not in ("--gt", "gt.zip")]
        own = SMALL if any(str(EMBEDDED) == word for word in words) else ()
        done = command(*words, *own)
        assert done.returncode == 0, (words, done.stderr, done.stdout)
