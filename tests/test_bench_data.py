"""The images of `dbnet bench`: drawn ones, somebody's own, parts of them; and steps of training."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest

from dbnet.datasets.drawn import draw
from dbnet.sample import Sample
from dbnet.shards import Shard
from evaluation.benching import entry, measuring
from evaluation.benching.bundle import read_bundle
from evaluation.benching.collecting import Collector
from evaluation.benching.data import drawn, drawn_labels, of_samples
from evaluation.benching.figures import figures
from evaluation.benching.plan import Plan
from parity.data import ROOT
from tests.running import command

TRAINED = ROOT / "dbnet/embedded/dbnet_mobilenetv3.safetensors"


def test_parts_of_drawn_scenes_are_those_of_the_whole(tmp_path):
    whole = drawn(tmp_path, 5, 5, (64, 96)).told()
    parts = [drawn(tmp_path / str(i), 5, 5, (64, 96), Shard(i, 2)).told()
             for i in (1, 2) if (tmp_path / str(i)).mkdir() is None]
    for name in ("names", "image_sha256s", "label_sha256s"):
        assert parts[0][name] + parts[1][name] == whole[name]
    assert parts[1]["shard"] == {"index": 2, "count": 2, "images": 5} and parts[1]["names"] == [
        "scene_0003.jpg", "scene_0004.jpg", "scene_0005.jpg"]
    labels = [sample for part in parts for sample in drawn_labels(part)]
    again = drawn_labels(whole)
    assert len(labels) == len(again) == 5
    for a, b in zip(labels, again, strict=True):
        np.testing.assert_array_equal(a.polygons, b.polygons)
    assert drawn(tmp_path, 6, 5, (64, 96)).told()["images_sha256"] != whole["images_sha256"]


def test_photographs_without_labels_have_no_score(tmp_path, photos):
    done = command("bench", TRAINED, "--runner", "opencv", "--images", photos, "--shape", "96x96", "--rounds", 1,
                   "-o", tmp_path / "b.json")
    assert done.returncode == 0, done.stderr
    bundle = read_bundle(tmp_path / "b.json")
    assert bundle.data["kind"] == "images" and bundle.data["labels_sha256"] is bundle.data["protocol"] is None
    assert bundle.rows[0].scores == {} and len(bundle.detections[bundle.rows[0].detections]) == 3


def test_a_batch_needs_one_size(tmp_path):
    for name, size in (("a.png", (64, 96)), ("b.png", (64, 192))):
        cv2.imwrite(str(tmp_path / name), draw(1, *size)[0])
    done = command("bench", TRAINED, "--runner", "opencv", "--images", tmp_path, "--batch", 2, "--pixels",
                   "resize=grid")
    assert done.returncode == 3 and "a.png is run at 64x96 and b.png at 64x192: a batch needs one size" in done.stderr


def test_images_are_told_apart_by_their_bytes(photos):
    samples = [Sample(path, [], np.zeros(0, bool), []) for path in sorted(photos.iterdir())]
    data = of_samples("images", samples, (), Shard(2, 3))
    assert data.names == [samples[1].name] and data.told()["shard"]["images"] == 3
    assert data.digests != of_samples("images", samples, (), Shard(1, 3)).digests


# Training and other runners -------------------------------------------------------------------------------------------


@pytest.mark.long
def test_steps_of_training_are_timed(tmp_path):
    pytest.importorskip("torch")
    done = command("bench", TRAINED, "--runner", "torch,opencv", "--train", "--shape", "64x96", "--limit", 1,
                   "--rounds", 2, "--calls", 2, "--threads", 1, "--batch", 1, "-o", tmp_path / "b.json")
    assert done.returncode == 0, done.stderr
    first, second = read_bundle(tmp_path / "b.json").rows
    assert [len(each) for each in first.seconds.train_step] == [2, 2] and first.seconds.train_compile == []
    assert first.training["size"] == [64, 96] and first.training["peak_memory_bytes"] >= first.peak_memory_bytes
    assert figures(first).step_ms > 0 and not second.seconds.train_step and second.training is None
    assert "ms/step" in done.stdout


class Trained:
    """A row's process that says what is wanted."""

    peak = 7

    def __init__(self, _framework):
        pass

    def call(self, do, **_header):
        return {"begin": {"import": 1.0}, "first": {"first_run": 2.0, "usual": 1.5, "shape": [32, 32]},
                "open": {"device": "cpu", "environment": {}, "notes": [], "model": {}, "computes": [], "load": 1.0,
                         "import": None, "graph_compile": None},
                "train_open": {"prepare": 2.8e-6, "first_step": 1.0}}[do], {}

    def close(self, _at_once=False):
        pass


