"""Formats with numbers in fixed places spoilt there: .safetensors, .mat, and how images begin."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from random import Random

from tests.fuzz_bytes import NUMBERS, Mutator, remembered
from tests.fuzz_texts import changed, twice

# safetensors ----------------------------------------------------------------------------------------------------------


def _assembled(header: bytes, data: bytes, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if size is None else size % 2**64) + header + data


def _parts(data: bytes) -> tuple[bytes, bytes] | None:
    size = int.from_bytes(data[:8], "little")
    return (data[8:8 + size], data[8 + size:]) if 8 + size <= len(data) else None


def _tensors(chance: Random, header: dict[str, dict]) -> None:
    """One thing of a tensor's entry, so that it fits nothing or another's bytes."""
    names = [name for name in header if name != "__metadata__"]
    entry, other = header[chance.choice(names)], header[chance.choice(names)]
    begin, end = entry["data_offsets"]
    kind = chance.randrange(7)
    if kind == 0:
        entry["data_offsets"] = other["data_offsets"]
    elif kind == 1:
        entry["data_offsets"] = chance.choice(([end, begin], [begin, chance.choice(NUMBERS)], [-1, end], [begin],
                                               [0, 0], [begin, end, end], [begin - 4, end - 4], [begin, end + 4],
                                               [0.0, 4.0]))
    elif kind == 2:
        entry["dtype"] = chance.choice(("F16", "F64", "U8", "BOOL", "BF16", "I4", "F8_E4M3", "", 7, None, ["F32"]))
    elif kind == 3:
        entry["shape"] = chance.choice(([], [0], [-1], [2**40, 2**40], [0, 2**62], [1] * 33, [1.0], ["1"], None,
                                        [end - begin], [chance.choice(NUMBERS)], entry["shape"][::-1], [True]))
    elif kind == 4:
        header[chance.choice(("", "x" * 600, "a\nb", "\x1b[0m", "../../a", "\ud800", "__metadata__"))] = entry
    elif kind == 5:
        entry[chance.choice(("more", "dtype", "shape"))] = chance.choice((1, None, entry["shape"]))
    else:
        header["__metadata__"] = chance.choice(({"dbnet": 1}, {"dbnet": "{}"}, [], None, {"a": {"b": "c"}}, {"": ""},
                                                {"dbnet": "[" * 9000}, {"crc_num": "1"}, {"x" * 9000: "y" * 9000}))


def safetensors(chance: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """The header's length, its JSON, or one of its tensors; the header of one file and the bytes of another."""
    parts = _parts(data)
    if parts is None:
        return data[:-1]
    raw, tensors = parts
    kind = chance.randrange(10)
    if kind == 0:
        return _assembled(raw, tensors, chance.choice((*NUMBERS, len(raw) + 1, len(raw) - 1, len(data) - 8)))
    if kind == 1:
        return _assembled(raw + b" " * chance.choice((1, 7, 5000, 200_000)), tensors)
    if kind == 2:
        return _assembled(twice(chance, raw), tensors)
    if kind == 3:
        other = _parts(chance.choice(others))
        return _assembled(raw, other[1] if other else b"")
    if kind == 4:
        depth = chance.choice((900, 50_000))
        return _assembled(b"{\"a\":" + chance.choice((b"[" * depth, b"{\"a\":" * depth)), tensors)
    header = json.loads(raw)
    if kind < 8:
        for _ in range(chance.choice((1, 1, 2))):
            _tensors(chance, header)
    else:
        header = changed(chance, header)
    return _assembled(json.dumps(header).encode(), tensors)


# MATLAB ---------------------------------------------------------------------------------------------------------------


@remembered
def tags(data: bytes) -> tuple[int, ...]:
    """Where the tags of a .mat file stand: every multiple of 8 with a known type and a size that fits."""
    found = []
    for at in range(128, len(data) - 8, 8):
        kind, size = struct.unpack_from("<II", data, at)
        if 0 < kind < 19 and size <= len(data) - at:
            found.append(at)
    return tuple(found)


def unfolded(data: bytes) -> bytes:
    """A .mat file without compression, as far as its variables can be unfolded."""
    out, at = data[:128], 128
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<II", data, at)
        piece = data[at + 8:at + 8 + size]
        try:
            out += zlib.decompress(piece) if kind == 15 else data[at:at + 8 + size]
        except zlib.error:
            return data
        at += 8 + size
    return out


