"""Sound weight files in every format, small and whole, from which the spoilt ones are made. Always the same bytes."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from converters import ckpt_file, onnx_file, pdparams_file, pth_file, safetensors_file
from converters.check import weight_map
from converters.dialects import native_dialect, origin_of
from converters.pickle_writing import number, text
from converters.protobuf_wire import bytes_field, varint_field
from converters.pth_legacy import MAGIC
from converters.tensor_file import Weights
from converters.training_file import ABOUT
from converters.weights import digest
from dbnet.record import Record
from dbnet.seeded import seeded_weights
from dbnet.spec import SPECS, ModelSpec
from evaluation.training_journal import Journal, Row
from tests.fuzz_zips import build, entries_of

#: The smallest whole networks whose width a file tells: 1.8 MB and 3.3 MB; the second one's dialect is MindOCR's.
PADDLE = replace(SPECS["db_mv3_paddle"], neck_channels=16)
MINDOCR = replace(SPECS["dbnet_mobilenetv3"], neck_channels=16)


@cache
def weights(spec: ModelSpec) -> Weights:
    """Canonical, of a network that was never trained."""
    return {name: np.float32(array) for name, array in seeded_weights(spec, 1).items()}


def named(spec: ModelSpec, suffix: str, few: bool = False) -> Weights:
    """Under the names that a file of that suffix has. few: only small tensors from both ends of the network."""
    found = weight_map(native_dialect(suffix).name, spec).inverse(weights(spec))
    if not few:
        return found
    small = [name for name, array in found.items() if array.nbytes <= 1200]
    return {name: found[name] for name in small[:7] + small[-7:]}


def record(spec: ModelSpec) -> str:
    """Of `weights`."""
    return Record(spec, origin_of(native_dialect(".ckpt"), spec.name), digest(weights(spec))).to_json()


def journal() -> dict[str, Any]:
    """What a training of two epochs says of itself."""
    rows = [Row(epoch, 4, 1.5, 0.5, 0.5, 0.5, 0.01, 90.0, 2.0, 0, 0.5, 0.6, 0.55, 1.0) for epoch in (1, 2)]
    return Journal(4, 8, 2, 42, {"train.loader.batch_size": "2"}, ["a seed"], "torch", "hmean", 2, 1, rows=rows,
                   best=(2, 0.55), kept=[(1, 0.5)]).to_dict()


def training(tensors: Mapping[str, np.ndarray], about: bytes | None = None) -> Weights:
    """With moments, an average and counters beside the weights, as our training files have them."""
    learned = {name: array for name, array in tensors.items() if "moving" not in name and "running" not in name}
    about = json.dumps(journal()).encode() if about is None else about
    return {**tensors, **{f"moments.{name}": array for name, array in learned.items()},
            **{f"ema.{name}": array for name, array in tensors.items()},
            **{name: np.array(value, np.int64) for name, value in (("global_step", 9), ("updates", 9),
                                                                   ("overflows", 0))},
            "loss_scale": np.array(512, np.float32), ABOUT: np.frombuffer(about, np.uint8)}


def _written(module: Any, tensors: Weights, said: str | None = None) -> bytes:
    stream = io.BytesIO()
    module.write(stream, tensors, said)
    return stream.getvalue()


@cache
def ckpt() -> tuple[bytes, ...]:
    """Plain, with a record, with a checksum, in slices, of a training; then whole ones."""
    few, whole = named(MINDOCR, ".ckpt", few=True), named(MINDOCR, ".ckpt")
    plain = _written(ckpt_file, few)
    half = bytes_field(1, bytes_field(1, b"a.weight") + bytes_field(2, varint_field(1, 4) + bytes_field(2, b"Float32")
                                                                    + bytes_field(3, bytes(8))))
    return (plain, _written(ckpt_file, few, record(MINDOCR)), summed(plain), half * 2 + plain,
            _written(ckpt_file, training(few), record(MINDOCR)), _written(ckpt_file, whole, record(MINDOCR)))


def summed(plain: bytes) -> bytes:
    """With MindSpore's checksum behind it."""
    return plain + ckpt_file.CRC_MARK + zlib.crc32(plain).to_bytes(ckpt_file.CRC_BYTES, "big")


@cache
def training_files() -> tuple[bytes, ...]:
    """A .ckpt and a .pth that a training here goes on with."""
    return (_written(ckpt_file, training(named(MINDOCR, ".ckpt")), record(MINDOCR)),
            _written(pth_file, training(named(MINDOCR, ".pth")), record(MINDOCR)))


@cache
def pth() -> tuple[bytes, ...]:
    """Ours, a training's, one wrapped with its optimizer, both of the older format; then a whole one."""
    few, whole = named(MINDOCR, ".pth", few=True), named(MINDOCR, ".pth")
    plain = _written(pth_file, few)
    return (plain, _written(pth_file, few, record(MINDOCR)), _written(pth_file, training(few), record(MINDOCR)),
            wrapped(plain), legacy(plain, few), legacy(wrapped(plain), few),
            _written(pth_file, whole, record(MINDOCR)))


