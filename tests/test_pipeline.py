"""Stages that overlap: the same boxes as one image after the other, in order, in bounded memory, and no thread left."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import converters
from converters.load import load_model
from dbnet.datasets.drawn import draw as draw_words
from dbnet.errors import DbnetError
from dbnet.preprocess import prepare, read_image
from dbnet.sample import Sample
from dbnet.seeded import seeded_weights
from dbnet.spec import PADDLE_BOXES, PADDLE_PIXELS, SPECS
from evaluation import pipeline
from evaluation.detect import detect
from evaluation.evaluate import evaluate
from evaluation.runners import MAX_AT_ONCE, OnnxRuntimeRunner, cores, open_runner
from tests.test_evaluate import PIXELS, BrightnessRunner, draw

#: How long a test waits for something that should happen at once.
PATIENCE = 20


@pytest.fixture(autouse=True)
def no_threads_left():
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("dbnet")] == []


def samples_in(folder: Path, count: int, size=(120, 200)) -> list[Sample]:
    return [draw(folder / f"img_{i}.png", [(20 + i % 50, 30, 60, 12)] * (i % 3 > 0), size=size) for i in range(count)]


# In order, overlapping, bounded ---------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.lists(st.floats(0, 0.002), max_size=12), st.integers(1, 4), st.integers(1, 6))
def test_results_keep_their_order_and_few_are_under_way(delays, workers, ahead):
    taken, most = itertools.count(1), []

    def source():
        for i, delay in enumerate(delays):
            most.append(next(taken) - len(got))
            yield i, delay

    def slow(item):
        time.sleep(item[1])
        return item[0]

    got: list[int] = []
    with ThreadPoolExecutor(workers, thread_name_prefix="dbnet") as pool:
        for value in pipeline.ordered_map(pool, slow, source(), ahead):
            got.append(value)
    assert got == list(range(len(delays)))
    assert max(most, default=0) <= ahead + 1  # one of them is just being yielded


def test_before_and_behind_the_network_others_work(tmp_path, monkeypatch):
    """The network on image i waits until image i + 1 has been read and image i - 1 has been finished elsewhere."""
    samples = samples_in(tmp_path, 5)
    read, finished = [threading.Event() for _ in range(6)], [threading.Event() for _ in range(5)]
    calls, main = itertools.count(), threading.get_ident()

    def read_bytes(path):
        assert threading.get_ident() != main
        read[int(Path(path).stem[4:])].set()
        return np.fromfile(path, np.uint8)

    class Waiting(BrightnessRunner):
        def run(self, images):
            assert threading.get_ident() == main
            i = next(calls)
            assert i == 4 or read[i + 1].wait(PATIENCE)
            assert i == 0 or finished[i - 1].wait(PATIENCE)
            return super().run(images)

    def finish(found):
        assert threading.get_ident() != main
        finished[samples.index(found.sample)].set()
        return found

    monkeypatch.setattr(pipeline, "read_bytes", read_bytes)
    found = list(pipeline.run(Waiting(), samples, PIXELS, [PADDLE_BOXES], finish, workers=2))
    assert [f.sample for f in found] == samples
    assert [f.checksum for f in found] == [zlib.crc32(sample.image.read_bytes()) for sample in samples]
    assert [len(f.detections[0]) for f in found] == [0, 1, 1, 0, 1]


@pytest.mark.parametrize(("at_once", "workers", "expected"), [(1, None, 1), (1, 4, 1), (2, None, 2), (3, None, 3)])
def test_a_runner_gets_as_many_calls_at_once_as_it_takes(tmp_path, at_once, workers, expected):
    together = threading.Barrier(expected)
    now, most, lock = [0], [0], threading.Lock()

    class Counting(BrightnessRunner):
        def run(self, images):
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            together.wait(PATIENCE)
            with lock:
                now[0] -= 1
            return super().run(images)

    runner = Counting()
    runner.at_once = at_once
    evaluate(runner, samples_in(tmp_path, 6), PIXELS, PADDLE_BOXES, workers=workers)
    assert most == [expected]


@pytest.mark.parametrize("at_once", [1, 2])
def test_memory_is_flat(tmp_path, at_once):
    """Five times the images, the same peak; also behind a slow network and before a slow disk."""
    samples = samples_in(tmp_path, 50, size=(320, 320))
    pixels = replace(PIXELS, size=(640, 640))
    tensor = 3 * 640 * 640 * 4

    class Slow(BrightnessRunner):
        def run(self, images):
            time.sleep(0.002)
            return super().run(images)

    runner, peaks = Slow(), []
    runner.at_once = at_once
    for count in (10, 10, 10, 50):  # how many images are under way at once is chance in one short run
        tracemalloc.start()
        evaluate(runner, samples[:count], pixels, PADDLE_BOXES, workers=2, progress=lambda *_: time.sleep(0.002))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[3] < max(peaks[:3]) + tensor
    assert max(peaks) < 8 * tensor  # at most 2 * workers + 1 images, with their planes and maps


# The first error ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("fault", ["missing", "broken", "nan"])
def test_the_first_error_stops_everything(tmp_path, at_once, fault):
    samples, lock, calls = samples_in(tmp_path, 40), threading.Lock(), []

    class Failing(BrightnessRunner):
        def run(self, images):
            with lock:
                calls.append(1)
            time.sleep(0.001)
            return {"probability": super().run(images)["probability"] * (np.nan if images.shape[3] == 256 else 1)}

    for i in (7, 9):  # the first in order counts, whichever is noticed first
        wide = np.zeros((120, 260, 3), np.uint8)
        content = {"missing": None, "broken": b"no image", "nan": cv2.imencode(".png", wide)[1].tobytes()}[fault]
        samples[i].image.unlink() if content is None else samples[i].image.write_bytes(content)
    runner, done = Failing(), []
    runner.at_once = at_once
    with pytest.raises(DbnetError, match=r"img_7\.png: ") as error:
        evaluate(runner, samples, PIXELS, PADDLE_BOXES, progress=lambda i, _: done.append(i))
    assert str(error.value).count("img_7.png") == 1
    assert done == list(range(1, 8))
    assert len(calls) < 25


@pytest.mark.parametrize("at_once", [1, 2])
def test_ctrl_c_ends_it(tmp_path, at_once):
    """In a process of its own: a runtime that another test has loaded may take the signal for itself, and the tests
    with it. A shell's background jobs ignore SIGINT.
    """
    program = ("import signal, sys; from pathlib import Path; "
               "signal.signal(signal.SIGINT, signal.default_int_handler); "
               "from tests.test_pipeline import _interrupt; _interrupt(Path(sys.argv[1]), int(sys.argv[2]))")
    done = subprocess.run([sys.executable, "-c", program, tmp_path, str(at_once)], capture_output=True, text=True,
                          cwd=Path(__file__).parents[1], timeout=120)
    assert done.returncode == 0, done.stderr


def _interrupt(tmp_path, at_once):
    calls = itertools.count()

    class Interrupted(BrightnessRunner):
        def run(self, images):
            if next(calls) == 3:
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            return super().run(images)

    runner = Interrupted()
    runner.at_once = at_once
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        evaluate(runner, samples_in(tmp_path, 40), PIXELS, PADDLE_BOXES, save=tmp_path / "kept.jsonl")
    assert time.monotonic() - start < PATIENCE
    assert next(calls) < 12
    again = evaluate(BrightnessRunner(), samples_in(tmp_path, 40), PIXELS, PADDLE_BOXES, save=tmp_path / "kept.jsonl")
    assert len(again.detections) == 40


def test_a_caller_who_stops_early_leaves_nothing_running(tmp_path):
    with closing(pipeline.run(BrightnessRunner(), samples_in(tmp_path, 9), PIXELS, [PADDLE_BOXES], id)) as results:
        next(results)


# The real runtimes ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A seeded network with a box threshold that leaves something to compare."""
    spec = replace(SPECS["dbnet_mobilenetv3"], boxes=replace(SPECS["dbnet_mobilenetv3"].boxes, binary_thresh=0.5))
    path = tmp_path_factory.mktemp("pipeline") / "seeded.ckpt"
    converters.save_weights(seeded_weights(spec, 2030), path, spec=spec)
    return path


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder, samples = tmp_path_factory.mktemp("words"), []
    for i in range(6):
        image, polygons = draw_words(i, 200 + 20 * i, 320)
        path = folder / f"img_{i}.png"
        path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
        samples.append(Sample(path, polygons, np.zeros(len(polygons), bool), [""] * len(polygons)))
    return samples


