"""MATLAB 5 files against SciPy's own reader and writer, and against files that were made to hurt."""

from __future__ import annotations

import contextlib
import io
import re
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.io import loadmat, savemat

from dbnet.datasets.matfile import open_variables, read_variables
from dbnet.datasets.matfile_values import CELL, CHAR
from dbnet.errors import DbnetError
from tests.mat_scenes import TEXT_KINDS, Writer, cell_row

ORDERS = ["<", ">"]


def saved(variables: dict, **options) -> bytes:
    stream = io.BytesIO()
    savemat(stream, variables, **options)
    return stream.getvalue()


def read_everything(data: bytes) -> dict:
    """All values of all variables that hold cells, numbers or text: what a reader of labels may touch."""
    values = {}
    for name, variable in read_variables(data, "x.mat").items():
        cells = variable.cells() if variable.mclass == CELL else variable.matrix()
        values[name] = [cells.rows(i) if cells.mclass[i] == CHAR else
                        list(cells.cells(i).shape.tolist()) if cells.mclass[i] == CELL else cells.numbers(i)
                        for i in range(len(cells))]
    return values


# Reading what SciPy writes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
def test_cells_of_scipy(compress):
    rng = np.random.default_rng(0)
    boxes = [rng.uniform(0, 9, (2, 4, 3)).astype("f4"), rng.uniform(0, 9, (2, 4)), np.zeros((0, 0)),
             np.uint8([[1, 2], [3, 4]]), np.int64([[7]]), rng.uniform(0, 9, (2, 4, 1))]
    texts = [np.array(["ab", "cde"]), np.array([""]), np.array("xyz"), np.array(["é", "日本"]), np.array(["a\nb c"])]
    data = saved({"wordBB": cell_row(boxes), "txt": cell_row(texts), "s": {"a": 1}, "n": np.arange(3.0)},
                 do_compression=compress)
    variables = read_variables(data, "x.mat")
    assert {name: variable.shape for name, variable in variables.items()} == {
        "wordBB": (1, 6), "txt": (1, 5), "s": (1, 1), "n": (1, 3)}
    cells = variables["wordBB"].cells()
    for i, box in enumerate(boxes):
        found = cells.numbers(i)
        assert found.dtype == box.dtype and found.shape == box.shape
        assert np.array_equal(found, box)
    assert list(variables["txt"].cells().texts(0, 5)) == [["ab ", "cde"], [], ["xyz"], ["é ", "日本"], ["a\nb c"]]
    assert variables["n"].matrix().numbers(0).tolist() == [[0, 1, 2]]


@given(st.lists(arrays.arrays(st.sampled_from([np.dtype(t) for t in ("f4", "f8", "u1", "i2", "i4", "u2", "i8")]),
                              arrays.array_shapes(min_dims=2, max_dims=3, min_side=0, max_side=4)), max_size=6),
       st.booleans())
@settings(max_examples=60)
def test_numbers_of_scipy(values, compress):
    data = saved({"a": cell_row(values)}, do_compression=compress)
    theirs = loadmat(io.BytesIO(data))["a"].ravel()
    ours = read_everything(data)["a"]
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


# Reading what SciPy does not write ------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("order", ORDERS)
def test_both_byte_orders(order, small, compress):
    writer = Writer(order, small)
    boxes = np.arange(24, dtype="f4").reshape(2, 4, 3)
    data = writer.file(writer.cells([writer.numbers(boxes), writer.numbers(np.float64([[1, 2], [3, 255]]), "u1"),
                                     writer.numbers(np.zeros((0, 0)))], "a"),
                       writer.text(["hi", "you"], "utf-8", name="b"), compress=compress)
    theirs = loadmat(io.BytesIO(data))
    ours = read_everything(data)
    for i in range(3):
        assert np.array_equal(ours["a"][i], theirs["a"][0, i])
        assert ours["a"][i].dtype.isnative
    assert ours["b"] == [theirs["b"].tolist()] == [["hi ", "you"]]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("storage", TEXT_KINDS)
def test_storage_of_text(storage, order):
    rows = ["Straße", "x"] if storage == "uint8" else ["Straße", "日本", "Ω"]
    writer = Writer(order)
    matrix = read_variables(writer.file(writer.text(rows, storage, name="t")), "x.mat")["t"].matrix()
    assert matrix.rows(0) == [row.ljust(6) for row in rows]


@pytest.mark.parametrize("storage", ["uint16", "utf-8", "utf-16"])
@pytest.mark.parametrize("units", [False, True])
def test_characters_above_the_basic_plane(storage, units):
    """MATLAB counts them as two, and SciPy's way of counting is one."""
    writer = Writer()
    data = writer.file(writer.text(["a😀b"], storage, name="t", units=units))
    assert read_variables(data, "x.mat")["t"].matrix().rows(0) == ["a😀b"]


