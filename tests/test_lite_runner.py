"""The runner of MindSpore Lite: everything up to the package, which was not to be had.

A module of our own stands in for it: that shows the order of the calls and what is done with their results, and nothing
of MindSpore Lite.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from converters.delivery_note import DELIVERY_KEY, DeliveryNote
from dbnet.errors import DbnetError
from dbnet.record import RECORD_KEY, Record
from dbnet.seeded import seeded_images
from dbnet.spec import SPECS
from evaluation import lite_runner, lite_sidecar
from evaluation.lite_runner import LiteRunner
from evaluation.lite_sidecar import Sidecar, open_lite, read_sidecar

SPEC = SPECS["db_mv3_paddle"]
PADDLE = SPEC.pixels


def sidecar(**changes: Any) -> Sidecar:
    base = Sidecar(Record(SPEC, "paddle"), DeliveryNote("lite", PADDLE, SPEC.boxes), ((64, 96), (96, 160)), 1, "ascend",
                   "float32", hashlib.sha256(b"converted").hexdigest())
    return replace(base, **changes)


def converted(folder: Path, beside: Sidecar | None = None, name: str = "x.mindir") -> Path:
    (folder / name).write_bytes(b"converted")
    if beside is not None:
        (folder / f"{Path(name).stem}.lite.json").write_text(beside.to_json())
    return folder / name


def test_the_sidecar_comes_back(tmp_path):
    for one in (sidecar(), sidecar(sizes=(), device="cpu"), sidecar(batch=4, precision="fp16")):
        assert read_sidecar(converted(tmp_path, one)) == one
    assert read_sidecar(tmp_path / "other.mindir") is None


@pytest.mark.parametrize(("change", "told"), [
    ({"version": 2}, "version 2"), ({"sizes": [[64]]}, "damaged"), ({"sizes": [[64, -32]]}, "damaged"),
    ({"sizes": [[64, 1.5]]}, "damaged"), ({"batch": True}, "damaged"), ({"device": "gpu"}, "damaged"),
    ({"record": {}}, "record"), ({"delivery": {"output": "logits"}}, "delivery note"),
    ({"delivery": {"output": "map"}}, "damaged"), ({"delivery": []}, "damaged"), ({"sizes": 7}, "damaged"),
    ({"sizes": [[32, 32]] * 101}, "101 sizes"), ({"file": 7}, "damaged")])
def test_a_sidecar_that_cannot_be_used(change, told, tmp_path):
    path = converted(tmp_path, sidecar())
    data = json.loads((tmp_path / "x.lite.json").read_text())
    (tmp_path / "x.lite.json").write_text(json.dumps(data | change))
    with pytest.raises(DbnetError, match=told):
        read_sidecar(path)
    for text in ("", "[]", "{", "[" * 100_000, "\udcff".encode("utf-8", "surrogateescape").decode("latin-1")):
        (tmp_path / "x.lite.json").write_text(text, encoding="latin-1")
        with pytest.raises(DbnetError, match="damaged"):
            read_sidecar(path)


@pytest.mark.parametrize(("name", "keywords", "told"), [
    ("x.mindir", {}, "mindspore_lite is not installed"),
    ("x.mindir", {"device": "cpu"}, "was converted for ascend, not for cpu"),
    ("x.mindir", {"device": "cuda"}, "was converted for ascend, not for gpu"),
    ("x.mindir", {"device": "tpu"}, "unknown device"),
    ("x.mindir", {"stages": ("c2",)}, "no stage c2 in MindSpore Lite"),
    ("x.onnx", {}, r"called \.mindir or \.ms"),
    ("gone.mindir", {}, "no such file"),
])
def test_everything_before_the_package_is_checked(name, keywords, told, tmp_path):
    converted(tmp_path, sidecar())
    (tmp_path / "x.onnx").touch()
    with pytest.raises(DbnetError, match=told):
        LiteRunner(tmp_path / name, SPEC, **keywords)


def test_our_own_graph_in_memory_is_not_for_it():
    with pytest.raises(DbnetError, match="--target lite"):
        LiteRunner(b"graph", SPEC)


class Stand:
    """In the place of mindspore_lite: it notes how it is called, and gives the image's first channel for a map."""

    def __init__(self, shape: list[int]):
        self.calls: list[Any] = []
        self.shape, self.data = shape, np.zeros(0)
        self.ModelType = SimpleNamespace(MINDIR="mindir", MINDIR_LITE="ms")
        self.__version__ = "2.7.0"

    def Context(self) -> Any:  # noqa: N802 - its name there
        self.context = SimpleNamespace(ascend=SimpleNamespace(), cpu=SimpleNamespace())
        return self.context

    def Model(self) -> Any:  # noqa: N802
        return self

    def build_from_file(self, path: str, kind: str, context: Any) -> None:
        self.calls.append(("build", Path(path).name, kind, context.target))

    def get_inputs(self) -> list[Any]:
        return [self]

    def resize(self, inputs: list[Any], shapes: list[list[int]]) -> None:
        self.calls.append(("resize", tuple(shapes[0])))
        self.shape = shapes[0]

    def set_data_from_numpy(self, data: np.ndarray) -> None:
        assert list(data.shape) == list(self.shape) and data.flags.c_contiguous
        self.data = data

    def predict(self, inputs: list[Any]) -> list[Any]:
        self.calls.append(("predict", self.data.shape))
        return [self]

    def get_data_to_numpy(self) -> np.ndarray:
        return self.data[:, :1]


