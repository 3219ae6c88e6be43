"""Zip archives whose entries are stored as they are: what torch.save writes, read in place and written in one pass.

Read here and not by `zipfile`, which builds an object per entry before one can ask how many there are, takes the last
of two entries of one name, and lets entries overlap (so that a small file stands for a huge one).
Source: PKWARE's APPNOTE 6.3.3, sections 4.3 and 4.5.3.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from converters.mapped_file import MAX_ENTRIES, MappedFile
from converters.pickled_objects import RefusedError, printable

MAX_DIRECTORY_BYTES = 1 << 26
#: torch's alignment of storages: its mmap=True hands out tensors that lie in the file.
ALIGNMENT = 64

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_ZIP64_FIELD, _PADDING_FIELD = 1, 0x4246  # the second: "FB", as torch writes it
_STORED, _ENCRYPTED = 0, 1


class BadZipError(Exception):
    """The archive is damaged; the message says how."""


@dataclass(frozen=True)
class Entry:
    """One file of the archive: its bytes are [start, start + size), with that CRC-32, if it is stored as it is."""

    name: str
    start: int
    size: int
    crc: int
    stored: bool


class StoredZip:
    """The entries of a mapped zip archive, by name."""

    def __init__(self, file: MappedFile):
        """Raises BadZipError if it is damaged, RefusedError if it holds what torch.save never writes."""
        self.file = file
        try:
            self.entries = _entries(file.view)
        except (struct.error, UnicodeDecodeError) as error:
            raise BadZipError("its directory is cut off or unreadable") from error

    def bytes_of(self, entry: Entry, limit: int | None = None) -> memoryview:
        """The entry's bytes, checked against their CRC.

        Raises BadZipError if they were changed or exceed `limit`, RefusedError if they are not there as they are.
        """
        if not entry.stored:
            raise RefusedError(f"its entry {printable(entry.name)} is compressed or encrypted, which torch.save never "
                               f"does; save it again with torch")
        if limit is not None and entry.size > limit:
            raise BadZipError(f"{printable(entry.name)} has {entry.size} bytes, far more than it needs")
        piece = self.file.view[entry.start:entry.start + entry.size]
        if zlib.crc32(piece) != entry.crc:
            raise BadZipError(f"the bytes of {printable(entry.name)} do not have their checksum")
        self.file.discard(entry.start, entry.start + entry.size)  # whole files would stay in memory otherwise
        return piece


def _entries(view: memoryview) -> dict[str, Entry]:
    directory, position, count = _directory(view)
    entries: dict[str, Entry] = {}
    total = 0
    for _ in range(count):
        if position >= len(directory):
            raise BadZipError("its directory has fewer entries than it says")
        (magic, _, _, flags, method, _, _, crc, packed, size, name_size, extra_size, comment_size, _, _, _,
         header) = _CENTRAL.unpack_from(directory, position)
        if magic != b"PK\x01\x02":
            raise BadZipError("its directory is damaged")
        position += _CENTRAL.size
        raw = bytes(directory[position:position + name_size])
        extra = bytes(directory[position + name_size:position + name_size + extra_size])
        position += name_size + extra_size + comment_size
        name = _name(raw)
        if name in entries:
            raise RefusedError(f"holds {printable(name)} twice; save it again with torch")
        stored = method == _STORED and not flags & _ENCRYPTED
        size, packed, header = _wide(size, packed, header, extra)
        if stored and size != packed:
            raise BadZipError(f"{printable(name)} has two sizes")
        total += packed
        if total > len(view):
            raise BadZipError("its entries overlap")
        entries[name] = Entry(name, _start(view, header, raw, packed), packed, crc, stored)
    return entries


def _directory(view: memoryview) -> tuple[memoryview, int, int]:
    """The central directory (with what precedes it), the byte where it begins, and its number of entries."""
    tail = bytes(view[-(_END.size + 0xFFFF):])
    place = tail.rfind(b"PK\x05\x06")
    if place < 0:
        raise BadZipError("its end is missing")
    end = len(view) - len(tail) + place
    _, disk, first_disk, _, count, size, start, comment = _END.unpack_from(view, end)
    if disk or first_disk or end + _END.size + comment != len(view):
        raise BadZipError("its end is damaged")
    locator = end - _END64_LOCATOR.size
    if 0xFFFFFFFF in (size, start) or count == 0xFFFF:
        magic, _, end, _ = _END64_LOCATOR.unpack_from(view, max(locator, 0))
        if magic != b"PK\x06\x07" or end > len(view):
            raise BadZipError("its end is damaged")
        magic, _, _, _, _, _, _, count, size, start = _END64.unpack_from(view, end)
        if magic != b"PK\x06\x06":
            raise BadZipError("its end is damaged")
    if start + size > end:
        raise BadZipError("its directory is cut off")
    if count > MAX_ENTRIES or size > MAX_DIRECTORY_BYTES:
        raise RefusedError("has far more entries than a network has tensors; save the state dict alone")
    return view[:start + size], start, count


def _name(raw: bytes) -> str:
    name = raw.decode()
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or not name.isprintable() or ":" in parts[0]:
        raise RefusedError(f"holds an entry named {printable(name)}, which torch.save never writes; save it again "
                           f"with torch")
    return name


def _wide(size: int, packed: int, header: int, extra: bytes) -> tuple[int, int, int]:
    """The sizes and the header's place, from the zip64 field where 32 bits are too few."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == _ZIP64_FIELD:
            numbers = iter(struct.unpack_from(f"<{length // 8}Q", extra, position + 4))
            values = [next(numbers, -1) if value == 0xFFFFFFFF else value for value in (size, packed, header)]
            if -1 in values:
                raise BadZipError("an entry has no size")
            return values[0], values[1], values[2]
        position += 4 + length
    return size, packed, header


def _start(view: memoryview, header: int, raw: bytes, size: int) -> int:
    """Where the entry's bytes begin; the local header must name the same entry."""
    if header + _LOCAL.size > len(view):
        raise BadZipError("an entry lies outside the file")
    magic, *_, name_size, extra_size = _LOCAL.unpack_from(view, header)
    named = header + _LOCAL.size
    start = named + name_size + extra_size
    if magic != b"PK\x03\x04" or view[named:named + name_size] != raw or start + size > len(view):
        raise BadZipError(f"the entry {printable(raw.decode())} is damaged")
    return start


def write_stored(stream: BinaryIO, entries: Iterable[tuple[str, bytes | memoryview]]) -> None:
    """Writes (name, bytes) one after the other; the same entries give the same file, on any day and machine.

    The stream must be seekable: sizes and checksums are filled in behind the bytes.
    """
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in entries:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system = 0
            info.file_size = memoryview(data).nbytes
            wide = info.file_size >= zipfile.ZIP64_LIMIT // 2
            # zipfile adds 20 bytes of its own where the sizes need 64 bits.
            before = stream.tell() + _LOCAL.size + len(name.encode()) + 4 + 20 * wide
            info.extra = struct.pack("<2H", _PADDING_FIELD, -before % ALIGNMENT) + bytes(-before % ALIGNMENT)
            with archive.open(info, "w", force_zip64=wide) as entry:
                entry.write(data)