@pytest.mark.parametrize(("runner", "compiled", "note"), [
    ("torch", [], False), ("mindspore", [2.8e-6], False), ("mindspore:O1", None, True), ("torch:compile", None, True),
    (f"torch@{sys.executable}", None, True), ("opencv", None, False)])
def test_only_a_graph_is_compiled_and_what_does_not_train_is_noted(runner, compiled, note, monkeypatch):
    monkeypatch.setattr(entry, "BenchProcess", Trained)
    monkeypatch.setattr(entry, "installed", lambda _module: True)
    [row] = measuring.entries_of(Plan([TRAINED], [runner], [(32, 32)], [1], lambda a, b: 0.0, train=True))
    row.start(["a.jpg"])
    assert row.trains == (compiled is not None) and bool(row.notes) == note
    if note:
        assert f"in {runner} 32x32: --train times no steps of it" in row.notes[0]
    if row.trains:
        row.begin_training()
        assert row.seconds.train_compile == compiled and row.training == {"size": [32, 32], "first_step": 1.0}


@pytest.mark.long
def test_a_cluster_finds_what_this_machine_does(tmp_path):
    pytest.importorskip("ray")
    few = ("--runner", "onnxruntime,opencv", "--shape", "160x288", "--limit", 10, "--rounds", 1, "--calls", 1, "-o")
    for name, more in (("here", ()), ("ray", ("--ray", "local", "--ray-workers", 2))):
        done = command("bench", TRAINED, *few, tmp_path / f"{name}.json", *more)
        assert done.returncode == 0 and "other boxes" not in done.stderr, done.stderr
    here, ray = (read_bundle(tmp_path / f"{name}.json") for name in ("here", "ray"))
    assert here.detections == ray.detections
    for a, b in zip(here.rows, ray.rows, strict=True):
        assert a.scores == b.scores and b.environment["cluster"]["workers"] == 2
        assert (a.parity is None) == (b.parity is None) and (b.parity is None or b.parity.images == 8)


def test_a_cluster_that_does_not_answer_is_told_before_anything_is_measured(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(measuring, "measure", lambda *_: pytest.fail("it measures"))
    done = command("bench", TRAINED, "--runner", "opencv", "--limit", 1, "--ray", "127.0.0.1:1")
    assert done.returncode == 3 and "--ray 127.0.0.1:1: cannot be reached" in done.stderr and not done.stdout


def test_where_the_cluster_differs_a_note_says_so(tmp_path):
    class Fake:
        title, computes, batch, place, notes = "m", "x", 1, 0, []

        def detect(self, paths, keep, maps):
            return [[] for _ in paths], []

    names = [f"{i}.jpg" for i in range(20)]
    there = [{"name": name, "detections": [{"polygon": [[0.0, 0.0]], "score": 1.0}] if name == "3.jpg" else []}
             for name in names]
    found = Collector(names, names, tmp_path, lambda a, b: 1e-4, lambda entry: there).collect(Fake())
    assert found.images == there and len(Fake.notes) == 1
    assert "in 1 of the first 8 images the cluster finds other boxes" in Fake.notes[0]
