"""The .pth codec against torch itself: what torch saves we read bit for bit, what we write torch loads strictly."""

from __future__ import annotations

import argparse
import datetime
import io
import pathlib
import random
import struct
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

from converters import pth_file
from converters.pth_tensors import ALLOWED, Storage, storage
from converters.restricted_pickle import load
from converters.weights import same_bits
from dbnet.errors import DbnetError

torch = pytest.importorskip("torch")

RECORD = '{"spec": "dbnet_resnet18", "text": "ü"}'
ZIP_AND_LEGACY = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def numpy_of(tensor):
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def same(tensors, expected):
    return list(tensors) == list(expected) and all(same_bits(tensors[n], numpy_of(expected[n])) for n in expected)


def save(obj, path, zipped=True, protocol=2):
    torch.save(obj, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.pth"


def varied_tensors():
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(6, 4, 5, generator=generator)
    with_attribute = torch.nn.Parameter(base[0].clone())
    with_attribute.layer_scale = 0.5
    return OrderedDict([
        ("conv.weight", torch.randn(4, 3, 2, 2, generator=generator)),
        ("channels_last", torch.randn(2, 3, 4, 4, generator=generator).to(memory_format=torch.channels_last)),
        ("half", base.half()), ("bfloat16", base.bfloat16()), ("double", base.double()),
        ("uint8", torch.arange(9, dtype=torch.uint8)), ("int8", torch.arange(-4, 4, dtype=torch.int8)),
        ("int16", torch.tensor([-7], dtype=torch.int16)), ("int32", torch.tensor([[1 << 30]], dtype=torch.int32)),
        ("int64", torch.tensor([1 << 60, -1])), ("bool", torch.tensor([True, False, True])),
        ("bn.num_batches_tracked", torch.tensor(12)), ("scalar", torch.tensor(-0.0)),
        ("special", torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])), ("empty", torch.zeros(0, 3)),
        ("transposed", base.permute(2, 0, 1)), ("row", base[2, :, 1:4]), ("strided", base[::2, ::3]),
        ("shared", base), ("tied", base), ("expanded", torch.tensor([[1.5], [2.5]]).expand(2, 7)),
        ("parameter", torch.nn.Parameter(base[1].clone())), ("parameter_with_attribute", with_attribute),
        ("ünï code", torch.ones(2)),
    ])


# Reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("zipped", "protocol"), [(z, p) for z in (True, False) for p in (2, 3, 4, 5)])
def test_what_torch_saves_is_read_bit_for_bit(file, zipped, protocol):
    expected = varied_tensors()
    read = pth_file.read(save(expected, file, zipped, protocol))
    assert same(read.tensors, expected)
    assert all(array.flags.c_contiguous and array.flags.aligned for array in read.tensors.values())
    assert (read.format, read.record, read.ema, read.training) == ("pth", None, None, {})
    assert ("without checksums" in " ".join(read.notes)) is (not zipped)


def test_contiguous_tensors_are_views_and_release_keeps_their_values(file):
    expected = {"a.weight": torch.randn(300, 400)}
    read = pth_file.read(save(expected, file))
    array = read.tensors["a.weight"]
    assert not array.flags.owndata and not array.flags.writeable
    read.release(array)
    assert same(read.tensors, expected)


def test_types_without_a_storage_class(file):
    expected = {name: torch.arange(5).to(getattr(torch, name)) for name in ("uint16", "uint32", "uint64")}
    read = pth_file.read(save(expected, file))
    assert {name: (str(a.dtype), a.tolist()) for name, a in read.tensors.items()} == {
        name: (name, [0, 1, 2, 3, 4]) for name in expected}


@ZIP_AND_LEGACY
def test_arrays_in_place_of_tensors(file, zipped):
    expected = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b.bias": np.array(2.0)}
    read = pth_file.read(save(expected, file, zipped))
    assert all(same_bits(read.tensors[name], expected[name]) for name in expected)


