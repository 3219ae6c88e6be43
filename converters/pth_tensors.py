"""The tensors in a torch pickle: what its names stand for, and how bytes of a storage become an array.

A tensor in the pickle is a reference (storage, offset, shape, stride); it becomes an array only when it is one of the
weights, so that optimizer state costs nothing.
Source: torch/_utils.py (`_rebuild_*`), torch/serialization.py, torch/_tensor.py (`_rebuild_from_type_v2`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from converters.pickled_objects import COMMON, Global, Maker, RefusedError, element_count, printable

#: torch's storage class -> the array's type, in the file little-endian.
STORAGES: dict[str, np.dtype] = {
    "FloatStorage": np.dtype("<f4"), "DoubleStorage": np.dtype("<f8"), "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16), "ByteStorage": np.dtype("u1"), "CharStorage": np.dtype("i1"),
    "ShortStorage": np.dtype("<i2"), "IntStorage": np.dtype("<i4"), "LongStorage": np.dtype("<i8"),
    "BoolStorage": np.dtype("?"),
}
#: Types without a storage class of their own: the storage is of bytes, the tensor says what they are (torch 2.3).
_DTYPES: dict[str, np.dtype] = {"torch.uint16": np.dtype("<u2"), "torch.uint32": np.dtype("<u4"),
                                "torch.uint64": np.dtype("<u8")}


@dataclass(frozen=True, slots=True)
class Storage:
    """Bytes outside the pickle: `count` values of `dtype`. untyped: the tensors know their type, not the storage."""

    key: str
    dtype: np.dtype
    count: int
    untyped: bool = False

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of a storage; offset and stride count values of `dtype`, and nothing of it was checked."""

    storage: Storage
    offset: Any
    shape: Any
    stride: Any
    dtype: np.dtype


def storage(pid: Any, fields: int) -> Storage:
    """What a persistent id of that many fields refers to: ("storage", class, key, device, number of values, ...).

    Raises RefusedError for a type that no weight has, TypeError for anything else than a storage.
    """
    if not isinstance(pid, tuple) or len(pid) != fields or pid[0] != "storage" or not isinstance(pid[1], Global):
        raise TypeError("it refers to what is no storage")
    _, kind, key, _, count, *_ = pid
    name = kind.name.rpartition(".")[2]
    untyped = name == "UntypedStorage"
    dtype = np.dtype("u1") if untyped else STORAGES.get(name)
    if dtype is None:
        raise RefusedError(f"holds {name.removesuffix('Storage')} tensors; a detector's weights are real and not "
                           f"quantized: save the float model")
    if not isinstance(key, str) or type(count) is not int or count < 0:
        raise TypeError("a storage without a name or a size")
    return Storage(key, dtype, count, untyped)


def array(tensor: Tensor, data: np.ndarray) -> np.ndarray:
    """`data` (the storage's bytes, 1-d uint8) as an array: a view where the tensor lies in it in C order.

    Raises ValueError for a tensor that reaches beyond its storage, or is not laid out as torch lays them out.
    """
    count = element_count(tensor.shape)
    stride, size = tensor.stride, tensor.dtype.itemsize
    numbers = (tensor.offset, *stride) if isinstance(stride, (tuple, list)) else (None,)
    if len(numbers) != len(tensor.shape) + 1 or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError("a tensor with an impossible offset or stride")
    if count == 0:
        return np.zeros(tensor.shape, tensor.dtype)
    steps = [(extent, step) for extent, step in zip(tensor.shape, stride, strict=True) if extent > 1]
    span = tensor.offset + sum((extent - 1) * step for extent, step in steps) + 1
    if span * size > data.nbytes:
        raise ValueError("a tensor reaches beyond its storage")
    strides = [step * size if extent > 1 else size for extent, step in zip(tensor.shape, stride, strict=True)]
    return np.ndarray(tensor.shape, tensor.dtype, data, tensor.offset * size, strides)