def bits(detections):
    return [(d.polygon.dtype, d.polygon.tobytes(), d.score) for d in detections]


@pytest.mark.parametrize(("name", "concurrent"), [
    pytest.param("torch", False, marks=pytest.mark.long), ("mindspore", False), ("onnxruntime", False),
    ("onnxruntime", True)])
def test_the_same_boxes_as_one_image_after_the_other(name, concurrent, model, words):
    pytest.importorskip(name)
    pixels = replace(PADDLE_PIXELS, size=(192, 192))
    plain = open_runner(model, name, "cpu", ("probability",))
    expected = [detect(plain, read_image(sample.image), pixels, plain.spec.boxes) for sample in words]
    assert sum(map(len, expected)) >= 10
    runner = open_runner(model, name, "cpu", ("probability",), concurrent=True) if concurrent else plain
    for _ in range(2):
        evaluation = evaluate(runner, words, pixels, runner.spec.boxes)
        assert list(map(bits, evaluation.detections.values())) == list(map(bits, expected))
    assert evaluation.settings["model"] == load_model(model).record.sha256


def test_concurrent_sessions(model, words):
    """The same numbers from any number of threads and calls at once."""
    pytest.importorskip("onnxruntime")
    images = prepare(read_image(words[0].image), replace(PADDLE_PIXELS, size=(192, 192))).tensor
    expected = open_runner(model, "onnxruntime", stages=("probability",)).run(images)["probability"]
    for threads, at_once in ((None, min(cores(), MAX_AT_ONCE)), (1, 1), (3, 3), (MAX_AT_ONCE + 2, MAX_AT_ONCE)):
        runner = open_runner(model, "onnxruntime", stages=("probability",), threads=threads, concurrent=True)
        assert isinstance(runner, OnnxRuntimeRunner)
        assert runner.at_once == at_once
        with ThreadPoolExecutor(at_once) as pool:
            maps = list(pool.map(lambda _, runner=runner: runner.run(images)["probability"], range(at_once + 2)))
        assert all(np.array_equal(map_, expected) for map_ in maps)
