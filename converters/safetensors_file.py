"""The .safetensors format: 8 bytes with the header's length, a JSON header, then the tensors' bytes, without gaps.

Read and written here rather than by the safetensors package: its NumPy reader refuses bfloat16 and copies, its NumPy
writer stores wrong values for arrays that are not C-contiguous and holds the whole file in memory.
Source: huggingface/safetensors, README "Format", and safetensors/src/tensor.rs for what is valid.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from converters.formats import detect
from converters.mapped_file import MAX_DIMS, MAX_ENTRIES, MappedFile
from converters.tensor_file import TensorFile, Weights
from converters.training_state import split_scalars, split_training_state
from converters.weights import bytes_of
from dbnet.errors import DbnetError, short
from dbnet.record import RECORD_KEY

#: The format's name of a type -> the array's, in the file little-endian.
DTYPES: dict[str, np.dtype] = {
    "F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "BF16": np.dtype(ml_dtypes.bfloat16),
    "I8": np.dtype("i1"), "I16": np.dtype("<i2"), "I32": np.dtype("<i4"), "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"), "U16": np.dtype("<u2"), "U32": np.dtype("<u4"), "U64": np.dtype("<u8"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype.name: name for name, dtype in DTYPES.items()}
_METADATA = "__metadata__"
#: The format allows 100 MB, but JSON takes up to twenty times its size in memory; a resume file's header has 300 kB.
MAX_HEADER_BYTES = 10_000_000
#: Data starts at a multiple of this, and so do its tensors when the wider types come first.
ALIGNMENT = 8
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
        header, data = _header(mapped.view)
        metadata = _metadata(header.pop(_METADATA, {}))
        _check_layout(header, len(mapped.view) - data)
        tensors = {name: _tensor(mapped, name, entry, data) for name, entry in header.items()}
        _check_mindspore(mapped, tensors, metadata)
    except _DamagedError as error:
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
    header: dict[str, Any] = {} if record is None else {_METADATA: {RECORD_KEY: record}}
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)  # stable: the given order otherwise
    position = 0
    for name, array in ordered:
        if name in ("", _METADATA) or not _is_text(name):
            raise DbnetError(f"a tensor cannot be named {name!r} in a .safetensors file; rename it")
        if array.size == 0:
            raise DbnetError(f"{name}: is empty (shape {array.shape}); remove it")
        if array.dtype.name not in _NAMES:
            raise DbnetError(f"{name}: .safetensors cannot hold {array.dtype.name}; convert it to float32 first")
        header[name] = {"dtype": _NAMES[array.dtype.name], "shape": list(array.shape),
                        "data_offsets": [position, position + array.nbytes]}
        position += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    stream.write(len(text).to_bytes(8, "little") + text)
    for _, array in ordered:
        stream.write(bytes_of(array))


# Reading --------------------------------------------------------------------------------------------------------------


class _DamagedError(ValueError):
    """One phrase: what is wrong with the file."""


def _header(view: memoryview) -> tuple[dict[str, Any], int]:
    """The parsed header, and the byte at which the tensors start."""
    size = int.from_bytes(view[:8], "little")
    if size > len(view) - 8:
        raise _DamagedError(f"its header of {size} bytes is cut off at the file's end")
    if size > MAX_HEADER_BYTES:
        raise _DamagedError(f"its header of {size} bytes is longer than {MAX_HEADER_BYTES}")
    try:
        header = json.loads(str(view[8:8 + size], "utf-8"), object_pairs_hook=_unique)
    except _DamagedError:
        raise
    except (ValueError, RecursionError) as error:
        raise _DamagedError(f"its header is no JSON ({error})") from error
    if not isinstance(header, dict) or len(header) > MAX_ENTRIES:
        raise _DamagedError(f"its header is no table of at most {MAX_ENTRIES} tensors")
    return header, 8 + size


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            raise _DamagedError(f"{name!r} is in its header twice")
        table[name] = value
    return table


def _metadata(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _DamagedError(f"its {_METADATA} is no table of texts")
    if not all(_is_text(text) for text in (*metadata, *metadata.values())):
        raise _DamagedError(f"its {_METADATA} holds broken text")
    return metadata


def _is_text(text: str) -> bool:
    """False for half a surrogate pair, which JSON can spell, but no other format, file name or terminal can take."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _check_layout(header: dict[str, Any], size: int) -> None:
    """Every entry well formed, and the tensors' bytes side by side from the first byte to the last."""
    spans = []
    for name, entry in header.items():
        good_name = name and _is_text(name)
        if not good_name or not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise _DamagedError(f"the entry {name!r} is no tensor")
        shape, offsets = entry["shape"], entry["data_offsets"]
        if not _naturals(shape) or len(shape) > MAX_DIMS or not _naturals(offsets) or len(offsets) != 2:
            raise _DamagedError(f"{name} has a shape or data_offsets that are no list of numbers")
        if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
            raise _DamagedError(f"{name} has the type {entry['dtype']!r}, which is unknown or not supported")
        if 0 in shape:
            raise _DamagedError(f"{name} is empty (shape {tuple(shape)})")
        expected = prod(shape) * DTYPES[entry["dtype"]].itemsize
        if offsets[1] - offsets[0] != expected:
            raise _DamagedError(f"{name} has {offsets[1] - offsets[0]} bytes, but its shape {tuple(shape)} of "
                                f"{entry['dtype']} takes {expected}")
        spans.append((offsets[0], offsets[1], name))
    position = 0
    for begin, stop, name in sorted(spans):
        if begin != position:
            raise _DamagedError(f"the bytes of {name} do not follow those of the tensor before it")
        position = stop
    if position != size:
        raise _DamagedError(f"its tensors take {position} bytes, but {size} follow the header")


def _naturals(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)


def _tensor(mapped: MappedFile, name: str, entry: dict[str, Any], data: int) -> np.ndarray:
    return mapped.array(DTYPES[entry["dtype"]], tuple(entry["shape"]), data + entry["data_offsets"][0])


def _check_mindspore(mapped: MappedFile, tensors: Weights, metadata: Mapping[str, str]) -> None:
    """What mindspore.save_checkpoint(format="safetensors") says in the metadata: a checksum, and quantised tensors."""
    for name in tensors:
        if metadata.get(name) == QUANTISED:
            raise _DamagedError(f"{name} is quantised ({QUANTISED}), which has no counterpart here")
    if CRC_KEY not in metadata:
        return
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(_summed_bytes(tensors[name]), zlib.crc32(name.encode(), crc))
        mapped.release(tensors[name])
    if metadata[CRC_KEY] != str(crc):
        raise _DamagedError(f"its checksum ({CRC_KEY}) is not that of its content")


def _summed_bytes(array: np.ndarray) -> bytes | memoryview:
    """What MindSpore's checksum sees: Python's bytes(array), which of a 0-d integer makes that many zeros."""
    if array.ndim == 0 and array.dtype.kind in "iu":
        return bytes(min(max(int(array), 0), MAX_ZEROS))
    return bytes_of(array)
