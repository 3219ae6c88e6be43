"""torch.save before 1.6 (and with _use_new_zipfile_serialization=False): five pickles, then the storages.

The pickles: a magic number, the protocol (1001), facts on the machine, the object, the keys of the storages. Then, per
key in that order, the number of values as int64 and their bytes, little-endian. There is no checksum anywhere.
Source: torch/serialization.py (`_legacy_save`, `_legacy_load`), torch/csrc/serialization.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from converters.pickled_objects import RefusedError
from converters.pth_tensors import ALLOWED, Storage, storage
from converters.restricted_pickle import load
from dbnet.errors import DbnetError

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
#: Fields of a persistent id: as in a zip, and where the storage is a view of another one.
_FIELDS = 6


def is_legacy(head: bytes) -> bool:
    """By the first 32 bytes, whatever the protocol of the first pickle."""
    return head[:1] == b"\x80" and MAGIC.to_bytes(10, "little") in head


def read(view: memoryview, where: str, refusal: Callable[[str], str]) -> tuple[Any, dict[str, memoryview]]:
    """-> (the object, the storages' bytes by key). Raises DbnetError."""
    declared: dict[str, Storage] = {}

    def persistent(pid: Any) -> Storage:
        found = storage(pid, _FIELDS)
        if pid[-1] is not None:
            raise RefusedError("holds views of storages, as torch before 0.4 wrote them; load it with torch and save "
                               "it again")
        if declared.setdefault(found.key, found) != found:
            raise ValueError("a storage has two sizes")
        return found

    magic, position = load(view, 0, where, {})
    protocol, position = load(view, position, where, {})
    machine, position = load(view, position, where, {})
    if magic != MAGIC or protocol != PROTOCOL or not isinstance(machine, dict):
        raise DbnetError(f"{where}: is in no version of torch's format that is known; load it with torch and save it "
                         f"again")
    if machine.get("little_endian") is not True:
        raise DbnetError(f"{where}: was written on a big-endian machine; load it with torch there and save it again "
                         f"in torch's zip format")
    root, position = load(view, position, where, ALLOWED, persistent, refusal)
    keys, position = load(view, position, where, {})
    return root, _storages(view, position, keys, declared, where)


def _storages(view: memoryview, position: int, keys: Any, declared: dict[str, Storage],
              where: str) -> dict[str, memoryview]:
    named = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not named or sorted(keys) != sorted(declared):
        raise DbnetError(f"{where}: its storages are not those in its pickle; copy or download it again")
    found = {}
    for key in keys:
        count = int.from_bytes(view[position:position + 8], "little", signed=True)
        start, size = position + 8, declared[key].nbytes
        if count != declared[key].count or start + size > len(view):
            raise DbnetError(f"{where}: ends in the middle of its tensors, or was changed; copy or download it again")
        found[key] = view[start:start + size]
        position = start + size
    if position != len(view):
        raise DbnetError(f"{where}: has {len(view) - position} bytes after its last tensor; copy or download it again")
    return found
