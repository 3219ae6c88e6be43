"""Traces that are not as they should be, or hold what is rare: NaN, copies of an image, no boxes, other images."""

from __future__ import annotations

import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from dbnet.datasets.drawn import draw
from parity.trace import Recorder, Trace
from parity.trace_file import ONLY, read_trace, write_traces
from parity.trace_record import boxes_of
from parity.traced import side_of
from tests import detecting
from tests.running import command
from tests.test_trace import EMBEDDED, SMALL, compared, report, traced

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two drawn pictures, their labels, and what the embedded model makes of them, in full."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "images").mkdir()
    for seed in range(2):
        cv2.imwrite(str(folder / f"images/img_{seed + 1}.png"), draw(seed + 40, 160, 224)[0])
    detecting.write_labels(folder / "gt", 2)
    assert traced(folder, "full").returncode == 0
    return folder


def changed(folder, name, change=lambda i, maps: None, level="full", keep=(), boxes=True):
    """The trace with other maps; `change` changes those of image i in place."""
    run = read_trace(folder / "full.trace")
    recorder = Recorder(run.about, run.stages, level, keep=keep)
    rule = side_of(run, folder / "full.trace").rule
    for i, image in enumerate(run.images):
        maps = {stage: np.array(run.full(i, stage)) for stage in run.stages}
        change(i, maps)
        recorder.add(image, maps, boxes_of(np.nan_to_num(maps["probability"]), rule, image) if boxes else None)
    path = folder / f"{name}.trace"
    write_traces(path, {ONLY: recorder.trace()}, force=True)
    return path


def test_what_is_no_number_is_a_difference_in_every_report(folder, tmp_path):
    def spoil(i, maps):
        if i == 1:
            maps["probability"][0, 0, 3, 4] = np.nan
    path = changed(folder, "nan", spoil)
    data = report(folder / "full.trace", path, "--html", tmp_path / "p.html", code=1)
    assert data["verdict"] == "different" and data["images"]["img_2.png"]["not_finite"]
    assert data["maps"][0]["not_finite"] == 1 and not data["maps"][0]["passed"]
    assert "NaN, Inf" in compared(folder / "full.trace", path, code=1).stdout


def test_nan_before_a_stage_does_not_accuse_it(folder):
    def spoil(i, maps):
        maps["c3"][0, 0, 0, 0] = np.nan
    data = report(changed(folder, "nanc3", spoil), EMBEDDED, *SMALL, code=1)
    assert [row["stage"] for row in data["stages"] if not row["passed"]] == ["c3"]


def test_a_lower_bound_is_called_one(folder):
    def spoil(i, maps):
        maps["probability"][0, 0, 3, 4] += 0.02
    path = changed(folder, "one", spoil, level="statistics", boxes=False)
    said = command("compare", folder / "full.trace", path).stdout
    assert "probabilities at most" not in said and "are at most" not in said
    assert said.count(">=") >= 3  # in the table of stages, and for the image and all of them


def test_copies_of_an_image_keep_their_own_labels(folder, tmp_path):
    shutil.copytree(folder / "images", tmp_path / "images")
    shutil.copy(tmp_path / "images/img_1.png", tmp_path / "images/img_2.png")
    shutil.copytree(folder / "gt", tmp_path / "gt")
    (tmp_path / "gt/gt_img_2.txt").write_text("1,1,9,1,9,9,1,9,elsewhere\n")
    assert traced(tmp_path, "sampled").returncode == 0
    common = (*SMALL, "--images", tmp_path / "images", "--gt", tmp_path / "gt", "--format", "icdar2015")
    by_trace = report(tmp_path / "sampled.trace", EMBEDDED, "--runner-b", "onnxruntime", *common)["scores"]
    live = report(EMBEDDED, EMBEDDED, "--runner-a", "onnxruntime", "--runner-b", "onnxruntime", "--no-stages",
                  *common)["scores"]
    assert by_trace["protocols"] == live["protocols"]


