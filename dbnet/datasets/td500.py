"""MSRA-TD500 (and HUST-TR400), text lines as rotated rectangles.

IMG_0059.gt beside IMG_0059.JPG, with lines `index difficult x y w h angle`: x and y are the top left corner of the
rectangle before it is turned around its centre by `angle` radians, clockwise on the screen; `difficult` 1 means "do
not care". MhLiao/DB's copies (IMG_0059.JPG.txt) have four corners and then `difficult` or a transcription. Those of
DRRG and TextBPN, gt_img_N.txt, number the images in the order of their names and have lines
`xmin,ymin,xmax,ymax,angle,transcription` with the unturned rectangle's corners.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dbnet.datasets.archive import lines_of, parse_coordinates, split_polygon
from dbnet.errors import DbnetError
from dbnet.sample import Sample

#: The last field of MhLiao/DB's lines where nobody cares.
DO_NOT_CARE = ("1", "###")


def parse_labels(text: str, where: str, image: Path) -> Sample:
    """The labels of `image` from the text of its label file; `where` names that file in errors. There are no texts.

    Raises DbnetError with the number of the line that cannot be read.
    """
    polygons, ignore = [], []
    for line_where, line in lines_of(text, where):
        fields = line.split(",")
        if len(fields) > 8:
            polygon, mark = split_polygon(line, line_where)
            difficult = mark.strip() in DO_NOT_CARE
        elif len(fields) == 6:
            polygon = corners_between(parse_coordinates(fields[:5], line_where), line_where)
            difficult = fields[5].strip() == "###"
        else:
            polygon, difficult = parse_rectangle(re.split(r"[\s,]+", line.strip()), line_where)
        polygons.append(polygon)
        ignore.append(difficult)
    return Sample(image, polygons, np.array(ignore, bool), [""] * len(polygons))


def parse_rectangle(fields: list[str], where: str) -> tuple[np.ndarray, bool]:
    """Corners (4, 2) float64 and whether it is difficult, from `index difficult x y w h angle`."""
    if len(fields) != 7 or fields[1] not in ("0", "1"):
        raise DbnetError(f"{where}: not index difficult x y w h angle, with difficult 0 or 1: "
                         f"{' '.join(fields)[:60]!r}")
    _, difficult, *rectangle = parse_coordinates(fields, where)
    return corners(rectangle, where), difficult == 1


def corners_between(rectangle: Sequence[float], where: str) -> np.ndarray:
    """`corners` of xmin, ymin, xmax, ymax in pixels and the angle in radians."""
    xmin, ymin, xmax, ymax, angle = rectangle
    if xmax < xmin or ymax < ymin:
        raise DbnetError(f"{where}: five numbers with commas are xmin,ymin,xmax,ymax,angle, with blanks x y w h angle; "
                         f"here the largest is below the least")
    return corners((xmin, ymin, xmax - xmin, ymax - ymin, angle), where)


def corners(rectangle: Sequence[float], where: str) -> np.ndarray:
    """(4, 2) float64, clockwise from the corner that is the top left one of the unturned rectangle.

    rectangle: x, y, w, h in pixels and angle in radians. Raises DbnetError for sizes below 0 or an angle beyond a full
    turn.
    """
    x, y, w, h, angle = rectangle
    if w < 0 or h < 0 or abs(angle) > 2 * math.pi:
        raise DbnetError(f"{where}: not x y w h angle with w and h of 0 or more and an angle in radians: "
                         f"{x:g} {y:g} {w:g} {h:g} {angle:g}")
    offsets = np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2
    cosine, sine = math.cos(angle), math.sin(angle)
    rotated: np.ndarray = offsets @ np.array([[cosine, sine], [-sine, cosine]])
    return rotated + (x + w / 2, y + h / 2)