def _tensor(source: Any, offset: Any, shape: Any, stride: Any, *_unused: Any) -> Tensor:
    if not isinstance(source, Storage):
        raise TypeError("a tensor without a storage")
    return Tensor(source, offset, shape, stride, source.dtype)


def _tensor_of_bytes(source: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any, dtype: Any,
                     *_unused: Any) -> Tensor:
    kind = _DTYPES.get(dtype.name) if isinstance(dtype, Global) else None
    if not isinstance(source, Storage) or not source.untyped:
        raise TypeError("a tensor of bytes without a storage of bytes")
    if kind is None:
        raise RefusedError(f"holds tensors of {printable(getattr(dtype, 'name', '?'))}; save the model in float32, "
                           f"float16 or bfloat16")
    return Tensor(source, offset, shape, stride, kind)


def _parameter(data: Any, *_unused: Any) -> Any:
    return data


def _with_attributes(rebuild: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor to which someone has attached Python attributes."""
    if not isinstance(rebuild, Global) or rebuild.make is None or not rebuild.name.startswith("torch._utils._rebuild_"):
        raise TypeError("a tensor made by what makes no tensors")
    return rebuild.make(*arguments)


def _size(sizes: Any = ()) -> tuple[Any, ...]:
    return tuple(sizes)


def _refuse(what: str) -> Callable[..., Any]:
    def refuse(*_unused: Any) -> Any:
        raise RefusedError(what)
    return refuse


_FLOAT = "save the float model's state_dict()"
#: Every name that may stand in a torch file.
ALLOWED: dict[str, Maker] = {
    **COMMON,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_bytes,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _with_attributes,
    "torch.Size": _size,
    "torch._utils._rebuild_qtensor": _refuse(f"holds quantized tensors; {_FLOAT}"),
    "torch._utils._rebuild_sparse_tensor": _refuse("holds sparse tensors; save them with .to_dense()"),
    "torch._utils._rebuild_nested_tensor": _refuse("holds nested tensors, which no detector has"),
    "torch._utils._rebuild_meta_tensor_no_storage": _refuse("holds tensors on the meta device, which have no values; "
                                                            "save them after the weights are loaded"),
    "torch._utils._rebuild_wrapper_subclass": _refuse("holds tensors of another class (distributed ones?); save a "
                                                      "full state dict"),
    "torch_npu.utils.storage._rebuild_npu_tensor": _refuse("holds tensors in an NPU's memory layout; save "
                                                           "{name: tensor.cpu() for ...}"),
    **{f"torch.{name}": None for name in (
        *STORAGES, "UntypedStorage", "ComplexFloatStorage", "ComplexDoubleStorage", "QInt8Storage", "QInt32Storage",
        "QUInt8Storage", "QUInt4x2Storage", "QUInt2x4Storage", "Tensor", "device", "per_tensor_affine",
        "per_channel_affine", "per_tensor_symmetric", "per_channel_symmetric", "strided", "sparse_coo")},
    "torch.storage.UntypedStorage": None,
    **{f"torch.{name}": None for name in (
        "float32", "float64", "float16", "bfloat16", "uint8", "int8", "int16", "int32", "int64", "bool", "uint16",
        "uint32", "uint64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
        "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2", "quint8", "qint8", "qint32")},
    "torch.nn.parameter.Parameter": None,
    "torch.serialization._get_layout": None,
    # Real training files hold these beside the weights: settings, schedules, loss histories, dates.
    "argparse.Namespace": None,
    **{f"{module}.{name}": None for module in ("pathlib", "pathlib._local") for name in (
        "Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")},
    **{f"datetime.{name}": None for name in ("datetime", "date", "time", "timedelta", "timezone")},
    "collections.Counter": None,
    "collections.defaultdict": None,
    **{f"builtins.{name}": None for name in (
        "dict", "list", "int", "float", "str", "bytearray", "complex", "slice", "range")},
    "mmengine.logging.history_buffer.HistoryBuffer": None,
}
