"""When `dbnet export` says no, and what it leaves then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from dbnet.datasets.drawn import draw
from dbnet.errors import DbnetError
from dbnet.postprocess import boxes_from_map, boxes_of_any_opencv, default_boxes
from dbnet.sample import Detection
from dbnet.spec import OPENCV_BOXES, SPECS
from evaluation.compare_maps import Boxes, ImageComparison, MapComparison
from evaluation.delivery import check as checking
from evaluation.delivery import finders
from evaluation.delivery.deliver import _headline
from tests.running import command, dbnet

ROOT = Path(__file__).parents[1]
TRAINED = ROOT / "dbnet/embedded/dbnet_mobilenetv3.safetensors"
PADDLE = default_boxes("paddle")
OPENCV = ("--target", "opencv", "--data-shape", 352, 640)


# Boxes of runtimes that make them -------------------------------------------------------------------------------------


@pytest.fixture
def changing(monkeypatch):
    """Changes what OpenCV's own detection finds: [(quad, score)]."""
    real = finders.db_api_boxes

    def change(how) -> None:
        monkeypatch.setattr(finders, "db_api_boxes", lambda *arguments: how(real(*arguments)))

    return change


@pytest.mark.parametrize(("how", "told"), [
    (lambda found: [], "finds 0 texts where the model has"),
    (lambda found: [(quad + np.float32(3), score) for quad, score in found], ", 0 of them the same"),
    (lambda found: [*found, (np.float32([[0, 0], [9, 0], [9, 9], [0, 9]]), 1.0)], "texts where the model has")])
def test_other_boxes_of_the_db_api_are_refused(how, told, changing, tmp_path):
    pytest.importorskip("onnxruntime")
    changing(how)
    done = command("export", TRAINED, tmp_path / "cv.onnx", *OPENCV)
    assert done.returncode == 3 and done.stderr.count("\n") == 1
    assert "TextDetectionModel_DB of OpenCV" in done.stderr and told in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_only_box_must_be_found(changing, tmp_path):
    pytest.importorskip("onnxruntime")
    cv2.imwrite(str(tmp_path / "one.png"), draw(1, 352, 640, words=2)[0])
    arguments = ("export", TRAINED, tmp_path / "cv.onnx", *OPENCV, "--images", tmp_path / "one.png")
    changing(lambda found: found[:-1])
    done = command(*arguments)
    assert done.returncode == 3 and "texts where the model has" in done.stderr
    changing(lambda found: found)
    row = json.loads(dbnet(*arguments, "--json", "-").stdout)["checked"][1]
    assert 1 <= row["boxes"] == row["same"] < 10


def test_one_of_many_boxes_may_be_another_and_is_told(changing, tmp_path):
    pytest.importorskip("onnxruntime")
    counted: list[int] = []

    def how(found):
        counted.append(len(found))
        return found[1:] if len(counted) == 1 else found

    changing(how)
    told = dbnet("export", TRAINED, tmp_path / "cv.onnx", *OPENCV).stdout
    many = sum(counted)
    assert f"{many - 1} of {many} boxes the same (1 lost, 0 new, 0 moved)" in told


@pytest.mark.parametrize(("score", "fits"), [(0.505, True), (0.52, False)])
def test_a_box_on_a_threshold_may_be_on_either_side(score, fits, monkeypatch, tmp_path):
    """With few boxes too: none of nine may be another, but for these."""
    quads = [np.float32([[0, 0], [40, 0], [40, 20], [0, 20]]) + 50 * i for i in range(3)]
    scores = [0.9, 0.9, score]
    monkeypatch.setattr(checking, "boxes_from_map", lambda _map, box_thresh, **_rest: [
        Detection(quad, s) for quad, s in zip(quads, scores, strict=True) if s >= box_thresh])
    monkeypatch.setattr(checking, "prepare", lambda *_arguments: SimpleNamespace(
        tensor=None, resized_size=None, original_size=None))
    monkeypatch.setattr(checking, "probability_map", lambda *_arguments: None)
    monkeypatch.setattr(checking, "read_image", lambda *_arguments: None)
    spec = replace(SPECS["dbnet_mobilenetv3"], boxes=replace(SPECS["dbnet_mobilenetv3"].boxes, box_thresh=0.5))
    delivered = SimpleNamespace(spec=spec, path=tmp_path / "x.onnx")
    monkeypatch.setattr(checking, "_reference", lambda *_arguments: SimpleNamespace(spec=spec))
    finder = finders.Finder("x", lambda: "X 1", lambda *_arguments: quads[:2])
    if not fits:
        with pytest.raises(DbnetError, match="X 1 finds 2 texts where the model has 3, 2 of them the same"):
            checking._found(delivered, None, finder, [("a", "a")])
    else:
        row = checking._found(delivered, None, finder, [("a", "a")])
        assert (row.boxes, row.same, row.lost) == (3, 2, 1)


