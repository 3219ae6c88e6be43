"""What is put around our graph for a runtime: pixels in front, logits or a matrix at the end, float16 inside."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters import onnx_file
from converters.delivery_note import DELIVERY_KEY, DeliveryNote, read_delivery, texts_of
from converters.export import inference_part, write_delivery
from converters.load import load_model
from converters.onnx_front import front
from converters.onnx_graph import build_graph
from dbnet.errors import DbnetError
from dbnet.precision import layers
from dbnet.record import RECORD_KEY
from dbnet.seeded import seeded_images, seeded_weights
from dbnet.spec import SPECS, ModelSpec, PixelFormat
from evaluation.delivery.rapidocr import BOXES, PIXELS

MV3 = SPECS["dbnet_mobilenetv3"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return loaded(MV3, tmp_path_factory.mktemp("fitting"))


def loaded(spec: ModelSpec, folder: Path):
    from converters.convert import save_model
    from converters.load import LoadedModel
    from converters.weights import digest
    from dbnet.record import Record
    weights = seeded_weights(spec, 3)
    path = folder / f"{spec.name}.safetensors"
    save_model(LoadedModel(path, "safetensors", "mindocr", Record(spec, "mindocr", digest(weights)), weights,
                           "complete", False), path, force=True)
    return inference_part(load_model(path))


def note(spec: ModelSpec = MV3, **changes) -> DeliveryNote:
    return replace(DeliveryNote("onnx", spec.pixels, spec.boxes), **changes)


def run(path: Path, images: np.ndarray) -> np.ndarray:
    ort = pytest.importorskip("onnxruntime")
    [found] = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"image": images})
    return found


def reference(model, images: np.ndarray) -> np.ndarray:
    ort = pytest.importorskip("onnxruntime")
    stream = io.BytesIO()
    onnx_file.write(stream, model.weights, model.record.spec, None)
    session = ort.InferenceSession(stream.getvalue(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images})[0]


def as_given(z: np.ndarray, own: PixelFormat, to: PixelFormat) -> np.ndarray:
    """Written out again: back to 0..255 and forth, channel by channel."""
    out = np.empty_like(z)
    for c, name in enumerate(own.colour):
        there = to.colour.index(name)
        out[:, there] = ((z[:, c].astype(np.float64) * own.std[c] + own.mean[c]) - to.mean[there]) / to.std[there]
    return out


# The front ------------------------------------------------------------------------------------------------------------

three = st.tuples(*[st.floats(0.5, 255)] * 3)
formats = st.builds(PixelFormat, st.sampled_from(["RGB", "BGR"]), three, three, st.just("stretch"), st.just((64, 96)))


@given(formats, formats)
def test_a_front_takes_pixels_from_one_format_to_another(given_, wanted):
    raw = np.random.default_rng(0).uniform(0, 255, (1, 3, 2, 2))
    own = as_given(raw, PixelFormat("RGB", (0, 0, 0), (1, 1, 1), "stretch", (64, 96)), wanted)
    y = as_given(own, wanted, given_).astype(np.float32)
    for operator, constant in front(given_, wanted):
        y = {"Gather": lambda a, b: a[:, b], "Mul": np.multiply, "Add": np.add}[operator](y, constant)
    assert np.abs(y - own).max() <= 1e-5 * max(1.0, np.abs(own).max(), 255 / min(wanted.std))


def test_equal_pixels_need_no_front():
    assert front(MV3.pixels, replace(MV3.pixels, size=(32, 64), resize="grid")) == []


@pytest.mark.parametrize("name", ["dbnet_mobilenetv3", "db_mv3_paddle"])
@pytest.mark.parametrize("opset", [11, 13, 18])
def test_rapidocrs_pixels_give_the_same_map(name, opset, tmp_path):
    spec = SPECS[name]
    source = loaded(spec, tmp_path)
    path = tmp_path / "rapid.onnx"
    write_delivery(source, path, note(spec, target="rapidocr", pixels=PIXELS, boxes=BOXES), opset=opset)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    z = seeded_images(2, 64, 96)
    assert np.abs(run(path, as_given(z, spec.pixels, PIXELS)) - reference(source, z)).max() < 1e-5
    back = load_model(path)
    assert (back.unread, back.record.spec) == (None, spec)
    assert any("exported for rapidocr" in told for told in back.notes)


@pytest.mark.parametrize("edit", ["factor", "order", "note"])
def test_an_edited_front_is_not_taken_for_ours(edit, model, tmp_path):
    path = tmp_path / "rapid.onnx"
    write_delivery(model, path, note(target="rapidocr", pixels=PIXELS))
    edited = onnx.load(path)
    constants = {node.output[0]: node.attribute[0].t for node in edited.graph.node if node.op_type == "Constant"}
    if edit == "factor":
        values = onnx.numpy_helper.to_array(constants["image.mul"]) * np.float32(1.01)
        constants["image.mul"].CopyFrom(onnx.numpy_helper.from_array(values, "image.mul"))
    elif edit == "order":
        constants["image.gather"].CopyFrom(onnx.numpy_helper.from_array(np.array([2, 0, 1]), "image.gather"))
    else:
        for entry in edited.metadata_props:
            if entry.key == DELIVERY_KEY:
                entry.value = note(target="rapidocr", pixels=replace(PIXELS, mean=(127.5, 127.5, 120.0))).to_json()
    onnx.save(edited, path)
    assert "is not that of its record" in str(load_model(path).unread)


# The end --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [11, 13])
def test_logits_are_what_the_sigmoid_took(opset, model, tmp_path):
    path = tmp_path / "logits.onnx"
    write_delivery(model, path, note(output="logits"), opset=opset)
    z = seeded_images(1, 64, 96)
    assert [output.name for output in onnx.load(path).graph.output] == ["logits"]
    assert np.abs(1 / (1 + np.exp(-run(path, z))) - reference(model, z)).max() < 1e-5
    assert load_model(path).unread is None
    assert read_delivery(path).logits


@pytest.mark.parametrize("opset", [11, 12, 13, 22])
@pytest.mark.parametrize("size", [None, (64, 96)])
def test_a_matrix_is_the_map_without_two_sides(opset, size, model, tmp_path):
    path = tmp_path / "matrix.onnx"
    write_delivery(model, path, note(rank=2), opset=opset, data_shape=size, batch=1)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    z = seeded_images(1, 64, 96)
    assert np.array_equal(run(path, z), reference(model, z)[0, 0]) or \
        np.abs(run(path, z) - reference(model, z)[0, 0]).max() < 1e-5
    assert run(path, z).shape == (64, 96)
    assert load_model(path).unread is None


def test_a_matrix_is_of_one_image(model, tmp_path):
    with pytest.raises(DbnetError, match="of one image"):
        write_delivery(model, tmp_path / "x.onnx", note(rank=2))
    assert not list(tmp_path.iterdir())


# Float16 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dbnet_mobilenetv3", "dbnet_resnet18_deformable", "db_mv3_ppocrv3",
                                  pytest.param("dbnetpp_resnet50_deformable", marks=pytest.mark.long),
                                  pytest.param("dbnetpp_resnet50", marks=pytest.mark.long),
                                  pytest.param("dbpp_resnet50_paddle", marks=pytest.mark.long)])
@pytest.mark.parametrize("opset", [13, pytest.param(17, marks=pytest.mark.long)])
def test_float16_is_in_the_types_of_the_file(name, opset, tmp_path):
    spec = SPECS[name]
    source, path = loaded(spec, tmp_path), tmp_path / "half.onnx"
    kept = ("head.segm.1", "neck.out.0") if spec.neck == "dbfpn" else ("head.segm.1",)
    held = write_delivery(source, path, note(spec, precision="fp16", keep_float32=kept), opset=opset)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for tensor, kind in kinds.items():
        float32 = tensor.startswith(kept) or (".conv2.weight" in tensor and spec.deformable != "none"
                                              and tensor.replace("conv2", "conv2_offset") in kinds)
        assert kind == (onnx.TensorProto.FLOAT if float32 else onnx.TensorProto.FLOAT16), tensor
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    z = seeded_images(1, 64, 96)
    far = np.abs(run(path, z) - reference(source, z)).max()
    assert 1e-6 < far < 2e-2
    back = load_model(path)
    assert (back.unread, back.record.sha256) == (None, held.record.sha256)
    assert all(np.array_equal(back.weights[n], a) for n, a in held.weights.items())


def test_every_layer_may_be_kept(model, tmp_path):
    """Then nothing is rounded, and nothing is left to cast."""
    path = tmp_path / "kept.onnx"
    write_delivery(model, path, note(precision="fp16", keep_float32=("backbone", "neck", "head")))
    z = seeded_images(1, 64, 96)
    assert np.abs(run(path, z) - reference(model, z)).max() < 1e-6
    assert not [node.name for node in onnx.load(path).graph.node if node.op_type == "Cast"]


@settings(max_examples=3)
@given(st.sets(st.sampled_from(layers(MV3)), min_size=1, max_size=6))
def test_whatever_is_kept_gives_a_valid_file(tmp_path_factory, kept):
    folder = tmp_path_factory.mktemp("kept")
    path = folder / "x.onnx"
    source = loaded(MV3, folder)
    write_delivery(source, path, note(precision="fp16", keep_float32=tuple(sorted(kept))))
    onnx.checker.check_model(onnx.load(path), full_check=True)
    z = seeded_images(1, 32, 64)
    assert np.abs(run(path, z) - reference(source, z)).max() < 2e-2


def test_weights_beyond_float16_are_named(model, tmp_path):
    large = {**model.weights, "head.segm.1.moving_variance": model.weights["head.segm.1.moving_variance"] * 1e6}
    with pytest.raises(DbnetError, match=r"--keep-float32 head\.segm\.1$"):
        write_delivery(replace(model, weights=large), tmp_path / "x.onnx", note(precision="fp16"))
    with pytest.raises(DbnetError, match=r"has no layer 'head\.segm\.9'"):
        write_delivery(model, tmp_path / "x.onnx", note(precision="fp16", keep_float32=("head.segm.9",)))
    assert not list(tmp_path.iterdir())


# The note -------------------------------------------------------------------------------------------------------------


def test_a_plain_file_has_no_note(model, tmp_path):
    write_delivery(model, tmp_path / "x.onnx", None)
    assert read_delivery(tmp_path / "x.onnx") is None
    assert set(texts_of(tmp_path / "x.onnx")) == {RECORD_KEY}
    assert read_delivery(model.path) is None


def test_a_note_comes_back():
    whole = note(output="logits", rank=2, precision="fp16", keep_float32=("head.segm.1",), pixels=PIXELS, boxes=BOXES)
    assert DeliveryNote.from_json(whole.to_json(), "x") == whole
    assert whole.of(MV3) == replace(MV3, pixels=PIXELS, boxes=BOXES)
    assert note().describe(MV3.pixels) == ""


@pytest.mark.parametrize("change", [
    {"version": 2}, {"version": None}, {"rank": 3}, {"rank": True}, {"rank": [4]}, {"output": "binary"},
    {"precision": "bf16"}, {"pixels": {}}, {"pixels": None}, {"boxes": []}, {"target": 1}, {"keep_float32": "head"},
    {"keep_float32": [1]}, {"output": {}}])
def test_a_damaged_note_is_one_line(change):
    text = json.dumps({**json.loads(note().to_json()), **change})
    with pytest.raises(DbnetError, match="delivery note") as caught:
        DeliveryNote.from_json(text, "x.onnx")
    assert "\n" not in str(caught.value)


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) |
                      st.dictionaries(st.text(max_size=8), inner, max_size=3))


@given(st.text(max_size=40) | values.map(json.dumps))
def test_any_text_is_a_note_or_an_error(text):
    with pytest.raises(DbnetError):
        DeliveryNote.from_json(text, "x")


@pytest.mark.parametrize("content", [
    b"", b"<net>", b"<html></html>", b"\xff\xfe", b"<?xml version='1.0' encoding='nonsense'?><net/>",
    b'<!DOCTYPE net [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><net><rt_info>&b;</rt_info></net>'])
def test_no_openvino_model_is_one_line(content, tmp_path):
    (tmp_path / "x.xml").write_bytes(content)
    with pytest.raises(DbnetError, match=r"x\.xml"):
        texts_of(tmp_path / "x.xml")


def test_an_openvino_model_of_others_carries_nothing(tmp_path):
    (tmp_path / "x.xml").write_text("<?xml version='1.0'?><!-- theirs --><net><rt_info/></net>")
    assert texts_of(tmp_path / "x.xml") == {}


def test_the_graph_that_is_built_is_not_changed_without_a_note():
    weights = {name: array for name, array in seeded_weights(MV3, 3).items() if "thresh" not in name}
    plain, again = (build_graph(MV3, weights, form="delivery").proto.SerializeToString() for _ in range(2))
    assert plain == again