def test_padding_with_nuls_is_taken_off():
    writer = Writer()
    data = writer.file(writer.text(["ab", "c", "d e"], "uint8", pad="\0", name="t"))
    assert read_variables(data, "x.mat")["t"].matrix().rows(0) == ["ab", "c", "d e"]


def test_a_matrix_of_no_bytes_is_empty():
    """MATLAB writes cells that were never set so."""
    writer = Writer()
    data = writer.file(writer.cells([struct.pack("<II", 14, 0), writer.numbers(np.ones((2, 4)))], "a"))
    ours, theirs = read_everything(data)["a"], loadmat(io.BytesIO(data))["a"][0]
    assert ours[0].size == theirs[0].size == 0
    assert np.array_equal(ours[1], theirs[1])


def test_cells_in_cells():
    writer = Writer()
    inner = writer.cells([writer.text(["deep"])])
    for _ in range(500):
        inner = writer.cells([inner])
    cells = read_variables(writer.file(writer.cells([inner], "a")), "x.mat")["a"].cells()
    for _ in range(500):
        assert cells.mclass[0] == CELL
        cells = cells.cells(0)
    assert cells.cells(0).rows(0) == ["deep"]


def test_a_variable_without_a_name_is_left_out():
    """MATLAB keeps the workspace of functions so."""
    writer = Writer()
    data = writer.file(writer.numbers(np.zeros((1, 3), "u1")), writer.numbers(np.ones((1, 1)), name="b"))
    assert list(read_variables(data, "x.mat")) == ["b"]


def test_a_file_is_mapped_and_may_be_removed(tmp_path):
    path = tmp_path / "a.mat"
    path.write_bytes(saved({"a": cell_row([np.arange(8.0).reshape(2, 4)])}))
    cells = open_variables(path)["a"].cells()
    path.unlink()
    assert cells.numbers(0).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


# What is refused ------------------------------------------------------------------------------------------------------


