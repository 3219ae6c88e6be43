"""Lines of result files, one detection each, in every form that a data set's detectors write."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from dbnet.datasets import td500
from dbnet.datasets.archive import is_number, lines_of, parse_coordinates, polygon_of
from dbnet.errors import DbnetError
from dbnet.sample import Detection

#: A detection of a detector that gives no score.
NO_SCORE = 1.0


def parse_lines(text: str, where: str, dataset: str) -> list[Detection]:
    """The detections of one image, in the file's order. dataset: one of `dbnet.datasets.labels.FORMATS`.

    Raises DbnetError with the number of the line that cannot be read.
    """
    parse = PARSERS.get(dataset, _polygon)
    return [parse(line.strip(), line_where) for line_where, line in lines_of(text, where)]


def _quad(line: str, where: str) -> Detection:
    """`x1,y1,x2,y2,x3,y3,x4,y4` and perhaps a score, as the competition's script takes it: any number is a score."""
    fields = line.rstrip(", \t").split(",")
    if len(fields) not in (8, 9):
        raise DbnetError(f"{where}: {len(fields)} fields, not x1,y1,x2,y2,x3,y3,x4,y4 and perhaps a score"
                         f"{_hint(fields)}")
    return _detection(_numbers(fields, where), 8, where)


def _polygon(line: str, where: str) -> Detection:
    """`x1,y1,...,xP,yP`, P >= 3, and perhaps a score; separated by commas or blanks, a comma at the end is allowed."""
    fields = _fields(line)
    numbers = _numbers(fields, where)
    coordinates = len(numbers) - len(numbers) % 2
    if len(numbers) % 2 and (len(numbers) < 7 or not 0 <= numbers[-1] <= 1):
        raise DbnetError(f"{where}: {len(numbers)} numbers; a polygon is x and y of three or more points, and perhaps "
                         f"a score from 0 to 1")
    return _detection(numbers, coordinates, where)


def _td500(line: str, where: str) -> Detection:
    """`x y w h angle` as in the labels or `xmin,ymin,xmax,ymax,angle`, and perhaps a score; a whole line of the labels;
    or corners as `_polygon`.
    """
    fields = _fields(line)
    if len(fields) not in (5, 6, 7):
        return _polygon(line, where)
    numbers = _numbers(fields, where)
    if len(fields) == 7:
        polygon, _ = td500.parse_rectangle(fields, where)
    else:
        # The same five numbers would fit both, so the separator tells: commas are DRRG's and TextBPN's.
        polygon = (td500.corners_between if "," in line else td500.corners)(numbers[:5], where)
    return Detection(polygon.astype(np.float32), numbers[5] if len(fields) == 6 else NO_SCORE)


PARSERS: dict[str, Callable[[str, str], Detection]] = {"icdar2015": _quad, "mlt2017": _quad, "td500": _td500}


def _detection(numbers: list[float], coordinates: int, where: str) -> Detection:
    score = numbers[coordinates] if len(numbers) > coordinates else NO_SCORE
    return Detection(polygon_of(numbers[:coordinates], where).astype(np.float32), score)


def _fields(line: str) -> list[str]:
    return re.split(r"\s*,\s*|\s+", line.rstrip(", \t"))


def _numbers(fields: list[str], where: str) -> list[float]:
    try:
        return parse_coordinates(fields, where)
    except DbnetError as error:
        raise DbnetError(f"{error}{_hint(fields)}") from error


def _hint(fields: list[str]) -> str:
    """What to add where a line ends like a label."""
    texts = [field for field in fields if not is_number(field)]
    if len(fields) > 6 and all(map(is_number, fields[:6])) and any(text.strip().isprintable() for text in texts):
        return "; lines with transcriptions are labels: are --gt and --results the other way round?"
    return ""
