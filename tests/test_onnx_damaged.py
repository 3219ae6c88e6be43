"""Damaged .onnx files: each ends with one line that names the file, and takes no memory to speak of."""

from __future__ import annotations

import tracemalloc
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

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
from converters.tensor_file import TensorFile
from dbnet.errors import DbnetError
from tests.test_onnx_file import CODES, RECORD, archive, assert_same, foreign, load, refusal


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
