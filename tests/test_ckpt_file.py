"""The .ckpt codec against MindSpore itself, and against files that MindSpore would load wrongly without a word."""

from __future__ import annotations

import os
import sys
import tracemalloc
import zlib
from functools import cache
from io import BytesIO
from pathlib import Path
from types import ModuleType

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from converters import ckpt_file
from converters.protobuf_wire import (
    FIXED32,
    LENGTH,
    VARINT,
    MalformedError,
    bytes_field,
    fields,
    key,
    read_varint,
    varint,
    varint_field,
)
from converters.tensor_file import TensorFile
from converters.weights import same_bits
from dbnet.errors import DbnetError

RECORD = '{"spec": "dbnet_resnet18", "origin": "MhLiao/DB, é \U0001f600"}'


@pytest.fixture
def ms() -> ModuleType:
    return pytest.importorskip("mindspore")


def sample(seed: int = 0) -> dict[str, np.ndarray]:
    """One tensor of every type, with the values on which conversions usually stumble."""
    rng = np.random.default_rng(seed)
    floats = np.concatenate([rng.standard_normal(20), [np.nan, -0.0, np.inf, 1e-40]]).reshape(2, 3, 2, 2)
    integers = rng.integers(0, 100, (3, 5))
    tensors = {f"layer.{np.dtype(t).name}": floats.astype(t)
               for t in (np.float16, np.float32, np.float64, ml_dtypes.bfloat16)}
    tensors |= {f"layer.{t}": integers.astype(t)
                for t in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")}
    return tensors | {"layer.bool": integers > 50, "bn.num_batches_tracked": np.array(7, np.int64),
                      "one": np.array([1.5], np.float32)}


def written(tensors: dict[str, np.ndarray], record: str | None = None) -> bytes:
    stream = BytesIO()
    ckpt_file.write(stream, tensors, record)
    return stream.getvalue()


def load(folder: Path, content: bytes, name: str = "x.ckpt") -> TensorFile:
    path = folder / name
    path.write_bytes(content)
    return ckpt_file.read(path)


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name in expected:
        assert same_bits(found[name], expected[name]), name


# Ours alone -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", [None, RECORD])
def test_round_trip(tmp_path: Path, record: str | None) -> None:
    file = load(tmp_path, written(sample(), record))
    assert_same(file.tensors, sample())
    assert (file.format, file.record, file.metadata, file.training, file.ema) == ("ckpt", record, {}, {}, None)
    assert not any(array.flags.writeable or not array.flags.c_contiguous for array in file.tensors.values())


@pytest.mark.parametrize("array", [
    np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)), np.arange(24.0).reshape(4, 6)[::2, ::3],
    np.arange(6, dtype=">f4").reshape(2, 3), np.arange(8, dtype=ml_dtypes.bfloat16).reshape(2, 4).T,
    np.broadcast_to(np.float16(3), (2, 2))], ids=["fortran", "sliced", "big-endian", "bfloat16", "broadcast"])
def test_any_memory_layout(tmp_path: Path, array: np.ndarray) -> None:
    assert_same(load(tmp_path, written({"x": array})).tensors, {"x": np.ascontiguousarray(array)})


def test_slices_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ckpt_file, "SLICE_BYTES", 13)  # cuts through single values
    file = load(tmp_path, written(sample(), RECORD))
    assert_same(file.tensors, sample())
    assert file.record == RECORD
    assert not file.tensors["layer.float32"].flags.writeable


def test_release_keeps_the_values(tmp_path: Path) -> None:
    file = load(tmp_path, written({"x": np.arange(100_000.0), "y": np.ones(3)}))
    for array in (*file.tensors.values(), np.zeros(5), file.tensors["x"][10:20]):
        file.release(array)
    assert_same(file.tensors, {"x": np.arange(100_000.0), "y": np.ones(3)})


@pytest.mark.parametrize(("tensors", "reason"), [
    ({"x": np.zeros((0, 3), np.float32)}, "is empty"), ({"x": np.zeros(2, np.complex64)}, "cannot hold complex64"),
    ({"x": np.array(["a"])}, "cannot hold str"), ({"dbnet": np.ones(1)}, "cannot be named"),
    ({"": np.ones(1)}, "cannot be named"), ({"\ud800": np.ones(1)}, "no valid name")])
def test_write_refuses(tensors: dict[str, np.ndarray], reason: str) -> None:
    with pytest.raises(DbnetError, match=reason):
        written(tensors, RECORD)


# Against MindSpore ----------------------------------------------------------------------------------------------------


def as_parameters(ms: ModuleType, tensors: dict[str, np.ndarray]) -> dict:
    return {name: ms.Parameter(ms.Tensor.from_numpy(array.copy()), name=name) for name, array in tensors.items()}


