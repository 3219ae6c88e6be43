"""Zip archives taken apart and put together wrongly: .pth files, and the zips that labels and results come in."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random

from tests.fuzz_bytes import NUMBERS, Mutator, remembered

NAMES = ("../../evil.txt", "/etc/passwd", "C:evil.txt", "..\\..\\evil.txt", "a/../../b.txt", "con.txt", "", "/", ".",
         "\x1b[31m.txt", "a\nb.txt", "x" * 600 + ".txt", "y" * 250 + ".txt",
         "archive/data.pkl", "archive/data/0", "archive/../data.pkl",
         "archive/byteorder", "archive/code/x.py", "archive/constants.pkl", "other/data.pkl", "gt_img_1.txt",
         "res_img_1.txt", "res_img_2.json", "GT_IMG_1.TXT", "__MACOSX/res_img_1.txt", "\u202egt_img_1.txt", "a.mat")
STORED, DEFLATED, BZIP2, LZMA = 0, 8, 12, 14


@dataclass(frozen=True)
class Entry:
    """One file. data: its bytes as they are. The other fields are what the archive says of it; None: the truth.

    method: 0, or 8 for deflate. offset: where its header is said to be.
    """

    name: bytes
    data: bytes
    method: int = STORED
    said_method: int | None = None
    crc: int | None = None
    size: int | None = None
    packed: int | None = None
    offset: int | None = None
    flags: int = 0
    extra: bytes = b""
    local_name: bytes | None = None


@dataclass(frozen=True)
class Ending:
    """What the end of the archive says; None: the truth. wide: with a zip64 record before it, of these numbers."""

    count: int | None = None
    size: int | None = None
    start: int | None = None
    comment: bytes = b""
    wide: tuple[int, int, int] | None = None


def build(entries: Sequence[Entry], ending: Ending | None = None, before: bytes = b"") -> bytes:
    """The archive, whatever its parts say."""
    ending = ending or Ending()
    out, directory = bytearray(before), bytearray()
    for entry in entries:
        at = len(out)
        packed = _deflated(entry.data) if entry.method == DEFLATED else entry.data
        said = [zlib.crc32(entry.data) if entry.crc is None else entry.crc,
                len(packed) if entry.packed is None else entry.packed,
                len(entry.data) if entry.size is None else entry.size]
        said = [value % 2**32 for value in said]
        method = entry.method if entry.said_method is None else entry.said_method
        local = entry.name if entry.local_name is None else entry.local_name
        out += struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, entry.flags, method, 0, 33, *said, len(local), 0)
        out += local + packed
        directory += struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, entry.flags, method, 0, 33, *said,
                                 len(entry.name) % 2**16, len(entry.extra), 0, 0, 0, 0,
                                 (at if entry.offset is None else entry.offset) % 2**32) + entry.name + entry.extra
    start = len(out)
    out += directory
    return bytes(out) + _end(len(entries), len(directory), start, len(out), ending)


def _end(count: int, size: int, start: int, at: int, ending: Ending) -> bytes:
    wide = b""
    if ending.wide is not None:
        wide = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, ending.wide[0], *ending.wide)
        wide += struct.pack("<4sIQI", b"PK\x06\x07", 0, at, 1)
    said = [true if given is None else given for true, given in ((count, ending.count), (size, ending.size),
                                                                  (start, ending.start))]
    return wide + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, said[0] % 2**16, said[0] % 2**16, said[1] % 2**32,
                              said[2] % 2**32, len(ending.comment)) + ending.comment


def _deflated(data: bytes) -> bytes:
    return _bomb_deflated(data) if len(data) > 2**19 else _packed(data)


@lru_cache(maxsize=16)
def _bomb_deflated(data: bytes) -> bytes:
    return _packed(data)


def _packed(data: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


@remembered
def entries_of(data: bytes) -> tuple[Entry, ...]:
    """The files of a sound archive, stored or deflated, without zip64; () for anything else."""
    found = []
    try:
        end = data.rfind(b"PK\x05\x06")
        _, _, _, _, count, _, at, _ = struct.unpack_from("<4s4H2IH", data, end)
        for _ in range(count):
            (_, _, _, flags, method, _, _, _, packed, _, name_size, extra_size, comment_size, _, _, _,
             header) = struct.unpack_from("<4s6H3I5H2I", data, at)
            name = data[at + 46:at + 46 + name_size]
            at += 46 + name_size + extra_size + comment_size
            begin = header + 30 + sum(struct.unpack_from("<2H", data, header + 26))
            content = data[begin:begin + packed]
            found.append(Entry(name, zlib.decompress(content, -15) if method == DEFLATED else content, method,
                               flags=flags))
    except (struct.error, zlib.error):
        return ()
    return tuple(found)


def inside(change: Mutator, suffixes: tuple[str, ...]) -> Mutator:
    """A mutator of one entry's bytes, whose name ends so; sizes and checksums are right again."""
    def mutate(chance: Random, data: bytes, others: Sequence[bytes]) -> bytes:
        entries = list(entries_of(data))
        fitting = [i for i, entry in enumerate(entries) if entry.name.decode("latin-1").endswith(suffixes)]
        if not fitting:
            return data[:-1]
        i = chance.choice(fitting)
        strangers = [entry.data for other in others for entry in entries_of(other)
                     if entry.name.decode("latin-1").endswith(suffixes)]
        entries[i] = replace(entries[i], data=change(chance, entries[i].data, strangers))
        return build(entries)
    mutate.__name__ = f"{change.__name__}_inside"
    return mutate


