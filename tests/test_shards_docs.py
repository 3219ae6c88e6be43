"""docs/scale.md: its commands are run, and its table is that of the benchmark."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from dbnet.datasets.drawn import draw
from tests.running import dbnet
from tests.test_trace import EMBEDDED, SMALL

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/scale.md").read_text(encoding="utf-8").partition("## On a Ray cluster")[0]
OURS = ("--runner", "onnxruntime", "--threads", "1", *SMALL)


@pytest.fixture
def data(tmp_path):
    """What the page calls icdar2015 and photos: four small pictures with their labels."""
    for part in ("images", "gt"):
        (tmp_path / "icdar2015" / part).mkdir(parents=True)
    for i in range(1, 5):
        image, polygons = draw(i, 96, 128)
        cv2.imwrite(str(tmp_path / f"icdar2015/images/img_{i}.png"), image)
        lines = [",".join(str(round(v)) for v in polygon.flat) + ",word" for polygon in polygons]
        (tmp_path / f"icdar2015/gt/gt_img_{i}.txt").write_text("\n".join(lines))
    shutil.copytree(tmp_path / "icdar2015/images", tmp_path / "photos")
    return tmp_path


def run(words, folder):
    places = {name: str(folder / name) for name in ("icdar2015", "photos")} | {"model.pth": str(EMBEDDED)}
    words = [places.get(word, str(folder / word) if word.endswith((".json", ".jsonl", ".trace")) else word)
             for word in words]
    return dbnet(*words, *(OURS if str(EMBEDDED) in words else ()))


def test_the_commands_of_the_page(data):
    pytest.importorskip("onnxruntime")
    [block] = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    lines = [line.removeprefix("$ dbnet ").split("#")[0].split() for line in block.splitlines()]
    assert len(lines) == 6
    for words in lines:
        run(words, data)
    run(["evaluate", "model.pth", "--root", "icdar2015", "--json", "one.json"], data)
    run(["trace", "model.pth", "--images", "photos", "-o", "one.trace"], data)
    for suffix in ("json", "trace"):
        assert (data / f"whole.{suffix}").read_bytes() == (data / f"one.{suffix}").read_bytes()


def test_the_shell_of_the_page(data):
    """The loop and the array, with a `dbnet` that tells how it was called."""
    [block] = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    (data / "dbnet").write_text('#!/bin/sh\necho "$@" >> calls\n')
    (data / "dbnet").chmod(0o755)
    environment = {"PATH": f"{data}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}
    subprocess.run(["bash", "-ec", block], cwd=data, check=True, env=environment)
    calls = (data / "calls").read_text().splitlines()
    assert sorted(call.split("--shard ")[1] for call in calls) == [
        "1/2 --device cuda:0 --json part1.json", "2/2 --device cuda:1 --json part2.json", "3/8 --json part3.json"]
    for call in calls:
        run(re.sub(r"--device \S+", "", call.replace("3/8", "3/4")).split(), data)


def test_the_table_of_the_page_is_the_benchmark():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import scale
    finally:
        sys.path.pop(0)
    rows = re.findall(r"^\| ([^|]+) \| ([0-9]+) to ([0-9]+) \|", PAGE, re.MULTILINE)
    assert rows == [(name, str(images[0]), str(images[-1])) for name, (_, images) in scale.STEPS.items()]


@pytest.mark.long
def test_the_benchmark_runs():
    done = subprocess.run([sys.executable, ROOT / "benchmarks/scale.py", "--rounds", "1", "--steps", "labels;boxes"],
                          text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^\| (labels|boxes) \|", done.stdout, re.MULTILINE) == ["labels", "boxes"]
