"""Detections on disk: interrupted runs go on and end with the same bytes, other files are refused and left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbnet.errors import DbnetError
from dbnet.sample import Detection
from dbnet.spec import MHLIAO_BOXES, PADDLE_BOXES
from evaluation import store
from evaluation.evaluate import evaluate
from evaluation.protocols.table import PROTOCOLS
from evaluation.results import read_results
from evaluation.store import decode, encode
from tests.test_evaluate import PIXELS, BrightnessRunner, draw

ROOT = Path(__file__).resolve().parents[1]
IMAGES = 12
SWEEP = [replace(PADDLE_BOXES, box_thresh=0.95), replace(PADDLE_BOXES, unclip_ratio=2.0)]


class CountingRunner(BrightnessRunner):
    def __init__(self, broken_at=None):
        self.calls, self.broken_at = 0, broken_at

    def run(self, images):
        self.calls += 1
        if self.calls == self.broken_at:
            raise DbnetError("the device is gone")
        return super().run(images)


def make_samples(folder):
    """Images of different sizes with none to three texts."""
    folder.mkdir(exist_ok=True)
    return [draw(folder / f"img_{i}.png", [(15 + 3 * i, 20 + 30 * k, 50 + i, 12) for k in range(i % 4)],
                 size=(120, 160 + 7 * i), ignore=(2,)) for i in range(IMAGES)]


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return make_samples(tmp_path_factory.mktemp("store"))


def run(samples, save, runner=None, **more):
    return evaluate(runner or CountingRunner(), samples, PIXELS, more.pop("boxes", PADDLE_BOXES), save=save,
                    **{"sweep": SWEEP, **more})


@pytest.fixture(scope="module")
def finished(samples, tmp_path_factory):
    """A whole run's file and report."""
    path = tmp_path_factory.mktemp("finished") / "whole.jsonl"
    return path, run(samples, path).to_dict()


def numbers(evaluation):
    """Everything that was counted and found."""
    results = [evaluation.results, *(swept for _, swept in evaluation.sweep)]
    return ([result.counts.tobytes() for each in results for result in each.values()],
            [(name, d.polygon.tobytes(), d.score) for name, found in evaluation.detections.items() for d in found])


# One line -------------------------------------------------------------------------------------------------------------


points = st.lists(st.tuples(*[st.floats(-1e6, 1e6, width=32)] * 2), min_size=3, max_size=9)


@given(st.lists(st.lists(st.tuples(points, st.floats(0, 1)), max_size=4), min_size=1, max_size=3), st.text(max_size=9),
       st.integers(0, 2**32 - 1))
def test_numbers_come_back_to_the_last_bit(found, name, checksum):
    rules = [[Detection(np.array(polygon, np.float32), score) for polygon, score in rule] for rule in found]
    line = encode(name, checksum, rules)
    assert line.count(b"\n") == 1
    again, read = decode(line, name)
    assert again == checksum
    assert [[(d.polygon.tobytes(), d.score) for d in rule] for rule in read] == [
        [(d.polygon.tobytes(), d.score) for d in rule] for rule in rules]


def test_an_edited_number_is_noticed():
    line = encode("a", 1, [[Detection(np.array([[10, 20], [30, 20], [30, 40]], np.float32), 0.75)]])
    for edited in (line.replace(b"30.0", b"31.0", 1), line.replace(b"0.75", b"0.76"), line.replace(b'"a"', b'"b"'),
                   line[:line.rfind(b",")] + b"}\n"):
        assert edited != line
        with pytest.raises(ValueError, match="checksum"):
            decode(edited, "a")


# Going on -------------------------------------------------------------------------------------------------------------


def test_a_saved_run_is_the_same_as_any(samples, finished):
    assert run(samples, None).to_dict() == finished[1]


def test_a_file_cut_off_anywhere_is_gone_on_with(samples, finished, tmp_path):
    whole, _ = finished
    content, expected = whole.read_bytes(), numbers(run(samples, None))
    ends = [i + 1 for i, byte in enumerate(content) if byte == 10]
    cuts = sorted({0, 1, ends[0] - 1, *ends, *(end - 1 for end in ends), *range(0, len(content), 797)})
    for cut in cuts:
        path, runner, seen = tmp_path / f"cut_{cut}.jsonl", CountingRunner(), []
        path.write_bytes(content[:cut])
        evaluation = run(samples, path, runner, progress=lambda done, total, seen=seen: seen.append((done, total)))
        taken_over = max(0, sum(end <= cut for end in ends) - 1)
        assert (evaluation.resumed, runner.calls) == (taken_over, IMAGES - taken_over), cut
        assert path.read_bytes() == content, cut
        assert numbers(evaluation) == expected, cut
        assert seen == [(i, IMAGES) for i in range(max(taken_over, 1), IMAGES + 1)], cut