def one_line(call, *arguments) -> str:
    with pytest.raises(DbnetError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


WRITER = Writer()
GOOD = WRITER.file(WRITER.cells([WRITER.numbers(np.ones((2, 4))), WRITER.text(["abcdef"])], "a"))


def claim(data: bytes, at: int, number: int) -> bytes:
    """The same bytes with another 32-bit number at `at`."""
    return data[:at] + struct.pack("<I", number) + data[at + 4:]


def bomb(claimed: int, real: int) -> bytes:
    head = WRITER.matrix(1, (1, 9), b"", "a")
    data = zlib.compress(struct.pack("<II", 14, claimed) + head[8:] + bytes(real))
    return WRITER.header() + struct.pack("<II", 15, len(data)) + data


def without_checksum(data: bytes) -> bytes:
    folded = zlib.compress(data[128:])[:-4]
    return data[:128] + struct.pack("<II", 15, len(folded)) + folded


@pytest.mark.parametrize(("data", "told"), [
    (b"", "is empty"),
    (b"MATLAB 5.0 MAT-file", "cut off"),
    (b"\x89HDF\r\n\x1a\n" + bytes(600), "7.3"),
    (b"MATLAB 7.3 MAT-file".ljust(126) + b"IM" + bytes(384) + b"\x89HDF\r\n\x1a\n" + bytes(600), "-v7"),
    (b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(384), "version 2.0"),
    (b"<!DOCTYPE html>" + bytes(600), "no MATLAB 5 file"),
    (b"version https://git-lfs.github.com/spec/v1".ljust(200), "no MATLAB 5 file"),
    (GOOD[:-8], "cut off"),
    (GOOD + b"\x0e\0\0", "cut off at byte"),
    (GOOD + bytes(8), "no variable begins"),
    (GOOD + GOOD[128:], "'?a'? twice|a twice"),
    (claim(GOOD, 132, 2**31), "cut off"),
    (bomb(2**32 - 1, 2**20), "claim to unfold"),
    (bomb(2**20, 2**21), "more than"),
    (bomb(2**21, 2**20), "ends after"),
    (WRITER.header() + struct.pack("<II", 15, 40) + b"x" * 40, "cannot be unfolded"),
    (WRITER.header() + WRITER.folded(b"abc"), "no matrix"),
    (without_checksum(GOOD), "ends after"),
    (WRITER.file(GOOD[128:], compress=True)[:-1] + b"x", "cannot be unfolded"),
    (WRITER.header() + struct.pack("<II", 14, 0), "is complete|no matrix"),
])
def test_files_that_are_refused(data, told):
    assert re.search(told, one_line(read_everything, data))


@pytest.mark.parametrize(("content", "told"), [
    (WRITER.cells([WRITER.numbers(np.ones((2, 4)))], "a", shape=(1, 2**30)), "claims 1073741824 entries"),
    (WRITER.cells([WRITER.numbers(np.ones((2, 4)))], "a", shape=(2**31 - 1, 2**31 - 1)), "entries in"),
    (WRITER.cells([WRITER.numbers(np.ones((2, 4)))], "a", shape=(1, -1)), "negative"),
    (WRITER.cells([WRITER.numbers(np.ones((2, 4)))], "a", shape=(1, 2)), "entry 2"),
    (WRITER.cells([WRITER.matrix(6, (2**16, 2**16), WRITER.part(9, bytes(8)))] * 2, "a"), "as many values"),
    (WRITER.cells([WRITER.matrix(6, (1, 2), WRITER.part(77, bytes(16)))] * 2, "a"), "entry 1.*unknown type"),
    (WRITER.cells([WRITER.matrix(6, (0, 0), WRITER.part(0, b""))], "a"), "unknown type"),
    (WRITER.cells([WRITER.matrix(4, (1, 2), WRITER.part(272, b"ab"))], "a"), "unknown type"),
    (WRITER.cells([WRITER.matrix(6, (1, 1), struct.pack("<II", 9, 2**31) + bytes(8))], "a"), "claims more bytes"),
    (WRITER.cells([WRITER.matrix(6, (1, 1), WRITER.part(9, bytes(8)), flags=0x800)], "a"), "complex"),
    (WRITER.cells([WRITER.numbers(np.ones((1, 1))).replace(struct.pack("<II", 1, 0), struct.pack("<II", 2, 0))], "a"),
     "no name"),
    (WRITER.cells([WRITER.matrix(4, (1, 5), WRITER.part(16, b"abc"))], "a"), "3 characters where the shape says 5"),
    (WRITER.cells([WRITER.matrix(4, (1, 3), WRITER.part(16, b"a\xff\xfe"))], "a"), "cannot be decoded"),
    (WRITER.cells([WRITER.matrix(4, (1, 3), WRITER.part(9, b"a\xff\xfe"))], "a"), "cannot be decoded"),
    (WRITER.cells([WRITER.matrix(4, (1, 3, 2), WRITER.part(16, b"abcdef"))], "a"), "not a text"),
    (WRITER.cells([WRITER.matrix(5, (1, 1), bytes(64))], "a"), "not a matrix of numbers"),
    (WRITER.cells([struct.pack("<II", 14, 2**31) + bytes(64)], "a"), "claims more bytes"),
    (WRITER.cells([struct.pack("<II", 13, 8) + bytes(8)], "a"), "is no matrix"),
    (WRITER.cells([struct.pack("<II", 14, 12) + bytes(12)] * 2, "a"), "does not begin where"),
])
@pytest.mark.parametrize("compress", [False, True])
def test_variables_that_are_refused(content, told, compress):
    message = one_line(read_everything, WRITER.file(content, compress=compress))
    assert re.search(told, message)
    assert message.startswith("x.mat, byte 128" if "negative" in told else "x.mat, 'a'")


def test_a_path_that_is_no_file(tmp_path):
    assert "is no file" in one_line(open_variables, tmp_path)
    assert "cannot be read" in one_line(open_variables, tmp_path / "absent.mat")
    (tmp_path / "empty.mat").touch()
    assert "is empty" in one_line(open_variables, tmp_path / "empty.mat")


MIXED = [saved({"a": cell_row([np.ones((2, 4, 2), "f4"), np.zeros((0, 0)), np.array(["ab", "c"])]), "b": np.arange(5)},
               do_compression=compress) for compress in (False, True)]


@pytest.mark.parametrize("data", MIXED, ids=["plain", "compressed"])
def test_every_cut_is_noticed(data):
    whole = {128 + 8 + struct.unpack_from("<I", data, 132)[0], len(data)}  # after the first variable, after both
    for length in range(len(data)):
        if length not in whole and length != 128:
            one_line(read_everything, data[:length])
    assert set(read_everything(data)) == {"a", "b"}


@given(st.sampled_from(MIXED), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=400)
def test_damage_is_told_or_harmless(data, changes):
    """No other exception than ours, no endless loop, no gigabytes."""
    spoilt = bytearray(data)
    for at, value in changes:
        spoilt[at % len(data)] = value
    with contextlib.suppress(DbnetError):
        read_everything(bytes(spoilt))
