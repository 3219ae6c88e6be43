"""`pytest parity/ --baseline FILE`: what a user sees, from the first file to the alarm and its acceptance."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import converters
from dbnet.errors import DbnetError
from dbnet.runner_names import FRAMEWORKS
from dbnet.seeded import seeded_weights
from parity import baseline_runs, trace_record
from parity.trace_file import KEY, read_traces, write_traces
from tests import baseline_scenes as scenes
from tests import detecting
from tests.baseline_scenes import FAILED, PASSED, USAGE

#: Small, for pytest runs dozens of times.
SPEC = replace(detecting.SPEC, pixels=replace(detecting.SPEC.pixels, size=(64, 64)))
MODEL = ("--candidate", "m.safetensors", "--images", "photos")
ONNX = ("--runner", "onnxruntime")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small model, two photographs, and a baseline of both in two runners."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("made")
    converters.save_weights(seeded_weights(SPEC, 2030), folder / "m.safetensors", spec=SPEC)
    for i in (1, 2):
        detecting.write_image(folder / "photos" / f"img_{i}.png", i, 60 + 20 * i, 100)
    wanted = baseline_runs.WantedBaseline(
        folder / "b.trace", candidate=folder / "m.safetensors", images=(str(folder / "photos"),),
        runners=tuple(map(baseline_runs.RunnerName, ("torch", "onnxruntime"))))
    runs = baseline_runs.Runs(wanted, folder)
    write_traces(wanted.path, {name: runs.make(name) for name in wanted.runs()})
    return folder


@pytest.fixture
def run(made, tmp_path, capfd, monkeypatch):
    """pytest within pytest in a folder with copies of what was made; MindSpore is not installed there."""
    (tmp_path / "photos").mkdir()
    for path in (*made.glob("*.*"), *made.glob("photos/*")):
        (tmp_path / path.relative_to(made)).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    only(monkeypatch, "torch", "onnxruntime")
    return scenes.Pytest(capfd, tmp_path)


def only(monkeypatch, *names):
    """Of the frameworks these alone are installed."""
    for module in ("dbnet.extras", "parity.plugin_baseline", "parity.baseline_session"):
        monkeypatch.setattr(f"{module}.installed", lambda name: name in names or name not in FRAMEWORKS)


def nudge(monkeypatch, stage, runner="onnxruntime", factor=None):
    """Has a runner compute one bit otherwise, or all values by a factor, in one stage of the first image."""
    right, calls = trace_record.maps_of, []

    def maps_of(side, tensor, stages):
        maps = right(side, tensor, stages)
        if side.runner.name == runner and not calls:
            calls.append(stage)
            maps[stage] = maps[stage].copy() if factor is None else maps[stage] * np.float32(factor)
            maps[stage].reshape(-1).view(np.uint32)[77] ^= np.uint32(1)
        return maps

    monkeypatch.setattr(trace_record, "maps_of", maps_of)
    return calls


def test_what_did_not_change_is_silent(run):
    before = (run.folder / "b.trace").read_bytes()
    code, printed = run("--baseline", "b.trace", *MODEL, "--report", "r.json", "-rA")
    assert code == PASSED and "2 passed" in printed and "compares with the baseline b.trace" in printed
    assert (run.folder / "b.trace").read_bytes() == before
    rows = json.loads((run.folder / "r.json").read_text())["rows"]
    assert [(row["run"], row["verdict"], row["stages"]) for row in rows] == [
        ("candidate-torch", "unchanged", []), ("candidate-onnxruntime", "unchanged", [])]


@pytest.mark.parametrize(("stage", "factor", "verdict"), [
    ("probability", None, "changed though within tolerance"), ("p3", 1.01, "different: beyond the tolerance")])
def test_what_changed_is_named(run, monkeypatch, stage, factor, verdict):
    assert nudge(monkeypatch, stage, factor=factor) == []
    monkeypatch.setenv("OMP_DYNAMIC", "FALSE")
    code, printed = run("--baseline", "b.trace", *MODEL)
    assert code == FAILED and "1 failed, 1 passed" in printed
    assert f"{verdict}: first at {stage}, " in printed and "OMP_DYNAMIC unset -> FALSE" in printed
    assert "worst on img_1.png" in printed
    assert re.search(rf"= baseline =+\n+candidate-onnxruntime: {verdict}: first at {stage}, ", printed), "uncut"
    assert "to accept it: the same command with --update-baseline, and without -k\n" in printed


def test_an_update_tells_what_changed_and_is_silent_afterwards(run, monkeypatch):
    nudge(monkeypatch, "fused")
    code, printed = run("--baseline", "b.trace", "--update-baseline", *MODEL)
    assert code == PASSED and "b.trace: written, 2 runs, " in printed
    assert "candidate-onnxruntime: changed though within tolerance: first at fused, " in printed
    assert "1 as they were: candidate-torch" in printed
    monkeypatch.undo()
    monkeypatch.chdir(run.folder)
    only(monkeypatch, "torch", "onnxruntime")
    code, printed = run("--baseline", "b.trace", *MODEL)
    assert code == FAILED and "first at fused" in printed, "back to before is a change, too"


@pytest.mark.long
def test_the_project_s_own_networks(run, monkeypatch):
    """As without --candidate, but for the number of networks."""
    few = {name: spec for name, spec in baseline_runs.networks().items() if name in ("db_mv3_paddle", "trained")}
    monkeypatch.setattr(baseline_runs, "networks", lambda: few)
    code, printed = run("--baseline", "own.trace", "--update-baseline", *ONNX)
    assert code == PASSED and "2 new: db_mv3_paddle-onnxruntime, trained-onnxruntime" in printed
    held = read_traces(run.folder / "own.trace")
    assert len(held["trained-onnxruntime"].boxes(0)) == 3, "the trained network finds the words of the picture"
    code, printed = run("--baseline", "own.trace")
    assert code == FAILED and "2 failed, 2 passed" in printed and "torch" in printed
    assert "is not in own.trace, nothing to compare with; to add it: the same command with --up" in printed
    code, printed = run("--baseline", "own.trace", *MODEL)
    assert code == USAGE and "own.trace: is of the project's networks: leave out --candidate" in printed
    few["trained"] = few.pop("db_mv3_paddle")
    code, printed = run("--baseline", "own.trace", *ONNX)
    assert code == FAILED and "this version has no network db_mv3_paddle; where that is meant: the" in printed


@pytest.mark.long
def test_runners(run, monkeypatch):
    code, printed = run("--baseline", "b.trace", *MODEL, *ONNX)
    assert code == PASSED and "1 passed" in printed and "1 runs of other runners than --runner names" in printed
    only(monkeypatch, "onnxruntime")
    code, printed = run("--baseline", "b.trace", *MODEL)
    assert code == PASSED and "1 passed, 1 skipped" in printed and "torch is not installed: pip install" in printed
    code, printed = run("--baseline", "b.trace", *MODEL, "--require", "torch")
    assert code == FAILED and "1 passed, 1 deselected, 1 error" in printed
    assert "could not be compared: torch is not installed" in printed
    code, printed = run("--baseline", "b.trace", *MODEL, "--runner", f"onnxruntime@{sys.executable}")
    assert code == PASSED, "another process, and no change"
    code, printed = run("--baseline", "b.trace", *MODEL, "--runner", "onnxruntime@/bin/true")
    assert code == FAILED and "1 error" in printed and "could not be compared: /bin/true" in printed
    only(monkeypatch)
    code, printed = run("--baseline", "b.trace", "--update-baseline", *MODEL)
    assert code == USAGE and "no runner is installed" in printed


@pytest.mark.long
def test_what_the_file_was_made_with_is_run_without_being_named(run, monkeypatch):
    """And the frameworks that it was not made with are no alarm."""
    code, printed = run("--baseline", "cv.trace", "--update-baseline", *MODEL, "--runner", "opencv", "--runner",
                        "onnxruntime:cpu")
    assert code == PASSED and "2 new: candidate-opencv, candidate-onnxruntime+cpu" in printed
    for more, passed in (((), "2 passed"), (("--require", "opencv"), "2 passed"), (("--runner", "opencv"), "1 passed")):
        code, printed = run("--baseline", "cv.trace", *MODEL, *more)
        assert code == PASSED and passed in printed, printed
    with monkeypatch.context() as patch:
        patch.setattr("parity.plugin_baseline.installed", lambda name: name not in ("cv2", "onnxruntime"))
        patch.setattr("parity.baseline_session.installed", lambda name: name not in ("cv2", "onnxruntime"))
        code, printed = run("--baseline", "cv.trace", *MODEL, "-rs")
        assert code == PASSED and "2 skipped" in printed and "onnxruntime is not installed: pip install" in printed
    code, printed = run("--baseline", "b.trace", "--update-baseline", *MODEL, *ONNX, "--runner", "opencv")
    assert code == PASSED and "1 new: candidate-opencv" in printed
    code, printed = run("--baseline", "b.trace", *MODEL)
    assert code == PASSED and "3 passed" in printed
    write_traces(run.folder / "n.trace", {name.replace("opencv", "torch+O9"): trace for name, trace in
                                          read_traces(run.folder / "cv.trace").items()})
    code, printed = run("--baseline", "n.trace", *MODEL)
    assert code == FAILED and "this version has no runner torch:O9; where that is meant" in printed


@pytest.mark.long
def test_a_baseline_of_an_ir(run):
    ov = pytest.importorskip("openvino")
    converters.convert(run.folder / "m.safetensors", run.folder / "m.onnx")
    ov.save_model(ov.Core().read_model(run.folder / "m.onnx"), run.folder / "m.xml", compress_to_fp16=False)
    model = ("--candidate", "m.xml", "--images", "photos", "--pixels", "mindocr")
    code, printed = run("--baseline", "ir.trace", "--update-baseline", *model)
    assert code == PASSED and "1 new: candidate-openvino" in printed, printed
    code, printed = run("--baseline", "ir.trace", *model)
    assert code == PASSED and "1 passed" in printed, printed


def test_an_update_keeps_the_runs_of_others(run):
    code, printed = run("--baseline", "b.trace", "--update-baseline", *MODEL, *ONNX)
    assert code == PASSED and "1 kept as they were, since their runner is not run now: candidate-torch" in printed
    assert list(read_traces(run.folder / "b.trace")) == ["candidate-onnxruntime", "candidate-torch"]


def other_weights(folder):
    weights = converters.load_weights(folder / "m.safetensors")
    name = next(iter(weights))
    weights[name] = weights[name] * np.float32(1.5)
    converters.save_weights(weights, folder / "other.safetensors", spec=SPEC)


@pytest.mark.parametrize(("arguments", "why"), [
    (("--candidate", "other.safetensors", "--images", "photos"),
     r"is of another model \(sha256 \w{12}, not \w{12}\) with other weights"),
    ((*MODEL, "--limit", "1"), r"is of other images: 1 missing here \(img_2.png\)"),
    (("--candidate", "m.safetensors"), "is of other images: 2 missing here"),
    ((*MODEL, "--pixels", "resize=grid"), "has other pixels: resize ")])
@pytest.mark.parametrize("runner", ["onnxruntime", pytest.param("torch", marks=pytest.mark.long)])
def test_an_update_replaces_no_baseline_of_something_else(run, arguments, why, runner):
    """In the same runner, and in one that the file has no run of."""
    runs = read_traces(run.folder / "b.trace")
    write_traces(run.folder / "b.trace", {"candidate-onnxruntime": runs["candidate-onnxruntime"]}, force=True)
    other_weights(run.folder)
    before = (run.folder / "b.trace").read_bytes()
    code, printed = run("--baseline", "b.trace", "--update-baseline", *arguments, "--runner", runner)
    assert code == FAILED and re.search(f"b.trace {why}.*; remove it, or name another file\n", printed), printed
    assert (run.folder / "b.trace").read_bytes() == before
    assert "written" not in printed


def test_an_update_that_fails_changes_nothing(run, monkeypatch):
    before = (run.folder / "b.trace").read_bytes()

    def maps_of(side, tensor, stages):
        raise DbnetError("torch failed on cpu" if side.runner.name == "torch" else "so did the other")

    monkeypatch.setattr(trace_record, "maps_of", maps_of)
    code, printed = run("--baseline", "b.trace", "--update-baseline", *MODEL)
    assert code == FAILED and "2 of 2 runs could not be made, so b.trace was not written: " in printed
    assert re.search(r"torch failed on cpu \(candidate-torch\); .*so did the other \(candidate-onnxruntime\)", printed)
    assert (run.folder / "b.trace").read_bytes() == before
    assert {path.name for path in run.folder.iterdir()} == {"b.trace", "m.safetensors", "photos"}
    code, printed = run("--baseline", "b.trace", "--update-baseline", *MODEL, *ONNX, "--runner", "torch@/bin/true")
    assert code == FAILED and "2 of 2 runs" in printed and "/bin/true" in printed


def test_something_else_is_an_error_and_no_alarm(run):
    other_weights(run.folder)
    for arguments, why in (
            (("--candidate", "other.safetensors", "--images", "photos"), "is of another model (sha256 "),
            ((*MODEL, "--limit", "1"), "is of other images: 1 missing here (img_2.png)"),
            ((*MODEL, "--pixels", "resize=grid"), "has other pixels: "),
            (("--candidate", "m.safetensors"), "is of other images: 2 missing here")):
        code, printed = run("--baseline", "b.trace", *arguments, *ONNX)
        assert code == FAILED and "1 error" in printed and why in printed, printed
        assert "failed" not in printed.splitlines()[-1] and "could not be compared: the baseline " in printed
        assert "; where that is meant: name another file, or remove this one and record it anew" in printed


def spoilt(folder):
    """Files that are no baseline, by name."""
    data = (folder / "b.trace").read_bytes()
    (folder / "cut.trace").write_bytes(data[:-100])
    newer = data.replace(b'\\"version\\": 1', b'\\"version\\": 9', 1)
    assert newer != data and KEY.encode() in newer
    (folder / "newer.trace").write_bytes(newer)
    write_traces(folder / "trace.trace", {"model": scenes.run(baseline={"of": None})})
    write_traces(folder / "odd.trace", {"model": scenes.run(baseline={"of": "model"}, environment={"threads": [None]},
                                                            record="{}")})
    write_traces(folder / "odder.trace", {"model": scenes.run(baseline={"of": "model", "variables": 3})})


@pytest.mark.parametrize(("options", "told"), [
    (["--baseline", "none.trace"], "none.trace: is not there; write it first: add --update-baseline"),
    (["--baseline="], "--baseline names a file"),
    (["--update-baseline"], "--update-baseline needs --baseline FILE"),
    (["--runner", "torch"], "--runner needs --baseline FILE"),
    (["--baseline", "b.trace"], "b.trace: is of a model of somebody: give it with --candidate"),
    (["--baseline", "b.trace", "--images", "photos"], "--images needs --candidate FILE"),
    (["--baseline", "b.trace", "--spec", "x"], "--spec needs --candidate FILE"),
    (["--baseline", "b.trace", *MODEL, "--reference", "m.safetensors"], "--reference and --baseline do not go"),
    (["--baseline", "b.trace", *MODEL, "--runner-a", "torch"], "--runner-a and --baseline do not go together"),
    (["--baseline", "b.trace", "--candidate", "none.pth"], "--candidate none.pth: is not there"),
    (["--baseline", "b.trace", *MODEL, "--limit", "0"], "--limit wants a number from 1"),
    (["--baseline", "b.trace", *MODEL, "--runner", "tensorflow"], "unknown runner 'tensorflow'"),
    (["--baseline", "b.trace", *MODEL, "--runner", "torch", "--runner", f"torch@{sys.executable}"], "the second torch"),
    (["--baseline", "b.trace", *MODEL, "--require", "mindspore_lite"], "mindspore_lite: runs files that are converted"),
    (["--baseline", "b.trace", *MODEL, "--require", "openvin"], "--require openvin: runners are torch, mindspore, "),
    (["--baseline", "b.trace", *MODEL, "--runner", "torch@/nowhere"], "there is no such interpreter"),
    (["--baseline", "photos/img_1.png", *MODEL], "photos/img_1.png: is no baseline; name another file"),
    (["--baseline", "photos", *MODEL], "photos: is not a regular file"),
    (["--baseline", "photos/img_1.png", "--update-baseline", *MODEL], "is no baseline, so it is not replaced"),
    (["--baseline", "m.safetensors", "--update-baseline", *MODEL], "is named like a weight file"),
    (["--baseline", "nowhere/b.trace", "--update-baseline", *MODEL], "no such folder"),
    (["--baseline", "b.trace", "--update-baseline"], "is of a model of somebody"),
    (["--baseline", "cut.trace", *MODEL], "cut.trace: is damaged or no trace"),
    (["--baseline", "cut.trace", "--update-baseline", *MODEL], "so it is not replaced"),
    (["--baseline", "newer.trace", *MODEL], "newer.trace: is a trace of version 9"),
    (["--baseline", "odd.trace", *MODEL], "odd.trace: "),
    (["--baseline", "odder.trace", *MODEL], "no baseline; name another file"),
    (["--baseline", "trace.trace", *MODEL], "is a trace of `dbnet trace`, no baseline"),
    (["--baseline", "trace.trace", "--update-baseline", *MODEL], "no baseline, so it is not replaced"),
])
def test_wrong_usage_is_one_line_and_touches_nothing(run, options, told):
    spoilt(run.folder)
    before = {path: path.read_bytes() for path in run.folder.rglob("*.*")}
    code, printed = run(*options)
    assert code == USAGE and told in printed and len(printed.strip().splitlines()) == 1, printed
    assert {path: path.read_bytes() for path in run.folder.rglob("*.*")} == before


@pytest.mark.long
def test_in_several_processes_and_by_the_package_s_name(run):
    """pytest-xdist: one test writes, and what it tells arrives; `--pyargs` in somebody's own folder."""
    pytest.importorskip("xdist")
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": ""}
    (run.folder / "b.trace").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--pyargs", "parity", "-n", "2", "--baseline", "b.trace", *MODEL, *ONNX,
         "--update-baseline"], cwd=run.folder, text=True, capture_output=True, check=False, env=environment)
    assert done.returncode == PASSED and "1 new: candidate-onnxruntime" in done.stdout, done.stdout + done.stderr
    assert list(read_traces(run.folder / "b.trace")) == ["candidate-onnxruntime"]


def test_the_file_alone_without_a_baseline(run):
    code, printed = run("-rs", where=scenes.ROOT / "parity" / "test_baseline.py")
    assert code == PASSED and "give --baseline FILE" in printed