def big_endian(source, target):
    """The same archive as a big-endian machine would have written it, all storages of 4-byte values."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if "/data/" in name:
                data = np.frombuffer(data, "<u4").byteswap().tobytes()
            new.writestr(name, b"big" if name.endswith("/byteorder") else data)
    return target


def test_big_endian_file(file, tmp_path):
    expected = {"a.weight": torch.randn(3, 4), "a.bias": torch.randn(5)[1:4]}
    swapped = big_endian(save(expected, file), tmp_path / "big.pth")
    assert same(pth_file.read(swapped).tensors, torch.load(swapped, weights_only=True))
    assert same(pth_file.read(swapped).tensors, expected)


WEIGHTS = {"conv.weight": torch.full((2, 3), 1.0), "conv.bias": torch.full((2,), 2.0)}
COPIES = {"conv.weight": torch.full((2, 3), 3.0), "conv.bias": torch.full((2,), 4.0)}


def prefixed(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


CONTAINERS = {
    "flat": (WEIGHTS, {}, {}, False),
    "flat with numbers": ({**WEIGHTS, "epoch": 3}, {"epoch": "3"}, {}, False),
    "state_dict": ({"state_dict": WEIGHTS, "epoch": 3, "arch": "DB"}, {"epoch": "3", "arch": "DB"}, {}, False),
    "model": ({"model": WEIGHTS, "lr": 0.5, "done": True}, {"lr": "0.5", "done": "True"}, {}, False),
    "model_state_dict": ({"model_state_dict": WEIGHTS, "optimizer_state_dict": None}, {}, {}, False),
    "net": ({"net": WEIGHTS}, {}, {}, False),
    "unusual key": ({"detector": WEIGHTS, "n": 1}, {"n": "1"}, {}, False),
    "two levels": ({"state_dict": {"model": WEIGHTS, "n": 1}}, {"state_dict.n": "1"}, {}, False),
    "one dict, two names": ({"model": WEIGHTS, "state_dict": WEIGHTS}, {}, {}, False),
    "meta": ({"meta": {"mmocr": "1.0", "epoch": 7}, "state_dict": WEIGHTS},
             {"meta.mmocr": "1.0", "meta.epoch": "7"}, {}, False),
    "DataParallel": ({"state_dict": prefixed("module.", WEIGHTS)}, {}, {}, False),
    "DataParallel twice": (prefixed("module.module.", WEIGHTS), {}, {}, False),
    "averaged model": ({"n_averaged": torch.tensor(3), **prefixed("module.", WEIGHTS)}, {}, {}, False),
    "random state": ({"model": WEIGHTS, "rng_state": torch.get_rng_state(), "py": random.getstate()}, {}, {}, False),
    "score": ({"state_dict": WEIGHTS, "best": torch.tensor(0.7), "f": np.float32(0.5)}, {"f": "0.5"}, {}, False),
    "ema": ({"model": WEIGHTS, "model_ema": COPIES}, {}, {"EMA copies": 2}, True),
    "state_dict_ema": ({"state_dict": WEIGHTS, "state_dict_ema": COPIES}, {}, {"EMA copies": 2}, True),
    "ema object": ({"model": WEIGHTS, "ema": {"module": COPIES, "updates": 9}}, {}, {"EMA copies": 2}, True),
    "ema shadow": ({"model": WEIGHTS, "ema": {"decay": 0.9, "shadow": COPIES}}, {}, {"EMA copies": 2}, True),
    "mmengine": ({"state_dict": WEIGHTS, "ema_state_dict": {"steps": torch.tensor(4), **prefixed("module.", COPIES)}},
                 {}, {"EMA copies": 3}, True),
    "only EMA": ({"ema": {"module": WEIGHTS}}, {}, {}, False),
}


@ZIP_AND_LEGACY
@pytest.mark.parametrize("row", CONTAINERS)
def test_container(file, row, zipped):
    content, metadata, training, has_copies = CONTAINERS[row]
    read = pth_file.read(save(content, file, zipped))
    assert same(read.tensors, WEIGHTS)
    assert (read.metadata, read.training) == (metadata, training)
    assert same(read.ema, COPIES) if has_copies else read.ema is None


@pytest.mark.parametrize("names", [
    ["model.module.backbone.conv1.weight", "model.module.decoder.in5.weight"],
    ["module.conv.weight", "head.weight"],
])
def test_other_prefixes_stay(file, names):
    assert list(pth_file.read(save({name: torch.ones(1) for name in names}, file)).tensors) == names


@ZIP_AND_LEGACY
def test_a_real_training_file(file, zipped):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 6])
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    scheduler.step()
    save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "lr_scheduler": scheduler.state_dict(),
          "args": argparse.Namespace(lr=0.1, out=pathlib.Path("out")), "when": datetime.datetime(2024, 5, 6),
          "device": torch.device("cpu"), "dtype": torch.float32, "shape": torch.Size([1, 2]), "tags": {"a", "b"},
          "numpy": np.random.RandomState(0).get_state(), "epoch": np.int64(4), "history": [0.5, 0.25]}, file, zipped)
    read = pth_file.read(file)
    assert same(read.tensors, model.state_dict())
    assert list(read.training) == ["optimizer state"] and read.training["optimizer state"] >= 12
    assert read.metadata == {"epoch": "4"}
    assert "args" in " ".join(read.notes)


def test_several_state_dicts_are_named(file):
    for content in ({"model": WEIGHTS, "net": COPIES}, {"generator": WEIGHTS, "critic": COPIES},
                    {**WEIGHTS, "state_dict": COPIES}):
        with pytest.raises(DbnetError, match="several state dicts") as caught:
            pth_file.read(save(content, file))
        assert all(name in str(caught.value) for name in content if "." not in name)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(2, 2)

    def forward(self, x):
        return self.inner(x)


def script(path):
    torch.jit.save(torch.jit.trace(Net(), torch.ones(1, 2)), path)


NOT_WEIGHTS = [
    (lambda p: save(Net(), p), "holds a whole model object"),
    (lambda p: save({"model": torch.nn.Linear(2, 2), "epoch": 1}, p), "holds a whole model object"),
    (lambda p: save(Net(), p, False), "holds a whole model object"),
    (script, "TorchScript"),
    (lambda p: save({"a.w": torch.complex(torch.ones(2), torch.ones(2))}, p), "ComplexFloat"),
    (lambda p: save({"a.w": torch.ones(3, 3).to_sparse()}, p), "sparse"),
    (lambda p: save({"a.w": torch.ones(2).to(torch.float8_e4m3fn)}, p), "float8_e4m3fn"),
    (lambda p: save({"a.w": torch.ones(2, device="meta")}, p), "meta device"),
    (lambda p: save([WEIGHTS], p), "holds a list"),
    (lambda p: save(torch.ones(2), p), "holds a tensor"),
    (lambda p: save({"epoch": 3}, p), "holds no state dict, only epoch"),
    (lambda p: save({"a": {"b": {"c": {"d": WEIGHTS}}}}, p), "holds no state dict"),
    (lambda p: save({"a.w": np.array(["x"], object)}, p), "no tensor"),
    (lambda p: save({"a.w": np.ones(2, complex)}, p), "no tensor"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("write", "message"), NOT_WEIGHTS, ids=[message for _, message in NOT_WEIGHTS])
def test_what_is_no_state_dict_is_refused(file, write, message):
    write(file)
    with pytest.raises(DbnetError, match=message):
        pth_file.read(file)


@pytest.mark.filterwarnings("ignore")
@ZIP_AND_LEGACY
def test_quantized_tensors_are_refused(file, zipped):
    if not hasattr(torch, "quantize_per_tensor"):
        pytest.skip("this torch has no quantized tensors")
    save({"a.w": torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)}, file, zipped)
    with pytest.raises(DbnetError, match="quantized"):
        pth_file.read(file)


# Writing --------------------------------------------------------------------------------------------------------------


def written(file, tensors, record=None):
    with file.open("w+b") as stream:
        pth_file.write(stream, tensors, record)
    return file


WRITABLE = {name: numpy_of(tensor) for name, tensor in varied_tensors().items()}


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("record", [None, RECORD])
def test_torch_loads_what_we_write(file, mapped, record):
    loaded = torch.load(written(file, WRITABLE, record), weights_only=True, mmap=mapped)
    assert same(WRITABLE, loaded)
    assert {name: tuple(t.shape) for name, t in loaded.items()} == {n: a.shape for n, a in WRITABLE.items()}
    assert getattr(loaded, "_metadata", None) == (record and {"dbnet": {"version": 1, "record": record}})


def test_we_read_what_we_write(file):
    read = pth_file.read(written(file, WRITABLE, RECORD))
    assert read.record == RECORD and (read.metadata, read.training, read.notes) == ({}, {}, [])
    assert list(read.tensors) == list(WRITABLE)
    assert all(same_bits(read.tensors[name], WRITABLE[name]) for name in WRITABLE)


def test_layout_of_arrays_does_not_matter(file, tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    variants = [array, np.asfortranarray(array), array.astype(">f4"), np.repeat(array, 2, 1)[:, ::2]]
    files = {written(tmp_path / f"{i}.pth", {"a.w": a}).read_bytes() for i, a in enumerate(variants)}
    assert len(files) == 1


def test_same_content_gives_same_bytes_and_storages_are_aligned(file, tmp_path):
    assert written(file, WRITABLE, RECORD).read_bytes() == written(tmp_path / "b.pt", WRITABLE, RECORD).read_bytes()
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            sizes = struct.unpack("<2H", file.read_bytes()[info.header_offset + 26:info.header_offset + 30])
            assert (info.header_offset + 30 + sum(sizes)) % 64 == 0 and info.compress_type == zipfile.ZIP_STORED


class WithModuleOfOurKey(torch.nn.Module):
    """`_metadata["dbnet"]` is handed to this model's own module `dbnet`."""

    def __init__(self, inner):
        super().__init__()
        self.dbnet = inner
        self.conv = torch.nn.Conv2d(3, 4, 3)