def test_a_finished_file_is_scored_again_by_other_protocols(samples, finished, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(finished[0].read_bytes())
    runner = CountingRunner()
    evaluation = run(samples, path, runner, protocols=PROTOCOLS)
    assert (evaluation.resumed, runner.calls) == (IMAGES, 0)
    assert len(evaluation.scores) >= len(PROTOCOLS)
    assert evaluation.to_dict()["scores"]["rrc"] == finished[1]["scores"]["rrc"]
    assert path.read_bytes() == finished[0].read_bytes()


def test_new_labels_score_the_old_detections(samples, finished, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(finished[0].read_bytes())
    others = [replace(sample, polygons=[], ignore=np.zeros(0, bool), texts=[]) for sample in samples]
    assert run(others, path).scores["rrc"].fscore == 0 < finished[1]["scores"]["rrc"]["fscore"]


@pytest.mark.parametrize("failure", ["network", "image", "progress"])
def test_a_run_that_failed_goes_on(failure, finished, tmp_path):
    samples, path = make_samples(tmp_path / "images"), tmp_path / "kept.jsonl"
    content, runner, progress = samples[6].image.read_bytes(), CountingRunner(7 if failure == "network" else None), None
    if failure == "image":
        samples[6].image.write_bytes(content[:50])

    def interrupt(done, _):
        if done == 6:
            raise KeyboardInterrupt

    if failure == "progress":
        progress = interrupt
    with pytest.raises((DbnetError, KeyboardInterrupt)):
        run(samples, path, runner, progress=progress)
    samples[6].image.write_bytes(content)
    evaluation = run(samples, path)
    assert evaluation.resumed == 6
    assert evaluation.to_dict() == finished[1]
    assert path.read_bytes() == finished[0].read_bytes()


SCRIPT = """
import sys, time, resource
from pathlib import Path
from dbnet.errors import DbnetError
from tests.test_pipeline_store import BrightnessRunner, make_samples, run

class Slow(BrightnessRunner):
    def run(self, images):
        time.sleep(0.05)
        return super().run(images)

folder, save, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
samples = make_samples(folder)
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    run(samples, save, Slow())
except DbnetError as error:
    sys.exit(f"refused: {error}")
"""


def start(folder, save, limit=0):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), str(save), str(limit)], cwd=ROOT,
                            stderr=subprocess.PIPE, text=True)