@pytest.mark.parametrize("slice_kib", [512 * 1024, 1])
def test_bytes_are_those_of_save_checkpoint(ms: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                            slice_kib: int) -> None:
    tensors = sample() | {"large": np.random.default_rng(1).standard_normal((7, 300)).astype(np.float32)}
    monkeypatch.setattr("mindspore.train.serialization.SLICE_SIZE", slice_kib)
    monkeypatch.setattr(ckpt_file, "SLICE_BYTES", slice_kib * 1024)
    ms.save_checkpoint(as_parameters(ms, tensors), str(tmp_path / "ms.ckpt"), append_dict={"dbnet": RECORD})
    assert (tmp_path / "ms.ckpt").read_bytes() == written(tensors, RECORD)
    file = ckpt_file.read(tmp_path / "ms.ckpt")
    assert_same(file.tensors, tensors)
    assert file.record == RECORD


def test_slices_of_an_asynchronous_save(ms: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It splits along the first axis instead of every SLICE_SIZE bytes."""
    tensors = {"a": np.arange(2100, dtype=np.float32).reshape(7, 300), "b": np.ones(3, np.float16)}
    monkeypatch.setattr("mindspore.train.serialization.SLICE_SIZE", 3)
    ms.save_checkpoint(as_parameters(ms, tensors), str(tmp_path / "a.ckpt"), async_save="thread")
    sys.modules["mindspore.train.serialization"]._wait_async_thread_save_ckpt()
    assert (tmp_path / "a.ckpt").read_bytes() != written(tensors)
    assert_same(ckpt_file.read(tmp_path / "a.ckpt").tensors, tensors)


@pytest.mark.parametrize("record", [None, RECORD])
def test_mindspore_loads_ours_strictly(ms: ModuleType, tmp_path: Path, record: str | None) -> None:
    net = ms.nn.SequentialCell(ms.nn.Conv2d(3, 4, 3, has_bias=True), ms.nn.BatchNorm2d(4), ms.nn.Dense(4, 1))
    rng = np.random.default_rng(2)
    tensors = {p.name: rng.standard_normal(p.shape).astype(np.float32) for p in net.get_parameters()}
    (tmp_path / "x.ckpt").write_bytes(written(tensors, record))
    loaded = ms.load_checkpoint(str(tmp_path / "x.ckpt"))
    assert loaded.get("dbnet") == record
    missing, unexpected = ms.load_param_into_net(net, loaded, strict_load=True)
    assert missing == []
    assert unexpected == (["dbnet"] if record else [])
    assert_same({p.name: p.asnumpy() for p in net.get_parameters()}, tensors)


def test_mindspore_loads_every_type(ms: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(written(sample()))
    loaded = ms.load_checkpoint(str(tmp_path / "x.ckpt"))
    assert_same({name: value.asnumpy() for name, value in loaded.items()}, sample())


def test_scalars_and_text_are_metadata(ms: ModuleType, tmp_path: Path) -> None:
    ms.save_checkpoint(as_parameters(ms, {"a.w": np.ones(2, np.float32), "global_step": np.array([9], np.int32)}),
                       str(tmp_path / "x.ckpt"),
                       append_dict={"epoch_num": 12, "loss_scale": 1024.5, "done": True, "note": "né", "nothing": ""})
    file = ckpt_file.read(tmp_path / "x.ckpt")
    assert list(file.tensors) == ["a.w"]
    assert file.metadata == {"note": "né", "nothing": "", "global_step": "9", "epoch_num": "12",
                             "loss_scale": "1024.5", "done": "True"}


def test_checksum(ms: ModuleType, tmp_path: Path) -> None:
    ms.save_checkpoint(as_parameters(ms, sample()), str(tmp_path / "x.ckpt"), crc_check=True)
    content = (tmp_path / "x.ckpt").read_bytes()
    assert content[-17:-10] == b"crc_num"
    assert_same(ckpt_file.read(tmp_path / "x.ckpt").tensors, sample())
    flipped = bytearray(content)
    flipped[content.index(sample()["layer.float32"].tobytes())] ^= 1
    with pytest.raises(DbnetError, match="checksum"):
        load(tmp_path, bytes(flipped), "flipped.ckpt")


@pytest.mark.parametrize("mode", ["AES-GCM", "AES-CBC", "SM4-CBC"])
def test_encrypted(ms: ModuleType, tmp_path: Path, mode: str) -> None:
    path = tmp_path / "x.ckpt"
    ms.save_checkpoint(as_parameters(ms, sample()), str(path), enc_key=b"0123456789ABCDEF", enc_mode=mode)
    with pytest.raises(DbnetError, match="is encrypted"):
        ckpt_file.read(path)


# What must not load ---------------------------------------------------------------------------------------------------


def tensor(dims: bytes = varint_field(1, 2), kind: bytes = bytes_field(2, b"Float32"),
           content: bytes = bytes_field(3, bytes(8))) -> bytes:
    return bytes_field(2, dims + kind + content)


def entry(*parts: bytes) -> bytes:
    return bytes_field(1, b"".join(parts))


def named(name: str, body: bytes | None = None) -> bytes:
    return entry(bytes_field(1, name.encode()), tensor() if body is None else body)


def text(content: bytes, dims: bytes = varint_field(1, 0)) -> bytes:
    return tensor(dims, bytes_field(2, b"str"), bytes_field(3, content))


GOOD = named("a.w")
BAD = {
    "content too short": (named("x", tensor(content=bytes_field(3, bytes(7)))), "has 7 bytes.*takes 8"),
    "content too long": (named("x", tensor(content=bytes_field(3, bytes(12)))), "has 12 bytes.*takes 8"),
    "no dims, two values": (named("x", tensor(dims=b"")), "has 8 bytes.*takes 4"),
    "unknown type": (named("x", tensor(kind=bytes_field(2, b"Float31"))), "unknown type 'Float31'"),
    "quantised": (named("x", tensor(kind=bytes_field(2, b"Int4"))), "quantised"),
    "zero size": (named("x", tensor(varint_field(1, 2) + varint_field(1, 0), content=bytes_field(3, b""))), "is empty"),
    "negative dim": (named("x", tensor(dims=varint_field(1, 2**64 - 2))), "takes"),
    "huge dims": (named("x", tensor(dims=varint_field(1, 2**62) * 8)), "but its shape"),
    "too many dims": (named("x", tensor(dims=varint_field(1, 1) * 33)), "more than 32 dimensions"),
    "too many packed dims": (named("x", tensor(dims=bytes_field(1, bytes([1]) * 10_000))), "more than 32 dimensions"),
    "twice": (GOOD + GOOD, "has 16 bytes.*takes 8"),
    "twice, apart": (GOOD + named("b") + GOOD, "a.w is in it twice"),
    "slices of two shapes": (GOOD + named("a.w", tensor(dims=varint_field(1, 1))), "slices of a.w differ"),
    "slices of two types": (GOOD + named("a.w", tensor(kind=bytes_field(2, b"Int32"))), "slices of a.w differ"),
    "a slice is missing": (named("x", tensor(dims=varint_field(1, 6))) * 2, "has 16 bytes.*takes 24"),
    "name not UTF-8": (entry(bytes_field(1, b"\xff"), tensor()), "not UTF-8"),
    "type not UTF-8": (named("x", tensor(kind=bytes_field(2, b"\xff"))), "not UTF-8"),
    "empty name": (named(""), "has no name"),
    "endless name": (named("x" * 5000), "longer than 4096"),
    "no name": (entry(tensor()), "incomplete"),
    "no tensor": (entry(bytes_field(1, b"x")), "incomplete"),
    "no content": (named("x", tensor(content=b"")), "incomplete"),
    "two names": (entry(bytes_field(1, b"x"), bytes_field(1, b"y"), tensor()), "does not belong"),
    "two contents": (named("x", tensor(content=bytes_field(3, bytes(8)) * 2)), "does not belong"),
    "unknown field": (named("x", tensor(content=bytes_field(3, bytes(8)) + bytes_field(4, b"?"))), "does not belong"),
    "map parameter": (entry(bytes_field(1, b"x"), bytes_field(3, tensor())), "does not belong"),
    "content is a number": (named("x", tensor(content=varint_field(3, 8))), "does not belong"),
    "dim is no number": (named("x", tensor(dims=key(1, FIXED32) + bytes(4))), "a number is expected"),
    "dim of 70 bits": (named("x", tensor(dims=key(1, VARINT) + b"\xff" * 10 + b"\x01")), "longer than 64 bits"),
    "garbage behind": (GOOD + b"garbage", "there is no field|ends .* beyond|no tensor"),
    "zeros behind": (GOOD + bytes(4), "there is no field"),
    "another message behind": (GOOD + varint_field(2, 7), "no tensor"),
    "mark without checksum": (GOOD + b"crc_num", "there is no field|ends .* beyond|no tensor"),
    "another's checksum": (GOOD + b"crc_num" + zlib.crc32(b"").to_bytes(10, "big"), "checksum"),
    "group": (GOOD + key(1, 3), "there is no field"),
    "text twice": (GOOD + named("dbnet", text(b"a\0\0\0")) * 2, "dbnet is in it twice"),
    "text not UTF-32": (GOOD + named("dbnet", text(b"\xff" * 8)), "not UTF-32"),
    "text cut in a character": (GOOD + named("dbnet", text(b"a\0\0\0b")), "not UTF-32"),
    "text with dims": (GOOD + named("dbnet", text(b"a\0\0\0", varint_field(1, 3))), "has 4 bytes and dims"),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses(tmp_path: Path, case: str) -> None:
    content, reason = BAD[case]
    with pytest.raises(DbnetError, match=reason) as caught:
        load(tmp_path, content)
    assert str(tmp_path / "x.ckpt") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "shape"), [
    (tensor(dims=bytes_field(1, bytes([1, 2]))), (1, 2)),
    (tensor(dims=varint_field(1, 0), content=bytes_field(3, bytes(4))), ()),
    (tensor(dims=b"", content=bytes_field(3, bytes(4))), ())], ids=["packed dims", "dims [0]", "no dims"])
def test_accepts_what_mindspore_and_protobuf_do(tmp_path: Path, content: bytes, shape: tuple[int, ...]) -> None:
    assert load(tmp_path, named("x.y", content)).tensors["x.y"].shape == shape


@pytest.mark.parametrize(("content", "reason"), [
    (b"", "is empty"), (b"<!DOCTYPE html><html></html>", "web page"), (b"\n<html>not found</html>", "web page"),
    (b"PK\x03\x04" + bytes(60), "pth"), (b"\x80\x02}q\x00.", "pth"), (bytes(range(200, 255)), "no format"),
    (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"), (b"Not Found", "no format"),
    (bytes.fromhex("d85e3a7f") + bytes(60), "is encrypted")])
def test_other_files(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(DbnetError, match=reason):
        load(tmp_path, content)


def test_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ckpt")
    for path in (tmp_path / "none.ckpt", tmp_path, tmp_path / "pipe.ckpt"):
        with pytest.raises(DbnetError, match=str(path)):
            ckpt_file.read(path)


def test_endless_list_of_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ckpt_file, "MAX_ENTRIES", 3)
    with pytest.raises(DbnetError, match="more than 3 entries"):
        load(tmp_path, b"".join(named(f"x{i}") for i in range(4)))


# Damage ---------------------------------------------------------------------------------------------------------------


@cache
def valid() -> tuple[bytes, list[int]]:
    """A file, and where its entries end."""
    content = written(sample(), RECORD)
    return content, [stop for *_, stop in fields(memoryview(content), 0, len(content))]


def test_cut_between_entries(tmp_path: Path) -> None:
    """Nothing in the file tells; the weight map reports the missing tensors."""
    content, ends = valid()
    for count, end in enumerate(ends[:-1], start=1):
        file = load(tmp_path, content[:end])
        assert list(file.tensors) == list(sample())[:count]
        assert file.record is None


def attempt(folder: Path, content: bytes) -> TensorFile | None:
    tracemalloc.start()
    try:
        return load(folder, content, "fuzz.ckpt")
    except DbnetError:
        return None
    finally:
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        tracemalloc.stop()


def test_cut_anywhere_else(tmp_path: Path) -> None:
    content, ends = valid()
    for end in set(range(len(content))) - set(ends):
        assert attempt(tmp_path, content[:end]) is None, end


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, len(valid()[0]) - 1), mask=st.integers(1, 255))
def test_one_byte_changed(tmp_path: Path, position: int, mask: int) -> None:
    content = bytearray(valid()[0])
    content[position] ^= mask
    file = attempt(tmp_path, bytes(content))
    if file is not None:
        for array in (*file.tensors.values(), *(file.ema or {}).values()):
            assert array.tobytes() or array.size == 0


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
@example(content=b"\n\x7f")
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    attempt(tmp_path, content)
    attempt(tmp_path, b"\n" + varint(len(content)) + content)


# Wire format ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**64 - 1))
@example(127)
@example(128)
def test_varint(value: int) -> None:
    encoded = varint(value)
    assert read_varint(memoryview(encoded + b"\x7f"), 0, len(encoded) + 1) == (value, len(encoded))
    with pytest.raises(MalformedError, match="cut off"):
        read_varint(memoryview(encoded), 0, len(encoded) - 1)


@pytest.mark.parametrize("encoded", [b"\xff" * 9 + b"\x02", b"\x80" * 10 + b"\x01"])
def test_varint_above_64_bits(encoded: bytes) -> None:
    with pytest.raises(MalformedError, match="64 bits"):
        read_varint(memoryview(encoded), 0, len(encoded))


def test_fields() -> None:
    message = varint_field(1, 300) + bytes_field(15, b"abc") + key(16, FIXED32) + b"1234" + bytes_field(3, b"")
    view = memoryview(message)
    found = [(number, kind, bytes(view[begin:stop])) for number, kind, begin, stop in fields(view, 0, len(view))]
    assert found == [(1, VARINT, varint(300)), (15, LENGTH, b"abc"), (16, FIXED32, b"1234"), (3, LENGTH, b"")]
