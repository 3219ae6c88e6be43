"""Protocol buffers on the wire, as far as weight files need them: varints, keys, length-delimited fields.

A reader walks a memoryview and yields positions instead of copies, so that the tensors of a mapped file stay where they
are; a writer gets the few bytes that stand before a payload, which it then streams. Nothing here knows a schema.
Source: protobuf.dev, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator

#: Wire types. Groups (3, 4) are deprecated and occur in none of the formats read here.
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
#: Of a name, a record or another text.
MAX_TEXT_BYTES = 1 << 20

_FIXED_SIZE = {FIXED64: 8, FIXED32: 4}


class MalformedError(ValueError):
    """The bytes are not what their place calls for; one phrase, without the file's name, which the caller knows."""


class UnsupportedError(ValueError):
    """A valid file that is not read here; one phrase, and what to do."""


def varint(value: int) -> bytes:
    """The value, 0 <= value < 2**64, seven bits per byte, least significant first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def key(number: int, wire_type: int) -> bytes:
    """What stands before every field: its number and how it is stored."""
    return varint(number << 3 | wire_type)


def varint_field(number: int, value: int) -> bytes:
    """A whole field that holds a non-negative integer."""
    return key(number, VARINT) + varint(value)


def length_head(number: int, length: int) -> bytes:
    """What stands before a payload of `length` bytes (text, bytes, a message, packed numbers)."""
    return key(number, LENGTH) + varint(length)


def bytes_field(number: int, payload: bytes) -> bytes:
    """A whole length-delimited field."""
    return length_head(number, len(payload)) + payload


def read_varint(view: memoryview, position: int, end: int) -> tuple[int, int]:
    """The unsigned value at `position`, and the position behind it. Raises MalformedError at `end` or above 64 bits."""
    value, start = 0, position
    for shift in range(0, 70, 7):
        if position >= end:
            raise MalformedError(f"a number is cut off at byte {start}")
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80 and not value >> 64:
            return value, position
        if byte < 0x80:
            break
    raise MalformedError(f"the number at byte {start} is longer than 64 bits")


def fields(view: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of the message in view[start:end] as (number, wire type, begin, stop): where each payload lies.

    Of a VARINT, view[begin:stop] is the encoded number (`read_varint` takes `begin`).
    Raises MalformedError where a field is cut off or is none.
    """
    position = start
    while position < end:
        at = position
        tag, position = read_varint(view, position, end)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == VARINT:
            stop = read_varint(view, position, end)[1]
        elif wire_type == LENGTH:
            length, position = read_varint(view, position, end)
            stop = position + length
        elif wire_type in _FIXED_SIZE:
            stop = position + _FIXED_SIZE[wire_type]
        else:
            raise MalformedError(f"there is no field at byte {at}")
        if not 0 < number < 1 << 29:
            raise MalformedError(f"there is no field at byte {at}")
        if stop > end:
            raise MalformedError(f"the field at byte {at} ends {stop - end} bytes beyond its end at byte {end}")
        yield number, wire_type, position, stop
        position = stop


def read_numbers(view: memoryview, wire_type: int, begin: int, stop: int) -> list[int]:
    """A repeated integer field's part: one number, or several packed into one payload. Raises MalformedError."""
    if wire_type != LENGTH:
        return [read_number(view, wire_type, begin, stop)]
    numbers, position = [], begin
    while position < stop:
        number, position = read_varint(view, position, stop)
        numbers.append(number)
    return numbers


def read_number(view: memoryview, wire_type: int, begin: int, stop: int) -> int:
    """A single integer field. Raises MalformedError."""
    if wire_type != VARINT:
        raise MalformedError(f"a number is expected at byte {begin}")
    return read_varint(view, begin, stop)[0]


def messages(view: memoryview, begin: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """The length-delimited fields (texts, bytes, messages) of a message. Raises MalformedError."""
    for number, wire_type, inner, end in fields(view, begin, stop):
        if wire_type == LENGTH:
            yield number, inner, end


def text_at(view: memoryview, begin: int, stop: int) -> str:
    """Raises MalformedError for what is no UTF-8, or too long."""
    if stop - begin > MAX_TEXT_BYTES:
        raise MalformedError(f"the text at byte {begin} is longer than {MAX_TEXT_BYTES} bytes")
    try:
        return str(view[begin:stop], "utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"the text at byte {begin} is not UTF-8") from error


def signed(value: int) -> int:
    """An int64, which is on the wire as the unsigned number of its bits."""
    return value - (1 << 64) if value >> 63 else value
