"""MindSpore's .ckpt, read and written without MindSpore.

One protocol buffer message (mindspore/train/checkpoint.proto), a repeated field 1 per tensor: {1: tag, 2: {1: dims,
2: type name, 3: bytes}}. A tensor above SLICE_BYTES is several such entries in a row, each with the tag and the *full*
dims. Text is an entry of type `str`, UTF-32. With crc_check=True MindSpore appends CRC_MARK and the checksum.
Source: mindspore/train/serialization.py of 2.10 (`_exec_save`, `_parse_ckpt_proto`, `_load_ckpt_into_param_dict`).

MindSpore pads what is too short with zeros, takes the last of two tensors of one name and ignores unknown fields, all
silently. Here each of these is an error: it means that the file is not what was saved.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import BinaryIO

import ml_dtypes
import numpy as np

from converters.formats import ENCRYPTED_CKPT, detect
from converters.mapped_file import MAX_DIMS, MAX_ENTRIES, MappedFile
from converters.protobuf_wire import (
    LENGTH,
    MalformedError,
    bytes_field,
    fields,
    length_head,
    read_numbers,
    varint_field,
)
from converters.tensor_file import TensorFile
from converters.training_state import split_scalars, split_training_state
from converters.weights import bytes_of
from dbnet.errors import DbnetError, short
from dbnet.record import RECORD_KEY

#: MindSpore's name of a type -> the array's, in the file little-endian.
DTYPES: dict[str, np.dtype] = {
    "Float16": np.dtype("<f2"), "Float32": np.dtype("<f4"), "Float64": np.dtype("<f8"),
    "BFloat16": np.dtype(ml_dtypes.bfloat16), "Int8": np.dtype("i1"), "Int16": np.dtype("<i2"),
    "Int32": np.dtype("<i4"), "Int64": np.dtype("<i8"), "UInt8": np.dtype("u1"), "UInt16": np.dtype("<u2"),
    "UInt32": np.dtype("<u4"), "UInt64": np.dtype("<u8"), "Bool": np.dtype("?"),
}
_NAMES = {dtype.name: name for name, dtype in DTYPES.items()}
#: The type name of text.
TEXT = "str"
#: MindSpore's SLICE_SIZE: no entry holds more bytes than this.
SLICE_BYTES = 512 * 1024 * 1024
#: At the end of a file: the mark and a CRC-32 of all before it, as 10 bytes, big-endian.
CRC_MARK, CRC_BYTES = b"crc_num", 10
MAX_TEXT_BYTES = 1 << 24


@dataclass
class _Entry:
    """One tensor or text: its slices are the places of its bytes, in order."""

    dims: list[int]
    type_name: str
    slices: list[tuple[int, int]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(stop - begin for begin, stop in self.slices)


def read(path: Path) -> TensorFile:
    """Reads a checkpoint. The tensors are views into the mapped file, so it must stay as it is while they are used.

    Raises DbnetError if it is no checkpoint, encrypted, damaged, or holds what cannot be represented.
    """
    mapped = MappedFile(path)
    if bytes(mapped.view[:4]) in ENCRYPTED_CKPT:
        raise DbnetError(f"{path}: is encrypted; load it with ms.load_checkpoint(dec_key=...) and save it without")
    if (found := detect(path)) != "ckpt":
        raise DbnetError(f"{path}: is a .{found} file, not a MindSpore checkpoint; name it so")
    try:
        entries = _entries(mapped.view, _end_of_entries(mapped))
        texts = {name: _text(mapped.view, name, entry) for name, entry in entries.items() if entry.type_name == TEXT}
        tensors = {name: _tensor(mapped, name, entry) for name, entry in entries.items() if entry.type_name != TEXT}
    except MalformedError as error:
        raise DbnetError(f"{path}: is damaged or no MindSpore checkpoint: {short(error)}; "
                         f"copy or download it again, or save it again with ms.save_checkpoint") from error
    record, raw = texts.pop(RECORD_KEY, None), tensors
    tensors, scalars = split_scalars(tensors)
    tensors, training, ema = split_training_state(tensors)
    return TensorFile("ckpt", tensors, record, texts | scalars, training, ema=ema, raw=raw, release=mapped.release)


def write(stream: BinaryIO, tensors: Mapping[str, np.ndarray], record: str | None) -> None:
    """Writes what ms.save_checkpoint would write, tensor after tensor; the record last, as text named RECORD_KEY.

    Raises DbnetError for a tensor that a checkpoint cannot hold, OSError as the stream does.
    """
    for name, array in tensors.items():
        if name == RECORD_KEY or not name:
            raise DbnetError(f"a tensor cannot be named {name!r} in a .ckpt; rename it")
        if array.size == 0:
            raise DbnetError(f"{name}: is empty (shape {array.shape}), which MindSpore drops silently; remove it")
        if array.dtype.name not in _NAMES:
            raise DbnetError(f"{name}: a .ckpt cannot hold {array.dtype.name}; convert it to float32 first")
        content, head = bytes_of(array), _head(array.shape, _NAMES[array.dtype.name])
        for start in range(0, len(content), SLICE_BYTES):
            _put(stream, name, head, content[start:start + SLICE_BYTES])
    if record is not None:
        _put(stream, RECORD_KEY, _head((0,), TEXT), memoryview(record.encode("utf-32-le")))


# Writing --------------------------------------------------------------------------------------------------------------


def _head(dims: tuple[int, ...], type_name: str) -> bytes:
    return b"".join(varint_field(1, dim) for dim in dims) + bytes_field(2, type_name.encode())


def _put(stream: BinaryIO, name: str, head: bytes, content: memoryview) -> None:
    try:
        tag = bytes_field(1, name.encode())
    except UnicodeEncodeError as error:
        raise DbnetError(f"{name!r} is no valid name for a tensor; rename it") from error
    head += length_head(3, len(content))
    inner = tag + length_head(2, len(head) + len(content)) + head
    stream.write(length_head(1, len(inner) + len(content)) + inner)
    stream.write(content)


# Reading --------------------------------------------------------------------------------------------------------------


def _end_of_entries(mapped: MappedFile) -> int:
    """Where the entries end: at the checksum, if there is one. Raises MalformedError if it is another's."""
    view, end = mapped.view, len(mapped.view)
    mark = end - len(CRC_MARK) - CRC_BYTES
    if mark < 0 or bytes(view[mark:mark + len(CRC_MARK)]) != CRC_MARK:
        return end
    crc, step = 0, 1 << 24
    for start in range(0, mark, step):
        stop = min(start + step, mark)
        crc = zlib.crc32(view[start:stop], crc)
        mapped.discard(start, stop)
    if crc != int.from_bytes(view[end - CRC_BYTES:end], "big"):
        raise MalformedError("its checksum (crc_num) is not that of its content")
    return mark


