"""Total-Text's .mat files against its text files: the same labels, whichever way they came."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from dbnet.datasets import totaltext
from dbnet.datasets.totaltext_mat import parse_mat
from dbnet.errors import DbnetError
from tests.mat_scenes import Writer, cell_row

IMAGE = Path("img7.jpg")
Text = tuple[list[float], list[float], str, str]


def table(texts: list[Text], dtype: str = "i2", columns: int = 6) -> np.ndarray:
    """The cell array of the release: a row for each text."""
    cells = np.empty((len(texts), columns), object)
    for row, (x, y, text, orientation) in zip(cells, texts, strict=True):
        row[:] = ["x:", np.array([x], dtype), "y:", np.array([y], dtype), text, orientation][:columns]
    return cells


def mat_file(cells: np.ndarray, name: str = "polygt", **options) -> bytes:
    stream = io.BytesIO()
    savemat(stream, {name: cells}, **options)
    return stream.getvalue()


def text_file(texts: list[Text]) -> str:
    """The same in the release's other form."""
    return "\n".join(f"x: [[{' '.join(map(str, x))}]], y: [[{' '.join(map(str, y))}]], ornt: [u'{orientation}'], "
                     f"transcriptions: [u'{text}']" for x, y, text, orientation in texts)


def plain_file(writer: Writer, texts: list[Text], storage: str) -> bytes:
    """As MATLAB would write it."""
    rows = [[writer.text(["x:"]), writer.numbers(np.float64([x]), "u2"), writer.text(["y:"]),
             writer.numbers(np.float64([y]), "i2"), writer.text([text] if text else [], storage),
             writer.text([orientation], storage)] for x, y, text, orientation in texts]
    children = [row[column] for column in range(6) for row in rows]
    return writer.file(writer.cells(children, "polygt", (len(rows), 6)), compress=True)


def assert_same(found, wanted) -> None:
    assert found.image == wanted.image
    assert found.texts == wanted.texts
    assert found.ignore.tolist() == wanted.ignore.tolist() and found.ignore.dtype == bool
    assert [polygon.tolist() for polygon in found.polygons] == [polygon.tolist() for polygon in wanted.polygons]
    assert all(polygon.dtype == np.float64 for polygon in found.polygons)


TEXTS: list[Text] = [
    ([1, 20, 30, 31, 15], [2, 2, 9, 20, 25], "PETROSAINS", "c"),
    ([1, 20, 30, 31], [2, 2, 9, 20], "two words, comma", "h"),
    ([1, 20, 30, 31], [2, 2, 9, 20], "#", "h"),
    ([1, 20, 30, 31], [2, 2, 9, 20], "###", "m"),
    ([1, 20, 30, 31], [2, 2, 9, 20], "seen", "#"),
    ([1, 20, 30, 31], [2, 2, 9, 20], "", "h"),
    ([7], [8], "#", "#"),
    ([7, 9], [8, 9], "of", "h"),
]


@pytest.mark.parametrize("name", ["polygt", "gt", "PolyGT"])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8"])
def test_the_same_as_the_text_file(name, compress, dtype):
    data = mat_file(table(TEXTS, dtype), name, do_compression=compress)
    assert_same(parse_mat(data, "poly_gt_img7.mat", IMAGE), totaltext.parse_labels(text_file(TEXTS), "", IMAGE))


LETTERS = st.text(st.characters(codec="utf-8", exclude_characters="'\"\\#\n\r\0", exclude_categories=["C", "Z"]),
                  min_size=1, max_size=8)
POINTS = st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3000)), min_size=1, max_size=12)


@given(st.lists(st.tuples(POINTS, LETTERS, st.sampled_from("chm#")), min_size=1, max_size=5))
@settings(max_examples=50)
def test_any_labels(labels):
    texts = [([x for x, _ in points], [y for _, y in points], text, orientation)
             for points, text, orientation in labels]
    wanted = totaltext.parse_labels(text_file(texts), "", IMAGE)
    assert_same(parse_mat(plain_file(Writer(), texts, "utf-8"), "", IMAGE), wanted)


