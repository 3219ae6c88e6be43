"""The folder of a hand-off: an earlier one is replaced, whole or not at all, and what others put there stays."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from dbnet.datasets.drawn import draw
from dbnet.errors import DbnetError
from evaluation.delivery.handoff import check_handoff, write_handoff
from tests.handoffs import EMBEDDED, SMALL, deliver, loaded, verified


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return loaded(EMBEDDED, tmp_path_factory.mktemp("model"), pixels=SMALL)


@pytest.fixture(scope="module")
def delivered(model, tmp_path_factory):
    return deliver(model, tmp_path_factory.mktemp("delivered"))


@pytest.fixture(autouse=True)
def unproved(monkeypatch):
    """Without verify.py's run at the end, which takes most of the time."""
    monkeypatch.setattr("evaluation.delivery.handoff._proved", lambda *_: "")


@pytest.fixture
def handoff(model, delivered, tmp_path_factory) -> Path:
    """With the drawn scenes."""
    folder = tmp_path_factory.getbasetemp() / "handoff"
    if not folder.exists():
        write_handoff(folder, delivered, model, [], force=False)
    return folder


@pytest.fixture
def image(tmp_path) -> Path:
    cv2.imwrite(str(tmp_path / "a.png"), draw(3, 200, 300)[0])
    return tmp_path / "a.png"


def test_a_folder_with_files_is_refused_and_keeps_them(model, delivered, image, tmp_path):
    folder = tmp_path / "there"
    (folder / "build").mkdir(parents=True)
    (folder / "build/theirs").write_text("theirs")
    with pytest.raises(DbnetError, match="has files in it; name another --handoff, or add --force"):
        write_handoff(folder, delivered, model, [image], force=False)
    write_handoff(folder, delivered, model, [image], force=True)
    assert (folder / "build/theirs").read_text() == "theirs" and (folder / "test_data_set_0/boxes.json").is_file()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_earlier_hand_off_goes(model, delivered, handoff, image, tmp_path):
    """All three data sets of it; what came from others stays, whatever SHA256SUMS and the mark say of it."""
    folder = tmp_path / "h"
    shutil.copytree(handoff, folder)
    theirs = {"images/theirs.png": b"theirs", "notes/a.txt": b"theirs", "../mine": b"theirs", "linked": b"theirs",
              "images/more/a.png": b"theirs"}
    (folder / "notes").mkdir(), (folder / "images/more").mkdir()
    (tmp_path / "outside").write_bytes(b"theirs")
    (folder / "linked").symlink_to(tmp_path / "outside")
    (folder / "test_data_set_9x").symlink_to(tmp_path)
    mark = json.loads((folder / ".dbnet-handoff.json").read_text())
    for name, data in theirs.items():
        (folder / name).write_bytes(data)
        mark["files"][name] = hashlib.sha256(data).hexdigest()
    del mark["files"]["images/theirs.png"]  # the others are hostile entries
    mark["files"][str(tmp_path / "mine")] = mark["files"]["test_data_set_9x/mine"] = mark["files"]["../mine"]
    (folder / ".dbnet-handoff.json").write_text(json.dumps(mark))
    with pytest.raises(DbnetError, match=r"h: test_data_set_9x: in the way of a hand-off, and not from an earlier one"):
        write_handoff(folder, delivered, model, [image], force=True)
    (folder / "test_data_set_9x").unlink()
    write_handoff(folder, delivered, model, [image], force=True)
    assert [path.name for path in sorted(folder.glob("test_data_set_*"))] == ["test_data_set_0"]
    assert sorted(path.name for path in (folder / "images").iterdir()) == ["README.txt", "more", "theirs.png"]
    assert all((folder / name).read_bytes() == data for name, data in theirs.items()) and (tmp_path / "mine").is_file()
    assert verified(folder).returncode == 0 and not [*folder.glob(".dbnet-handoff-*")]


