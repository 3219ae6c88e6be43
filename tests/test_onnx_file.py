"""The .onnx codec against the onnx package, against files that onnx writes otherwise, and against damaged ones."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from converters import onnx_file
from converters.protobuf_wire import (
    VARINT,
    bytes_field,
    fields,
    key,
    length_head,
    read_varint,
    varint,
    varint_field,
)
from converters.tensor_file import TensorFile, Weights
from converters.weights import same_bits
from dbnet.errors import DbnetError
from dbnet.parameters import parameters
from dbnet.spec import SPECS
from tests.test_onnx_graph import MV3, weights_of

RECORD = '{"spec": "dbnet_mobilenetv3", "origin": "é \U0001f600"}'
TRAINING = [p.name for p in parameters(MV3) if p.training_only]


def written(weights: Weights, record: str | None = RECORD, **options: Any) -> bytes:
    stream = BytesIO()
    onnx_file.write(stream, weights, MV3, record, **options)
    return stream.getvalue()


@cache
def archive() -> bytes:
    return written(weights_of(MV3))


def load(folder: Path, content: bytes, name: str = "x.onnx") -> TensorFile:
    path = folder / name
    path.write_bytes(content)
    return onnx_file.read(path)


def assert_same(found: Weights, expected: Weights) -> None:
    assert list(found) == list(expected)
    for name in expected:
        assert same_bits(found[name], expected[name]), name


def refusal(folder: Path, content: bytes, name: str = "x.onnx") -> str:
    """The one line with which a file is refused; it names the file."""
    with pytest.raises(DbnetError) as caught:
        load(folder, content, name)
    assert str(caught.value).startswith(str(folder / name))
    return str(caught.value)


# Round trips ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64],
                         ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("form", ["archive", "delivery"])
def test_round_trip(form, dtype, tmp_path):
    weights = weights_of(MV3, dtype)
    file = load(tmp_path, written(weights, form=form))
    kept = {n: a for n, a in weights.items() if form == "archive" or n not in TRAINING}
    assert_same(file.tensors, kept)
    assert (file.format, file.record, file.metadata) == ("onnx", RECORD, {"dbnet.form": form})
    assert not any(array.flags.writeable for array in file.tensors.values())


@pytest.mark.parametrize("name", SPECS)
def test_every_spec_round_trips(name, tmp_path):
    path = tmp_path / "x.onnx"
    with path.open("wb") as stream:
        onnx_file.write(stream, weights_of(SPECS[name]), SPECS[name], None)
    file = onnx_file.read(path)
    assert file.record is None
    assert_same(file.tensors, weights_of(SPECS[name]))
    onnx.checker.check_model(str(path), full_check=True)


def test_order_and_odd_values_survive(tmp_path):
    weights = dict(reversed(weights_of(MV3).items()))
    odd = np.resize(np.array([np.nan, -0.0, np.inf, 1e-40, -1.0], np.float32), 256 * 9 * 64).reshape(64, 256, 3, 3)
    weights["head.segm.0.weight"] = np.asfortranarray(odd)
    assert_same(load(tmp_path, written(weights)).tensors, weights)


def test_an_inference_subset_stays_one(tmp_path):
    subset = {n: a for n, a in weights_of(MV3).items() if n not in TRAINING}
    assert_same(load(tmp_path, written(subset)).tensors, subset)


def test_dense_weights_are_kernels_in_the_delivery_form_only():
    name = "backbone.features.6.layers.6.conv_reduce.weight"
    for form, rank in (("archive", 2), ("delivery", 4)):
        stored = {i.name: i for i in onnx.load_from_string(written(weights_of(MV3), form=form)).graph.initializer}
        assert len(stored[name].dims) == rank


@pytest.mark.parametrize("form", ["archive", "delivery"])
def test_onnx_reads_what_we_write(form):
    model = onnx.load_from_string(written(weights_of(MV3), form=form))
    onnx.checker.check_model(model, full_check=True)
    assert {p.key: p.value for p in model.metadata_props} == {"dbnet": RECORD, "dbnet.form": form}
    for tensor in model.graph.initializer:
        array = weights_of(MV3)[tensor.name]
        assert numpy_helper.to_array(tensor).tobytes() == array.tobytes()


def test_what_onnx_saves_again_is_the_same(tmp_path):
    model = onnx.load_from_string(archive())
    assert_same(load(tmp_path, model.SerializeToString()).tensors, weights_of(MV3))


def test_equal_arguments_give_equal_bytes():
    assert written(weights_of(MV3)) == archive()


# Cost -----------------------------------------------------------------------------------------------------------------


class Sink:
    """A stream that keeps nothing."""

    size = 0

    def write(self, content: bytes | memoryview) -> None:
        self.size += len(content)


def test_the_file_is_never_in_memory(tmp_path):
    spec, sink, path = SPECS["dbnet_resnet18"], Sink(), tmp_path / "x.onnx"
    weights = weights_of(spec)
    tracemalloc.start()
    onnx_file.write(sink, weights, spec, RECORD)
    assert sink.size > 45e6
    assert tracemalloc.get_traced_memory()[1] < 3e6
    with path.open("wb") as stream:
        onnx_file.write(stream, weights, spec, RECORD)
    tracemalloc.reset_peak()
    file = onnx_file.read(path)
    assert tracemalloc.get_traced_memory()[1] < 3e6
    tracemalloc.stop()
    for array in file.tensors.values():
        file.release(array)
    assert_same(file.tensors, weights)


def test_reading_does_not_import_onnx(tmp_path):
    (tmp_path / "x.onnx").write_bytes(archive())
    code = ("import sys; from pathlib import Path; from converters import onnx_file\n"
            "assert onnx_file.read(Path(sys.argv[1])).tensors; assert 'onnx' not in sys.modules")
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.onnx")], check=True, timeout=60)


# Files of others ------------------------------------------------------------------------------------------------------


def foreign(*tensors: TensorProto, **graph: Any) -> bytes:
    """A valid model with these initialisers, as onnx writes it."""
    node = helper.make_node("Identity", ["x"], ["y"])
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    proto = helper.make_graph([node], "g", value[:1], value[1:], list(tensors), **graph)
    return helper.make_model(proto, ir_version=8, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString()


CODES = {code: dtype for code, dtype in onnx_file.DTYPES.items() if dtype.name != "bool"}


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("code", onnx_file.DTYPES, ids=lambda c: onnx_file.DTYPES[c].name)
def test_every_type(code, raw, tmp_path):
    dtype = onnx_file.DTYPES[code]
    expected = np.array([[0, 1, 2], [100, 3, 1]]).astype(dtype)
    if dtype.kind == "i" or dtype.name in ("float16", "bfloat16", "float32", "float64"):
        expected[0, 2] = -100
    values = expected.tobytes() if raw else expected.reshape(-1)
    tensor = helper.make_tensor("w", code, expected.shape, values, raw=raw)
    assert tensor.HasField("raw_data") == raw
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), expected)
    assert_same(load(tmp_path, foreign(tensor)).tensors, {"w": expected})


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1,)])
@pytest.mark.parametrize("raw", [True, False])
def test_scalars_and_empty_tensors(shape, raw, tmp_path):
    expected = np.full(shape, 7, np.int64)
    values = expected.tobytes() if raw else expected.reshape(-1)
    tensor = helper.make_tensor("w", TensorProto.INT64, shape, values, raw=raw)
    assert_same(load(tmp_path, foreign(tensor)).tensors, {"w": expected})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.integers(-2**63, 2**63 - 1), min_size=1, max_size=80), block=st.integers(10, 40))
def test_typed_integers_in_blocks(values, block, tmp_path):
    tensor = helper.make_tensor("w", TensorProto.INT64, [len(values)], values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_file, "BLOCK_BYTES", block)
        assert load(tmp_path, foreign(tensor)).tensors["w"].tolist() == values


def test_halves_as_integers_keep_their_bits(tmp_path):
    for code, dtype in ((TensorProto.FLOAT16, np.float16), (TensorProto.BFLOAT16, ml_dtypes.bfloat16)):
        bits = np.arange(1 << 16, dtype=np.uint16)
        tensor = TensorProto(name="w", data_type=code, dims=[1 << 16], int32_data=bits.tolist())
        assert_same(load(tmp_path, foreign(tensor)).tensors, {"w": bits.view(dtype)})


def test_metadata_of_others_is_kept(tmp_path):
    model = onnx.load_from_string(foreign(helper.make_tensor("w", 1, [1], [1.0])))
    helper.set_model_props(model, {"author": "someone", "": ""})
    file = load(tmp_path, model.SerializeToString())
    assert (file.record, file.metadata) == (None, {"author": "someone", "": ""})


def external(path: Path) -> bytes:
    model = onnx.load_from_string(foreign(numpy_helper.from_array(np.zeros(1000, np.float32), "w")))
    onnx.save(model, str(path), save_as_external_data=True, location="data.bin", size_threshold=0)
    return path.read_bytes()


def sparse() -> bytes:
    values = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [2])
    return foreign(sparse_initializer=[helper.make_sparse_tensor(values, indices, [4])])


@pytest.mark.parametrize(("content", "told"), [
    (lambda folder: external(folder / "e.onnx"), "external data"),
    (lambda folder: foreign(TensorProto(name="w", data_type=1, dims=[1], data_location=1)), "external data"),
    (lambda folder: sparse(), "sparse"),
    (lambda folder: foreign(helper.make_tensor("w", TensorProto.STRING, [1], [b"a"])), "w has the type 8"),
    (lambda folder: foreign(helper.make_tensor("w", TensorProto.FLOAT8E4M3FN, [1], [1.0])), "w has the type 17"),
    (lambda folder: foreign(TensorProto(name="w", dims=[1], raw_data=b"1234")), "w has the type 0"),
    (lambda folder: foreign(TensorProto(name="w", data_type=1, segment=TensorProto.Segment(begin=0))), "segments"),
])
def test_what_is_valid_but_not_read(content, told, tmp_path):
    assert told in refusal(tmp_path, content(tmp_path))


# Damage ---------------------------------------------------------------------------------------------------------------


def model_of(*graph_fields: bytes, opset: bool = True) -> bytes:
    graph = b"".join(graph_fields)
    return varint_field(1, 8) + (bytes_field(8, varint_field(2, 13)) if opset else b"") + bytes_field(7, graph)


def tensor_of(*parts: bytes, name: bytes = b"w", code: int = 1) -> bytes:
    return bytes_field(5, varint_field(2, code) + bytes_field(8, name) + b"".join(parts))


RAW = bytes_field(9, bytes(8))
WHOLE = tensor_of(varint_field(1, 2), RAW)


def test_the_handmade_model_is_read(tmp_path):
    assert_same(load(tmp_path, model_of(WHOLE)).tensors, {"w": np.zeros(2, np.float32)})
    packed = tensor_of(bytes_field(1, varint(2) + varint(1)), RAW)
    assert_same(load(tmp_path, model_of(packed)).tensors, {"w": np.zeros((2, 1), np.float32)})


@pytest.mark.parametrize(("content", "told"), [
    (model_of(WHOLE, WHOLE), "w is in it twice"),
    (model_of(WHOLE) + model_of(WHOLE), "two graphs"),
    (model_of(WHOLE, opset=False), "does not say its opset"),
    (varint_field(1, 8) + bytes_field(8, b""), "no graph"),
    (varint_field(1, 8), "no graph"),
    (model_of(tensor_of(varint_field(1, 3), RAW)), "w has 8 bytes, but its shape (3,) of float32 takes 12"),
    (model_of(tensor_of(varint_field(1, 1), RAW)), "takes 4"),
    (model_of(tensor_of(RAW)), "w has 8 bytes, but its shape () of float32 takes 4"),
    (model_of(tensor_of(varint_field(1, 2))), "w has 0 bytes"),
    (model_of(tensor_of(varint_field(1, 2**64 - 2), RAW)), "has the shape"),
    (model_of(tensor_of(varint_field(1, 2**40), varint_field(1, 2**40), RAW)), "has the shape"),
    (model_of(tensor_of(varint_field(1, 2**30) * 4, varint_field(1, 0))), "has the shape"),
    (model_of(tensor_of(varint_field(1, 1) * 40, RAW)), "more than 32 dimensions"),
    (model_of(tensor_of(bytes_field(1, varint(1) * 400), RAW)), "more than 32 dimensions"),
    (model_of(tensor_of(bytes_field(1, b"\xff" * 20), RAW)), "longer than 64 bits"),
    (model_of(tensor_of(varint_field(1, 2), RAW, RAW)), "several places"),
    (model_of(tensor_of(varint_field(1, 2), RAW, bytes_field(4, bytes(8)))), "several places"),
    (model_of(tensor_of(varint_field(1, 2), bytes_field(10, bytes(8)))), "w has 8 bytes"),
    (model_of(tensor_of(varint_field(1, 2), varint_field(5, 1), varint_field(5, 1), code=6)), "several places"),
    (model_of(tensor_of(varint_field(1, 2), bytes_field(5, varint(1)), code=6)), "has not the 2 values"),
    (model_of(tensor_of(varint_field(1, 2), bytes_field(5, varint(300)), code=6)), "has 1 numbers"),
    (model_of(tensor_of(varint_field(1, 2), bytes_field(5, varint(1) * 3), code=6)), "has not the 2 numbers"),
    (model_of(tensor_of(varint_field(1, 2), bytes_field(5, b"\xff" * 9), code=6)), "has not the 2 numbers"),
    (model_of(tensor_of(varint_field(1, 2), bytes_field(5, varint(1) + b"\xff"), code=6)), "has not the 2 numbers"),
    (model_of(tensor_of(varint_field(1, 2), bytes_field(7, varint(1) * 2), code=6)), "has not the 2 values"),
    (model_of(tensor_of(varint_field(1, 2), RAW, name=b"")), "has no name"),
    (model_of(tensor_of(varint_field(1, 2), RAW, name=b"\xff\xfe")), "not UTF-8"),
    (model_of(tensor_of(varint_field(1, 2), RAW, name=b"n" * 2_000_000)), "longer than"),
    (model_of(bytes_field(5, bytes_field(2, b"1"))), "a number is expected"),
    (model_of(WHOLE) + bytes_field(14, bytes_field(1, b"a")) * 2, "no table of texts"),
    (model_of(WHOLE) + bytes_field(14, bytes_field(3, b"a")), "no table of texts"),
    (varint_field(1, 8) + length_head(7, 100) + b"\0" * 10, "ends 90 bytes beyond"),
    (varint_field(1, 8) + length_head(7, 2**62), "beyond its end"),
    (model_of(length_head(5, 2**50)), "beyond its end"),
    (model_of(tensor_of(varint_field(1, 2), length_head(9, 2**50) + bytes(8))), "beyond its end"),
    (model_of(WHOLE) + key(3, 3), "no field"),
    (model_of(WHOLE) + b"\x08", "cut off"),
    (b"\x08" + b"\xff" * 30, "longer than 64 bits"),
])
def test_damaged(content, told, tmp_path):
    assert told in refusal(tmp_path, content)


@pytest.mark.parametrize(("content", "name"), [
    (b"", "x.onnx"), (b"<!DOCTYPE html><html></html>", "x.onnx"), (b"PK\x03\x04" + bytes(100), "x.onnx"),
    (bytes(1000), "x.onnx"), (b"\x08\x08", "x.ckpt"), (b"\x80\x02}q\x00.", "x.onnx"),
])
def test_something_else(content, name, tmp_path):
    refusal(tmp_path, content, name)


def test_a_folder_or_a_missing_file(tmp_path):
    for path in (tmp_path, tmp_path / "none.onnx"):
        with pytest.raises(DbnetError, match=path.name):
            onnx_file.read(path)


def boundaries(content: bytes) -> list[int]:
    """Where the fields of the graph and of the model end: there a cut leaves whole records behind."""
    view = memoryview(content)
    ends = []
    for number, _, begin, stop in fields(view, 0, len(view)):
        ends.append(stop)
        if number == 7:
            ends += [inner_stop for *_, inner_stop in fields(view, begin, stop)]
    return ends


def test_a_file_cut_anywhere_is_refused(tmp_path):
    content = archive()
    cuts = {*range(1, 1200), *boundaries(content), *range(1200, len(content), 30011)} - {len(content)}
    assert len(cuts) > 1500
    path = tmp_path / "x.onnx"
    for cut in cuts:
        path.write_bytes(content[:cut])
        with pytest.raises(DbnetError):
            onnx_file.read(path)


def outcome(folder: Path, content: bytes) -> TensorFile | str:
    try:
        return load(folder, content)
    except DbnetError as error:
        return str(error)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_change_of_bytes_escapes_or_takes_memory(data, tmp_path):
    """Whatever a file holds, reading it ends with tensors no larger than the file allows, or with one line."""
    content = bytearray(small())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(1, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    tracemalloc.start()
    try:
        found = outcome(tmp_path, bytes(content))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1e6
    if isinstance(found, str):
        assert "\n" not in found
    else:
        assert sum(array.nbytes for array in found.tensors.values()) <= 8 * len(content)


@cache
def small() -> bytes:
    typed = [helper.make_tensor(f"typed{code}", code, [3], [1, 2, 3]) for code in CODES]
    model = onnx.load_from_string(foreign(helper.make_tensor("raw", 1, [2, 2], bytes(16), raw=True), *typed))
    helper.set_model_props(model, {"dbnet": RECORD})
    return model.SerializeToString()


def test_a_graph_before_the_opset_is_read_and_a_cut_between_them_is_not(tmp_path):
    """onnx itself writes the graph first: such a file, cut behind it, must not pass for one without a record."""
    content = small()
    view = memoryview(content)
    ends = [stop for number, _, _, stop in fields(view, 0, len(view)) if number == 7]
    assert load(tmp_path, content).record == RECORD
    assert "does not say its opset" in refusal(tmp_path, content[:ends[0]])


def test_our_graph_comes_last(tmp_path):
    view = memoryview(archive())
    numbers = [number for number, *_ in fields(view, 0, len(view))]
    assert numbers[0] == 1 and numbers[-1] == 7 and numbers.count(7) == 1
    assert read_varint(view, 1, len(view))[0] == 8 and view[0] == 1 << 3 | VARINT