@pytest.fixture(name="stand")
def _stand(monkeypatch) -> Stand:
    stand = Stand([1, 3, -1, -1])
    monkeypatch.setitem(sys.modules, "mindspore_lite", stand)
    monkeypatch.setattr(lite_runner, "installed", lambda name: True)
    monkeypatch.setattr(lite_sidecar, "installed", lambda name: True)
    return stand


def test_how_it_is_called(stand, tmp_path):
    """With a stand-in: the order of the calls, and that images are padded to a size and their maps cut back."""
    runner = open_lite(converted(tmp_path, sidecar()))
    assert (runner.device, runner.shape, runner.spec.pixels) == ("ascend:0", (1, 3, None, None), PADDLE)
    assert stand.context.ascend.device_id == 0 and len(runner.notes) == 1
    small, exact = seeded_images(2, 64, 64), seeded_images(1, 96, 160)
    assert np.array_equal(runner.run(small)["probability"], small[:, :1])
    assert np.array_equal(runner.run(exact)["probability"], exact[:, :1])
    assert stand.calls == [("build", "x.mindir", "mindir", ["ascend"]), ("resize", (1, 3, 64, 96)),
                           ("predict", (1, 3, 64, 96)), ("predict", (1, 3, 64, 96)), ("resize", (1, 3, 96, 160)),
                           ("predict", (1, 3, 96, 160))]
    with pytest.raises(DbnetError, match="one of 128x32 is larger than each"):
        runner.run(seeded_images(1, 128, 32))
    told = runner.environment()
    assert (told["framework"], told["version"], told["precision"]) == ("mindspore_lite", "2.7.0", "float32")


def test_a_sidecar_of_another_file(stand, tmp_path):
    """It would say other sizes, or that a probability is a logit."""
    path = converted(tmp_path, sidecar())
    path.write_bytes(b"of an earlier export")
    for open_ in (open_lite, lambda path: LiteRunner(path, SPEC)):
        with pytest.raises(DbnetError, match=r"is not the file that x\.lite\.json beside it was written for"):
            open_(path)
    unsaid = open_lite(converted(tmp_path, sidecar(file=None)))
    assert "does not say that it belongs to x.mindir" in unsaid.notes[0]


