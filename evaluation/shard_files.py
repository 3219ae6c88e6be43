"""The report of one part of an evaluation (`dbnet evaluate --shard I/N --json`), read without holding its images.

`Evaluation.write_json` writes an image to a line. So of a file only the places of these lines are kept; one that
another program has formatted anew is the same JSON, and is read whole.
"""

from __future__ import annotations

import json
import math
import zlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from dbnet.errors import DbnetError, short
from evaluation.part import KEY
from evaluation.store import MAX_LINE

#: Levels of a report.
_DEEPEST = 20
_DECODER = json.JSONDecoder()
_GIVE = "give what dbnet evaluate --shard I/N --json wrote"
#: How `Evaluation.write_json` begins the object of the images, and ends it.
_BEGIN, _END = b' "images": {\n', (b" }\n", b" },\n")


class PartReport:
    """where: the file, in errors. head: the report without its images. names: of the images, in their order."""

    def __init__(self, where: str, head: dict[str, Any], names: list[str], entry: Callable[[int], dict[str, Any]]):
        self.where, self.head, self.names, self._entry = where, head, names, entry

    def entry(self, index: int) -> dict[str, Any]:
        """What the report has of an image. Raises DbnetError if its file was changed meanwhile."""
        return self._entry(index)


def of_document(document: Any, where: str) -> PartReport:
    """Of a report that was read already. Raises DbnetError for anything that is no part of an evaluation."""
    told = check_part(document, where)
    entries = list(told["images"].values())
    return PartReport(where, {**told, "images": {}}, list(told["images"]), entries.__getitem__)


def of_file(path: Path) -> PartReport:
    """Raises DbnetError for a file that cannot be read, or is no part of an evaluation."""
    where = str(path)
    try:
        with path.open("rb") as stream:
            found = _lines(stream, where)
            if found is None:
                stream.seek(0)
                return of_document(_json(_text(stream.read(), where), where), where)
    except OSError as error:
        raise DbnetError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    head, names, places, sums = found
    check_part(head, where)

    def entry(index: int) -> dict[str, Any]:
        with path.open("rb") as again:
            again.seek(places[index])
            line = again.readline(MAX_LINE)
        if zlib.crc32(line) != sums[index]:
            raise DbnetError(f"{path}: was changed while it was read; merge again")
        return _image(line, f"{where}, {names[index][:80]}")[1]

    return PartReport(where, head, names, entry)


def is_part(document: Any) -> bool:
    """Whether parsed JSON says that it is what `dbnet evaluate --shard` writes."""
    return isinstance(document, dict) and isinstance(document.get(KEY), dict) and "scores" in document


def check_part(document: Any, where: str) -> dict[str, Any]:
    """The document. Raises DbnetError unless it has what every part of an evaluation has."""
    needed = {"scores": dict, "protocols": dict, "images": dict, "versions": dict, "settings": dict}
    if not isinstance(document, dict) or not all(isinstance(document.get(name), kind) for name, kind in needed.items()):
        raise DbnetError(f"{where}: is no report of an evaluation; {_GIVE}")
    if not all(_is_flat(value, _DEEPEST) for name, value in document.items() if name != "images"):
        raise DbnetError(f"{where}: is nested more than {_DEEPEST} levels deep, as no report is; {_GIVE}")
    if not is_part(document):
        raise DbnetError(f"{where}: is a whole evaluation, no part of one; {_GIVE}")
    return document


def _is_flat(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return levels > 0 and all(_is_flat(each, levels - 1) for each in inner)


def _lines(stream: BinaryIO, where: str) -> tuple[dict[str, Any], list[str], array[int], array[int]] | None:
    """The head, and of each image its name, the place of its line and the line's CRC-32. None for another layout."""
    head, places, sums = bytearray(), array("Q"), array("L")
    names: list[str] = []
    inside = found = False
    place = 0
    while line := stream.readline(MAX_LINE):
        if not line.endswith(b"\n"):
            return None
        if inside and line not in _END:
            if (name := _name(line)) is None:
                return None
            names.append(name)
            places.append(place)
            sums.append(zlib.crc32(line))
        else:
            head += line
            inside = line == _BEGIN and not found
            found = found or inside
        place += len(line)
    return (_json(_text(bytes(head), where), where), names, places, sums) if found else None


def _name(line: bytes) -> str | None:
    """Of a line that may hold an image alone."""
    if not line.startswith(b'  "') or not line.endswith((b"}\n", b"},\n")):
        return None
    try:
        return str(_DECODER.raw_decode(line.decode(), 2)[0])
    except ValueError:
        return None


def _image(line: bytes, where: str) -> tuple[str, dict[str, Any]]:
    """The name and the object of a line. Raises DbnetError for one that has no image alone."""
    told = _json("{" + _text(line, where).strip().removesuffix(",") + "}", where)
    entries = list(told.items())
    if len(entries) != 1 or not isinstance(entries[0][1], dict):
        raise DbnetError(f"{where}: is damaged; make the part again")
    return entries[0]


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DbnetError(f"{where}: is no text (UTF-8), so no report; {_GIVE}") from error


def _json(text: str, where: str) -> Any:
    """Raises DbnetError for what is no JSON, has a key twice, or a number that is none."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_number, parse_float=_number)
    except (ValueError, RecursionError) as error:
        raise DbnetError(f"{where}: is damaged, or no report ({short(error, 80)}); {_GIVE}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key is set twice")
    return values


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number")
    return value


def each(report: PartReport) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every image of a part with what the report has of it, one after the other."""
    for index, name in enumerate(report.names):
        yield name, report.entry(index)
