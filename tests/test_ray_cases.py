"""`--ray` on a real cluster of this machine: two workers, one of them killed in the middle, and what ends a run."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shlex
import signal
import threading
import time
from pathlib import Path

import cv2
import pytest

from converters.load import SourceOptions
from dbnet.datasets.drawn import draw
from dbnet.errors import DbnetError
from evaluation.clusters.connecting import OnRay
from evaluation.clusters.evaluating import evaluate_on_ray, opened_on_ray
from evaluation.clusters.team import Team
from evaluation.evaluate import evaluate
from evaluation.runners import open_runner
from parity.data import ROOT
from tests.ray_clusters import Deadly, ray_cluster
from tests.running import command

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray: pip install ray")

MODEL = ROOT / "dbnet/embedded/dbnet_mobilenetv3.safetensors"
IMAGES = 12
#: Small, so that nearly all of the time is Ray's.
SMALL = ("--pixels", "resize=stretch,size=96x160")
HOW = {"runner": "onnxruntime", "options": SourceOptions(pixels=SMALL[1])}


@pytest.fixture(scope="module")
def cluster():
    """Two cores, and cards that are none."""
    with ray_cluster("--num-cpus=2", "--num-gpus=2", "--resources={\"NPU\": 2}") as found:
        yield found


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("icdar")
    (root / "images").mkdir()
    (root / "gt").mkdir()
    for i in range(1, IMAGES + 1):
        image, polygons = draw(i, 192, 320, words=3)
        cv2.imwrite(str(root / f"images/img_{i}.png"), image)
        lines = [",".join(str(int(value)) for value in polygon.reshape(-1)) + ",text\n" for polygon in polygons]
        (root / f"gt/gt_img_{i}.txt").write_text("".join(lines))
    return root


@pytest.fixture(scope="module")
def samples(data):
    from dbnet.datasets import sources
    return sources.load("icdar2015", root=data)


def plain(report: dict) -> dict:
    """Without what a run on a cluster has beside one in a single process."""
    settings = {name: value for name, value in report["settings"].items() if name not in ("cluster", "notes")}
    return report | {"settings": settings}


def here(samples, **settings):
    runner = open_runner(MODEL, "onnxruntime", stages=("probability",), threads=1, options=HOW["options"])
    return evaluate(runner, samples, runner.spec.pixels, runner.spec.boxes, **settings)


def test_a_worker_killed_in_the_middle_costs_its_piece_and_no_digit(cluster, samples, tmp_path, monkeypatch):
    """It is stopped before it is given a piece, so that it cannot have done it when it is killed."""
    killed = []
    start = Team.start

    def start_and_kill_one(team):
        start(team)
        killed.append(team.first.about["pid"])
        os.kill(killed[0], signal.SIGSTOP)
        threading.Timer(1, os.kill, (killed[0], signal.SIGKILL)).start()

    monkeypatch.setattr(Team, "start", start_and_kill_one)
    found = evaluate_on_ray(OnRay(cluster.address), MODEL, samples, save=tmp_path / "ray.jsonl", **HOW)
    alone = here(samples, save=tmp_path / "alone.jsonl")
    assert plain(found.to_dict()) == plain(alone.to_dict())
    assert (tmp_path / "ray.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()
    told = found.settings["cluster"]
    assert (told["engine"], told["workers"], told["threads"], told["nodes"]) == ("ray", 2, 1, 1)
    [lost] = told["lost"]
    assert lost.startswith(f"worker {killed[0]} on node ") and "was lost (its process was killed, or crashed)" in lost
    assert found.settings["notes"] == [lost]


def test_the_command_writes_what_one_process_writes_and_goes_on_where_it_was(cluster, data, tmp_path):
    arguments = ["evaluate", MODEL, "--root", data, "--runner", "onnxruntime", *SMALL, "-p", "rrc,mindocr",
                 "--sweep", "box_thresh=0.3,0.6", "--threads", "1", "--json"]
    alone, ray = tmp_path / "alone.json", tmp_path / "ray.json"
    assert command(*arguments, alone, "--save", tmp_path / "alone.jsonl").returncode == 0
    lines = (tmp_path / "alone.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "ray.jsonl").write_bytes(b"".join(lines[:5]) + lines[5][:20])  # killed while it wrote the fifth image
    done = command(*arguments, ray, "--ray", cluster.address, "--ray-workers", "1", "--save", tmp_path / "ray.jsonl")
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    assert "4 of them from" in done.stdout and "on Ray: 1 worker with 1 thread" in done.stdout
    assert (tmp_path / "ray.jsonl").read_bytes() == b"".join(lines)
    found = json.loads(ray.read_bytes())
    assert found["settings"].pop("cluster")["workers"] == 1
    assert found == json.loads(alone.read_bytes())


@pytest.mark.parametrize("more", [
    ("--shard", "2/2", "--keep", "probability", "--runner", "onnxruntime"),
    pytest.param(("--level", "full", "--runner", "torch"), marks=pytest.mark.long)])
def test_a_trace_has_the_bytes_of_one_process(cluster, data, tmp_path, more):
    arguments = ["trace", MODEL, "--images", data / "images", "--limit", "6", "--device", "cpu", *SMALL,
                 "--threads", "1", *more]
    alone, ray = tmp_path / "alone.trace", tmp_path / "ray.trace"
    assert command(*arguments, "-o", alone).returncode == 0
    done = command(*arguments, "-o", ray, "--ray", cluster.address, "--ray-workers", "1")
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    assert ray.read_bytes() == alone.read_bytes()


@pytest.mark.long
def test_the_commands_of_the_page(cluster, data, tmp_path, monkeypatch):
    """Those of docs/scale.md in their order; a cluster is there already, and it has no cards."""
    section = (ROOT / "docs/scale.md").read_text(encoding="utf-8").partition("## On a Ray cluster")[2]
    lines = re.search(r"```console\n(.*?)```", section, re.DOTALL)[1].splitlines()
    assert [line.split()[1] for line in lines] == ["ray", "ray", *["dbnet"] * 4]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)  # what auto finds
    (tmp_path / "icdar2015").symlink_to(data)
    (tmp_path / "photos").symlink_to(data / "images")
    for suffix in (".pth", ".ckpt"):
        assert command("convert", MODEL, f"model{suffix}").returncode == 0
    for line in lines[2:]:
        words = shlex.split(line.partition("#")[0].replace("HOST:6379", cluster.address))[2:]
        more = [] if "--device" in words or "local" in words else ["--device", "cpu"]
        done = command(*words, *more, *SMALL)
        assert done.returncode == 0, (line, done.stderr)
    assert json.loads((tmp_path / "whole.json").read_bytes())["settings"]["cluster"]["engine"] == "ray"
    assert len((tmp_path / "found.jsonl").read_bytes().splitlines()) == IMAGES + 1 and Path("whole.trace").is_file()


def test_work_of_a_team(cluster, tmp_path, monkeypatch):
    """Files that a worker has not, images that end their worker or cannot be read: with one team, which starts slowly.
    """
    folder = tmp_path / "images"
    folder.mkdir()
    names = [f"{i}.png" for i in range(9)]
    for name in names:
        (folder / name).write_bytes(os.urandom(100))
    (folder / "m.safetensors").write_bytes(MODEL.read_bytes())
    monkeypatch.chdir(folder)
    elsewhere = Path("/proc/self/cwd")  # this process's own: nobody else finds files by it
    with opened_on_ray(OnRay(cluster.address, 1), elsewhere / "m.safetensors", 9, **HOW) as found:
        assert found.runner.digest == open_runner(MODEL, "onnxruntime").digest

        def work(images, end="none"):
            each = found.team.map(images, lambda first, last, files: Deadly(files, end))
            results = []
            with contextlib.suppress(StopIteration):
                while True:
                    results.append(next(each))
            return results

        results = work([elsewhere / name for name in names])
        assert [(name, size) for name, size, _ in results] == [(name, 100) for name in names]
        assert not found.team.notes
        with pytest.raises(DbnetError, match=r"4\.png: 2 workers were lost over it, one after the other \(its pro"):
            work([folder / name for name in names], "4.png")
        assert 2 <= len(found.team.notes) <= 6 and "4.png" in found.team.notes[-1]
        with pytest.raises(DbnetError, match=r"absent\.png: cannot be read"):
            work([folder / "0.png", folder / "absent.png", folder / "1.png"])


@pytest.mark.long
def test_an_image_that_is_none_ends_the_run_after_those_before_it(cluster, samples, data, tmp_path):
    bad = data / "images/img_7.png"
    kept = bad.read_bytes()
    bad.write_bytes(b"no image")
    try:
        errors = []
        for name, run in (("ray", lambda save: evaluate_on_ray(OnRay(cluster.address, 1), MODEL, samples, save=save,
                                                               **HOW)),
                          ("alone", lambda save: here(samples, save=save))):
            with pytest.raises(DbnetError) as error:
                run(tmp_path / name)
            errors.append(str(error.value))
        assert errors[0] == errors[1] and "img_7.png" in errors[0]
        assert (tmp_path / "ray").read_bytes() == (tmp_path / "alone").read_bytes()
        assert len((tmp_path / "ray").read_bytes().splitlines()) == 7
    finally:
        bad.write_bytes(kept)


@pytest.mark.parametrize(("arguments", "why"), [
    pytest.param(("--runner", "torch"), r"^dbnet: node \S+: no device cuda for torch", marks=pytest.mark.long),
    pytest.param(("--runner", "mindspore"), r"^dbnet: node \S+: MindSpore \S+ cannot use Ascend",
                 marks=pytest.mark.long),
    (("--threads", "3"), r"room for a worker with 3 threads and 1 GPU \(nodes: 2 CPU, 2 GPU, 2 NPU\)"),
    (("--runner", "torch", "--device", "cuda:1"), "gives each worker a card of its own"),
])
def test_what_the_cluster_has_not_is_one_line(cluster, data, arguments, why):
    done = command("evaluate", MODEL, "--root", data, *arguments, "--ray", cluster.address)
    assert done.returncode == 3 and done.stderr.count("\n") == 1, done.stderr
    assert re.search(why, done.stderr), done.stderr
    assert done.stdout == ""


@pytest.mark.long
def test_a_node_with_another_version_is_named_with_both(cluster, data, tmp_path):
    (tmp_path / "pyclipper.py").write_text("__version__ = '0.0.1'\n")
    node = cluster.add(f"--address={cluster.address}", "--num-cpus=1", folder=tmp_path)
    try:
        import pyclipper
        _until(lambda: _cores(cluster) == 3)
        done = command("evaluate", MODEL, "--root", data, *SMALL, "--runner", "onnxruntime", "--ray", cluster.address)
        assert done.returncode == 3 and done.stdout == "", done.stdout
        assert f": pyclipper is 0.0.1 there and {pyclipper.__version__} here; install the same on all" in done.stderr
        assert done.stderr.startswith("dbnet: node ") and done.stderr.count("\n") == 1
    finally:
        node.kill()


def _cores(cluster) -> int:
    from evaluation.clusters.connecting import connected
    with connected(cluster.address) as ray:
        return sum(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])


def _until(true, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "has not come"
        time.sleep(0.2)
