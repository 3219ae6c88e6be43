"""MLT 2017, multi-lingual scene text (Robust Reading Competition, challenge 8, task 1).

Labels as in ICDAR 2015 with the script of the text before its transcription: `gt_img_N.txt` with lines
`x1,y1,x2,y2,x3,y3,x4,y4,script,transcription`; `###` means "do not care".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dbnet.datasets.archive import lines_of, parse_coordinates, polygon_of, unquoted
from dbnet.datasets.icdar2015 import DO_NOT_CARE
from dbnet.errors import DbnetError
from dbnet.sample import Sample

#: The scripts of the data set; MLT 2019, which is written in the same way, adds Hindi.
SCRIPTS = ("Arabic", "Latin", "Chinese", "Japanese", "Korean", "Bangla", "Hindi", "Symbols", "Mixed", "None")


def parse_labels(text: str, where: str, image: Path) -> Sample:
    """The labels of `image` from the text of its label file; `where` names that file in errors.

    Raises DbnetError with the number of the line that cannot be read.
    """
    polygons, texts = [], []
    for line_where, line in lines_of(text, where):
        fields = line.split(",", 9)
        if len(fields) != 10 or fields[8].strip() not in SCRIPTS:
            raise DbnetError(f"{line_where}: not x1,y1,x2,y2,x3,y3,x4,y4,script,transcription with a script of "
                             f"{', '.join(SCRIPTS)}: {line[:60]!r}")
        polygons.append(polygon_of(parse_coordinates(fields[:8], line_where), line_where))
        texts.append(unquoted(fields[9]))
    return Sample(image, polygons, np.array([text == DO_NOT_CARE for text in texts], bool), texts)