@pytest.mark.parametrize("inner", [
    lambda: torch.nn.BatchNorm2d(4), lambda: torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1)),
    lambda: torch.nn.Linear(2, 3)], ids=["batch norm", "sequence", "linear"])
@pytest.mark.parametrize("assign", [False, True])
def test_strict_load_even_into_a_module_named_dbnet(file, inner, assign):
    model = WithModuleOfOurKey(inner())
    arrays = {name: np.full_like(numpy_of(t), 3) for name, t in model.state_dict().items()}
    state = torch.load(written(file, arrays, RECORD), weights_only=True)
    assert model.load_state_dict(state, strict=True, assign=assign).missing_keys == []
    assert same(arrays, model.state_dict())


@ZIP_AND_LEGACY
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 1}])
def test_record_survives_torch(file, tmp_path, zipped, wrap):
    state = torch.load(written(file, WRITABLE, RECORD), weights_only=True)
    again = pth_file.read(save(wrap(state), tmp_path / "again.pth", zipped))
    assert again.record == RECORD
    assert all(same_bits(again.tensors[name], WRITABLE[name]) for name in WRITABLE)


def test_record_as_plain_text_is_read_too(file):
    state = OrderedDict(WEIGHTS)
    state._metadata = {"": {"version": 1}, "dbnet": RECORD}
    assert pth_file.read(save(state, file)).record == RECORD


