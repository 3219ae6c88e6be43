"""Protocol buffers spoilt field by field, with the lengths around the place put right: .ckpt, .onnx and .mindir."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from converters.protobuf_wire import LENGTH, VARINT, MalformedError, bytes_field, fields, key, length_head, varint
from tests.fuzz_bytes import NUMBERS, Mutator, remembered

#: Fields that are looked into: more are of no use, and tensors' bytes can look like messages.
MAX_FIELDS, MAX_MESSAGE = 20_000, 2**17
TEXTS = (b"", b"/etc/passwd", b"../../../etc/passwd", b"file:///etc/passwd", b"\xff\xfe", b"a\nb", b"\x1b[31m",
         b"x" * 600, b"x" * 5000, b"Float32", b"Float64", b"Int4", b"str",
         b"BFloat16", b"Conv", b"Identity", b"Loop", b"dbnet", b"0")


@dataclass(frozen=True)
class Field:
    """begin: of its key. payload, stop: its bytes. parent: index of the message that it is in, -1 for the file."""

    number: int
    wire: int
    begin: int
    payload: int
    stop: int
    parent: int


@remembered
def parsed(data: bytes) -> tuple[Field, ...]:
    """Every field at any depth, as far as the bytes can be read so."""
    view = memoryview(data)
    found: list[Field] = []
    waiting = [(0, len(data), -1)]
    while waiting and len(found) < MAX_FIELDS:
        start, stop, parent = waiting.pop(0)
        try:
            inner = list(fields(view, start, stop))
        except MalformedError:
            continue
        begin = start
        for number, wire, payload, end in inner:
            found.append(Field(number, wire, begin, payload, end, parent))
            if wire == LENGTH and end - payload > 1 and (parent == -1 or end - payload < MAX_MESSAGE):
                waiting.append((payload, end, len(found) - 1))
            begin = end
    return tuple(found)


def with_lengths(data: bytes, tree: Sequence[Field], index: int, new: bytes) -> bytes:
    """`data` with a field exchanged, and the lengths of the messages around it as they then have to be."""
    field = tree[index]
    begin, stop = field.begin, field.stop
    while field.parent >= 0:
        field = tree[field.parent]
        inner = data[field.payload:begin] + new + data[stop:field.stop]
        new, begin, stop = length_head(field.number, len(inner)) + inner, field.begin, field.stop
    return data[:begin] + new + data[stop:]


def _numbers(chance: Random) -> bytes:
    return varint(chance.choice((*NUMBERS, chance.randrange(64))) % 2**64)


def _nested(number: int, depth: int) -> bytes:
    """A message in itself, `depth` times."""
    out = b""
    for _ in range(depth):
        out = bytes_field(number, out)
    return out


def _external(chance: Random) -> bytes:
    """What an ONNX tensor has that lies in another file, and so does a .mindir's."""
    place = chance.choice(TEXTS[1:4])
    entry = bytes_field(13, bytes_field(1, b"location") + bytes_field(2, place))
    return chance.choice((entry, entry + key(14, VARINT) + b"\x01", key(14, VARINT) + b"\x01",
                          bytes_field(12, bytes_field(1, place) + key(2, VARINT) + b"\0" + key(3, VARINT) + b"\x10"),
                          bytes_field(17, bytes_field(1, place) + key(2, VARINT) + b"\0")))


def _other_value(chance: Random, field: Field, payload: bytes) -> bytes:
    """The field with another value, of its own wire type or of another one."""
    head = key(field.number, field.wire)
    if field.wire == VARINT:
        return head + _numbers(chance)
    if field.wire != LENGTH:
        return head + struct.pack("<d", chance.choice((float("nan"), float("inf"), 0.0, -1.0)))[-len(payload):]
    size = len(payload)
    return chance.choice((
        bytes_field(field.number, chance.choice(TEXTS)), length_head(field.number, chance.choice(NUMBERS)) + payload,
        length_head(field.number, size + 1) + payload, length_head(field.number, max(0, size - 1)) + payload,
        bytes_field(field.number, payload[:size // 2]), bytes_field(field.number, payload * 2),
        bytes_field(field.number, payload + bytes(4)), bytes_field(field.number, _numbers(chance) * 3),
        bytes_field(field.number, struct.pack("<3f", float("nan"), float("inf"), -0.0)),
        bytes_field(field.number, chance.randbytes(min(size, 40)))))


def refielded(chance: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A field with another value, number or type, left out, doubled, nested, or from another file."""
    tree = parsed(data)
    if not tree:
        return data[:-1]
    index = chance.randrange(min(len(tree), chance.choice((30, len(tree)))))  # the outer ones come first
    field = tree[index]
    whole, payload = data[field.begin:field.stop], data[field.payload:field.stop]
    other = chance.choice(others)
    strange = parsed(other)
    part = strange[chance.randrange(len(strange))] if strange else field
    piece = other[part.begin:part.stop]
    number = chance.choice((*range(1, 24), 100, 2**28))
    head = key(chance.choice((0, 1, 5, 15, 2**29)), chance.randrange(8))
    new = chance.choice((
        *(_other_value(chance, field, payload) for _ in range(3)),
        b"", whole * 2, whole * chance.choice((2, 40)), whole + piece, piece, piece + whole, head + whole, whole + head,
        key(number, field.wire) + whole[len(key(field.number, field.wire)):], whole + _external(chance),
        whole + key(number, VARINT) + _numbers(chance), bytes_field(field.number, whole),
        _nested(field.number, chance.choice((3, 100, 3000))), whole + _nested(number, 100),
        whole + bytes_field(number, chance.choice(TEXTS))))
    return with_lengths(data, tree, index, new)


def shaped(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """A small number of an inner message, such as a dimension or a type, at its limits."""
    tree = parsed(data)
    numbers = [i for i, field in enumerate(tree) if field.wire == VARINT and field.parent >= 0]
    if not numbers:
        return refielded(chance, data, [data])
    index = chance.choice(numbers)
    head = key(tree[index].number, VARINT)
    new = chance.choice((head + _numbers(chance), head + _numbers(chance), head + varint(2**64 - 1),
                         head + varint(2**40) + head + varint(2**40), (head + b"\x01") * 40, head + b"\0",
                         head + b"\xff" * 30, (head + varint(2**31)) * 5, b""))
    return with_lengths(data, tree, index, new)


def exchanged(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """Two fields of one message in each other's place, or the content of the one in the other."""
    tree = parsed(data)
    if len(tree) < 2:
        return data[:-1]
    first = tree[chance.randrange(len(tree))]
    index = chance.choice([i for i, field in enumerate(tree) if field.parent == first.parent])
    new = data[first.begin:first.stop]
    return with_lengths(data, tree, index, new)


PROTOBUF: tuple[Mutator, ...] = (refielded, refielded, refielded, shaped, shaped, exchanged)