def test_columns_of_numbers_and_texts_in_cells():
    cells = table(TEXTS[:2])
    cells[0, 1], cells[0, 3] = cells[0, 1].T, cells[0, 3].T
    cells[1, 4] = cell_row([TEXTS[1][2]])
    assert_same(parse_mat(mat_file(cells), "", IMAGE), totaltext.parse_labels(text_file(TEXTS[:2]), "", IMAGE))


def test_no_transcription_is_an_empty_matrix_in_some_files():
    cells = table(TEXTS[:2])
    cells[0, 4], cells[1, 4] = np.empty((0, 0)), np.empty((1, 0), object)
    sample = parse_mat(mat_file(cells), "", IMAGE)
    assert sample.texts == ["", ""] and sample.ignore.all()


def test_without_the_orientation():
    sample = parse_mat(mat_file(table(TEXTS[:3], columns=5)), "", IMAGE)
    assert sample.texts == [text for _, _, text, _ in TEXTS[:3]] and sample.ignore.tolist() == [False, False, True]


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_file_as_matlab_writes_it(order):
    """Doubles in the smallest type, characters in sixteen bits, either byte order."""
    data = plain_file(Writer(order), TEXTS, "uint16")
    assert_same(parse_mat(data, "", IMAGE), totaltext.parse_labels(text_file(TEXTS), "", IMAGE))


@pytest.mark.parametrize("cells", [np.empty((0, 6), object), np.empty((0, 0))])
def test_an_image_without_text(cells):
    sample = parse_mat(mat_file(cells), "", IMAGE)
    assert sample.polygons == [] and sample.texts == [] and sample.ignore.shape == (0,)


def with_cell(row: int, column: int, value: object) -> bytes:
    cells = table(TEXTS[:2])
    cells[row, column] = value
    return mat_file(cells)


@pytest.mark.parametrize(("data", "told"), [
    (b"", "is empty"),
    (b"x: [[1 2 3]], y: [[1 2 3]]".ljust(300), "no MATLAB 5 file"),
    (mat_file(table(TEXTS))[:-40], "cut off"),
    (mat_file(table(TEXTS), "wordBB"), "holds wordBB, where Total-Text has one variable polygt or gt"),
    (mat_file(table(TEXTS), "rectgt"), "upright rectangles"),
    (Writer().header(), "holds nothing"),
    (mat_file(np.ones((2, 6))), "2 x 6 of class 6"),
    (mat_file(np.ones((2, 6, 2)).astype(object)), "2 x 6 x 2"),
    (mat_file(table(TEXTS, columns=4)), "8 x 4"),
    (mat_file(table(TEXTS).T), "6 x 8"),
    (with_cell(1, 0, "y:"), "row 2: has 'y:' and 'y:'"),
    (with_cell(1, 2, np.ones((1, 2))), "row 2: a matrix of class 6, where a text belongs"),
    (with_cell(1, 1, "abc"), "entry 4: is not a matrix of numbers"),
    (with_cell(1, 1, np.array([[1, 2, 3]])), "row 2: 3 x and 4 y"),
    (with_cell(1, 1, np.array([[1, 2, np.nan, 4]])), "row 2: a number is out of range: nan"),
    (with_cell(1, 3, np.array([[1, 2, 1e9, 4]])), "row 2: a number is out of range"),
    (with_cell(1, 3, np.array([[1, 2, 3, np.inf]])), "row 2: a number is out of range: inf"),
    (with_cell(1, 4, np.ones((1, 3))), "row 2: a matrix of class 6"),
    (with_cell(1, 4, cell_row(["a", "b"])), "row 2: 2 cells in a cell"),
    (with_cell(1, 4, cell_row([cell_row(["a"])])), "row 2: a matrix of class 1"),
    (with_cell(0, 1, np.zeros((1, 0))), "row 1: 0 x and 5 y"),
])
def test_files_that_are_refused(data, told):
    with pytest.raises(DbnetError) as caught:
        parse_mat(data, "poly_gt_img7.mat", IMAGE)
    assert re.search(told, str(caught.value)) and str(caught.value).startswith("poly_gt_img7.mat")
