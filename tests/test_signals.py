"""^C in a process in which a runtime takes signals for itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dbnet.signals import kept_signals
from parity.data import ROOT
from tests.detecting import write_model, write_photos

#: Runs a model in MindSpore, and interrupts this process while its graph is compiled or after that.
PROGRAM = """
import os, signal, sys, threading, time
from dbnet.seeded import seeded_images
from evaluation.runners import open_runner
signal.signal(signal.SIGINT, signal.default_int_handler)
when, path = sys.argv[1:]
runner, images = open_runner(path, "mindspore"), seeded_images(1, 32, 32)
press = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
try:
    if when == "during":
        press.start()
    runner.run(images)
    if when == "after":
        press.start()
    time.sleep(10)
    print("not interrupted")
except KeyboardInterrupt:
    print("interrupted")
for number in (signal.SIGINT, signal.SIGTERM):
    print(signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL))
"""


@pytest.fixture(scope="module", name="model")
def _model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "a.onnx")


@pytest.mark.parametrize("when", ["during", pytest.param("after", marks=pytest.mark.long)])
def test_mindspore_leaves_an_interrupt_to_python(model, when):
    """Left to itself MindSpore ends the process with SIGTERM."""
    pytest.importorskip("mindspore")
    done = subprocess.run([sys.executable, "-c", PROGRAM, when, model], cwd=ROOT, capture_output=True, text=True,
                          timeout=120)
    assert (done.returncode, done.stdout.split("\n")) == (0, ["interrupted", "True", "True", ""]), done.stderr


def test_detect_in_mindspore_is_interrupted_as_elsewhere(model, tmp_path):
    pytest.importorskip("mindspore")
    pytest.importorskip("onnxruntime")
    photos = write_photos(tmp_path / "few", 3)
    (tmp_path / "many").mkdir()
    for i in range(400):
        (tmp_path / "many" / f"img_{i}.png").hardlink_to(photos[i % 3])
    running = subprocess.Popen(
        [sys.executable, "-m", "dbnet", "detect", "-m", model, tmp_path / "many", "--runner", "mindspore", "--out",
         tmp_path / "out"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 100
    while not (tmp_path / "out/pictures/img_1.jpg").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    said = running.communicate(timeout=60)
    assert running.returncode == 3, said
    assert "interrupted" in said[1] and "of 400 images" in said[1]
    assert (tmp_path / "out/detections.json").is_file()


# In this process ------------------------------------------------------------------------------------------------------


@pytest.fixture(name="handlers")
def _handlers(interrupts_arrive):
    """Puts both back."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("end", [signal.SIG_DFL, signal.SIG_IGN])
def test_what_a_library_sets_is_undone(handlers, end):
    came: list[int] = []

    def mine(number, _frame):
        came.append(number)

    signal.signal(signal.SIGINT, mine)
    signal.signal(signal.SIGTERM, end)
    with kept_signals():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if end is signal.SIG_DFL:
            os.kill(os.getpid(), signal.SIGTERM)
    assert came == [signal.SIGINT] * (end is signal.SIG_DFL)
    assert signal.getsignal(signal.SIGINT) is mine and signal.getsignal(signal.SIGTERM) is end


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_a_library_keeps_to_itself_is_raised_after_it(handlers, number):
    """MindSpore's parser catches everything in places."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    kept = []

    def library():
        with kept_signals():
            try:
                os.kill(os.getpid(), number)
                time.sleep(10)
            except KeyboardInterrupt as error:
                kept.append(error)

    with pytest.raises(KeyboardInterrupt):
        library()
    assert len(kept) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_whoever_ignores_interrupts_goes_on_doing_so(handlers):
    """A shell's background job: a SIGTERM still ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with kept_signals():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_another_thread_sets_nothing(handlers):
    failures: list[BaseException] = []

    def work():
        try:
            with kept_signals():
                pass
        except ValueError as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []
