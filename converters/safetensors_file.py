"""The .safetensors format: 8 bytes with the header's length, a JSON header, then the tensors' bytes, without gaps.

Read and written here rather than by the safetensors package: its NumPy reader refuses bfloat16 and copies, its NumPy
writer stores wrong values for arrays that are not C-contiguous and holds the whole file in memory.
Source: huggingface/safetensors, README "Format", and safetensors/src/tensor.rs for what is valid.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from converters.formats import detect
from converters.mapped_file import MappedFile
from converters.tensor_file import TensorFile, Weights
from converters.training_state import split_scalars, split_training_state
from converters.weights import bytes_of
from dbnet.errors import DbnetError, short
from dbnet.record import RECORD_KEY
from dbnet.safetensors_layout import (
    METADATA,
    DamagedError,
    check_layout,
    header_bytes,
    header_of,
    is_text,
    metadata_of,
)

#: The format's name of a type -> the array's, in the file little-endian.
DTYPES: dict[str, np.dtype] = {
    "F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "BF16": np.dtype(ml_dtypes.bfloat16),
    "I8": np.dtype("i1"), "I16": np.dtype("<i2"), "I32": np.dtype("<i4"), "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"), "U16": np.dtype("<u2"), "U32": np.dtype("<u4"), "U64": np.dtype("<u8"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype.name: name for name, dtype in DTYPES.items()}
#: Where MindSpore's save_checkpoint(crc_check=True) puts its checksum, and marks a quantised tensor.
CRC_KEY, QUANTISED = "crc_num", "Int4"
#: A 0-d integer above this (an epoch or step number) is not believed when the checksum is computed.
MAX_ZEROS = 1 << 26


def read(path: Path) -> TensorFile:
    """Reads a file. The tensors are views into the mapped file, so it must stay as it is while they are used.

    Raises DbnetError if it is no such file, damaged, or holds what cannot be represented.
    """
    mapped = MappedFile(path)
    if (found := detect(path)) != "safetensors":
        raise DbnetError(f"{path}: is a .{found} file, not .safetensors; name it so")
    try:
        header, data = header_of(mapped.view)
        metadata = metadata_of(header.pop(METADATA, {}))
        check_layout(header, len(mapped.view) - data, DTYPES)
        tensors = {name: _tensor(mapped, name, entry, data) for name, entry in header.items()}
        _check_mindspore(mapped, tensors, metadata)
    except DamagedError as error:
        raise DbnetError(f"{path}: is damaged or no .safetensors file: {short(error)}; copy or download it "
                         f"again") from error
    record = metadata.pop(RECORD_KEY, None)
    tensors, scalars = split_scalars(tensors)
    tensors, training, ema = split_training_state(tensors)
    return TensorFile("safetensors", tensors, record, metadata | scalars, training, ema=ema, release=mapped.release)


def write(stream: BinaryIO, tensors: Mapping[str, np.ndarray], record: str | None) -> None:
    """Writes tensor after tensor, those of wider types first; the record as `__metadata__[RECORD_KEY]`.

    Raises DbnetError for a tensor that the format cannot hold, OSError as the stream does.
    """
    header: dict[str, Any] = {} if record is None else {METADATA: {RECORD_KEY: record}}
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)  # stable: the given order otherwise
    position = 0
    for name, array in ordered:
        if name in ("", METADATA) or not is_text(name):
            raise DbnetError(f"a tensor cannot be named {name!r} in a .safetensors file; rename it")
        if array.size == 0:
            raise DbnetError(f"{name}: is empty (shape {array.shape}); remove it")
        if array.dtype.name not in _NAMES:
            raise DbnetError(f"{name}: .safetensors cannot hold {array.dtype.name}; convert it to float32 first")
        header[name] = {"dtype": _NAMES[array.dtype.name], "shape": list(array.shape),
                        "data_offsets": [position, position + array.nbytes]}
        position += array.nbytes
    stream.write(header_bytes(header))
    for _, array in ordered:
        stream.write(bytes_of(array))


# Reading --------------------------------------------------------------------------------------------------------------


def _tensor(mapped: MappedFile, name: str, entry: dict[str, Any], data: int) -> np.ndarray:
    return mapped.array(DTYPES[entry["dtype"]], tuple(entry["shape"]), data + entry["data_offsets"][0])


def _check_mindspore(mapped: MappedFile, tensors: Weights, metadata: Mapping[str, str]) -> None:
    """What mindspore.save_checkpoint(format="safetensors") says in the metadata: a checksum, and quantised tensors."""
    for name in tensors:
        if metadata.get(name) == QUANTISED:
            raise DamagedError(f"{name} is quantised ({QUANTISED}), which has no counterpart here")
    if CRC_KEY not in metadata:
        return
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(_summed_bytes(tensors[name]), zlib.crc32(name.encode(), crc))
        mapped.release(tensors[name])
    if metadata[CRC_KEY] != str(crc):
        raise DamagedError(f"its checksum ({CRC_KEY}) is not that of its content")


def _summed_bytes(array: np.ndarray) -> bytes | memoryview:
    """What MindSpore's checksum sees: Python's bytes(array), which of a 0-d integer makes that many zeros."""
    if array.ndim == 0 and array.dtype.kind in "iu":
        return bytes(min(max(int(array), 0), MAX_ZEROS))
    return bytes_of(array)
