"""`dbnet compare MODEL EXPORTED`: a good export is the same model, whatever its runtime wants; no tampered one is."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from converters.convert import convert
from converters.delivery_note import texts_of
from converters.export import read_source
from converters.formats import detect
from converters.load import SourceOptions
from dbnet.datasets.drawn import draw
from dbnet.errors import DbnetError
from dbnet.spec import MHLIAO_PIXELS
from evaluation.delivered import pixels_for
from evaluation.delivery.onnx import write as write_onnx
from evaluation.delivery.opencv import write as write_opencv
from evaluation.delivery.rapidocr import write as write_rapidocr
from evaluation.delivery.settings import ExportSettings
from evaluation.runners import open_runner
from parity.data import ROOT
from parity.exported import with_pixels_of_the_other
from parity.graph_suspects import graph_faults
from parity.models import compare_models
from parity.staged import open_staged
from parity.tolerances import tolerances
from tests.running import command

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed: pip install 'dbnet-parity[onnxruntime]'")

MODEL = ROOT / "dbnet" / "embedded" / "dbnet_mobilenetv3.safetensors"
SIZE = (96, 160)
PICTURE = draw(3, 160, 224)[0]
#: Of the weights that go beyond float16, which stays out of it.
HALF = {"precision": "fp16", "keep_float32": ("head.segm.1",)}
FILES = {
    "rapid": (write_rapidocr, {"target": "rapidocr"}), "rapid_half": (write_rapidocr, {"target": "rapidocr", **HALF}),
    "matrix": (write_opencv, {"target": "opencv", "data_shape": SIZE}),
    "logits": (write_onnx, {"target": "onnx", "output": "logits"}), "half": (write_onnx, {"target": "onnx", **HALF}),
    "half_logits": (write_onnx, {"target": "onnx", "output": "logits", **HALF}),
    "two": (write_onnx, {"target": "onnx", "batch": 2}),
    "three": (write_onnx, {"target": "onnx", "batch": 3, "data_shape": SIZE})}
#: They join what others have apart.
LONG = ("rapid_half", "half", "three")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A file of FILES, by its name; once each, and not compared by who writes it."""
    folder = tmp_path_factory.mktemp("exported")

    @functools.cache
    def write(name: str) -> Path:
        writer, settings = FILES[name]
        model, _ = read_source(MODEL, None)
        return writer(model, folder / f"{name}.onnx", ExportSettings(**settings)).path
    return write


def compared(path: Path, runner: str | None = None):
    reference = open_staged(MODEL, "onnxruntime", "cpu")
    return compare_models(reference, open_staged(path, runner, "cpu"), [PICTURE], referee=False)


# Good ones ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in FILES])
def test_a_good_export_is_the_same_model(name, exported):
    result = compared(exported(name))
    assert result.verdict in ("same", "within tolerance"), result.rows
    assert [row.stage for row in result.rows][-2:] == ["logits", "probability"] and len(result.rows) == 11
    assert all(row.isolated is not None for row in result.rows)
    row = tolerances("cpu", "fp16" if "half" in name else "float32")
    assert {each.comparison.tolerance for each in result.rows if each.stage == "probability"} == {row.probability}
    resized = [note for note in result.notes if "takes images resized by" in note]
    assert len(resized) == (name in ("rapid", "rapid_half", "matrix", "three"))


@pytest.mark.parametrize(("name", "runner"), [
    ("matrix", "opencv"), *(pytest.param(*row, marks=pytest.mark.long) for row in (
        ("rapid", "openvino"), ("rapid", "torch"), ("two", "openvino"), ("three", "opencv")))])
def test_in_other_runtimes(name, runner, exported):
    pytest.importorskip({"opencv": "cv2"}.get(runner, runner))
    assert compared(exported(name), runner).verdict in ("same", "within tolerance")


@pytest.mark.long
def test_two_exported_files(exported):
    sides = [open_staged(exported(name), None, "cpu") for name in ("rapid", "matrix")]
    assert compare_models(*sides, [PICTURE], referee=False).verdict in ("same", "within tolerance")


