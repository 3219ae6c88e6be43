"""`dbnet data synth` as people use it: what is written, that it is the same everywhere, and that nothing gets lost."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from dbnet.datasets import synth_fonts, synth_pool
from dbnet.datasets.prepared import load_prepared
from tests.test_data_cli import run  # noqa: F401 (a fixture)
from tests.test_synth_fonts import embedded_font

ROOT = Path(__file__).parents[1]
SMALL = ("--size", "96", "160", "--count", "9")


@pytest.fixture
def fonts(tmp_path):
    folder = tmp_path / "fonts"
    folder.mkdir()
    (folder / "embedded.ttf").write_bytes(embedded_font())
    return folder


@pytest.fixture
def draw(run, fonts):  # noqa: F811
    """draw("--out", ...) -> `run`'s answer, with one font and small scenes, drawn here unless told otherwise."""
    def call(*arguments, code=0):
        return run("synth", "--fonts", fonts, *SMALL, "--workers", 1, *arguments, code=code)
    return call


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What is written ------------------------------------------------------------------------------------------------------


def test_a_set(run, draw, tmp_path):  # noqa: F811
    out = tmp_path / "set"
    done = draw("--out", out, "--json", tmp_path / "report.json")
    assert set(contents(out)) == {"det_gt.txt", "manifest.json", *(f"images/scene_{i}.jpg" for i in range(1, 10))}
    samples = load_prepared(out / "det_gt.txt", out / "images")
    assert [sample.name for sample in samples] == [f"scene_{i}.jpg" for i in range(1, 10)]
    assert all(cv2.imread(str(sample.image)).shape == (96, 160, 3) for sample in samples)
    manifest = json.loads((out / "manifest.json").read_text())
    texts = sum(len(sample.texts) for sample in samples)
    readable = sum(int((~sample.ignore).sum()) for sample in samples)
    assert (manifest["texts"], manifest["readable"], manifest["count"], manifest["seed"]) == (texts, readable, 9, 0)
    assert manifest["labels_sha256"] == hashlib.sha256((out / "det_gt.txt").read_bytes()).hexdigest()
    assert manifest["fonts"] == [{"name": "embedded.ttf", "sha256": hashlib.sha256(embedded_font()).hexdigest(),
                                  "scripts": ["latin"], "words": texts}]
    assert set(manifest["versions"]) == {"dbnet-parity", "numpy", "opencv", "pillow", "freetype"}
    assert str(tmp_path) not in (out / "manifest.json").read_text()
    assert json.loads((tmp_path / "report.json").read_text()) == {"out": str(out), **manifest}
    assert f"drew 9 scenes of 96 x 160 pixels, {texts} texts: {readable} readable, " in done.out
    assert done.err == ""
    checked = run("check", out / "det_gt.txt", "--images", out / "images")
    assert "complete: nothing has to be left out" in checked.out
    assert manifest["labels_sha256"] in checked.out
    assert not re.search("repaired|left out +", checked.out.replace("nothing has to be left out", ""))


def test_ignored_words_are_written_as_such(draw, tmp_path, monkeypatch):
    monkeypatch.setattr("dbnet.datasets.synth.legible", lambda *_: False)
    draw("--out", tmp_path / "set")
    samples = load_prepared(tmp_path / "set/det_gt.txt", tmp_path / "set/images")
    assert {text for sample in samples for text in sample.texts} == {"###"}
    assert json.loads((tmp_path / "set/manifest.json").read_text())["readable"] == 0


