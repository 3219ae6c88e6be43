"""Total-Text's labels as MATLAB files, poly_gt_imgN.mat: the same as the text files that `totaltext` reads.

One variable, `polygt` (`gt` in the training set): a cell array with a row for each text, of six columns: 'x:', the x,
'y:', the y, the transcription, the orientation. The orientation may lack.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dbnet.datasets.archive import check_range, polygon_of
from dbnet.datasets.matfile import Variable, read_variables
from dbnet.datasets.matfile_values import CELL, CHAR, Matrices
from dbnet.datasets.totaltext import DO_NOT_CARE
from dbnet.errors import DbnetError
from dbnet.sample import Sample

NAMES = ("polygt", "gt")
#: Of the rectangles, which the release has beside the polygons.
RECTANGLES = "rectgt"
#: Of SynthText's gt.mat, in lower case.
SYNTHTEXT = {"imnames", "wordbb"}
COLUMNS = "'x:', x, 'y:', y, transcription, orientation"


def parse_mat(data: bytes, where: str, image: Path) -> Sample:
    """The labels of `image` from the bytes of its .mat file; `where` names that file in errors.

    Do not care: the transcription `#` or `###`, none at all, or an orientation `#`. Raises DbnetError with the number
    of the row that cannot be read.
    """
    variable = _labels(read_variables(data, where), where)
    rows, columns = variable.shape[0], int(np.prod(variable.shape[1:], dtype=np.float64))
    if not rows * columns:
        return Sample(image, [], np.zeros(0, bool), [])
    if variable.mclass != CELL or len(variable.shape) != 2 or columns not in (5, 6):
        shape = " x ".join(map(str, variable.shape))
        raise DbnetError(f"{variable.where}: {shape} of class {variable.mclass}, where each text is a row of cells: "
                         f"{COLUMNS}")
    cells = variable.cells()
    labels = [_row(cells, row, rows, columns, f"{where}, row {row + 1}") for row in range(rows)]
    return Sample(image, [polygon for polygon, _, _ in labels], np.array([ignore for _, _, ignore in labels], bool),
                  [text for _, text, _ in labels])


def _labels(variables: dict[str, Variable], where: str) -> Variable:
    found = [variables[name] for name in variables if name.lower() in NAMES]
    if len(found) == 1:
        return found[0]
    if any(name.lower() == RECTANGLES for name in variables):
        raise DbnetError(f"{where}: holds the upright rectangles ({RECTANGLES}); give the release's folder Polygon")
    if {name.lower() for name in variables} >= SYNTHTEXT:
        raise DbnetError(f"{where}: is SynthText's gt.mat; say so: dbnet data check synthtext --images DIR --labels "
                         f"{where}")
    held = ", ".join(variables) or "nothing"
    raise DbnetError(f"{where}: holds {held}, where Total-Text has one variable {' or '.join(NAMES)}; give its own "
                     f"poly_gt_*.mat files")


def _row(cells: Matrices, row: int, rows: int, columns: int, where: str) -> tuple[np.ndarray, str, bool]:
    """Polygon, transcription and whether nobody cares; the columns stand `rows` entries apart."""
    titles = [_text(cells, row + column * rows, where) for column in (0, 2)]
    if [title.strip().lower()[:1] for title in titles] != ["x", "y"]:
        raise DbnetError(f"{where}: has {titles[0][:20]!r} and {titles[1][:20]!r} before its numbers; each text is a "
                         f"row of {COLUMNS}")
    x, y = (_numbers(cells, row + column * rows, where) for column in (1, 3))
    if len(x) != len(y):
        raise DbnetError(f"{where}: {len(x)} x and {len(y)} y; a point has one of each")
    points = list(zip(x, y, strict=True))
    points += points[-1:] * (3 - len(points))  # texts of one or two points count, as in the text files
    text = _text(cells, row + 4 * rows, where)
    orientation = _text(cells, row + 5 * rows, where) if columns == 6 else ""
    return polygon_of([value for point in points for value in point], where), text, (
        text in ("", *DO_NOT_CARE) or orientation == "#")


def _numbers(cells: Matrices, i: int, where: str) -> list[float]:
    numbers: list[float] = cells.numbers(i).astype(np.float64).ravel().tolist()
    check_range(numbers, where)
    return numbers


def _text(cells: Matrices, i: int, where: str) -> str:
    """What a cell says; a cell in the cell is looked into, once."""
    if cells.mclass[i] == CELL:
        inner = cells.cells(i)
        if len(inner) > 1:
            raise DbnetError(f"{where}: {len(inner)} cells in a cell, where a text belongs")
        cells, i = inner, 0
        if not len(inner):
            return ""
    if cells.mclass[i] != CHAR and cells.size[i]:
        raise DbnetError(f"{where}: a matrix of class {cells.mclass[i]}, where a text belongs")
    return " ".join(row.rstrip() for row in cells.rows(i)) if cells.shape[i, 0] > 1 else "".join(cells.rows(i))
