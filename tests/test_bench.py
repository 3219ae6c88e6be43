"""`dbnet bench` measures every row in a process of its own, in turns; what fails or stops leaves the rest."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import converters
from converters.load import load_model
from dbnet.cli.bench_run import tolerance
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS
from evaluation.benching import measuring
from evaluation.benching.bundle import read_bundle
from evaluation.benching.collecting import _Difference
from evaluation.benching.data import drawn_labels
from evaluation.benching.figures import figures
from evaluation.benching.measuring import entries_of, groups_of, told_order
from evaluation.benching.plan import Plan
from evaluation.compare_maps import Boxes
from evaluation.protocols.table import score
from parity.data import ROOT
from tests.running import command

TRAINED = ROOT / "dbnet/embedded/dbnet_mobilenetv3.safetensors"
SMALL = ("--shape", "160x288", "--limit", 3, "--rounds", 2, "--calls", 2, "--threads", 1)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """One run for many tests, its JSON and its bundle."""
    folder = tmp_path_factory.mktemp("bench")
    done = command("bench", TRAINED, "--runner", "onnxruntime,opencv", "--batch", "1,2", "--label", "here", *SMALL,
                   "--protocol", "rrc,mindocr", "-o", folder / "b.json", "--json", folder / "f.json")
    assert done.returncode == 0, done.stderr
    return done, read_bundle(folder / "b.json"), json.loads((folder / "f.json").read_text())


def test_every_row_is_measured_in_every_part(measured):
    _, bundle, _ = measured
    assert [(row.runner, row.batch, row.shape) for row in bundle.rows] == [
        (runner, batch, [160, 288]) for runner in ("onnxruntime", "opencv") for batch in (1, 2)]
    for row in bundle.rows:
        seconds = row.seconds
        assert [len(each) for each in (seconds.imported, seconds.load, seconds.graph_compile, seconds.first_run)] == \
            [1, 1, 1, 1]
        for parts in zip(seconds.pixels, seconds.network, seconds.boxes, seconds.whole, strict=True):
            pixels, network, boxes, whole = map(np.array, parts)
            assert len(whole) == 2 and min(map(np.min, parts)) > 0
            np.testing.assert_allclose(pixels + network + boxes, whole, rtol=1e-9)
        assert len(seconds.whole) == 2 and not seconds.train_step
        assert 2e7 < row.peak_memory_bytes < 2e9 and row.error is None and row.threads == 1
        assert row.environment["framework"] == row.runner and row.environment["version"]
        assert row.environment["threads"] == 1 and row.environment["libraries"]["numpy"] == np.__version__


def test_scores_come_from_the_detections_and_labels(measured):
    _, bundle, _ = measured
    labels = drawn_labels(bundle.data)
    for row in bundle.rows:
        found = list(bundle.found(row).values())
        assert list(row.scores) == bundle.data["protocols"] == ["rrc", "mindocr"]
        for name, result in score(("rrc", "mindocr"), labels, found).items():
            scores = row.scores[name]
            assert scores.counts == result.counts.tolist() and scores.fscore == result.score.fscore > 0.3
            assert scores.interval == list(result.interval()["fscore"])
    digests = {row.detections for row in bundle.rows}
    assert digests == set(bundle.detections)


def test_parity_stands_beside_the_speed(measured):
    done, bundle, told = measured
    first, *others = bundle.rows
    assert first.parity is None
    for row in others:
        parity = row.parity
        assert (parity.reference, parity.images, parity.tolerance) == (0, 3, 1e-4)
        assert parity.max_abs < 5e-5 and 0 < parity.boxes_same <= parity.boxes_all
        same = parity.boxes_same == parity.boxes_all
        assert parity.verdict == ("different" if not same else "within tolerance" if parity.max_abs else "same")
    assert others[0].parity.verdict in ("same", "within tolerance")
    assert "reference" in done.stdout and "as 1" in done.stdout and "load" in done.stdout
    assert [row["figures"]["images_per_second"] for row in told["rows"]] == \
        [figures(row).images_per_second for row in bundle.rows]
    assert "counts" not in json.dumps(told)


def test_what_was_measured_on_what_is_told(measured):
    _, bundle, _ = measured
    assert bundle.machine["label"] == "here" and bundle.machine["cores"] >= 1 and bundle.machine["memory_bytes"] > 1e8
    assert bundle.settings["rounds"] == 2 and bundle.settings["order"].startswith("rounds in turns")
    assert bundle.data["kind"] == "drawn" and len(bundle.data["image_sha256s"]) == 3
    assert bundle.made["command"].startswith("dbnet bench ") and "--batch 1,2" in bundle.made["command"]
    [model] = bundle.models
    assert (model.file, model.spec, model.format) == (TRAINED.name, "dbnet_mobilenetv3", "safetensors")
    assert model.weights_sha256 == load_model(TRAINED).record.sha256


# What a user may type -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "code", "told"), [
    ((), 2, "Missing option '--runner'"), (("--runner", "onxruntime"), 2, "did you mean onnxruntime?"),
    (("--runner", "opencv,opencv"), 2, "opencv is given twice"), (("--runner", "opencv,"), 2, "between two commas"),
    (("--runner", "opencv", "--runner", "opencv"), 2, "opencv is given twice"),
    (("--runner", "onnxruntime:gpu9"), 2, "unknown runner variant"),
    (("--runner", "opencv@/no/such"), 3, "no such interpreter"),
    (("--runner", "opencv", "--shape", "100x640"), 2, "the nearest is 96x640"),
    (("--runner", "opencv", "--shape", "640"), 2, "write HEIGHTxWIDTH"),
    (("--runner", "opencv", "--shape", "0x64"), 2, "from 32 to 8192"),
    (("--runner", "opencv", "--shape", "-64x64"), 2, "write HEIGHTxWIDTH"),
    (("--runner", "opencv", "--shape", "64x64,64X64"), 2, "64X64 is given twice"),
    (("--runner", "opencv", "--batch", "0"), 2, "from 1 to 1024"),
    (("--runner", "opencv", "--batch", "01,1"), 2, "1 is given twice"),
    (("--runner", "opencv", "--batch", "9"), 3, "there are 8 images; take a smaller batch"),
    (("--runner", "opencv", "--rounds", "0"), 2, "--rounds"), (("--runner", "opencv", "--train"), 2, "only torch and"),
    (("--runner", "torch:compile", "--train"), 2, "only torch and"),
    (("--runner", "opencv", "--dataset", "ctw1500"), 2, "--dataset means nothing"),
    (("--runner", "opencv", "--images", "x", "--root", "x"), 2, "give one of them"),
    (("--runner", "opencv", "--protocol", "fun"), 2, "unknown protocol 'fun'"),
    (("--runner", "opencv", "--images", "x", "-p", "rrc"), 2, "--protocol means nothing with --images"),
    (("--runner", "opencv", "--images", "/no/such"), 3, "no such file or folder"),
    (("--runner", "opencv", "--json", "-", "--markdown"), 2, "both print"),
    (("--runner", "opencv", "--force"), 2, "--force means nothing"),
    (("--runner", "opencv", "-o", "/no/such/b.json"), 3, "no such folder"),
    (("--runner", "opencv", "-o", "b.onnx"), 3, "named like a weight file"),
    (("--runner", "opencv", "--shard", "1/9"), 3, "8 images for 9 parts"),
    (("--runner", "opencv", "--label", " "), 2, "--label"),
    (("--runner", "opencv", "--keep-float32", "head"), 2, "means nothing in float32")])
def test_a_slip_is_one_line(arguments, code, told, monkeypatch):
    monkeypatch.setattr(measuring, "measure", lambda *_: pytest.fail("it measures"))
    done = command("bench", TRAINED, *arguments)
    assert done.returncode == code and told in done.stderr, done.stderr
    assert not done.stdout and "Traceback" not in done.stderr


def test_files_that_are_there_stay(tmp_path):
    out = tmp_path / "b.json"
    out.write_text("{}")
    assert "exists already; add --force" in command("bench", TRAINED, "--runner", "opencv", "-o", out).stderr
    model = tmp_path / "m.safetensors"
    model.symlink_to(TRAINED)
    assert "given twice (as" in command("bench", TRAINED, model, "--runner", "opencv").stderr
    assert "no such file" in command("bench", tmp_path / "none.onnx", "--runner", "opencv").stderr
    assert "is a folder" in command("bench", tmp_path, "--runner", "opencv").stderr
    both = command("bench", TRAINED, "--runner", "opencv", "-o", tmp_path / "n.json", "--json", tmp_path / "n.json")
    assert both.returncode == 2 and "the same file" in both.stderr and out.read_text() == "{}"


def test_a_runner_that_is_not_installed_names_its_extra_and_leaves_the_others(tmp_path, monkeypatch, photos):
    monkeypatch.setattr("evaluation.benching.entry.installed", lambda module: module != "openvino")
    monkeypatch.setattr("dbnet.extras.installed", lambda module: module != "openvino")
    out = tmp_path / "b.json"
    done = command("bench", TRAINED, "--runner", "openvino,opencv", "--images", photos, *SMALL, "-o", out)
    assert done.returncode == 3 and "pip install 'dbnet-parity[openvino]'" in done.stderr
    assert "1 of 2 rows could not be measured" in done.stderr
    first, second = read_bundle(out).rows
    assert "[openvino]" in first.error and first.detections is None and not first.seconds.whole
    assert second.error is None and second.parity is None and figures(second).images_per_second > 0
    alone = command("bench", TRAINED, "--runner", "openvino", "--images", photos, "-o", tmp_path / "n.json")
    assert alone.returncode == 3 and alone.stderr.count("\n") == 1 and "[openvino]" in alone.stderr
    assert not (tmp_path / "n.json").exists() and not alone.stdout


# Turns ----------------------------------------------------------------------------------------------------------------


def plan(**given) -> Plan:
    return Plan(**{"models": [Path("a"), Path("b")], "runners": ["torch", "opencv", "onnxruntime"], "shapes": [None],
                   "batches": [1], "tolerance": tolerance} | given)


def test_every_row_begins_a_round():
    group = entries_of(plan(models=[Path("a")]))
    order = [(number, entry.place) for number, entry in measuring._turns(group, 3)]
    assert [place for _, place in order] == [0, 1, 2, 1, 2, 0, 2, 0, 1]


@pytest.mark.parametrize(("together", "sizes"), [(8, [6]), (6, [6]), (5, [3, 3]), (3, [3, 3]), (2, [2, 1, 2, 1]),
                                                 (1, [1] * 6)])
def test_models_stay_together_as_long_as_there_is_room(together, sizes):
    chosen = plan(together=together)
    groups = groups_of(chosen, entries_of(chosen))
    assert list(map(len, groups)) == sizes and sorted(e.place for group in groups for e in group) == list(range(6))
    assert ("rows 1 2 3, then rows 4 5 6" in told_order(chosen, groups)) == (sizes == [3, 3])


@pytest.mark.parametrize(("images", "calls", "batch"), [(1, 1, 1), (8, 8, 1), (8, 3, 1), (5, 8, 2), (100, 7, 4),
                                                       (3, 100, 1), (8, 5, 3),
                                                       (3, 2, 3)])
def test_timed_batches_are_spread_over_the_images(images, calls, batch):
    paths = [str(i) for i in range(images)]
    batches = plan(calls=calls).timed(paths, batch)
    assert len(batches) == calls and all(len(each) == len(set(each)) == batch for each in batches)
    used = Counter(path for each in batches for path in each)
    assert max(used.values()) <= -(-len(batches) * batch // images)
    assert len(batches) * batch < images or len(used) == images


# Parity ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ours", "boxes", "verdict"), [
    (0.0, Boxes(2, 2, 2), "same"), (5e-5, Boxes(2, 2, 2), "within tolerance"), (2e-4, Boxes(2, 2, 2), "different"),
    (0.0, Boxes(2, 2, 1, 1), "different"), (np.nan, Boxes(), "different"), (None, Boxes(), "different")])
def test_the_verdict_is_that_of_dbnet_compare(ours, boxes, verdict):
    difference = _Difference(boxes=boxes)
    maps = np.full((4, 6), 0.5, np.float32)
    difference.add(np.zeros((2, 2), np.float32) if ours is None else maps + np.float32(ours), maps)
    assert difference.verdict(1e-4) == verdict


def test_other_weights_are_not_compared_and_the_same_in_another_format_are(tmp_path, photos):
    pth, other = tmp_path / "m.pth", tmp_path / "other.onnx"
    converters.convert(TRAINED, pth)
    converters.save_weights(seeded_weights(SPECS["dbnet_mobilenetv3"], 3), other, spec="dbnet_mobilenetv3")
    done = command("bench", TRAINED, other, pth, "--runner", "onnxruntime", "--images", photos, *SMALL, "-o",
                   tmp_path / "b.json")
    assert done.returncode == 0, done.stderr
    first, second, third = read_bundle(tmp_path / "b.json").rows
    assert first.parity is second.parity is None
    assert third.parity.reference == 0 and third.parity.verdict == "same" and third.detections == first.detections


def test_tolerances_are_those_of_the_devices():
    cpu = {"device": "cpu", "precision": "float32"}
    assert tolerance(cpu, cpu) == 1e-4
    assert tolerance(cpu, cpu | {"device": "cuda:0", "tf32": True}) == 8e-2
    assert tolerance(cpu, cpu | {"device": "npu", "framework": "openvino"}) == tolerance(cpu, cpu | {"device": "tpu"})
