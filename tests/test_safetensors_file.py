"""The .safetensors codec against the safetensors package, torch and MindSpore, and against damaged files."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from functools import cache
from io import BytesIO
from pathlib import Path
from types import ModuleType

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from converters import ckpt_file, safetensors_file
from converters.tensor_file import TensorFile
from converters.weights import bytes_of, same_bits
from dbnet.errors import DbnetError

RECORD = '{"spec": "dbnet_resnet18", "origin": "MhLiao/DB, é \U0001f600"}'


def sample() -> dict[str, np.ndarray]:
    """One tensor of every type, the narrow types first: neither sorted by width nor by name."""
    rng = np.random.default_rng(0)
    floats = np.concatenate([rng.standard_normal(20), [np.nan, -0.0, np.inf, 1e-40]]).reshape(2, 3, 2, 2)
    integers = rng.integers(0, 100, (3, 5))
    tensors = {"z.bool": integers > 50}
    tensors |= {f"layer.{t}": integers.astype(t)
                for t in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")}
    tensors |= {f"layer.{np.dtype(t).name}": floats.astype(t)
                for t in (ml_dtypes.bfloat16, np.float16, np.float32, np.float64)}
    return tensors | {"bn.num_batches_tracked": np.array(7, np.int64)}


def written(tensors: dict[str, np.ndarray], record: str | None = None) -> bytes:
    stream = BytesIO()
    safetensors_file.write(stream, tensors, record)
    return stream.getvalue()


def load(folder: Path, content: bytes, name: str = "x.safetensors") -> TensorFile:
    path = folder / name
    path.write_bytes(content)
    return safetensors_file.read(path)


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name in expected:
        assert same_bits(found[name], expected[name]), name


# Ours alone -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", [None, RECORD])
def test_round_trip(tmp_path: Path, record: str | None) -> None:
    file = load(tmp_path, written(sample(), record))
    assert_same(file.tensors, sample())
    assert (file.format, file.record, file.metadata, file.training, file.ema) == ("safetensors", record, {}, {}, None)
    for array in file.tensors.values():
        assert array.flags.aligned
        assert array.flags.c_contiguous
        assert not array.flags.writeable
        file.release(array)
    assert_same(file.tensors, sample())


def test_order_is_kept(tmp_path: Path) -> None:
    names = ["b.w", "a.w", "c.w", "A.w"]
    assert list(load(tmp_path, written({name: np.ones(2, np.float32) for name in names})).tensors) == names


@pytest.mark.parametrize("array", [
    np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)), np.arange(24.0).reshape(4, 6)[::2, ::3],
    np.arange(6, dtype=">f4").reshape(2, 3), np.arange(8, dtype=ml_dtypes.bfloat16).reshape(2, 4).T,
    np.broadcast_to(np.float16(3), (2, 2))], ids=["fortran", "sliced", "big-endian", "bfloat16", "broadcast"])
def test_any_memory_layout(tmp_path: Path, array: np.ndarray) -> None:
    assert_same(load(tmp_path, written({"x": array})).tensors, {"x": np.ascontiguousarray(array)})


@pytest.mark.parametrize(("tensors", "reason"), [
    ({"x": np.zeros((0, 3), np.float32)}, "is empty"), ({"x": np.zeros(2, np.complex64)}, "cannot hold complex64"),
    ({"__metadata__": np.ones(1)}, "cannot be named"), ({"": np.ones(1)}, "cannot be named"),
    ({"\ud800": np.ones(1)}, "cannot be named")])
def test_write_refuses(tensors: dict[str, np.ndarray], reason: str) -> None:
    with pytest.raises(DbnetError, match=reason):
        written(tensors, RECORD)


def test_training_state(tmp_path: Path) -> None:
    content = written({"a.w": np.ones(2), "moments.a.w": np.zeros(2), "ema.a.w": np.full(2, 3.0),
                       "global_step": np.array([5]), "epoch_num": np.array(4)})
    file = load(tmp_path, content)
    assert list(file.tensors) == ["a.w"]
    assert file.training == {"optimizer state": 1, "EMA copies": 1}
    assert file.metadata == {"global_step": "5", "epoch_num": "4"}
    assert_same(file.ema or {}, {"a.w": np.full(2, 3.0)})


# Against the others ---------------------------------------------------------------------------------------------------


def test_the_package_reads_ours(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    content = written(sample(), RECORD)
    found = dict(safetensors.deserialize(content))
    assert set(found) == set(sample())
    for name, array in sample().items():
        assert bytes(found[name]["data"]) == bytes(bytes_of(array))
        assert found[name]["shape"] == list(array.shape)
    (tmp_path / "x.safetensors").write_bytes(content)
    with safetensors.safe_open(tmp_path / "x.safetensors", "numpy") as opened:
        assert opened.metadata() == {"dbnet": RECORD}
        assert_same({name: opened.get_tensor(name) for name in opened.keys() if "bfloat16" not in name},  # noqa: SIM118
                    {name: array for name, array in sample().items() if "bfloat16" not in name})


def test_we_read_the_packages(tmp_path: Path) -> None:
    numpy_format = pytest.importorskip("safetensors.numpy")
    numpy_format.save_file(sample(), tmp_path / "x.safetensors", metadata={"format": "np", "dbnet": RECORD})
    file = safetensors_file.read(tmp_path / "x.safetensors")
    assert_same(file.tensors, sample())
    assert (file.record, file.metadata) == (RECORD, {"format": "np"})


def test_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch_format = pytest.importorskip("safetensors.torch")
    (tmp_path / "x.safetensors").write_bytes(written(sample(), RECORD))
    loaded = torch_format.load_file(tmp_path / "x.safetensors")
    assert loaded["layer.bfloat16"].dtype == torch.bfloat16
    for name, array in sample().items():
        assert bytes(loaded[name].reshape(-1).view(torch.uint8).numpy()) == bytes(bytes_of(array)), name
    torch_format.save_file(loaded, tmp_path / "y.safetensors")
    assert_same(safetensors_file.read(tmp_path / "y.safetensors").tensors, sample())


@pytest.fixture
def ms() -> ModuleType:
    return pytest.importorskip("mindspore")


@pytest.mark.parametrize("record", [None, RECORD])
def test_mindspore_loads_ours_strictly(ms: ModuleType, tmp_path: Path, record: str | None) -> None:
    net = ms.nn.SequentialCell(ms.nn.Conv2d(3, 4, 3, has_bias=True), ms.nn.BatchNorm2d(4), ms.nn.Dense(4, 1))
    rng = np.random.default_rng(2)
    tensors = {p.name: rng.standard_normal(p.shape).astype(np.float32) for p in net.get_parameters()}
    (tmp_path / "x.safetensors").write_bytes(written(tensors, record))
    loaded = ms.load_checkpoint(str(tmp_path / "x.safetensors"), format="safetensors")
    assert ms.load_param_into_net(net, loaded, strict_load=True) == ([], [])
    assert_same({p.name: p.asnumpy() for p in net.get_parameters()}, tensors)


@pytest.mark.parametrize("crc_check", [False, True])
def test_we_read_mindspores(ms: ModuleType, tmp_path: Path, crc_check: bool) -> None:
    expected = sample()
    if crc_check:  # MindSpore 2.10 fails when it sums bfloat16
        del expected["layer.bfloat16"]
    parameters = {name: ms.Parameter(ms.Tensor.from_numpy(array.copy()), name=name)
                  for name, array in expected.items()}
    path = tmp_path / "x.safetensors"
    ms.save_checkpoint(parameters, str(path), append_dict={"epoch_num": 3}, format="safetensors", crc_check=crc_check)
    file = safetensors_file.read(path)
    assert_same(file.tensors, expected)
    assert file.metadata["epoch_num"] == "3"
    assert ("crc_num" in file.metadata) == crc_check
    if crc_check:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        with pytest.raises(DbnetError, match="checksum"):
            load(tmp_path, bytes(content), "flipped.safetensors")


# What must not load ---------------------------------------------------------------------------------------------------


def raw(header: str | dict, data: bytes = bytes(8), length: int | None = None) -> bytes:
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def one(kind: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict:
    return {"x": {"dtype": kind, "shape": shape, "data_offsets": offsets}}


TWICE = '{"x":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"x":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}'
PAIR = {"x": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
        "y": {"dtype": "U8", "shape": [4], "data_offsets": [4, 8]}}
BAD = {
    "header cut off": (raw("{}", b"", 100), "header of 100 bytes is cut off"),
    "header too long": (raw("{}" + " " * 10_000_000), "longer than"),
    "no JSON": (raw('{"x":'), "no JSON"),
    "not UTF-8": (len(b'{"\xff":1}').to_bytes(8, "little") + b'{"\xff":1}', "no JSON"),
    "deep": (raw('{"x":' + "[" * 100_000), "no JSON"),
    "endless number": (raw('{"x":' + "1" * 5000 + "}"), "no JSON"),
    "twice": (raw(TWICE), "'x' is in its header twice"),
    "not a table": (raw('{"x":3}'), "'x' is no tensor"),
    "further key": (raw({"x": one()["x"] | {"stride": 1}}), "'x' is no tensor"),
    "no name": (raw({"": one()["x"]}), "'' is no tensor"),
    "half a surrogate": (raw('{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'), "is no tensor"),
    "unknown type": (raw(one("F8_E4M3", (8,))), "type 'F8_E4M3'"),
    "type is no text": (raw(one(["F32"])), "is unknown"),
    "shape is text": (raw(one(shape="2")), "no list of numbers"),
    "shape of floats": (raw(one(shape=[2.0])), "no list of numbers"),
    "shape of booleans": (raw(one(shape=[True, 2])), "no list of numbers"),
    "negative": (raw(one(shape=[-2])), "no list of numbers"),
    "huge": (raw(one(shape=[2**62] * 8)), "but its shape"),
    "too many dims": (raw(one(shape=[1] * 33)), "no list of numbers"),
    "zero size": (raw(one(shape=[0, 2**62], offsets=[0, 0])), "is empty"),
    "three offsets": (raw(one(offsets=[0, 8, 8])), "no list of numbers"),
    "offsets reversed": (raw(one(offsets=[8, 0])), "takes 8"),
    "too short": (raw(one(shape=[3])), "has 8 bytes.*takes 12"),
    "beyond the end": (raw(one(shape=[4], offsets=[0, 16])), "take 16 bytes, but 8 follow"),
    "bytes left over": (raw(one(), bytes(9)), "take 8 bytes, but 9 follow"),
    "gap at the start": (raw(one(offsets=[4, 12]), bytes(12)), "do not follow"),
    "gap": (raw(PAIR | {"y": {"dtype": "U8", "shape": [3], "data_offsets": [5, 8]}}), "bytes of y do not follow"),
    "overlap": (raw(PAIR | {"y": {"dtype": "U8", "shape": [5], "data_offsets": [3, 8]}}), "bytes of y do not follow"),
    "metadata is a list": (raw(one() | {"__metadata__": []}), "no table of texts"),
    "metadata of numbers": (raw(one() | {"__metadata__": {"a": 1}}), "no table of texts"),
    "metadata is broken text": (raw(one() | {"__metadata__": {"a": "\ud800"}}), "broken text"),
    "quantised": (raw(one() | {"__metadata__": {"x": "Int4"}}), "quantised"),
    "another's checksum": (raw(one() | {"__metadata__": {"crc_num": "1"}}), "checksum"),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses(tmp_path: Path, case: str) -> None:
    content, reason = BAD[case]
    with pytest.raises(DbnetError, match=reason) as caught:
        load(tmp_path, content)
    assert str(tmp_path / "x.safetensors") in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("content", [raw(one()), raw({"y": PAIR["y"], "x": PAIR["x"]}), raw("{}  ", b"")])
def test_accepts_what_the_package_does(tmp_path: Path, content: bytes) -> None:
    file, package = load(tmp_path, content), dict(pytest.importorskip("safetensors").deserialize(content))
    assert {name: array.tobytes() for name, array in file.tensors.items()} == \
        {name: bytes(value["data"]) for name, value in package.items()}


@pytest.mark.parametrize(("content", "reason"), [
    (b"", "is empty"), (b"\x01", "no format"), (b"<!DOCTYPE html><html></html>", "web page"),
    (b"PK\x03\x04" + bytes(60), "pth"), (bytes(100), "no format"),
    (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs")])
def test_other_files(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(DbnetError, match=reason):
        load(tmp_path, content)


# Damage ---------------------------------------------------------------------------------------------------------------


@cache
def valid() -> bytes:
    return written(sample(), RECORD)


def attempt(folder: Path, content: bytes) -> TensorFile | None:
    tracemalloc.start()
    try:
        return load(folder, content, "fuzz.safetensors")
    except DbnetError:
        return None
    finally:
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        tracemalloc.stop()


def test_cut_anywhere(tmp_path: Path) -> None:
    for end in range(len(valid())):
        assert attempt(tmp_path, valid()[:end]) is None, end


@settings(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, valid().index(b"}}") + 3) | st.integers(0, len(valid()) - 1), mask=st.integers(1, 255))
def test_one_byte_changed(tmp_path: Path, position: int, mask: int) -> None:
    content = bytearray(valid())
    content[position] ^= mask
    file = attempt(tmp_path, bytes(content))
    if file is not None:
        for array in (*file.tensors.values(), *(file.ema or {}).values()):
            assert array.tobytes()


_JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                     lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                         st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "x"]), inner, max_size=4))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=st.dictionaries(st.sampled_from(["x", "__metadata__", "dbnet"]), _JSON), data=st.binary(max_size=9))
@example(header={"x": {"dtype": None, "shape": [], "data_offsets": [0, 0]}}, data=b"")
def test_any_header(tmp_path: Path, header: dict, data: bytes) -> None:
    attempt(tmp_path, raw(header, data))


# Cost of both codecs --------------------------------------------------------------------------------------------------

_COST = """
import importlib, resource, sys
from pathlib import Path
codec = importlib.import_module("converters." + sys.argv[1])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
file = codec.read(Path(sys.argv[2]))
opened = peak()
with open(sys.argv[3], "w+b") as stream:
    codec.write(stream, file.tensors, None)
print(opened - before, peak() - before)
assert not {"mindspore", "torch", "safetensors"} & set(sys.modules)
"""


@pytest.mark.parametrize("codec", [ckpt_file, safetensors_file])
def test_memory(root: Path, tmp_path: Path, codec: ModuleType) -> None:
    """Reading takes no memory, copying no more than the mapped file; and nobody imports a framework."""
    tensors = {f"w{i}": np.full((256, 1024, 3, 3), i, np.float32) for i in range(10)}
    source, target = tmp_path / "a", tmp_path / "b"
    with source.open("w+b") as stream:
        codec.write(stream, tensors, None)
    answer = subprocess.run([sys.executable, "-c", _COST, codec.__name__.rpartition(".")[2], source, target], cwd=root,
                            check=True, capture_output=True, text=True, timeout=120).stdout
    assert source.read_bytes() == target.read_bytes()
    opened, total = (int(number) / source.stat().st_size for number in answer.split())
    assert opened < 0.1
    assert total < 1.2