def test_no_boxes_are_no_difference(folder):
    path = changed(folder, "boxless", level="statistics", boxes=False)
    images = ("--images", folder / "images")
    data = report(path, EMBEDDED, "--runner-b", "onnxruntime", *SMALL, *images)
    assert data["verdict"] == "same" and any("neither boxes nor the map" in note for note in data["notes"])
    said = compared(path, EMBEDDED, "--runner-b", "onnxruntime", *SMALL, *images, "--gt", folder / "gt", code=3).stderr
    assert "comparing the scores: a trace keeps neither the boxes nor the map of img_1.png" in said


@pytest.mark.long
def test_the_worst_own_error_is_kept(folder):
    def spoil(i, maps):
        if i == 0:
            maps["p3"] += 0.01 * np.abs(maps["p3"]).max()
        else:
            maps["c3"][:] = 0.5 * maps["c3"]
    data = report(changed(folder, "own", spoil), EMBEDDED, "--runner-b", "torch", *SMALL, code=1)
    assert {"c3", "p3"} <= set(data["own_errors"])


@pytest.mark.long
def test_images_that_are_in_one_of_two_only(folder, tmp_path):
    cv2.imwrite(str(tmp_path / "strange.png"), draw(90, 160, 224)[0])
    said = compared(folder / "full.trace", EMBEDDED, *SMALL, "--images", tmp_path / "strange.png").stdout
    assert "1 of --images are not in the trace, and not compared" in said
    run = read_trace(folder / "full.trace")
    one = Recorder(run.about, run.stages, "statistics")
    one.add(run.images[0], {stage: np.array(run.full(0, stage)) for stage in run.stages}, run.boxes(0))
    write_traces(tmp_path / "one.trace", {ONLY: one.trace()})
    data = report(tmp_path / "one.trace", folder / "full.trace")
    assert "1 images of B are not in A, and not compared: img_2.png" in data["notes"]


def test_two_traces_of_other_weights(folder):
    """Their digests tell, and the error is measured."""
    run = read_trace(folder / "full.trace")
    about = run.about | {"record": run.about["record"].replace('"sha256": "', '"sha256": "0')}
    arrays = dict(run.arrays)
    arrays["full/0/c3"] = np.array(arrays["full/0/c3"]) * 2
    arrays["sha256/c3"] = np.zeros_like(arrays["sha256/c3"])
    write_traces(folder / "other.trace", {ONLY: Trace(about, run.level, run.stages, run.images, arrays)}, force=True)
    data = report(folder / "full.trace", folder / "other.trace", code=1)
    assert "weights are not those that were recorded" in data["causes"][0]["what"] and data["causes"][0]["before"] > 0.5


def test_short_products_explain_nothing_beyond_their_tolerance(folder, tmp_path):
    """What HF32 does is within its tolerance: a greater difference has another cause."""
    run = read_trace(folder / "full.trace")
    about = run.about | {"device": "ascend:0", "environment": run.about["environment"] | {
        "device": "ascend:0", "hf32": True}}
    write_traces(tmp_path / "hf.trace", {ONLY: replace(run, about=about)})
    data = report(tmp_path / "hf.trace", EMBEDDED, "--set", "depthwise_padding=symmetric", *SMALL, code=1)
    assert data["cause"] == "depthwise_padding"


def test_many_maps_need_no_descriptor_each(folder, tmp_path):
    import resource
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    run = read_trace(folder / "full.trace")
    recorder = Recorder(run.about, run.stages, "full", tmp_path)
    maps = {stage: np.ones((1, 1, 4, 4), np.float32) for stage in run.stages}
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, before[1]))
    try:
        for i in range(20):
            recorder.add(replace(run.images[0], name=f"{i}.png", shape=(1, 1, 4, 4), covered=(4, 4)), maps, [])
        found = recorder.trace()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert np.array_equal(found.full(19, "p5"), maps["p5"]) and not any(tmp_path.iterdir())