def folded(data: bytes, claim: int | None = None) -> bytes:
    """The variables of a .mat file compressed. claim: what the first one says of its size."""
    out, at = data[:128], 128
    while at + 8 <= len(data):
        size, = struct.unpack_from("<I", data, at + 4)
        whole = data[at:at + 8 + size]
        if claim is not None:
            whole, claim = whole[:4] + struct.pack("<I", claim % 2**32) + whole[8:], None
        packed = zlib.compress(whole, 1)
        out += struct.pack("<II", 15, len(packed)) + packed
        at += 8 + size
    return out


def mat(chance: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A tag's type or size, a matrix's class or shape; a variable twice, folded, or a stream that grows."""
    plain = unfolded(data)
    places = tags(plain)
    if not places:
        return data[:-1]
    at, other = chance.choice(places), chance.choice(places)
    value = struct.pack("<I", chance.choice((*NUMBERS, *range(20))) % 2**32)
    kind = chance.randrange(9)
    if kind < 3:
        plain = plain[:at + 4 * (kind > 0)] + value + plain[at + 4 * (kind > 0) + 4:]
    elif kind == 3:
        plain = plain[:at + 8] + value + plain[at + 12:]
    elif kind == 4:
        plain = plain[:at] + struct.pack("<I", chance.randrange(8) << 16 | chance.randrange(20)) + plain[at + 4:]
    elif kind == 5:
        plain = plain + plain[128:]
    elif kind == 6:
        size = min(struct.unpack_from("<I", plain, other + 4)[0], 4096)
        plain = plain[:at] + plain[other:other + 8 + size] + plain[at:]
    elif kind == 7:
        return folded(plain, chance.choice(NUMBERS))
    else:
        zeros = zlib.compress(bytes(chance.choice((2**16, 2**24))), 1)
        return plain[:128] + struct.pack("<II", 15, len(zeros)) + zeros
    return folded(plain) if chance.random() < 0.4 else plain


# Images ---------------------------------------------------------------------------------------------------------------


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def image(chance: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Sizes and lengths in the header; of a PNG with its checksum, and as a stream that grows."""
    value = chance.choice(NUMBERS)
    if data.startswith(b"\x89PNG"):
        sides = [chance.choice((0, 1, 8, 32, 2**14, 2**16, 2**24, 2**31 - 1, 2**32 - 1)) for _ in range(2)]
        depth = bytes([chance.choice((1, 8, 16, 7)), chance.choice((0, 2, 3, 4, 6, 1)), 0, 0, chance.randrange(3)])
        extra = chance.choice((b"", _chunk(b"tEXt", b"a\0" + b"b" * 99),
                               _chunk(b"eXIf", b"II*\0" + chance.randbytes(40)),
                               _chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**5))), _chunk(b"acTL", bytes(8)),
                               _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21))), _chunk(b"PLTE", bytes(9))))
        if chance.random() < 0.5:
            return data[:33] + extra + data[33:]
        return data[:8] + _chunk(b"IHDR", struct.pack(">II", *sides) + depth) + extra + data[33:]
    places = [at for at in range(2, min(len(data) - 9, 4000)) if data[at] == 0xFF and data[at + 1] not in (0, 0xFF)]
    if data.startswith(b"\xff\xd8") and places:
        frame = next((at for at in places if data[at + 1] in (0xC0, 0xC2)), None)
        if frame is not None and chance.random() < 0.2:
            sides = [chance.choice((0, 1, 17, 2**13, 2**14, 20_000, 2**16 - 1)) for _ in range(2)]
            return data[:frame + 5] + struct.pack(">HH", *sides) + data[frame + 9:]
        at = chance.choice(places)
        offset = chance.choice((1, 2, 5, 7))
        return data[:at + offset] + struct.pack(">H", value % 2**16) + data[at + offset + 2:]
    at = chance.randrange(2, min(len(data), 64)) if len(data) > 2 else 0
    return data[:at] + struct.pack(chance.choice(("<I", "<H", ">I")), value % 2**16) + data[at + 4:]


SAFETENSORS: tuple[Mutator, ...] = (safetensors,) * 4
MAT: tuple[Mutator, ...] = (mat,) * 4
IMAGE: tuple[Mutator, ...] = (image,) * 4
