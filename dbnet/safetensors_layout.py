"""How a .safetensors file is laid out: what its header says, and whether that can be. NumPy is all that it needs.

Source: huggingface/safetensors, README "Format", and safetensors/src/tensor.rs for what is valid.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

#: An entry costs us some 300 bytes; a resume file of the largest spec has below 2,000.
MAX_ENTRIES = 100_000
#: Of one tensor: more is no tensor of a network.
MAX_DIMS = 32
METADATA = "__metadata__"
#: The format allows 100 MB, but JSON takes up to twenty times its size in memory; a resume file's header has 300 kB.
MAX_HEADER_BYTES = 10_000_000
#: Data starts at a multiple of this, and so do its tensors when the wider types come first.
ALIGNMENT = 8


class DamagedError(ValueError):
    """One phrase: what is wrong with the file."""


def header_of(view: memoryview) -> tuple[dict[str, Any], int]:
    """The parsed header, and the byte at which the tensors start."""
    size = int.from_bytes(view[:8], "little")
    if size > len(view) - 8:
        raise DamagedError(f"its header of {size} bytes is cut off at the file's end")
    if size > MAX_HEADER_BYTES:
        raise DamagedError(f"its header of {size} bytes is longer than {MAX_HEADER_BYTES}")
    try:
        header = json.loads(str(view[8:8 + size], "utf-8"), object_pairs_hook=_unique)
    except DamagedError:
        raise
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"its header is no JSON ({error})") from error
    if not isinstance(header, dict) or len(header) > MAX_ENTRIES:
        raise DamagedError(f"its header is no table of at most {MAX_ENTRIES} tensors")
    return header, 8 + size


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            raise DamagedError(f"{name!r} is in its header twice")
        table[name] = value
    return table


def metadata_of(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise DamagedError(f"its {METADATA} is no table of texts")
    if not all(is_text(text) for text in (*metadata, *metadata.values())):
        raise DamagedError(f"its {METADATA} holds broken text")
    return metadata


def is_text(text: str) -> bool:
    """False for half a surrogate pair, which JSON can spell, but no other format, file name or terminal can take."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def check_layout(header: dict[str, Any], size: int, dtypes: Mapping[str, np.dtype]) -> None:
    """Every entry well formed, and the tensors' bytes side by side from the first byte to the last."""
    spans = []
    for name, entry in header.items():
        good_name = name and is_text(name)
        if not good_name or not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise DamagedError(f"the entry {name!r} is no tensor")
        shape, offsets = entry["shape"], entry["data_offsets"]
        if not _naturals(shape) or len(shape) > MAX_DIMS or not _naturals(offsets) or len(offsets) != 2:
            raise DamagedError(f"{name} has a shape or data_offsets that are no list of numbers")
        if not isinstance(entry["dtype"], str) or entry["dtype"] not in dtypes:
            raise DamagedError(f"{name} has the type {entry['dtype']!r}, which is unknown or not supported")
        if 0 in shape:
            raise DamagedError(f"{name} is empty (shape {tuple(shape)})")
        expected = prod(shape) * dtypes[entry["dtype"]].itemsize
        if offsets[1] - offsets[0] != expected:
            raise DamagedError(f"{name} has {offsets[1] - offsets[0]} bytes, but its shape {tuple(shape)} of "
                                f"{entry['dtype']} takes {expected}")
        spans.append((offsets[0], offsets[1], name))
    position = 0
    for begin, stop, name in sorted(spans):
        if begin != position:
            raise DamagedError(f"the bytes of {name} do not follow those of the tensor before it")
        position = stop
    if position != size:
        raise DamagedError(f"its tensors take {position} bytes, but {size} follow the header")


def _naturals(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)


def header_bytes(header: Mapping[str, Any]) -> bytes:
    """The file's beginning: the header's length, and the header, filled up so that the tensors lie aligned."""
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