def wrapped(plain: bytes) -> bytes:
    """{"state_dict": ..., "epoch": 3, "optimizer": a state_dict() of torch.optim.SGD}, with a tensor of the first."""
    entries = list(entries_of(plain))
    inner = entries[0].data[2:-1]
    tensor = inner[inner.index(b"ctorch._utils\n"):]
    tensor = tensor[:tensor.index(b"tR", tensor.index(b"OrderedDict\n)R") + 14) + 2]
    group = b"}(" + text("lr") + b"G" + struct.pack(">d", 0.1) + text("params") + b"](" + number(0) + b"eu"
    optimizer = (b"}(" + text("state") + b"}" + number(0) + b"}" + text("momentum_buffer") + tensor + b"ss"
                 + text("param_groups") + b"](" + group + b"eu")
    data = (b"\x80\x02}(" + text("state_dict") + inner + text("epoch") + number(3) + text("optimizer") + optimizer
            + text("meta") + b"}" + text("who") + text("me") + b"su.")
    return build([replace(entries[0], data=data), *entries[1:]])


def legacy(archive: bytes, tensors: Weights) -> bytes:
    """The same in torch's format before 1.6: five pickles, and the storages."""
    head = [MAGIC, 1001, {"protocol_version": 1001, "little_endian": True}]
    keys = sorted(str(i) for i in range(len(tensors)))
    arrays = list(tensors.values())
    storages = b"".join(struct.pack("<q", arrays[int(key)].size) + arrays[int(key)].tobytes() for key in keys)
    return (b"".join(pickle.dumps(part, 2) for part in head) + entries_of(archive)[0].data.replace(b"tQ", b"NtQ")
            + pickle.dumps(keys, 2) + storages)


@cache
def safetensors() -> tuple[bytes, ...]:
    """Plain, with a record, a training's, with MindSpore's checksum; then a whole one."""
    few = named(MINDOCR, ".safetensors", few=True)
    plain = _written(safetensors_file, few)
    crc = 0
    for name in sorted(few):
        crc = zlib.crc32(few[name].tobytes(), zlib.crc32(name.encode(), crc))
    size = int.from_bytes(plain[:8], "little")
    header = json.dumps({"__metadata__": {"crc_num": str(crc)}, **json.loads(plain[8:8 + size])}).encode()
    return (plain, _written(safetensors_file, few, record(MINDOCR)), _written(safetensors_file, training(few)),
            struct.pack("<Q", len(header)) + header + plain[8 + size:],
            _written(safetensors_file, named(MINDOCR, ".safetensors"), record(MINDOCR)))


@cache
def pdparams() -> tuple[bytes, ...]:
    """Ours, and what paddle.save writes at protocols 2 and 4; then a whole one."""
    few = named(PADDLE, ".pdparams", few=True)
    table = {"StructuredToParameterName@@": {name: f"w_{i}" for i, name in enumerate(few)}}
    pairs = {name: (f"w_{i}", array) for i, (name, array) in enumerate(few.items())}
    return (_written(pdparams_file, few, record(PADDLE)), pickle.dumps({**few, **table}, 2),
            pickle.dumps({**few, **table}, 4), pickle.dumps({**pairs, **table}, 4), pickle.dumps(few, 5),
            _written(pdparams_file, named(PADDLE, ".pdparams"), record(PADDLE)))


@cache
def onnx() -> tuple[bytes, ...]:
    """A few tensors, also as typed numbers, in a graph of one node; then both forms of a whole network."""
    whole = []
    for form in ("archive", "delivery"):
        stream = io.BytesIO()
        onnx_file.write(stream, weights(MINDOCR), MINDOCR, record(MINDOCR), form=form)
        whole.append(stream.getvalue())
    few = named(MINDOCR, ".onnx", few=True)
    tensors = b"".join(_initialiser(name, array, 9, array.tobytes()) for name, array in few.items())
    floats = np.arange(4, dtype="<f4")
    typed = tensors + _initialiser("floats", floats, 4, floats.tobytes())
    node = bytes_field(1, bytes_field(1, b"x") + bytes_field(2, b"y") + bytes_field(4, b"Identity"))
    said = bytes_field(14, bytes_field(1, b"dbnet") + bytes_field(2, record(MINDOCR).encode()))
    return (_model(node + tensors), _model(node + typed) + said, *whole)


def _initialiser(name: str, array: np.ndarray, field: int, data: bytes) -> bytes:
    inner = b"".join(varint_field(1, size) for size in array.shape) + varint_field(2, 1)
    return bytes_field(5, inner + bytes_field(8, name.encode()) + bytes_field(field, data))


def _model(graph: bytes) -> bytes:
    return varint_field(1, 8) + bytes_field(8, varint_field(2, 13)) + bytes_field(7, graph)


@cache
def real_size() -> tuple[bytes, ...]:
    """A whole ResNet-18, 45 to 50 MB."""
    spec = SPECS["dbnet_resnet18"]
    return tuple(_written(module, named(spec, suffix), record(spec)) for module, suffix in (
        (ckpt_file, ".ckpt"), (pth_file, ".pth"), (safetensors_file, ".safetensors")))
