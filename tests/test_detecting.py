"""Detection for people as a function: failures pass by in order, large images wait, interruptions leave whole files."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import threading
import time
import tracemalloc
from dataclasses import replace

import cv2
import numpy as np
import pytest

from dbnet.spec import PADDLE_BOXES
from evaluation import pipeline
from evaluation.detect import detect
from evaluation.detecting import Looks, detect_images, settings_of
from evaluation.detecting_files import KINDS, Pipe, Writer
from evaluation.detecting_inputs import find_images
from evaluation.detecting_output import OutputFolder
from tests.detecting import sample, write_image, write_photos
from tests.test_evaluate import PIXELS, BrightnessRunner


@pytest.fixture(autouse=True)
def no_threads_left():
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("dbnet")] == []


def runner_of(at_once: int) -> BrightnessRunner:
    runner = BrightnessRunner()
    runner.at_once = at_once
    return runner


def run(runner, folder, out, looks=None, kinds=None, progress=None):
    inputs = find_images([str(folder)])
    kinds = kinds or [kind for kind in KINDS if kind != "crops"]
    writer = Writer(OutputFolder(out), kinds, inputs.names, ".jpg",
                    settings_of(runner, folder / "model", PIXELS, PADDLE_BOXES))
    return detect_images(runner, inputs, PIXELS, PADDLE_BOXES, looks or Looks(), writer, progress=progress)


# The pipeline's part --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 2])
def test_failures_pass_by_in_their_place(tmp_path, at_once):
    photos = write_photos(tmp_path, 6)
    photos[1].write_bytes(photos[1].read_bytes()[:500])
    photos[3].unlink()
    unusable = pipeline.prepare(cv2.imread(str(photos[4])), PIXELS).tensor.shape  # no other has its height

    class Broken(BrightnessRunner):
        def run(self, images):
            return {"probability": super().run(images)["probability"] * (np.nan if images.shape == unusable else 1)}

    runner = Broken()
    runner.at_once = at_once
    told = list(pipeline.run(runner, map(sample, photos), PIXELS, [PADDLE_BOXES], lambda found: found.sample.name,
                             failed=lambda failed, error: f"{failed.name}! {error}"))
    assert [line[:6] for line in told] == [f"img_{i}." for i in range(1, 7)]
    assert ["!" in line for line in told] == [False, True, False, True, True, False]
    for i in (1, 3, 4):
        assert told[i].count(str(photos[i])) == 1


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("kept", [2**25, 0])
def test_the_view_is_the_image_and_its_part_of_the_map(tmp_path, at_once, kept, monkeypatch):
    """Whether the image was kept while the network worked, or decoded again."""
    monkeypatch.setattr(pipeline, "KEPT_PIXELS", kept)
    photos = write_photos(tmp_path, 3)
    pixels = replace(PIXELS, resize="keep_ratio_pad", size=(160, 96))
    runner = runner_of(at_once)
    found = list(pipeline.run(runner, map(sample, photos), pixels, [PADDLE_BOXES], lambda one: one, view=True))
    for photo, one in zip(photos, found, strict=True):
        image = cv2.imread(str(photo))
        assert np.array_equal(one.view.image, image)
        assert one.size == image.shape[:2]
        ready = pipeline.prepare(image, pixels)
        height, width = ready.resized_size
        assert (height, width) != ready.tensor.shape[2:]
        assert np.array_equal(one.view.probability, runner.run(ready.tensor)["probability"][0, 0, :height, :width])


@pytest.mark.parametrize("unknown", [False, True])
def test_large_images_wait_for_each_other(tmp_path, monkeypatch, unknown):
    """Of images whose header tells too much, or nothing, one is decoded at a time; of small ones several."""
    now, most, lock = {}, {}, threading.Lock()

    def decode(data, path, *_):
        large = path.stem.startswith("large")
        with lock:
            now[large] = now.get(large, 0) + 1
            most[large] = max(most.get(large, 0), now[large])
        time.sleep(0.02)
        with lock:
            now[large] -= 1
        return pipeline.decode_image(data, path)

    monkeypatch.setattr(pipeline, "DECODED_AT_ONCE", 64 * 64 * 3 + 10)
    for i in range(8):
        write_image(tmp_path / f"large_{i}{'.webp' if unknown else '.png'}", i, 128, 160)
        write_image(tmp_path / f"small_{i}.png", i, 64, 64)
    for stem, expected in (("large", 1), ("small", 3)):
        photos = sorted(tmp_path.glob(f"{stem}_*"))
        names = list(pipeline.run(runner_of(4), map(sample, photos), PIXELS, [PADDLE_BOXES],
                                  lambda found: found.sample.name, decode=decode))
        assert names == [photo.name for photo in photos]
        assert most[stem == "large"] == expected


def test_large_inputs_of_the_network_wait_for_each_other(tmp_path, monkeypatch):
    now, most, wanted, lock = [0], [0], [0], threading.Lock()

    class Counting(BrightnessRunner):
        at_once = 4

        def run(self, images):
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            patience = time.monotonic() + 5
            while most[0] < wanted[0] and time.monotonic() < patience:  # a busy machine starts the others late
                time.sleep(0.005)
            time.sleep(0.02)
            with lock:
                now[0] -= 1
            return super().run(images)

    photos = write_photos(tmp_path, 6)
    for budget, expected in ((2**20, 4), (100, 1)):
        monkeypatch.setattr(pipeline, "NETWORK_AT_ONCE", budget)
        most[0], wanted[0] = 0, expected
        list(pipeline.run(Counting(), map(sample, photos), PIXELS, [PADDLE_BOXES], lambda found: 0))
        assert most[0] == expected


def test_opencv_uses_no_threads_of_its_own_meanwhile(tmp_path):
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(3)
        counts = list(pipeline.run(runner_of(2), map(sample, write_photos(tmp_path, 3)), PIXELS, [PADDLE_BOXES],
                                   lambda found: cv2.getNumThreads()))
        assert counts == [1, 1, 1]
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize("error", [MemoryError(), cv2.error("no memory")])
def test_too_little_memory_for_one_image_is_its_failure(tmp_path, error):
    def decode(data, path, *_):
        if path.stem == "img_2":
            raise error
        return pipeline.decode_image(data, path)

    told = list(pipeline.run(runner_of(1), map(sample, write_photos(tmp_path, 3)), PIXELS, [PADDLE_BOXES],
                             lambda found: "", decode=decode, failed=lambda _, failure: str(failure)))
    assert [bool(line) for line in told] == [False, True, False]
    assert "img_2.png: " in told[1] and "smaller" in told[1]


# The whole run --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 2])
def test_the_boxes_are_those_of_one_image_alone(tmp_path, at_once):
    photos = write_photos(tmp_path / "photos", 5)
    runner = runner_of(at_once)
    summary = run(runner, tmp_path / "photos", tmp_path / "out", Looks(crops=True), KINDS)
    report = json.loads((tmp_path / "out/detections.json").read_text())
    assert (summary.images, summary.asked, summary.failed, summary.stopped) == (5, 5, [], None)
    for photo in photos:
        expected = detect(runner, cv2.imread(str(photo)), PIXELS, PADDLE_BOXES)
        entry = report["images"][photo.name]
        assert [(d["polygon"], d["score"]) for d in entry["detections"]] == [
            (d.polygon.tolist(), d.score) for d in expected]
        assert cv2.imread(str(tmp_path / "out" / entry["picture"])).shape == cv2.imread(str(photo)).shape
        crops = [cv2.imread(str(tmp_path / "out" / d["crop"])) for d in entry["detections"]]
        assert all(crop is not None for crop in crops)
    assert summary.boxes == sum(len(entry["detections"]) for entry in report["images"].values()) > 5
    assert report["settings"]["boxes"]["rule"] == "paddle"
    assert report["versions"]["runner"] == {"device": "CPU"}
    assert "EXIF" in report["coordinates"]


def test_crops_are_cut_before_anything_is_drawn(tmp_path):
    photo = write_photos(tmp_path / "photos", 1)[0]
    image = np.zeros((120, 200, 3), np.uint8)
    image[30:60, 40:140] = 255
    photo.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    run(runner_of(1), tmp_path / "photos", tmp_path / "out", Looks(crops=True), KINDS)
    crop = cv2.imread(str(tmp_path / "out/crops/img_1_0.jpg")).astype(int)
    assert np.ptp(crop, axis=2).max() < 12  # neither green lines nor yellow tint on black and white


def test_memory_is_flat(tmp_path):
    peaks, photos = [], write_photos(tmp_path / "photos", 5)
    for count in (20, 120):
        for i in range(6, count + 1):
            shutil.copy(photos[i % 5], tmp_path / f"photos/img_{i}.png")
        tracemalloc.start()
        summary = run(runner_of(2), tmp_path / "photos", tmp_path / "out")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert summary.images == count
    pictures = sum(path.stat().st_size for path in (tmp_path / "out/pictures").iterdir())
    assert peaks[1] < peaks[0] + pictures / 2  # of which 100 are more


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("during", ["network", "writing"])
def test_ctrl_c_leaves_whole_files(tmp_path, at_once, during, monkeypatch, interrupts_arrive):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    write_photos(tmp_path / "photos", 40)
    calls = itertools.count()

    class Interrupted(BrightnessRunner):
        def run(self, images):
            if during == "network" and next(calls) == 5:
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.005)
            return super().run(images)

    real = OutputFolder.put

    def put(self, relative, content):
        if during == "writing" and next(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
        real(self, relative, content)

    monkeypatch.setattr(OutputFolder, "put", put)
    runner = Interrupted()
    runner.at_once = at_once
    try:
        summary = run(runner, tmp_path / "photos", tmp_path / "out")
    finally:
        signal.signal(signal.SIGINT, before)
    assert summary.stopped == "interrupted"
    assert 0 < summary.images < 30
    report = json.loads((tmp_path / "out/detections.json").read_text())
    names = [f"img_{i}" for i in range(1, summary.images + 1)]
    assert list(report["images"]) == [f"{name}.png" for name in names]
    assert (report["complete"], report["stopped"], report["asked"]) == (False, "interrupted", 40)
    assert sorted(path.stem for path in (tmp_path / "out/pictures").iterdir()) == sorted(names)
    assert sorted(path.stem for path in (tmp_path / "out/submit").iterdir()) == sorted(f"res_{n}" for n in names)
    assert len((tmp_path / "out/det_results.txt").read_text().splitlines()) == len(names)


def test_a_full_disk_stops_the_run_and_leaves_whole_files(tmp_path, monkeypatch):
    write_photos(tmp_path / "photos", 9)
    real, calls = OutputFolder.put, itertools.count()

    def put(self, relative, content):
        if next(calls) == 7:
            raise OSError(28, "No space left on device", relative)
        real(self, relative, content)

    monkeypatch.setattr(OutputFolder, "put", put)
    summary = run(runner_of(2), tmp_path / "photos", tmp_path / "out")
    assert summary.stopped == "the disk is full"
    report = json.loads((tmp_path / "out/detections.json").read_text())
    assert len(report["images"]) == summary.images == 3
    assert report["stopped"] == "the disk is full"


def test_a_reader_that_leaves_ends_the_run(tmp_path):
    inputs = find_images([str(write_photos(tmp_path, 4)[0].parent)])

    class Left:
        def write(self, data):
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        detect_images(runner_of(2), inputs, PIXELS, PADDLE_BOXES, Looks(pictures=False),
                      Writer(None, (), inputs.names, ".jpg", {}, Pipe(Left())))


def test_our_own_mistake_is_raised_and_what_was_written_stays(tmp_path):
    write_photos(tmp_path / "photos", 9)

    def progress(summary):
        if summary.images == 4:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(runner_of(2), tmp_path / "photos", tmp_path / "out", progress=progress)
    assert len(json.loads((tmp_path / "out/detections.json").read_text())["images"]) == 4
