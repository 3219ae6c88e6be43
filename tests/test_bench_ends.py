"""A crash, an interrupt or a signal in the middle of `dbnet bench`: what is complete stays, and nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dbnet.cli import bench_run
from evaluation.benching import measuring
from evaluation.benching.bundle import read_bundle
from evaluation.benching.measuring import entries_of
from parity.data import ROOT
from tests.elsewhere import is_gone
from tests.running import command

TRAINED = ROOT / "dbnet/embedded/dbnet_mobilenetv3.safetensors"
SMALL = ("--shape", "96x160", "--limit", 3, "--rounds", 2, "--calls", 2, "--threads", 1)


@contextlib.contextmanager
def telling(monkeypatch, tell):
    """`dbnet bench` tells its progress to `tell`."""
    with monkeypatch.context() as patch:
        patch.setattr(bench_run, "_progress", lambda quiet: contextlib.nullcontext(tell))
        yield


def test_a_crash_in_the_middle_leaves_the_other_rows(tmp_path, monkeypatch, photos):
    kept = []
    monkeypatch.setattr(measuring, "entries_of", lambda plan: kept.append(entries_of(plan)) or kept[-1])

    def tell(what, _done, _total):
        if "onnxruntime" in what and "round 2" in what:
            process = kept[0][0]._process
            os.kill(process.pid, signal.SIGSEGV)
            assert is_gone(process.pid)

    with telling(monkeypatch, tell):
        done = command("bench", TRAINED, "--runner", "onnxruntime,opencv", "--images", photos, *SMALL, "-o",
                       tmp_path / "b.json")
    assert done.returncode == 3 and "crashed (SIGSEGV)" in done.stderr
    first, second = read_bundle(tmp_path / "b.json").rows
    assert "2 to 4 calls of each row" in done.stdout and read_bundle(tmp_path / "b.json").settings["rounds"] == 2
    assert "crashed" in first.error and len(first.seconds.whole) == 1 and first.detections
    assert second.error is None and len(second.seconds.whole) == 2 and second.parity.reference == 0


@pytest.mark.parametrize(("when", "kept"), [("round 2", 1), ("round 1", 0)])
def test_an_interrupt_writes_whole_rounds_or_nothing(tmp_path, monkeypatch, photos, when, kept):
    started = []

    def tell(what, _done, _total):
        started.append(what)
        if when in what and "opencv" in what:
            raise KeyboardInterrupt

    out = tmp_path / "b.json"
    with telling(monkeypatch, tell):
        done = command("bench", TRAINED, "--runner", "onnxruntime,opencv", "--images", photos, *SMALL, "-o", out)
    assert done.returncode == 3 and "interrupted" in done.stderr
    assert out.exists() == bool(kept)
    if kept:
        assert "the rounds that were complete, 1 of 2, of 2 of 2 rows" in done.stderr
        bundle = read_bundle(out)
        assert [len(row.seconds.whole) for row in bundle.rows] == [1, 1]
        told = bundle.settings
        assert (told["rounds"], told["asked_rounds"], told["interrupted"]) == (1, 2, True)
        assert told["order"].endswith("; interrupted") and "interrupted, 1 of 2 rounds in turns" in done.stdout
        assert all("interrupted after 1 of 2 rounds" in row.notes[-1] for row in bundle.rows)
    else:
        assert "nothing was written" in done.stderr and not done.stdout


def test_an_interrupted_group_leaves_those_before_whole(tmp_path, monkeypatch, photos):
    def tell(what, _done, _total):
        if "onnxruntime" in what and "round 1" in what:
            raise KeyboardInterrupt

    with telling(monkeypatch, tell):
        done = command("bench", TRAINED, "--runner", "opencv,onnxruntime", "--together", 1, "--images",
                       photos, *SMALL, "-o", tmp_path / "b.json")
    first, second = read_bundle(tmp_path / "b.json").rows
    assert len(first.seconds.whole) == 2 and first.error is None
    assert second.error == "interrupted before its first round was complete"
    assert done.returncode == 3 and "2 of 2, of 1 of 2 rows" in done.stderr
    assert "took turns: 1, then 2" in done.stdout and not first.notes


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_a_signal_leaves_no_process_and_no_file(tmp_path, photos, number):
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "dbnet", "bench", str(TRAINED), "--runner", "opencv", "--images", str(photos),
         *map(str, SMALL), "--rounds", "1000", "--calls", "1000", "-o", "b.json"], cwd=tmp_path,
        stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(ROOT)})
    end = time.monotonic() + 60
    while not list((tmp_path / "tmp").glob("*/map_0_2.npy")) and time.monotonic() < end:
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1
    time.sleep(0.5)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 3 and "interrupted" in told and "Traceback" not in told
    assert not list((tmp_path / "tmp").iterdir()) and is_gone(int(children[0]))