#: From the quads of OpenCV on this machine to those of another one -> whether both find the same.
ELSEWHERE = {"the first corner": (lambda quads: [np.roll(quad, i, axis=0) for i, quad in enumerate(quads)], True),
             "the other way round": (lambda quads: [quad[::-1] for quad in quads], False),
             "another corner": (lambda quads: [np.vstack([quad[:3], quad[3:] + 1]) for quad in quads], False),
             "a text": (lambda quads: quads[1:], False), "the least": (lambda quads: quads[:-1], True)}


@pytest.mark.parametrize("what", ELSEWHERE)
def test_what_depends_on_the_version_of_opencv_says_nothing_of_the_file(what, monkeypatch, tmp_path):
    """Of three texts the last one is so low that it depends on how a rectangle's sides are named."""
    change, same = ELSEWHERE[what]
    probability = np.zeros((96, 160), np.float32)
    for y, rows in ((10, 9), (40, 12), (70, 3)):
        probability[y:y + rows, 20:90] = 1
    sizes = {"resized_size": (96, 160), "original_size": (192, 160)}
    spec = replace(SPECS["dbnet_mobilenetv3"], boxes=OPENCV_BOXES)
    all_three = boxes_of_any_opencv(probability, OPENCV_BOXES, certain=False, **sizes)
    quads = [each.polygon for each in sorted(all_three, key=lambda each: each.polygon[0, 1])]
    assert len(quads) == 3
    monkeypatch.setattr(checking, "prepare", lambda *_arguments: SimpleNamespace(tensor=None, **sizes))
    monkeypatch.setattr(checking, "probability_map", lambda *_arguments: probability)
    monkeypatch.setattr(checking, "read_image", lambda *_arguments: None)
    monkeypatch.setattr(checking, "_reference", lambda *_arguments: SimpleNamespace(spec=spec))
    finder = finders.Finder("x", lambda: "X 1", lambda *_arguments: change(quads))
    delivered = SimpleNamespace(spec=spec, path=tmp_path / "x.onnx")
    if same:
        assert checking._found(delivered, None, finder, [("a", "a")]).same >= 2
    else:
        with pytest.raises(DbnetError, match="texts where the model has"):
            checking._found(delivered, None, finder, [("a", "a")])


# Float16 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("boxes", "mean", "told"), [
    (Boxes(19, 19, 18, 1), 3e-5, None),
    (Boxes(19, 20, 19, 0, 0.0, 0, 1), 3e-5, None),
    (Boxes(), 3e-5, None),
    (Boxes(9, 8, 8, 0, 0.0, 1, 0), 3e-5, "1 of 9 boxes are lost"),
    (Boxes(5, 45, 0, 5, 2.0, 0, 40), 3e-5, "40 boxes are new beside 5"),
    (Boxes(0, 1, 0, 0, 0.0, 0, 1), 3e-5, "1 boxes are new beside 0"),
    (Boxes(19, 19, 19), 0.1, "the probability is off by 1.0e-01")])
def test_what_rounding_may_not_do(boxes, mean, told):
    maps = MapComparison([ImageComparison("a", 0.4, mean, ((32, 32), (32, 32)), boxes, 0)])
    found = checking.changed_in_half(maps)
    assert (found is None) == (told is None) and (told or "") in (found or "")
    row = checking.Checked("onnxruntime", "ONNX Runtime 1", 1e-3, 0.4, 1, half=True)
    if told:
        with pytest.raises(DbnetError, match="--keep-float32"):
            checking._require_boxes(row, maps)


def test_what_differs_is_told():
    row = checking.Checked("onnxruntime", "ONNX Runtime 1", 1e-7, 1e-6, 2, 9, 7, 1, 0)
    assert "7 of 9 boxes the same (1 lost, 0 new, 1 moved)" in row.describe(drawn=False)
    row = checking.Checked("x", "X 1", None, None, 3, 19, 0, 0, 0)
    assert row.describe(drawn=True) == "X 1 on 3 drawn scenes: 0 of 19 boxes the same (0 lost, 0 new, 19 moved)"
    assert "no box" in checking.Checked("x", "X 1", 0.0, 0.0, 1).describe(drawn=True)


# With a hand-off ------------------------------------------------------------------------------------------------------


def test_the_export_stands_and_is_told_if_the_hand_off_fails(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from evaluation.delivery import handoff

    def fails(folder, *_arguments, **_options):
        raise DbnetError(f"{folder}: no room")

    monkeypatch.setattr(handoff, "write_handoff", fails)
    done = command("export", TRAINED, tmp_path / "a.onnx", "--handoff", tmp_path / "h", "--json", tmp_path / "a.json")
    assert done.returncode == 3
    assert done.stderr.strip().endswith("no room; the export itself stands (a.onnx): --force next time")
    assert "a.onnx: dbnet_mobilenetv3 for onnx" in done.stdout and "no hand-off in" in done.stdout
    found = json.loads((tmp_path / "a.json").read_text())
    assert [Path(name).name for name in found["files"]] == ["a.onnx"] and "no room" in " ".join(found["told"])
    assert (tmp_path / "a.onnx").exists()


def test_no_hand_off_of_what_could_not_be_made_is_told(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("PATH", str(tmp_path))
    done = command("export", TRAINED, tmp_path / "a.om", "--buckets", "64x96", "--handoff", tmp_path / "h")
    assert done.returncode == 3 and not (tmp_path / "h").exists()
    assert f"no hand-off in {tmp_path / 'h'}: " in done.stdout and "--prepare" in done.stdout


def test_a_report_in_the_hand_off_is_a_slip(tmp_path):
    done = command("export", TRAINED, tmp_path / "a.onnx", "--handoff", tmp_path, "--json", tmp_path / "a.json")
    assert done.returncode == 2 and "lies in the hand-off" in " ".join(done.stderr.split())
    assert not list(tmp_path.iterdir())


# Stopped --------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_one_that_is_stopped_leaves_nothing(tmp_path):
    pytest.importorskip("onnxruntime")
    started = subprocess.Popen([sys.executable, "-m", "dbnet", "export", str(TRAINED), str(tmp_path / "a.onnx")],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not list(tmp_path.glob(".dbnet-export-*")) and started.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    started.send_signal(signal.SIGTERM)
    assert started.wait(60) == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("count", "told"), [
    (1, "a.0"), (2, "a.0 and a.1"), (3, "a.0, a.1 and a.2"), (4, "a.0, a.1 and 2 more files")])
def test_what_was_written_is_named(count, told, tmp_path):
    files = [tmp_path / f"a.{number}" for number in range(count)]
    for path in files:
        path.touch()
    delivered = SimpleNamespace(files=files, input_shape=(1, 3, "h", "w"), opset=None, precision="fp32",
                                spec=SPECS["dbnet_mobilenetv3"], target="lite")
    assert f"m.pth -> {told}: dbnet_mobilenetv3 for lite, shape dynamic" in _headline(Path("m.pth"), delivered)


@pytest.mark.parametrize("turned", [0, 1])
def test_under_other_rules_a_box_begins_at_its_own_corner(turned, monkeypatch, tmp_path):
    probability = np.zeros((96, 160), np.float32)
    probability[20:40, 20:90] = 1
    spec = replace(SPECS["dbnet_mobilenetv3"], boxes=PADDLE)
    sizes = {"resized_size": (96, 160), "original_size": (96, 160)}
    [quad] = [found.polygon for found in boxes_from_map(probability, **asdict(PADDLE), **sizes)]
    monkeypatch.setattr(checking, "prepare", lambda *_arguments: SimpleNamespace(tensor=None, **sizes))
    monkeypatch.setattr(checking, "probability_map", lambda *_arguments: probability)
    monkeypatch.setattr(checking, "read_image", lambda *_arguments: None)
    monkeypatch.setattr(checking, "_reference", lambda *_arguments: SimpleNamespace(spec=spec))
    finder = finders.Finder("x", lambda: "X 1", lambda *_arguments: [np.roll(quad, turned, axis=0)])
    delivered = SimpleNamespace(spec=spec, path=tmp_path / "x.onnx")
    if turned:
        with pytest.raises(DbnetError, match="0 of them the same"):
            checking._found(delivered, None, finder, [("a", "a")])
    else:
        assert checking._found(delivered, None, finder, [("a", "a")]).same == 1