def lines_in(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_kill_9_in_the_middle(finished, tmp_path):
    save = tmp_path / "killed.jsonl"
    process = start(tmp_path / "images", save)
    deadline = time.monotonic() + 60
    while lines_in(save) < 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    samples = make_samples(tmp_path / "images")
    with pytest.raises(DbnetError, match=r"another run is writing it"):
        run(samples, save)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 4 <= lines_in(save) < IMAGES + 1
    evaluation = run(samples, save)
    assert 3 <= evaluation.resumed < IMAGES
    assert evaluation.to_dict() == finished[1]
    assert save.read_bytes() == finished[0].read_bytes()


def test_a_full_disk_is_one_line_and_costs_nothing(finished, tmp_path):
    save, content = tmp_path / "full.jsonl", finished[0].read_bytes()
    header = content.index(b"\n") + 1
    process = start(tmp_path / "images", save, limit=header + (len(content) - header) // 2)
    _, said = process.communicate(timeout=60)
    assert said.startswith(f"refused: {save}: cannot be written (the disk is full); it holds ")
    assert said.count("\n") == 1
    assert content.startswith(save.read_bytes())
    assert save.read_bytes().endswith(b"\n")
    evaluation = run(make_samples(tmp_path / "images"), save)
    assert 0 < evaluation.resumed < IMAGES
    assert evaluation.to_dict() == finished[1]


def test_a_line_that_could_not_be_read_again_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "MAX_LINE", 500)
    with store.open_store(tmp_path / "a.jsonl", {}, 3) as opened:
        opened.append(encode("img_1.png", 1, [[]]))
        with pytest.raises(DbnetError, match=r"image 2 of 3 has \d+ bytes of boxes, .*sweep fewer settings"):
            opened.append(encode("img_2.png", 1, [[]] * 500))
        assert (opened.done, lines_in(tmp_path / "a.jsonl")) == (1, 2)


# Refusals -------------------------------------------------------------------------------------------------------------


class OtherRunner(CountingRunner):
    def __init__(self, **changes):
        super().__init__()
        for name, value in changes.items():
            setattr(self, name, value)

    def environment(self):
        return {"device": getattr(self, "chip", "CPU")}


@pytest.mark.parametrize(("changes", "told"), [
    ({"boxes": replace(PADDLE_BOXES, box_thresh=0.5)}, "boxes.box_thresh 0.6 there, 0.5 now"),
    ({"boxes": replace(MHLIAO_BOXES)}, 'boxes.rule "paddle" there, "mhliao" now'),
    ({"sweep": []}, "sweep"),
    ({"runner": OtherRunner(digest="abc")}, 'model null there, "abc" now'),
    ({"runner": OtherRunner(name="another")}, 'runner "brightness" there, "another" now'),
    ({"runner": OtherRunner(chip="GPU")}, 'versions.runner.device "CPU" there, "GPU" now'),
    ({"runner": OtherRunner(spec=replace(BrightnessRunner.spec, se_gate="sigmoid"))}, "semantics.se_gate"),
])
def test_other_settings_are_refused(samples, finished, tmp_path, changes, told):
    path = tmp_path / "a.jsonl"
    path.write_bytes(finished[0].read_bytes())
    with pytest.raises(DbnetError, match="choose another file, or delete it") as error:
        run(samples, path, **changes)
    assert str(error.value).startswith(f"{path}: ")
    assert told in str(error.value)
    assert path.read_bytes() == finished[0].read_bytes()


def test_other_images_are_refused(finished, tmp_path):
    samples = make_samples(tmp_path / "images")
    path = tmp_path / "a.jsonl"
    path.write_bytes(finished[0].read_bytes())
    for others, told in ((samples[:-1], "images 12 there, 11 now"), (samples[::-1], "names_sha256")):
        with pytest.raises(DbnetError, match=told):
            run(others, path)
    samples[3].image.write_bytes(samples[4].image.read_bytes())
    with pytest.raises(DbnetError, match=r"made in another img_3\.png"):
        run(samples, path)
    assert path.read_bytes() == finished[0].read_bytes()


@pytest.mark.parametrize("content", [
    b"img_1.jpg\t[]\n", b'{"scores": {}}', b"\0" * 100, b"\n", b'{"dbnet": "detections", "version": 1, nonsense}\n',
    b'{"dbnet": "detections", "version": 2, "images": 3}\n', b'{"dbnet": "det\n', b"{" * 100_000 + b"\n",
    b'{"dbnet": "detections", "version": 1, "a": ' + b"[" * 100_000 + b"\n"])
def test_a_file_that_is_not_ours_is_left_alone(samples, tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    os.utime(path, (1, 1))
    with pytest.raises(DbnetError, match="choose another file") as error:
        run(samples, path)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == content
    assert path.stat().st_mtime == 1


@pytest.mark.parametrize("damage", [
    lambda lines: lines[:3] + lines[4:],
    lambda lines: lines[:3] + [b"\0" * 40 + b"\n"] + lines[4:],
    lambda lines: [*lines[:3], lines[3].replace(b"[[", b'[["x",'), *lines[4:]],
    lambda lines: [*lines[:3], lines[3].replace(b'"score":0.', b'"score":NaN,"s":0.'), *lines[4:]],
    lambda lines: [*lines[:3], b"[" * 200_000 + b"\n", *lines[4:]],
    lambda lines: [*lines, lines[-1]],
])
def test_a_damaged_line_is_named(samples, finished, tmp_path, damage):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(damage(finished[0].read_bytes().splitlines(keepends=True))))
    with pytest.raises(DbnetError, match=r"line (4|14): is damaged.* delete the file, or choose another") as error:
        run(samples, path)
    assert len(str(error.value)) < 400


def test_where_nothing_can_be_written(samples, tmp_path):
    for path in (tmp_path, tmp_path / "none" / "a.jsonl", tmp_path / "model.ckpt", Path("/dev/null")):
        with pytest.raises(DbnetError):
            run(samples, path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DbnetError, match="no regular file"):
        run(samples, tmp_path / "pipe")


# The file's life ------------------------------------------------------------------------------------------------------


def test_a_temporary_file_goes_with_the_evaluation(samples, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    handles = len(os.listdir("/proc/self/fd"))
    evaluation = run(samples, None)
    assert list(tmp_path.iterdir()) == []
    assert len(evaluation.detections["img_3.png"]) == 3
    del evaluation
    assert len(os.listdir("/proc/self/fd")) == handles


def test_a_saved_file_is_a_result_file(samples, finished):
    found = read_results(finished[0])
    assert len(found.detections) == IMAGES
    images = json.loads(json.dumps(finished[1]))["images"]
    assert [[d.polygon.tolist() for d in detections] for detections in found.detections.values()] == [
        [d["polygon"] for d in image["detections"]] for image in images.values()]