def with_texts(texts: dict[str, str]) -> bytes:
    """A .mindir that holds nothing but these in its user_info, field 14 of ModelProto."""
    def field(number: int, content: bytes) -> bytes:
        assert len(content) < 1 << 14
        return bytes([number << 3 | 2, len(content) & 127 | 128, len(content) >> 7]) + content

    head = field(1, b"0.1.0")  # ir_version
    return head + b"".join(field(14, field(1, key.encode()) + field(2, text.encode())) for key, text in texts.items())


def test_a_mindir_that_says_that_it_is_mindspores_own(tmp_path):
    """Whatever lies beside it; what converter_lite makes of our graph may say what that graph says."""
    path = converted(tmp_path, sidecar())
    assert lite_sidecar.is_converted(path)
    record, note = sidecar().record.to_json(), sidecar().note
    for texts, lite in (({RECORD_KEY: record}, False), ({}, True),
                        ({RECORD_KEY: record, DELIVERY_KEY: replace(note, target="mindir").to_json()}, False),
                        ({RECORD_KEY: record, DELIVERY_KEY: note.to_json()}, True),
                        ({RECORD_KEY: record, DELIVERY_KEY: "{"}, True)):
        path.write_bytes(with_texts(texts))
        assert lite_sidecar.is_converted(path) is lite, texts
    (tmp_path / "x.lite.json").unlink()
    assert not lite_sidecar.is_converted(path)


def test_a_ms_on_a_cpu(stand, tmp_path):
    note = replace(sidecar().note, output="logits")
    runner = open_lite(converted(tmp_path, sidecar(sizes=(), device="cpu", note=note), "x.ms"), threads=2)
    images = seeded_images(1, 32, 96)
    assert np.abs(runner.run(images)["probability"] - 1 / (1 + np.exp(-images[:, :1]))).max() < 1e-6
    assert stand.calls[0] == ("build", "x.ms", "ms", ["cpu"]) and stand.context.cpu.thread_num == 2
    assert runner.environment()["threads"] == 2


def test_what_only_the_file_says(stand, tmp_path):
    """Without a sidecar: sizes by its input, logits by the values for one image, which is run for that."""
    stand.shape = [1, 3, 64, 96]
    runner = LiteRunner(converted(tmp_path), SPEC)
    assert (runner.sizes, runner.shape, runner.device) == (((64, 96),), (1, 3, 64, 96), "cpu")
    assert runner.logits and "a sigmoid is applied" in runner.notes[-1]
    assert ("predict", (1, 3, 64, 96)) in stand.calls
    stand.shape = [1, 64, 96, 3]
    with pytest.raises(DbnetError, match="not one colour image"):
        LiteRunner(tmp_path / "x.mindir", SPEC)


def test_a_first_look(stand, tmp_path):
    told = lite_sidecar.first_look(converted(tmp_path, sidecar()))
    assert told.startswith("runs in MindSpore Lite on ascend:0") and ("predict", (1, 3, 64, 96)) in stand.calls


def test_it_can_be_copied_to_another_environment():
    from dbnet.portable import check_needs, closure
    check_needs(closure(["evaluation.lite_runner"]), ["numpy"])
    check_needs(closure(["ms_models.mindir"]), ["numpy", "mindspore", "google"])


def test_without_a_sidecar_nobody_knows_the_pixels(stand, tmp_path):
    with pytest.raises(DbnetError, match=r"x\.lite\.json is not beside it"):
        open_lite(converted(tmp_path))


def test_what_it_raises_is_one_line(stand, tmp_path, monkeypatch):
    def fails(*_: Any) -> None:
        raise RuntimeError("build_from_file failed!\nError is Common error code.")

    monkeypatch.setattr(stand, "build_from_file", fails, raising=False)
    with pytest.raises(DbnetError, match="MindSpore Lite refuses it on ascend:0: build_from_file failed!"):
        open_lite(converted(tmp_path, sidecar()))