def test_the_same_bytes_for_any_number_of_processes(draw, fonts, tmp_path):
    draw("--out", tmp_path / "one")
    draw("--out", tmp_path / "three", "--workers", 3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    # ... and wherever the fonts lie
    (fonts / "deep").mkdir()
    (fonts / "embedded.ttf").rename(fonts / "deep" / "embedded.ttf")
    draw("--out", tmp_path / "moved")
    assert contents(tmp_path / "one") == contents(tmp_path / "moved")


def test_more_scenes_begin_with_the_same(draw, tmp_path):
    draw("--out", tmp_path / "nine")
    draw("--out", tmp_path / "four", "--count", 4)
    draw("--out", tmp_path / "other", "--seed", 1)
    nine, four, other = (contents(tmp_path / name) for name in ("nine", "four", "other"))
    assert nine["det_gt.txt"].startswith(four["det_gt.txt"])
    images = [name for name in four if name.endswith(".jpg")]
    assert len(images) == 4 and all(four[name] == nine[name] for name in images)
    assert not {nine[name] for name in nine if name.endswith(".jpg")} & set(other.values())


def test_json_to_standard_output(draw, tmp_path):
    done = draw("--out", tmp_path / "set", "--json", "-")
    assert json.loads(done.out)["images"] == 9
    assert done.err == ""


def test_without_any_font(run, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(synth_fonts.find_faces, "__defaults__", ((str(tmp_path / "nowhere"),),))
    done = run("synth", "--out", tmp_path / "set", *SMALL)
    assert "note: no fonts in" in done.err and "OpenCV's stroke letters" in done.err and done.err.count("\n") == 1
    manifest = json.loads((tmp_path / "set/manifest.json").read_text())
    assert manifest["scripts"] == ["latin"] and manifest["texts"] > 0
    done = run("synth", "--out", tmp_path / "other", "--scripts", "chinese", *SMALL, code=3)
    assert "no font for chinese; these fonts have latin" in done.err


def test_backgrounds(draw, tmp_path):
    photos = tmp_path / "photos" / "more"
    photos.mkdir(parents=True)
    for i in range(3):
        cv2.imwrite(str(photos / f"{i}.png"), np.full((100, 130, 3), (10 * i, 0, 250), np.uint8))
    (photos / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    cv2.imwrite(str(photos / "tiny.png"), np.zeros((8, 8, 3), np.uint8))
    done = draw("--out", tmp_path / "set", "--backgrounds", tmp_path / "photos")
    assert "note: left out as a background:" in done.err and "bad.jpg" in done.err and "(and 1 more)" in done.err
    assert json.loads((tmp_path / "set/manifest.json").read_text())["backgrounds"]["images"] == 3
    draw("--out", tmp_path / "plain")
    assert contents(tmp_path / "set")["det_gt.txt"] != contents(tmp_path / "plain")["det_gt.txt"]
    photos.rename(tmp_path / "elsewhere")
    for i in range(3):
        (tmp_path / "elsewhere" / f"{i}.png").rename(tmp_path / "elsewhere" / f"photo_{7 - i}.png")
    draw("--out", tmp_path / "moved", "--backgrounds", tmp_path / "elsewhere", "--workers", 2)
    assert contents(tmp_path / "set") == contents(tmp_path / "moved")


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "code", "told"), [
    ([], 2, "--out DIR"),
    (["--out", ""], 2, "the path is empty"),
    (["--out", "{d}/a", "--count", "0"], 2, "--count"),
    (["--out", "{d}/a", "--count", "many"], 2, "--count"),
    (["--out", "{d}/a", "--seed", "-1"], 2, "--seed"),
    (["--out", "{d}/a", "--size", "20", "1280"], 2, "--size"),
    (["--out", "{d}/a", "--size", "720"], 2, "--size"),
    (["--out", "{d}/a", "--workers", "0"], 2, "--workers"),
    (["--out", "{d}/a", "--scripts", "klingon"], 2, "choose from latin,accented"),
    (["--out", "{d}/a", "--scripts", ","], 2, "names no script"),
    (["--out", "{d}/a", "--scripts", "latin,greek"], 3, "no font for greek"),
    (["--out", "{d}/a", "--backgrounds", "{d}/nowhere"], 3, "no such folder"),
    (["--out", "{d}/a", "--backgrounds", "{d}/fonts"], 3, "no images"),
    (["--out", "{d}/a", "--backgrounds", "{d}/broken"], 3, "none of its 1 images can be a background"),
    (["--out", "{d}/a", "--backgrounds", "{d}"], 2, "lie in one another"),
    (["--out", "{d}/a", "--fonts", "{d}/empty"], 0, "drew 9"),
    (["--out", "{d}/a", "--json", "{d}/a/manifest.json"], 3, "no such folder"),
    (["--out", "{d}/full", "--json", "{d}/full/manifest.json", "--force"], 2, "outside of it"),
    (["--out", "{d}/no/such/a"], 3, "create it first"),
    (["--out", "{d}/file"], 3, "is a file"),
    (["--out", "{d}/file/a"], 3, "create it first"),
    (["--out", "{d}/full"], 3, "is not empty"),
])
def test_refused(draw, tmp_path, arguments, code, told):
    for name in ("empty", "full", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    (tmp_path / "broken/a.jpg").write_text("no image")
    (tmp_path / "file").write_text("mine")
    done = draw(*(argument.format(d=tmp_path) for argument in arguments), code=code)
    assert told in done.err + done.out
    assert (tmp_path / "a").exists() == (code == 0)
    assert contents(tmp_path / "full") == {"mine.txt": b"mine"} and (tmp_path / "file").read_text() == "mine"


def test_no_fonts_where_they_were_named(run, tmp_path):  # noqa: F811
    done = run("synth", "--out", tmp_path / "set", "--fonts", tmp_path, *SMALL, code=3)
    assert "no fonts in" in done.err and not (tmp_path / "set").exists()


# The folder -----------------------------------------------------------------------------------------------------------


def test_an_empty_folder_is_filled_and_an_older_set_replaced(draw, tmp_path):
    out = tmp_path / "set"
    out.mkdir()
    draw("--out", out)
    older = contents(out)
    draw("--out", out, code=3)
    assert contents(out) == older
    (out / "notes.txt").write_text("mine")
    draw("--out", out, "--force", "--count", 2, "--seed", 3)
    newer = contents(out)
    assert sorted(newer) == ["det_gt.txt", "images/scene_1.jpg", "images/scene_2.jpg", "manifest.json", "notes.txt"]
    assert newer["images/scene_1.jpg"] != older["images/scene_1.jpg"]


@pytest.mark.parametrize("name", ["images/photo.jpg", "det_gt.txt", "manifest.json", "images"])
def test_what_was_not_drawn_is_never_replaced(draw, tmp_path, name):
    out = tmp_path / "set"
    path = out / name
    path.parent.mkdir(parents=True)
    path.write_text('{"made by": "me"}')
    before = contents(out)
    assert "of another origin" in draw("--out", out, "--force", code=3).err
    assert contents(out) == before


def test_a_foreign_image_in_an_older_set_is_kept(draw, tmp_path):
    draw("--out", tmp_path / "set")
    (tmp_path / "set/images/mine.jpg").write_text("mine")
    before = contents(tmp_path / "set")
    draw("--out", tmp_path / "set", "--force", code=3)
    assert contents(tmp_path / "set") == before


@pytest.mark.parametrize(("error", "told"), [
    (OSError(28, "No space left on device"), "the disk is full"), (KeyboardInterrupt(), "interrupted")])
@pytest.mark.parametrize("older", [False, True])
def test_a_failure_leaves_nothing(draw, tmp_path, monkeypatch, error, told, older):
    out = tmp_path / "set"
    if older:
        draw("--out", out)
    before = contents(out)
    real = synth_pool.Painter.draw

    def failing(self, number):
        if number == 3:
            raise error
        return real(self, number)

    monkeypatch.setattr(synth_pool.Painter, "draw", failing)
    assert told in draw("--out", out, "--seed", 8, "--force", code=3).err
    assert contents(out) == before and out.exists() == older


def test_a_background_that_goes_away_is_told_from_a_process(draw, tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    photos.mkdir()
    cv2.imwrite(str(photos / "a.png"), np.zeros((90, 90, 3), np.uint8))
    real = synth_pool.drawn

    def gone(*arguments):
        (photos / "a.png").unlink()
        return real(*arguments)

    monkeypatch.setattr("dbnet.datasets.synth_set.drawn", gone)
    done = draw("--out", tmp_path / "set", "--backgrounds", photos, "--workers", 2, code=3)
    assert "a.png: cannot be read" in done.err and not (tmp_path / "set").exists()


# Signals --------------------------------------------------------------------------------------------------------------


def start(tmp_path, fonts, *arguments):
    """The command in a process of its own, once it has begun to draw with two others."""
    process = subprocess.Popen([sys.executable, "-m", "dbnet", "data", "synth", "--fonts", str(fonts), "--out",
                                str(tmp_path / "set"), "--workers", "2", "--count", "5000", "--size", "300", "400",
                                *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONPATH": str(ROOT)})
    until = time.monotonic() + 60
    while not list(tmp_path.glob("set/.dbnet-synth-*/images/*.jpg")):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    return process


def children(process):
    return [int(number) for number in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def alive(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals(tmp_path, fonts, draw, number):
    process = start(tmp_path, fonts)
    workers = children(process)
    assert len(workers) >= 2
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    until = time.monotonic() + 20
    while any(map(alive, workers)):
        assert time.monotonic() < until, "a process goes on drawing"
        time.sleep(0.05)
    if number != signal.SIGKILL:
        assert (process.returncode, told) == (3, "dbnet: interrupted\n")
        assert not (tmp_path / "set").exists()
        return
    left = [path.name for path in (tmp_path / "set").iterdir()]
    assert len(left) == 1 and left[0].startswith(".dbnet-synth-")
    assert "holds what an interrupted run left" in draw("--out", tmp_path / "set", code=3).err
    draw("--out", tmp_path / "set", "--force")
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["det_gt.txt", "images", "manifest.json"]


# The page -------------------------------------------------------------------------------------------------------------


def test_the_commands_of_the_page(run, fonts, tmp_path, monkeypatch):  # noqa: F811
    """docs/datasets.md, "Drawn scenes": as they stand, but for the fonts and the count."""
    page = (ROOT / "docs/datasets.md").read_text(encoding="utf-8")
    text = page.partition("### Drawn scenes")[2].partition("\n## ")[0]
    commands = re.findall(r"^dbnet data (.*)$", text, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    cv2.imwrite("photos/a.png", np.zeros((90, 90, 3), np.uint8))
    for command in commands:
        words = shlex.split(command)
        if words[0] == "synth":
            words = [word.removesuffix(",chinese") for word in words]  # the font has none
            words = [*words, "--fonts", str(fonts), "--count", "2", "--size", "96", "160"]
        run(*words)
    assert len(commands) >= 3
    assert set(re.findall(r"--[a-z]+", text)) >= {"--seed", "--fonts", "--backgrounds", "--scripts", "--force"}