def _bomb(chance: Random, entry: Entry) -> Entry:
    size = chance.choice((2**20, 2**22))
    line = chance.choice((b"\0", b"\n", b"1,", b"1,1,9,1,9,9,1,9\n", b"(", b"a" * 99))
    return replace(entry, data=_filled(line, size), method=DEFLATED, extra=b"",
                   size=chance.choice((None, None, None, 9, 2**26 + 1)))


@lru_cache(maxsize=16)
def _filled(line: bytes, size: int) -> bytes:
    return line * (size // len(line))


def _misstated(chance: Random, entry: Entry) -> Entry:
    field = chance.choice(("crc", "size", "packed", "offset", "said_method", "flags"))
    values = {"said_method": (DEFLATED, BZIP2, LZMA, STORED, 9, 99, 65535),
              "flags": (1, 8, 0x800, 0x41, 0x2000, 65535)}.get(field, NUMBERS)
    return replace(entry, **{field: chance.choice(values)})


def _extended(chance: Random, entry: Entry) -> Entry:
    """A zip64 field, and numbers that point to it."""
    values = [chance.choice(NUMBERS) % 2**64 for _ in range(chance.randrange(5))]
    extra = struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values) if chance.random() < 0.8 else 65535, *values)
    wide = chance.choice(({"size": -1, "packed": -1}, {"offset": -1}, {"size": -1}, {}))
    return replace(entry, extra=extra, **wide)


def _renamed(chance: Random, entry: Entry) -> Entry:
    name = chance.choice(NAMES).encode("utf-8") if chance.random() < 0.9 else chance.randbytes(12)
    return chance.choice((replace(entry, name=name, flags=entry.flags | 0x800), replace(entry, name=name),
                          replace(entry, local_name=name)))


def rebuilt(chance: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One to three entries changed, doubled, left out or from another archive, or an end that lies."""
    entries, ending = list(entries_of(data)), Ending()
    if not entries:
        return data[:-1]
    for _ in range(chance.choice((1, 1, 2, 3))):
        i = chance.randrange(len(entries))
        kind = chance.randrange(10)
        if kind < 5:
            change = (_bomb, _misstated, _misstated, _extended, _renamed)[kind]
            entries[i] = change(chance, entries[i])
        elif kind == 5:
            entries.insert(chance.randrange(len(entries) + 1), entries[i])
        elif kind == 6 and len(entries) > 1:
            del entries[i]
        elif kind == 7:
            entries[i] = chance.choice([entry for other in others for entry in entries_of(other)] or entries)
        elif kind == 8:
            entries[i] = replace(entries[i], offset=chance.choice((0, 1, len(data) // 2, len(data))))
        else:
            number = chance.choice(NUMBERS)
            ending = chance.choice((Ending(count=number), Ending(size=number), Ending(start=number),
                                    Ending(comment=bytes(9)), Ending(comment=b"PK\x05\x06" + bytes(18)),
                                    Ending(count=65535, wide=(number, number, number)),
                                    Ending(start=2**32 - 1, wide=(len(entries), number, chance.choice(NUMBERS)))))
    return build(entries, ending, before=chance.choice((b"", b"", b"", b"MZ junk", data)))


def crowded(chance: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """Very many entries, or all of them one and the same place."""
    entries = list(entries_of(data))
    if not entries:
        return data[:-1]
    many = [replace(entries[-1], name=b"archive/data/%d.txt" % i, data=b"") for i in range(chance.choice((50, 1000)))]
    same = [replace(entry, offset=0) for entry in entries * 3]
    return build(chance.choice((entries + many, many, same)))


ZIP: tuple[Mutator, ...] = (rebuilt, rebuilt, rebuilt, rebuilt, rebuilt, crowded)
