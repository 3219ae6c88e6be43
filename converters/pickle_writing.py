"""Pickles written by hand, opcode by opcode: `pickle` would have to import the classes that they name."""

from __future__ import annotations

import pickle
import struct


def global_(module: str, name: str) -> bytes:
    """A class or function by its name."""
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def tuple_(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def text(value: str) -> bytes:
    data = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    if -1 << 31 <= value < 1 << 31:
        return pickle.BININT + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return pickle.LONG1 + bytes([len(data)]) + data