def _entries(view: memoryview, end: int) -> dict[str, _Entry]:
    """Every entry by name, the slices of one tensor put together. Raises MalformedError."""
    entries: dict[str, _Entry] = {}
    last = ""
    for count, (number, wire_type, begin, stop) in enumerate(fields(view, 0, end)):
        if number != 1 or wire_type != LENGTH:
            raise MalformedError(f"at byte {begin} stands something that is no tensor")
        if count >= MAX_ENTRIES:
            raise MalformedError(f"it has more than {MAX_ENTRIES} entries")
        name, entry = _entry(view, begin, stop)
        if name not in entries:
            entries[name] = entry
        elif name != last or entry.type_name == TEXT:
            raise MalformedError(f"{name} is in it twice")
        elif (entry.dims, entry.type_name) != (entries[name].dims, entries[name].type_name):
            raise MalformedError(f"the slices of {name} differ in shape or type")
        else:
            entries[name].slices += entry.slices
        last = name
    return entries


def _single(view: memoryview, begin: int, stop: int, wanted: tuple[int, ...],
            repeated: tuple[int, ...] = ()) -> Iterator[tuple[int, int, int, int]]:
    """`fields`, of which each number in `wanted` must be there once, those in `repeated` may, and no other."""
    seen = set()
    for number, wire_type, inner, end in fields(view, begin, stop):
        if number not in repeated:
            if number not in wanted or number in seen or wire_type != LENGTH:
                raise MalformedError(f"the entry at byte {begin} has a field {number} that does not belong there")
            seen.add(number)
        yield number, wire_type, inner, end
    if seen != set(wanted):
        raise MalformedError(f"the entry at byte {begin} is incomplete")


