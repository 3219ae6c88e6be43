"""Whether files are the published ones that their names say, without fetching anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dbnet.errors import DbnetError
from dbnet.fetch import sha256, why_wrong
from dbnet.published import Entry, by_digest


@dataclass(frozen=True)
class Verdict:
    """right: the file is `entry`, a published one. words: what it is."""

    path: Path
    right: bool
    words: str
    entry: Entry | None


def check_file(path: Path, known: Sequence[Entry], wanted: Entry | None = None) -> Verdict:
    """One file, whatever its name; with `wanted` it must be that one. Raises DbnetError if it cannot be read."""
    if not path.exists():
        raise DbnetError(f"{path}: is not there; fetch it without --check")
    digest = sha256(path)
    found = by_digest(digest, known)
    named = wanted or next((entry for entry in known if entry.file == path.name), None)
    if found is not None and named in (None, found):
        return Verdict(path, True, f"{found.name} {found.variant}, SHA-256 {digest}", found)
    if named is None:
        return Verdict(path, False, f"none of the {len(known)} published files, SHA-256 {digest}", None)
    words = why_wrong(path, named)
    return Verdict(path, False, f"{words}; it is {found.file}" if found else words, named)


def check_cache(cache: Path, known: Sequence[Entry]) -> list[Verdict]:
    """Every published file in the cache. Raises DbnetError if one cannot be read."""
    return [check_file(path, known, entry) for entry in known if (path := cache / entry.file).is_file()]
