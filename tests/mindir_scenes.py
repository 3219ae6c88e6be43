"""Files like MindSpore's .mindir: written by hand on the wire, exported by MindSpore, or taken apart and changed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from converters.mindir_wire import DTYPES
from converters.protobuf_wire import bytes_field, varint, varint_field
from dbnet.seeded import seeded_weights
from dbnet.spec import ModelSpec

CODES = {dtype: code for code, dtype in reversed(DTYPES.items())}


def signed(number: int, value: int) -> bytes:
    """A field with an integer that may be negative."""
    return varint_field(number, value % (1 << 64))


def place(location: str, offset: int, length: int) -> bytes:
    """A parameter's `external_data`."""
    return bytes_field(12, bytes_field(1, location.encode()) + signed(2, offset) + signed(3, length))


def parameter(name: str, array: np.ndarray, *, data: bytes | None = None, dims: Iterable[int] | None = None,
              code: int | None = None, more: bytes = b"") -> bytes:
    """A graph's `parameter` field; `data`: instead of the field that holds the array's bytes."""
    inner = b"".join(signed(1, dim) for dim in (array.shape if dims is None else dims))
    inner += varint_field(2, CODES[array.dtype] if code is None else code) + bytes_field(7, name.encode())
    return bytes_field(3, inner + (bytes_field(9, array.tobytes()) if data is None else data) + more)


def image(*sides: int, name: str = "g:x") -> bytes:
    """A graph's `input` field; -1 for a free side."""
    tensor = b"".join(signed(1, side) for side in sides) + varint_field(2, 1)
    return bytes_field(5, bytes_field(1, name.encode()) + bytes_field(2, tensor))


def node(operator: str, inputs: Iterable[str], output: str, more: bytes = b"") -> bytes:
    """A graph's `node` field."""
    inner = b"".join(bytes_field(1, name.encode()) for name in inputs) + bytes_field(2, output.encode())
    return bytes_field(1, inner + bytes_field(4, operator.encode()) + more)


def output(name: str) -> bytes:
    """A graph's `output` field."""
    return bytes_field(6, bytes_field(1, name.encode()))


def user_info(key: str, value: str) -> bytes:
    """A model's `user_info` field, as `custom_func` fills it."""
    return bytes_field(14, bytes_field(1, key.encode()) + bytes_field(2, value.encode()))


def model(*graph: bytes, more: bytes = b"", little: bool = True, version: bytes = b"1.1") -> bytes:
    """A whole file. more: further fields of the model."""
    head = bytes_field(1, version) + bytes_field(2, b"MindSpore") + bytes_field(5, b"2.10.0")
    return head + bytes_field(7, b"".join(graph) + bytes_field(2, b"g")) + varint_field(10, int(little)) + more + \
        varint(13 << 3) + varint(3)


def net_of(spec: ModelSpec, seed: int = 0) -> Any:
    """The MindSpore network with seeded weights, in evaluation mode."""
    import mindspore as ms

    from ms_models import compat
    from ms_models.dbnet import DBNet
    compat.set_device(None)
    ms.set_context(mode=ms.GRAPH_MODE)
    net, weights = DBNet(spec), seeded_weights(spec, seed)
    for one in net.get_parameters():
        one.set_data(ms.Tensor(weights[one.name]))
    return net.set_train(False)


def export(net: Any, path: Path, side: int | None = 64, **settings: Any) -> Path:
    """`mindspore.export` of a network, or of a spec's seeded one, for images of side x side, or every size (None)."""
    import mindspore as ms
    net = net_of(net) if isinstance(net, ModelSpec) else net
    image_ = ms.Tensor(shape=[None, 3, None, None], dtype=ms.float32) if side is None else \
        ms.Tensor(np.zeros((1, 3, side, side), np.float32))
    ms.export(net, image_, file_name=str(path), file_format="MINDIR", **settings)
    return path


@cache
def exported(spec: ModelSpec, side: int | None = 64) -> bytes:
    """The bytes that `export` writes."""
    with TemporaryDirectory() as folder:
        return export(spec, Path(folder) / "x.mindir", side).read_bytes()


def schema() -> ModuleType:
    """MindSpore's own schema, imported alone."""
    found = importlib.util.find_spec("mindspore")
    if found is None or found.origin is None:
        pytest.skip("MindSpore is not installed")
    place_ = Path(found.origin).parent / "train" / "mind_ir_pb2.py"
    spec = importlib.util.spec_from_file_location("mind_ir_pb2", place_)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def changed(content: bytes, change: Callable[[Any], None]) -> bytes:
    """The file with something in it changed by MindSpore's own schema."""
    proto = schema().ModelProto()
    proto.ParseFromString(content)
    change(proto)
    return bytes(proto.SerializeToString())


def names_of(tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Canonical names -> the file's, for a file in canonical names."""
    return {name: name for name in tensors}
