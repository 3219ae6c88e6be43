"""Total-Text, curved words as polygons of any number of points.

Two kinds of label files, both called poly_gt_imgN.txt: the data set's own, with records
`x: [[x1 x2 ...]], y: [[y1 y2 ...]], ornt: [u'c'], transcriptions: [u'text']` that may span lines; and lines
`x1,y1,...,xP,yP,transcription` (TIoU's scripts, MhLiao/DB). Do not care: the transcription `#` or `###`, an
orientation `#`, or no transcription at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dbnet.datasets.archive import lines_of, parse_coordinates, polygon_of, split_polygon
from dbnet.errors import DbnetError
from dbnet.sample import Sample

DO_NOT_CARE = ("#", "###")
RECORD = re.compile(r"\s*x:\s*\[\[([^\]]*)\]\]\s*,\s*y:\s*\[\[([^\]]*)\]\]\s*,\s*ornt:\s*\[([^\]]*)\]\s*,"
                    r"\s*transcriptions:\s*\[(.*)\]\s*,?\s*", re.DOTALL)
START = re.compile(r"^[ \t]*x:[ \t]*\[\[", re.MULTILINE)


def parse_labels(text: str, where: str, image: Path) -> Sample:
    """The labels of `image` from the text of its label file; `where` names that file in errors.

    Raises DbnetError with the number of the line that cannot be read.
    """
    if START.search(text):
        labels = [_parse_record(record, record_where) for record_where, record in _records(text, where)]
    else:
        pairs = [split_polygon(line, line_where) for line_where, line in lines_of(text, where)]
        labels = [(polygon, said.strip(), said.strip() in DO_NOT_CARE) for polygon, said in pairs]
    return Sample(image, [polygon for polygon, _, _ in labels], np.array([ignore for _, _, ignore in labels], bool),
                  [said for _, said, _ in labels])


def _records(text: str, where: str) -> Iterator[tuple[str, str]]:
    """Each record with the line it begins in."""
    lines: list[str] = []
    begun = 1
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        if not line.strip():
            continue
        if lines and START.match(line):
            yield f"{where}, line {begun}", " ".join(lines)
            lines = []
        if not lines:
            begun = number
        lines.append(line)
    yield f"{where}, line {begun}", " ".join(lines)


def _parse_record(record: str, where: str) -> tuple[np.ndarray, str, bool]:
    match = RECORD.fullmatch(record)
    if match is None:
        raise DbnetError(f"{where}: not x: [[...]], y: [[...]], ornt: [u'c'], transcriptions: [u'...']: "
                         f"{record.strip()[:40]!r}")
    x, y = (parse_coordinates(re.split(r"[\s,]+", part.strip(" \t\n,")), where) for part in match.group(1, 2))
    if len(x) != len(y):
        raise DbnetError(f"{where}: {len(x)} x and {len(y)} y; a point has one of each")
    points = list(zip(x, y, strict=True))
    # The release holds texts of one or two points. The official script counts them: texts that nobody can find.
    points += points[-1:] * (3 - len(points))
    text = _quoted(match[4])
    return polygon_of([value for point in points for value in point], where), text, (
        text in ("", *DO_NOT_CARE) or _quoted(match[3]) == "#")


def _quoted(text: str) -> str:
    """What stands between Python's quotes: u'abc' -> abc."""
    quoted = re.fullmatch(r"u?(['\"])(.*)\1", text.strip(), re.DOTALL)
    return re.sub(r"\\(['\"\\])", r"\1", quoted[2]) if quoted else text.strip()
