"""docs/datasets.md: its commands are run on its trees, its template is checked, its table is the code's. SynthText too.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest

from dbnet.datasets.repair import KINDS
from tests.synthtext_scenes import draw_set, write
from tests.test_data_cli import run  # noqa: F401 (a fixture)
from tests.test_datasets_images import frames
from tests.test_datasets_sources import CURVE, GT, RECORD, XML, below, icdar, mlt, tree

PAGE = Path(__file__).parents[1] / "docs/datasets.md"
TEXT = PAGE.read_text(encoding="utf-8")
TEMPLATE = re.search(r"<!-- template -->\n```text\n(.*?)```", TEXT, re.DOTALL)[1]


@pytest.fixture
def trees(tmp_path):
    """Every tree of the page, each with a handful of images."""
    tree(tmp_path, {
        **below("icdar2015/test/images", {f"img_{i}.jpg": None for i in (1, 2)}),
        **below("icdar2015/train/images", {f"img_{i}.jpg": None for i in (1, 2, 3)}),
        "icdar2015/test/gt.zip": icdar(1, 2), **below("icdar2015/train/gt", icdar(1, 2, 3)),
        "td500/test/IMG_0059.JPG": None, "td500/test/IMG_0059.gt": GT, "td500/train/IMG_0030.JPG": None,
        "td500/train/IMG_0030.gt": GT,
        **below("td500-and-tr400", {"MSRA-TD500/train/IMG_0030.JPG": None, "MSRA-TD500/train/IMG_0030.gt": GT,
                                    "HUST-TR400/IMG_0001.jpg": None, "HUST-TR400/IMG_0001.gt": GT}),
        "ctw1500/test_images/1001.jpg": None, "ctw1500/gt_ctw1500.zip": {"0001001.txt": f"{CURVE},####a\n"},
        "ctw1500/train_images/0001.jpg": None, "ctw1500/ctw1500_train_labels/0001.xml": XML.format("0001.jpg"),
        "totaltext/Images/Test/img1.jpg": None, "totaltext/txt_format/Test/poly_gt_img1.txt": RECORD.format("a"),
        "totaltext/Images/Train/img1001.jpg": None,
        "totaltext/txt_format/Train/poly_gt_img1001.txt": RECORD.format("b"),
        "mlt2017/ch8_training_images_1/img_1.jpg": None, "mlt2017/ch8_training_images_8/img_7001.gif": frames("GIF"),
        "mlt2017/ch8_training_localization_transcription_gt_v2.zip": mlt(1, 7001),
        "mlt2017/ch8_validation_images/img_1.jpg": None,
        "mlt2017/ch8_validation_localization_transcription_gt_v2.zip": mlt(1),
        "my_labels.txt": TEMPLATE})
    for name in re.findall(r"^(\S+)\t", TEMPLATE, re.MULTILINE):
        path = tmp_path / "my_images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((200, 300, 3), 120, np.uint8))
    return tmp_path


def test_the_commands_of_the_page(run, trees, monkeypatch):  # noqa: F811
    monkeypatch.chdir(trees)
    ran = 0
    for block in re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL):
        parts = re.split(r"^\$ dbnet data (.*)\n", block, flags=re.MULTILINE)
        for command, printed in zip(parts[1::2], parts[2::2], strict=True):
            done = run(*shlex.split(command))
            if printed:
                assert [line.rstrip() for line in done.out.splitlines()] == [
                    line.rstrip() for line in printed.splitlines()], command
            ran += 1
    assert ran == len(re.findall(r"^\$ ", TEXT, re.MULTILINE)) >= 16
    assert json.loads(Path("td500-and-tr400/train_det_gt.txt").read_text().splitlines()[0].partition("\t")[2])
    assert sorted(path.name for path in Path("mlt2017-train").rglob("*.*")) == ["img_1.jpg", "img_7001.png"]


def test_the_table_of_repairs_is_the_codes():
    rows = re.findall(r"^\| `([^`]+)` \| (\w[\w ]*) \| (.*) \|$", TEXT, re.MULTILINE)
    listed = {kind: (effect, meaning) for kind, effect, meaning in rows if kind in KINDS}
    assert listed == KINDS


# SynthText ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def synthtext(tmp_path_factory):
    folder = tmp_path_factory.mktemp("SynthText")
    write(folder / "gt.mat", draw_set(folder))
    return folder


def test_synthtext(run, synthtext, tmp_path):  # noqa: F811
    out = tmp_path / "gt_processed.mat"
    command = re.search(r"^dbnet data (convert synthtext .*)$", TEXT, re.MULTILINE)[1]
    command = command.replace("SynthText/gt_processed.mat", str(out))
    arguments = shlex.split(command.replace("SynthText", str(synthtext)))
    done = run(*arguments)
    assert re.search(r"^synthtext: \d+ of \d+ images, \d+ of \d+ words$", done.out, re.MULTILINE)
    assert f"wrote {out}" in done.out
    again = tmp_path / "again.mat"
    report = json.loads(run("convert", "--dataset_name=synthtext", "--task=det", f"--label_dir={synthtext}/gt.mat",
                            f"--image_dir={synthtext}", f"--output_path={again}", "--json", "-").out)
    assert again.read_bytes() == out.read_bytes()
    assert report["sha256"] in done.out
    assert sum(report["counts"].values()) == len(report["repairs"]) > 0
    assert "exists" in run(*arguments, code=3).err


def test_synthtext_is_checked_and_shown(run, synthtext, tmp_path):  # noqa: F811
    source = ["synthtext", "--images", synthtext, "--labels", synthtext / "gt.mat"]
    assert "synthtext: " in run("check", *source, "--list").out
    run("show", *source, "--out", tmp_path / "pictures", "--limit", 3)
    assert len(list((tmp_path / "pictures").rglob("*.jpg"))) == 3
    (tmp_path / "empty").mkdir()
    source[2] = tmp_path / "empty"
    assert "none of the images of" in run("show", *source, "--out", tmp_path / "no", code=3).err