WAYS = {  # what lies in the folder of an earlier hand-off, or in one of the user's, and what is named
    "edited": (True, lambda h: (h / "detect.cpp").write_text("edited"), "detect.cpp"),
    "edited data": (True, lambda h: (h / "test_data_set_2/boxes.json").write_text("{}"), "test_data_set_2/boxes.json"),
    "an image": (True, lambda h: (h / "images/scene_0.png").write_text("theirs"), "images/scene_0.png"),
    "no mark": (True, lambda h: (h / ".dbnet-handoff.json").unlink(), "README.md, verify.py, detect.cpp and "),
    "linked": (True, lambda h: ((h / "images").rename(h.parent / "away"),
                                (h / "images").symlink_to("../away")), "images"),
    "a linked file": (True, lambda h: ((h / "verify.py").rename(h.parent / "v.py"),
                                       (h / "verify.py").symlink_to("../v.py")), "verify.py"),
    "own files": (False, lambda h: [(h / name).write_text("theirs") for name in ("README.md", "CMakeLists.txt")],
                  "README.md, CMakeLists.txt"),
    "own sums": (False, lambda h: ((h / "a.txt").write_text("a"), (h / "SHA256SUMS").write_text(
        f"{hashlib.sha256(b'a').hexdigest()}  a.txt\n")), "SHA256SUMS"),
    "a folder": (False, lambda h: (h / "README.md").mkdir(), "README.md"),
    "a file": (False, lambda h: (h / "test_data_set_0").write_text("theirs"), "test_data_set_0"),
    "a model": (False, lambda h: (h / "model.onnx").write_text("theirs"), "model.onnx"),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_in_the_way_is_named_and_stays(model, delivered, handoff, tmp_path, way):
    """Before anything is computed, and with --force too."""
    earlier, prepare_it, named = WAYS[way]
    folder = tmp_path / "h"
    shutil.copytree(handoff, folder) if earlier else folder.mkdir()
    prepare_it(folder)
    before = contents(tmp_path)
    with pytest.raises(DbnetError, match=rf"h: {re.escape(named)}.*: in the way of a hand-off"):
        check_handoff(folder, True, delivered.files)
    with pytest.raises(DbnetError, match="in the way of a hand-off"):
        write_handoff(folder, delivered, model, [tmp_path / "none.png"], force=True)
    assert contents(tmp_path) == before


def test_an_error_while_placing_restores(model, delivered, handoff, image, tmp_path, monkeypatch):
    folder = tmp_path / "h"
    shutil.copytree(handoff, folder)
    before, replace_it = contents(folder), os.replace

    def failing(source, target):
        if Path(target).name == "verify.py" and Path(target).parent == folder and "old" not in str(source):
            raise OSError(28, "No space left on device")
        replace_it(source, target)
    monkeypatch.setattr("os.replace", failing)
    with pytest.raises(DbnetError, match=r"h: the hand-off could not be written \(No space .* nothing in this folder"):
        write_handoff(folder, delivered, model, [image], force=True)
    assert contents(folder) == before


def test_around_the_exported_file(model, image, tmp_path, monkeypatch):
    """`--handoff .` beside OUT: OUT is the hand-off's, stays the user's, and the next export leaves it alone."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "h").mkdir()
    monkeypatch.chdir(tmp_path / "h")
    check_handoff(Path(), False)
    first = deliver(model, Path())
    node = first.path.stat().st_ino
    write_handoff(Path(), first, model, [image], force=False)
    assert first.path.stat().st_ino == node and verified(tmp_path / "h").returncode == 0
    second = first.path.rename("second.onnx"), shutil.copy("second.onnx", "model.onnx")
    write_handoff(Path(), replace(first, path=second[0], files=second[:1]), model, [image], force=True)
    assert (tmp_path / "h/model.onnx").is_file() and (tmp_path / "h/second.onnx").is_file()
    with pytest.raises(DbnetError, match=r"model.onnx: is the exported file itself"):
        check_handoff(Path("model.onnx"), True, [first.path])
