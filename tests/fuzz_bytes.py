"""Damage that knows nothing of the format: what disks, cables and careless programs do, and where attackers begin."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from random import Random
from typing import TypeVar

T = TypeVar("T")

#: (chance, a sound file, other sound files of the format) -> a spoilt one.
Mutator = Callable[[Random, bytes, Sequence[bytes]], bytes]

#: What lengths, counts and offsets are set to.
NUMBERS = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 4095, 65535, 65536, 2**24, 2**28, 2**31 - 1, 2**31, 2**32 - 1, 2**32,
           2**40, 2**47, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1)


def remembered(function: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """`function`, which takes a file apart, with a memory for many small files and a few large ones."""
    small, large = lru_cache(maxsize=256)(function), lru_cache(maxsize=6)(function)
    return lambda data: (small if len(data) < 2**18 else large)(data)


def place(chance: Random, data: bytes) -> int:
    """A position; half of them where formats keep what they say of themselves, at both ends."""
    near = min(len(data), 256)
    return chance.choice((chance.randrange(len(data) + 1), chance.randrange(len(data) + 1),
                          chance.randrange(near + 1), len(data) - chance.randrange(near + 1)))


def span(chance: Random, data: bytes) -> tuple[int, int]:
    """A run of bytes, mostly short."""
    start = place(chance, data)
    return start, min(len(data), start + chance.choice((1, 2, 4, 8, 16, 64, 512, chance.randrange(1, len(data) + 2))))


def cut(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """The beginning of a file: a download that broke off."""
    return data[:place(chance, data)]


def headless(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """Without its first bytes."""
    return data[chance.randrange(1, 64):]


def bits(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """Some bits turned."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 8, 64))):
        if out:
            out[min(place(chance, data), len(out) - 1)] ^= 1 << chance.randrange(8)
    return bytes(out)


def overwritten(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """A run of zeros, of ones or of anything in place of what was there."""
    start, stop = span(chance, data)
    fill = chance.choice((b"\0", b"\xff", b""))
    return data[:start] + (fill * (stop - start) or chance.randbytes(stop - start)) + data[stop:]


def numbered(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """A number of 2, 4 or 8 bytes at its limits."""
    start, form = place(chance, data), chance.choice(("<H", "<I", "<Q", ">H", ">I", ">Q"))
    size = struct.calcsize(form)
    return data[:start] + struct.pack(form, chance.choice(NUMBERS) % 256**size) + data[start + size:]


def removed(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """Without a piece from its middle."""
    start, stop = span(chance, data)
    return data[:start] + data[stop:]


def repeated(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """A piece several times."""
    start, stop = span(chance, data)
    return data[:stop] + data[start:stop] * chance.choice((1, 1, 2, 7)) + data[stop:]


def swapped(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """Two pieces in each other's place."""
    places = sorted(place(chance, data) for _ in range(4))
    a, b, c, d = places
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def spliced(chance: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """The beginning of one file and the end of another, or a piece of the other in between."""
    other = chance.choice(others)
    start, (first, last) = place(chance, data), span(chance, other)
    if chance.random() < 0.5:
        return data[:start] + other[first:]
    return data[:start] + other[first:last] + data[start:]


def longer(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """Something behind its end."""
    return data + chance.choice((bytes(chance.randrange(1, 9)), chance.randbytes(16), data[-64:], data[:64], data))


def varint_at(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """Numbers of any length where a short one was."""
    start = place(chance, data)
    value = chance.choice((b"\xff" * 9 + b"\x01", b"\x80" * 12, b"\xff" * 4 + b"\x0f", b"\x80\x80\x80\x80\x80\x20"))
    return data[:start] + value + data[start + 1:]


BLIND: tuple[Mutator, ...] = (cut, headless, bits, bits, overwritten, numbered, removed, repeated, swapped, spliced,
                              longer, varint_at)