def _entry(view: memoryview, begin: int, stop: int) -> tuple[str, _Entry]:
    """A checkpoint's `Value`: its tag, and the tensor with one slice."""
    place = {number: (inner, end) for number, _, inner, end in _single(view, begin, stop, (1, 2))}
    name = _decoded(view, *place[1], "name")
    if not name:
        raise MalformedError(f"the entry at byte {begin} has no name")
    dims: list[int] = []
    type_name, content = "", (0, 0)
    for number, wire_type, inner, end in _single(view, *place[2], (2, 3), repeated=(1,)):
        if number == 1:
            if len(dims) >= MAX_DIMS or end - inner > MAX_DIMS:
                raise MalformedError(f"{name} has more than {MAX_DIMS} dimensions")
            dims += read_numbers(view, wire_type, inner, end)
        elif number == 2:
            type_name = _decoded(view, inner, end, "type")
        else:
            content = (inner, end)
    return name, _Entry(dims, type_name, [content])


def _decoded(view: memoryview, begin: int, stop: int, what: str) -> str:
    if stop - begin > 4096:
        raise MalformedError(f"the {what} at byte {begin} is longer than 4096 bytes")
    try:
        return str(view[begin:stop], "utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"the {what} at byte {begin} is not UTF-8") from error


def _text(view: memoryview, name: str, entry: _Entry) -> str:
    (begin, stop), = entry.slices
    if stop - begin > MAX_TEXT_BYTES or entry.dims not in ([], [0]):
        raise MalformedError(f"the text {name} has {stop - begin} bytes and dims {entry.dims}")
    try:
        return str(view[begin:stop], "utf-32-le").rstrip("\0")  # MindSpore writes "" as one NUL
    except UnicodeDecodeError as error:
        raise MalformedError(f"the text {name} is not UTF-32") from error


def _tensor(mapped: MappedFile, name: str, entry: _Entry) -> np.ndarray:
    """The array: a view, or a copy if the tensor is stored in several slices."""
    if entry.type_name == "Int4":
        raise MalformedError(f"{name} is quantised (Int4), which has no counterpart here")
    if entry.type_name not in DTYPES:
        raise MalformedError(f"{name} has the unknown type {entry.type_name!r}")
    dtype = DTYPES[entry.type_name]
    # MindSpore before 2.10 wrote [0] for a single number, 2.10 writes no dims; it reads both so.
    shape = () if entry.dims == [0] else tuple(entry.dims)
    if 0 in shape:
        raise MalformedError(f"{name} is empty (shape {shape})")
    if entry.size != prod(shape) * dtype.itemsize:
        raise MalformedError(f"{name} has {entry.size} bytes, but its shape {shape} of {entry.type_name} "
                             f"takes {prod(shape) * dtype.itemsize}")
    if len(entry.slices) == 1:
        return mapped.array(dtype, shape, entry.slices[0][0])
    return _joined(mapped, dtype, shape, entry.slices)


def _joined(mapped: MappedFile, dtype: np.dtype, shape: tuple[int, ...], slices: list[tuple[int, int]]) -> np.ndarray:
    array = np.empty(shape, dtype)
    content, position = array.reshape(-1).view(np.uint8), 0
    for begin, stop in slices:
        content[position:position + stop - begin] = mapped.array(np.dtype(np.uint8), (stop - begin,), begin)
        mapped.discard(begin, stop)
        position += stop - begin
    array.flags.writeable = False
    return array
