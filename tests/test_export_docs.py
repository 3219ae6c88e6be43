"""The commands of docs/export.md run, and its numbers are the code's."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import cv2
import pytest

from dbnet.datasets.drawn import draw
from evaluation.delivery import check
from evaluation.delivery.opencv import OPSET, SIZE
from evaluation.delivery.rapidocr import BOXES, PIXELS
from evaluation.delivery.targets import TARGETS
from tests.running import command

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/export.md").read_text(encoding="utf-8")
[BLOCK] = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line.removeprefix("$ dbnet ").split() for line in BLOCK.splitlines()]


def test_the_numbers_of_the_page():
    assert f"by {check.TOLERANCE:.0e} on noise".replace("e-0", "e-") in " ".join(PAGE.split())
    assert f"by {check.ELSEWHERE:.0e} in another".replace("e-0", "e-") in " ".join(PAGE.split())
    assert f"by {check.WHOLE:.0e} on whole images".replace("e-0", "e-") in " ".join(PAGE.split())
    assert f"within {check.NEAR} of `box_thresh`" in PAGE and int(check.LOST * 10) == 1 and not int(check.LOST * 9)
    assert f"more than {check.HALF:.0e} in the mean".replace("e-0", "e-") in " ".join(PAGE.split())
    assert f"else {SIZE[0]}x{SIZE[1]}" in PAGE and f"Opset {OPSET}:" in PAGE
    assert f"at least {PIXELS.size[0]}" in PAGE and f"`box_thresh` {BOXES.box_thresh}" in PAGE
    assert f"`unclip_ratio` {BOXES.unclip_ratio} and dilation" in PAGE and BOXES.dilation
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGE, re.MULTILINE))
    assert {name: set(re.findall(r"`(\.\w+)`", rows[name])) - {".bin"} for name in TARGETS} == {
        name: set(target.suffixes) for name, target in TARGETS.items()}


@pytest.mark.parametrize("number", [n if n in (0, 6) else pytest.param(n, marks=pytest.mark.long)
                                    for n in range(len(COMMANDS))])
def test_the_commands_of_the_page(number, tmp_path, monkeypatch):
    words = COMMANDS[number]
    for needed in ("onnxruntime", *(["openvino"] if "model.xml" in words else []),
                   *(["mindspore"] if "--local_ckpt_path" in words else [])):
        pytest.importorskip(needed)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    cv2.imwrite("photos/a.png", draw(4, 96, 160)[0])
    trained = ROOT / "dbnet/embedded/dbnet_mobilenetv3.safetensors"
    shutil.copy(trained, "model.safetensors")
    assert command("convert", "model.safetensors", "model.ckpt").returncode == 0
    done = command(*words)
    assert done.returncode == 0, (words, done.stderr, done.stdout)
    assert "not run" not in done.stdout