@pytest.mark.parametrize("model", [WithModuleOfOurKey(torch.nn.Linear(1, 1)), torch.nn.Linear(1, 1)])
def test_torchs_own_metadata_is_no_record(file, model):
    assert pth_file.read(save(model.state_dict(), file)).record is None


@pytest.mark.parametrize("dtype", ["uint16", "complex64", "object", "datetime64[s]"])
def test_types_that_torch_has_no_storage_for(file, dtype):
    with pytest.raises(DbnetError, match=r"a\.w.*float32"):
        written(file, {"a.w": np.zeros(2, dtype)})


def test_sizes_above_32_bits(file, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 40)  # zipfile's own line between 32 and 64 bits
    written(file, WRITABLE, RECORD)
    assert b"PK\x06\x06" in file.read_bytes()
    assert same(WRITABLE, torch.load(file, weights_only=True, mmap=True))
    assert all(same_bits(array, WRITABLE[name]) for name, array in pth_file.read(file).tensors.items())


def test_shapes_above_32_bits():
    huge = np.broadcast_to(np.float32(1), (3, 1 << 33))
    pickled = memoryview(pth_file._pickled({"a.w": huge}, None))
    found, _ = load(pickled, 0, "x", ALLOWED, lambda pid: storage(pid, 5))
    tensor = found["a.w"]
    assert (tensor.shape, tensor.stride) == ((3, 1 << 33), (1 << 33, 1))
    assert tensor.storage == Storage("0", np.dtype("<f4"), 3 << 33)


def test_nothing_of_the_tensors_is_copied():
    array = np.zeros(1 << 22, np.float32)
    entries = dict(pth_file._entries({"a.w": array}, None))
    assert np.shares_memory(np.frombuffer(entries["archive/data/0"], np.uint8), array)
    assert len(entries["archive/data.pkl"]) < 300


def test_no_tensors(file):
    assert torch.load(written(file, {}), weights_only=True) == {}
    with pytest.raises(DbnetError, match="holds no state dict"):
        pth_file.read(file)


def test_stream_in_memory():
    stream = io.BytesIO()
    pth_file.write(stream, WRITABLE, RECORD)
    stream.seek(0)
    assert same(WRITABLE, torch.load(stream, weights_only=True))
