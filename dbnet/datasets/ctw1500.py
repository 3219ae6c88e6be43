"""SCUT-CTW1500, curved text lines, each outlined by 14 points.

Three kinds of label files are in use: the test labels of the first release (`gt_ctw1500.zip`, 0001001.txt) with lines
`x1,y1,...,x14,y14,####text`; those of the TIoU and Curve-Text-Detector scripts (1001.txt), where `CARE` stands for
every text; and the XML of the training set. The transcription `###` (so `#######` in the first release) means "do not
care": of 3,068 test texts the scripts' own labels ignore none.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from dbnet.datasets.archive import is_number, lines_of, parse_coordinates, polygon_of, split_polygon
from dbnet.errors import DbnetError
from dbnet.sample import Sample

DO_NOT_CARE = "###"
#: Stands before every transcription of the first release.
MARK = "####"
#: Numbers of a line of `text_label_circum`: a box x1, y1, x2, y2, then 14 points relative to x1, y1.
RELATIVE = 32


def parse_labels(text: str, where: str, image: Path) -> Sample:
    """The labels of `image` from the text of its label file, .txt or .xml; `where` names that file in errors.

    Raises DbnetError with the number of the line, or of the box, that cannot be read.
    """
    if text.lstrip().startswith("<"):
        labels = _parse_xml(text, where)
    else:
        labels = [_parse_line(line, line_where) for line_where, line in lines_of(text, where)]
    texts = [text for _, text in labels]
    return Sample(image, [polygon for polygon, _ in labels], np.array([t == DO_NOT_CARE for t in texts], bool), texts)


def _parse_line(line: str, where: str) -> tuple[np.ndarray, str]:
    fields = line.strip().rstrip(",").split(",")
    if len(fields) == RELATIVE and all(map(is_number, fields)):
        numbers = parse_coordinates(fields, where)
        return polygon_of(numbers[4:], where) + numbers[:2], ""
    polygon, text = split_polygon(line, where)
    return polygon, text.strip().removeprefix(MARK)


def _parse_xml(text: str, where: str) -> list[tuple[np.ndarray, str]]:
    """Boxes as `<box><label>text</label><segs>x1,y1,...</segs></box>`."""
    if "<!DOCTYPE" in text:  # it may define entities that grow without end
        raise DbnetError(f"{where}: declares a document type, which no label file of CTW1500 has; take it out")
    try:
        boxes = list(ElementTree.fromstring(text).iter("box"))
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise DbnetError(f"{where}: no XML that can be read ({error})") from error
    labels = []
    for number, box in enumerate(boxes, start=1):
        box_where = f"{where}, box {number}"
        points = (box.findtext("segs") or "").strip().strip(",").split(",")
        labels.append((polygon_of(parse_coordinates(points, box_where), box_where), box.findtext("label") or ""))
    return labels
