"""The .mindir codec: weights written by hand, data beside the file, and files that are damaged or something else."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from converters import mindir_file
from converters.formats import detect, target_format
from converters.protobuf_wire import bytes_field, key, length_head, varint_field
from converters.tensor_file import TensorFile
from converters.weights import same_bits
from dbnet.errors import DbnetError
from tests.mindir_scenes import CODES, image, model, node, output, parameter, place, signed, user_info

A = np.arange(6, dtype=np.float32).reshape(2, 3)
ONE = parameter("12_g:a.weight", A)


def load(folder: Path, content: bytes, name: str = "x.mindir") -> TensorFile:
    path = folder / name
    path.write_bytes(content)
    return mindir_file.read(path)


def refusal(folder: Path, content: bytes, name: str = "x.mindir") -> str:
    with pytest.raises(DbnetError) as caught:
        load(folder, content, name)
    assert name in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_are_views_under_their_own_names(tmp_path):
    kinds = {name: np.ones((2, 1), dtype) for name, dtype in (
        ("half", np.float16), ("wide", np.float64), ("brain", ml_dtypes.bfloat16), ("i8", np.int8), ("i64", np.int64),
        ("flag", np.bool_))}
    file = load(tmp_path, model(ONE, parameter("plain", np.float32(3)), *(
        parameter(f"5_g:{name}", array) for name, array in kinds.items())))
    assert list(file.tensors) == ["a.weight", "plain", *kinds]
    assert same_bits(file.tensors["a.weight"], A) and same_bits(file.tensors["plain"], np.array(3, np.float32))
    assert all(same_bits(file.tensors[name], array) for name, array in kinds.items())
    assert not any(array.flags.writeable or array.flags.owndata for array in file.tensors.values())
    assert (file.format, file.record, file.notes) == ("mindir", None, [])


def test_a_name_is_what_follows_the_first_colon(tmp_path):
    assert list(load(tmp_path, model(parameter("1_g:a:b", A))).tensors) == ["a:b"]


def test_the_record_stands_in_user_info(tmp_path):
    file = load(tmp_path, model(ONE, more=user_info("dbnet", '{"a": "é"}') + user_info("author", "me")))
    assert (file.record, file.metadata) == ('{"a": "é"}', {"author": "me"})


@pytest.mark.parametrize(("sides", "told"), [((1, 3, 736, 1280), ["1x3x736x1280"]), ((-1, 3, -1, -1), []),
                                             ((1, 3, -1, 1280), [])])
def test_a_fixed_size_is_told(sides, told, tmp_path):
    notes = load(tmp_path, model(image(*sides), ONE)).notes
    assert [word for note in notes for word in note.split() if "x3x" in word] == told


# Data beside the file ------------------------------------------------------------------------------------------------


def beside(folder: Path, *files: tuple[str, bytes]) -> None:
    for name, content in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"\1" + bytes(63) + content)


def apart(location: str, offset: int = 64, length: int = A.nbytes, name: str = "g:a") -> bytes:
    return parameter(name, A, data=place(location, offset, length))


def test_data_is_read_from_beside_the_file(tmp_path):
    # The last one as MindSpore names it on Windows.
    beside(tmp_path, ("x_variables/data_0", A.tobytes() + bytes(40) + A.tobytes()),
           ("x_variables/data_1", (A + 1).tobytes()))
    file = load(tmp_path, model(apart("x_variables/data_0"), apart("x_variables/data_0", 128, name="g:b"),
                                apart("x_variables\\data_1", name="g:c"), parameter("g:d", A + 2)), "other.mindir")
    for name, array in (("a", A), ("b", A), ("c", A + 1), ("d", A + 2)):
        assert same_bits(file.tensors[name], array)
        file.release(file.tensors[name])
        assert same_bits(file.tensors[name], array)


@pytest.mark.parametrize(("location", "told"), [
    ("/etc/passwd", "not beside it"), ("../x", "not beside it"), ("x_variables/../../x", "not beside it"),
    ("", "not beside it"), (".", "not beside it"), ("..\\x", "not beside it"), ("a\0b", "not beside it"),
    ("x_variables/none", "copy the folder x_variables too"), ("linked", "a link to elsewhere"),
    ("folder/data", "a link to elsewhere"), ("x_variables", "not a regular file"), ("y" * 300, "check the path"),
    ("loop", "loop"), ("x.mindir", "export it again"), ("x_variables/unfinished", "export it again"),
    ("x_variables/empty", "is empty"),
])
def test_data_from_elsewhere_is_refused(location, told, tmp_path):
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    other.mkdir()
    beside(other, ("data", A.tobytes()))
    beside(home, ("x_variables/data_0", A.tobytes()))
    (home / "x_variables" / "unfinished").write_bytes(bytes(200))
    (home / "x_variables" / "empty").write_bytes(b"")
    (home / "linked").symlink_to(other / "data")
    (home / "folder").symlink_to(other)
    (home / "loop").symlink_to(home / "loop")
    path = home / "x.mindir"
    path.write_bytes(model(apart(location)))
    with pytest.raises(DbnetError) as caught:
        mindir_file.read(path)
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("field", "told"), [
    (apart("x_variables/data_0", 1 << 50), "beyond the end"), (apart("x_variables/data_0", -1), "beyond the end"),
    (apart("x_variables/data_0", 65), "ends 1 bytes beyond the end"),
    (apart("x_variables/data_0", 64, 20), "has 20 bytes"),
    (apart("x_variables/data_0", 64, -24), "bytes, but its shape"),
    (parameter("g:a", A, more=place("x_variables/data_0", 64, 24)), "several places"),
])
def test_data_that_does_not_fit(field, told, tmp_path):
    beside(tmp_path, ("x_variables/data_0", A.tobytes()))
    assert told in refusal(tmp_path, model(field))


def test_only_so_many_files_are_opened(tmp_path):
    beside(tmp_path, *((f"d{i}", A.tobytes()) for i in range(70)))
    assert "more than 64 files" in refusal(tmp_path, model(*(apart(f"d{i}", name=f"g:{i}") for i in range(70))))


# Damaged files, and others --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "told"), [
    (model(ONE, ONE), "a.weight is in it twice"),
    (model(ONE, parameter("7_h:a.weight", A)), "a.weight is in it twice"),
    (model(ONE) + bytes_field(7, b""), "several graphs"),
    (bytes_field(1, b"1.1") + bytes_field(2, b"MindSpore"), "no graph"),
    (model(ONE, little=False), "big-endian"),
    (model(parameter("", A)), "has no name"),
    (model(parameter("g:a", A, dims=(2, 2))), "has 24 bytes, but its shape (2, 2) of float32 takes 16"),
    (model(parameter("g:a", A, dims=(2, 4))), "takes 32"),
    (model(parameter("g:a", A, dims=(-2, -3))), "has the shape"),
    (model(parameter("g:a", A, dims=(2**40, 2**40))), "has the shape"),
    (model(parameter("g:a", A, dims=(0, 3))), "has the shape"),
    (model(parameter("g:a", A, dims=(1,) * 40)), "more than 32 dimensions"),
    (model(parameter("g:a", A, data=b"")), "has 0 bytes"),
    (model(parameter("g:a", A, more=bytes_field(9, A.tobytes()))), "several places"),
    (model(parameter("g:a", A, data=bytes_field(3, A.tobytes()))), "where MindSpore puts none"),
    (model(parameter("g:a", A, code=8)), "has the type 8"),
    (model(parameter("g:a", A, code=99)), "has the type 99"),
    (model(parameter("g:a", A, more=varint_field(16, 3))), "compressed"),
    (model(parameter("g:a", A, more=bytes_field(17, b""))), "quantised"),
    (model(ONE, bytes_field(10, b"")), "hash tables"),
    (model(ONE, more=bytes_field(12, bytes_field(2, b"Conv2DFusion"))), "MindSpore Lite"),
    (model(ONE, more=bytes_field(12, bytes_field(2, b"Custom"))), "MindSpore Lite"),
    (model(ONE, more=user_info("a", "1") * 2), "no table of texts"),
    (model(ONE, more=bytes_field(14, bytes_field(3, b""))), "no table of texts"),
    (model(bytes_field(3, bytes_field(7, b"\xff\xfe"))), "not UTF-8"),
    (model(bytes_field(3, bytes_field(7, b"n" * 2_000_000))), "longer than"),
    (model(bytes_field(3, bytes_field(2, b"1"))), "a number is expected"),
    (model(length_head(3, 2**50)), "beyond its end"),
    (model(ONE) + key(3, 3), "no field"),
    (model(ONE) + b"\x08", "cut off"),
])
def test_damaged(content, told, tmp_path):
    assert told in refusal(tmp_path, content)


def test_a_file_cut_within_a_field_is_refused(tmp_path):
    content = model(image(1, 3, 64, 64), ONE, output("g:y"))
    whole = len(content) - len(varint_field(10, 1)) - 2  # behind its graph it may end: the graph itself is whole
    for cut in range(1, whole):
        refusal(tmp_path, content[:cut])


@pytest.mark.parametrize(("content", "name", "told"), [
    (b"", "x.mindir", "is empty"), (b"<!DOCTYPE html><html></html>", "x.mindir", "web page"),
    (b"\n\n<html>", "x.mindir", "web page"), (bytes(1000), "x.mindir", "no format that is known"),
    (b"PK\x03\x04" + bytes(100), "x.mindir", "its content is .pth"),
    (b"\x1c\0\0\0MSL2" + bytes(100), "x.ms", "MindSpore Lite"),
    (b"\x1c\0\0\0MSL2" + bytes(100), "x.mindir", "MindSpore Lite"),
    (b"\xd8\x5e\x3a\x7f" + bytes(100), "x.mindir", "ms.load"),
    (b"\xd9\x5e\x3a\x7f" + bytes(100), "x.mindir", "ms.load"),
    (model(ONE), "x.ckpt", "named .ckpt, but its content is .mindir"),
    (model(ONE), "x.onnx", "named .onnx, but its content is .mindir"),
    (bytes_field(1, bytes_field(1, b"a.weight") + bytes_field(2, bytes(40))), "x.mindir", "its content is .ckpt"),
    (bytes_field(1, bytes_field(1, b"1.1") + bytes_field(2, bytes(400))), "x.mindir", "its content is .ckpt"),
    (varint_field(1, 8) + bytes_field(2, b"pytorch"), "x.mindir", "its content is .onnx"),
])
def test_something_else(content, name, told, tmp_path):
    assert told in refusal(tmp_path, content, name)


@pytest.mark.parametrize("content", [
    model(ONE), model(ONE, version=b"0.1.0"), model(ONE)[5:],
    bytes_field(1, b"1.1") + bytes_field(7, ONE),
])
def test_without_a_suffix_it_is_told_by_content(content, tmp_path):
    (tmp_path / "x").write_bytes(content)
    assert detect(tmp_path / "x") == "mindir"


def test_it_is_not_written():
    with pytest.raises(DbnetError, match=r"is read, not written; .* mindspore\.export"):
        target_format(Path("y.mindir"))


def test_a_pipe_and_a_folder(tmp_path):
    os.mkfifo(tmp_path / "x.mindir")
    for path in (tmp_path / "x.mindir", tmp_path, tmp_path / "none.mindir"):
        with pytest.raises(DbnetError, match=path.name):
            mindir_file.read(path)


def outcome(folder: Path, content: bytes) -> str:
    try:
        load(folder, content)
    except DbnetError as error:
        return str(error)
    return ""


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_change_of_bytes_escapes_or_takes_memory(data, tmp_path):
    content = bytearray(model(image(1, 3, 64, 64), ONE, parameter("g:b", np.ones(40, np.float16)),
                              node("REF::ReLU:1", ["g:x"], "g:y"), output("g:y"), more=user_info("dbnet", "{}")))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at:at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    tracemalloc.start()
    assert "\n" not in outcome(tmp_path, bytes(content))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_the_helper_knows_every_type():
    assert CODES[np.dtype(np.float32)] == 1 and CODES[np.dtype(np.float64)] == 11
    assert signed(1, -1) == b"\x08" + b"\xff" * 9 + b"\x01"