def test_the_command(exported, tmp_path):
    done = command("compare", MODEL, exported("rapid"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resized by short_side_min 736x736, not by short_side 1088x1088" in " ".join(done.stdout.split())
    cv2.imwrite(str(tmp_path / "a.png"), PICTURE)
    done = command("detect", tmp_path / "a.png", "-m", exported("two"), "-o", tmp_path / "out")
    assert done.returncode == 0 and "takes 2 images at once" in done.stdout + done.stderr


@pytest.mark.parametrize("runner", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_any_number_of_images_in_a_fixed_batch(count, runner, exported):
    pytest.importorskip(runner)
    images = np.random.default_rng(1).normal(size=(count, 3, 64, 96)).astype(np.float32)
    found = open_runner(exported("two"), runner, "cpu", ("probability",)).run(images)["probability"]
    alone = open_runner(MODEL, runner, "cpu", ("probability",)).run(images)["probability"]
    assert found.shape == alone.shape
    np.testing.assert_allclose(found, alone, atol=1e-5)


# Tampered ones --------------------------------------------------------------------------------------------------------


def _epsilon(model: ModelProto) -> None:
    [node] = [node for node in model.graph.node if node.output[0] == "backbone.features.1"]
    [epsilon] = [attribute for attribute in node.attribute if attribute.name == "epsilon"] or [node.attribute.add(
        name="epsilon", type=onnx.AttributeProto.FLOAT)]
    epsilon.f = 0.5


def _summand(model: ModelProto) -> None:
    [node] = [node for node in model.graph.node if node.output[0] == "image.add"]
    node.attribute[0].t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(node.attribute[0].t) + np.float32(0.2)))


def _colours(model: ModelProto) -> None:
    [swap] = [node for node in model.graph.node if node.output[0] == "image.gather.done"]
    model.graph.node.remove(swap)
    for node in model.graph.node:
        node.input[:] = ["image" if name == "image.gather.done" else name for name in node.input]


@pytest.mark.parametrize(("name", "change", "cause"), [
    ("rapid", _summand, "normalization"), ("half_logits", _epsilon, "bn_eps"),
    *(pytest.param(*row, marks=pytest.mark.long) for row in (
        ("rapid_half", _colours, "color_order"), ("rapid", _epsilon, "bn_eps"), ("matrix", _epsilon, "bn_eps"),
        ("two", _epsilon, "bn_eps")))])
def test_a_tampered_export_differs(name, change, cause, exported, tmp_path):
    model = onnx.load(exported(name))
    change(model)
    onnx.save(model, tmp_path / "t.onnx")
    result = compared(tmp_path / "t.onnx")
    assert (result.verdict, result.first, result.cause) == ("different", "c2", cause), result.causes
    assert result.causes[0].explained


def _older(model: ModelProto) -> None:
    """Every mean of a map by one operator, as they were written at first."""
    makers = {node.output[0]: node for node in model.graph.node}
    for node in list(model.graph.node):
        if node.op_type == "ReduceMean" and (part := makers.get(node.input[0])) and part.op_type == "ReduceMean":
            node.op_type, node.input[0] = "GlobalAveragePool", part.input[0]
            del node.attribute[:], node.input[1:]
            model.graph.node.remove(part)


# Graphs that say nothing of their pixels ------------------------------------------------------------------------------


def bare(exported, tmp_path, name: str = "two", producer: str = "") -> Path:
    """A file as others write them: nothing tells of its pixels but its tensors' names, or its producer."""
    graph = onnx.load(exported(name))
    del graph.metadata_props[:]
    graph.producer_name = producer
    onnx.save(graph, tmp_path / "bare.onnx")
    return tmp_path / "bare.onnx"


@pytest.mark.parametrize(("name", "turned", "told"), [
    ("two", False, "nothing in the file tells; dbnet_mobilenetv3.safetensors's are taken"),
    ("two", True, "nothing in the file tells; dbnet_mobilenetv3.safetensors's are taken"),
    ("three", False, "takes one size only, images resized by stretch 96x160, not by short_side 1088x1088")])
def test_what_is_only_guessed_is_no_difference(name, turned, told, exported, tmp_path):
    path = bare(exported, tmp_path, name)
    sides = [open_staged(MODEL, "onnxruntime", "cpu"), open_staged(path, None, "cpu")]
    assert sides[0].pixels != sides[1].pixels
    found = compare_models(*(sides[::-1] if turned else sides), [PICTURE], referee=False)
    assert (found.verdict, found.first) == ("within tolerance", None), found.to_dict()
    assert [row.stage for row in found.rows][:1] == ["c2"]
    assert sum(told in note for note in found.notes) == 1
    assert name == "three" or not any("MindOCR's, for" in note for note in found.notes)


def test_what_somebody_says_is_a_difference(exported, tmp_path):
    path = bare(exported, tmp_path)
    sides = [open_staged(MODEL, "onnxruntime", "cpu"), open_staged(path, None, "cpu", SourceOptions(pixels="mindocr"))]
    assert compare_models(*sides, [PICTURE], referee=False).first == "pixels"
    both = [open_staged(path, None, "cpu"), open_staged(path, None, "cpu")]
    assert with_pixels_of_the_other(both[0], both[1]) == (both[0], both[1])


def test_another_project_s_graph_keeps_its_colours(exported, tmp_path):
    path = bare(exported, tmp_path, producer="PaddlePaddle")
    sides = open_staged(MODEL, "onnxruntime", "cpu"), open_staged(path, None, "cpu")
    _, changed = with_pixels_of_the_other(*sides)
    mine, theirs, found = sides[1].pixels, sides[0].pixels, changed.pixels
    assert (found.colour, found.mean, found.std) == (mine.colour, mine.mean, mine.std)
    assert (found.resize, found.size) == (theirs.resize, theirs.size) != (mine.resize, mine.size)
    assert changed.runner.spec.boxes == sides[1].runner.spec.boxes
    assert changed.for_images().spec.pixels == found


def test_the_command_on_a_graph_of_somebody_else(exported, tmp_path):
    cv2.imwrite(str(tmp_path / "picture.png"), PICTURE)
    done = command("compare", MODEL, bare(exported, tmp_path), "--images", tmp_path / "picture.png", "--runner-a",
                   "onnxruntime")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "B: pixels and boxes: nothing in the file tells; dbnet_mobilenetv3.safetensors's are taken" in done.stderr


@pytest.mark.parametrize("changes", [[_older], [_older, _epsilon]])
def test_an_archive_of_an_older_version(changes, tmp_path):
    convert(MODEL, tmp_path / "new.onnx")
    model = onnx.load(tmp_path / "new.onnx")
    for change in changes:
        change(model)
    assert sum(node.op_type == "GlobalAveragePool" for node in model.graph.node) == 8
    assert not any(node.op_type == "ReduceMean" for node in model.graph.node)
    onnx.save(model, tmp_path / "old.onnx")
    result, opened = compared(tmp_path / "old.onnx"), open_staged(tmp_path / "old.onnx", None, "cpu")
    assert [fault.cause for fault in graph_faults(opened.lab, opened.network).known] == ["bn_eps"] * (len(changes) - 1)
    assert [each.cause for each in result.causes] == ["bn_eps"] * (len(changes) - 1)
    assert (result.verdict == "different") == (len(changes) > 1)


# What the user says of its pixels -------------------------------------------------------------------------------------


def test_sizes_of_a_file_with_a_front_are_the_users_and_nothing_else(exported):
    path = exported("rapid")
    opened = open_runner(path, None, "cpu", ("probability",), pixels="resize=stretch,size=96x160")
    assert (opened.spec.pixels.colour, opened.spec.pixels.mean) == ("BGR", (127.5,) * 3)
    assert (opened.spec.pixels.resize, opened.spec.pixels.size) == ("stretch", SIZE)
    for pixels in ("mindocr,size=96x160", "colour=RGB", "mean=1/2/3", "std=1/2/3"):
        with pytest.raises(DbnetError, match="give resize and size alone, --pixels resize=") as failure:
            open_runner(path, None, "cpu", ("probability",), pixels=pixels)
        assert "\n" not in str(failure.value)
    assert open_runner(path, None, "cpu", ("probability",), pixels="colour=BGR").spec.pixels.colour == "BGR"
    for_recipe = pixels_for(opened, MHLIAO_PIXELS)
    assert for_recipe == dataclasses.replace(MHLIAO_PIXELS, colour="BGR", mean=(127.5,) * 3, std=(127.5,) * 3)
    plain = open_runner(exported("logits"), None, "cpu", ("probability",), pixels="mhliao")
    assert plain.spec.pixels == MHLIAO_PIXELS == pixels_for(plain, MHLIAO_PIXELS)


# An .xml --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["", "<?xml version='1.0'?>", "<?xml version='1.0'?>\n<!-- a -->\n"])
def test_an_xml_holds_no_weights_that_are_read(head, tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(head + "<net name='a' version='11'/>")
    for arguments in (["inspect", path], ["convert", path, tmp_path / "a.ckpt"], ["export", path, tmp_path / "a.onnx"]):
        done = command(*arguments)
        assert done.returncode == 3 and "is an OpenVINO model" in done.stderr and "--runner openvino" in done.stderr
    path.write_text("<network/>")
    with pytest.raises(DbnetError, match="is a web page"):
        detect(path)


BOMB = "<!DOCTYPE net [<!ENTITY a 'b'>]><net name='&a;'/>"


@pytest.mark.parametrize("content", [
    BOMB.encode("utf-16"), f"<?xml version='1.0' encoding='utf-16'?>{BOMB}".encode("utf-16"), BOMB.encode("utf-16-le"),
    b"<?xml version='1.0' encoding='utf-7'?><net/>", b"<?xml version='1.0' encoding='utf-16be'?><net/>", b"<net>\0"])
def test_an_xml_in_another_encoding(content, tmp_path):
    """In which entities look otherwise than those that are looked for."""
    path = tmp_path / "a.xml"
    path.write_bytes(content)
    with pytest.raises(DbnetError, match="is not in UTF-8"):
        texts_of(path)


@pytest.mark.parametrize("head", [b"", b"\xef\xbb\xbf", b'<?xml version="1.0" encoding="UTF-8"?>',
                                  b"<?xml version='1.0'?>"])
def test_an_xml_as_openvino_writes_it(head, tmp_path):
    path = tmp_path / "a.xml"
    path.write_bytes(head + "<net name='ü'><rt_info><dbnet><record value='{}'/></dbnet></rt_info></net>".encode())
    assert list(texts_of(path).values()) == ["{}"]
