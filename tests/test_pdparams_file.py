"""Paddle's .pdparams. Paddle is not needed: the files are what its paddle.save pickles, made here by `pickle`."""

from __future__ import annotations

import builtins
import pickle
import struct

import ml_dtypes
import numpy as np
import pytest

from converters import pdparams_file
from converters.weights import same_bits
from dbnet.errors import DbnetError

WRITABLE = ("float16", "bfloat16", "float32", "float64")
ARRAYS = {
    "backbone.conv.conv.weight": np.random.default_rng(2).standard_normal((8, 3, 3, 3)).astype(np.float32),
    "backbone.conv.bn._mean": np.array([np.nan, -0.0, np.inf], np.float32),
    "half": np.linspace(0, 1, 5, dtype=np.float16), "double": np.eye(3), "counter": np.array(7),
    "bool": np.array([True, False]), "int8": np.array([[-1], [2]], np.int8), "empty": np.zeros((0, 4), np.float32),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "big-endian": np.arange(3, dtype=">f4"),
}
TABLE = {"StructuredToParameterName@@": {name: f"{i}.w_0" for i, name in enumerate(ARRAYS)}}
TABLE_NOTE = {"StructuredToParameterName@@": f"{len(ARRAYS)} names, dropped"}


@pytest.fixture
def write(tmp_path):
    def to_file(content, protocol=4, suffix=".pdparams"):
        path = tmp_path / f"model{suffix}"
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
        return path
    return to_file


def unchanged(tensors):
    return list(tensors) == list(ARRAYS) and all(same_bits(tensors[name], ARRAYS[name]) for name in ARRAYS)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol(write, protocol):
    read = pdparams_file.read(write({**ARRAYS, **TABLE}, protocol))
    assert unchanged(read.tensors)
    assert all(array.flags.c_contiguous and array.flags.aligned for array in read.tensors.values())
    assert (read.format, read.metadata) == ("pdparams", TABLE_NOTE)
    assert (read.record, read.training, read.notes) == (None, {}, [])


class PaddleTensor:
    """Pickles as paddle.save pickles a tensor that stands in no state dict: tuple((name, array))."""

    def __init__(self, name, array):
        self.pair = name, array

    def __reduce__(self):
        return tuple, (self.pair,)


@pytest.mark.parametrize("pair", [lambda name, array: (name, array), PaddleTensor])
def test_pairs_of_name_and_array(write, pair):
    assert unchanged(pdparams_file.read(write({name: pair(f"{name}.w_0", a) for name, a in ARRAYS.items()})).tensors)


def python2(text):
    return b"U" + bytes([len(text)]) + text


def test_a_file_of_python_2(write):
    """Texts and the arrays' bytes are SHORT_BINSTRING, above 127 too: only latin1 brings them back."""
    values = np.array([1.5, -2.25, 3e38], "<f4")
    dtype = (b"cnumpy\ndtype\n(" + python2(b"f4") + b"K\x00K\x01tR(K\x03" + python2(b"<") + b"NNN"
             + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb")
    array = (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + python2(b"b") + b"tR(K\x01K\x03\x85"
             + dtype + b"\x89" + python2(values.tobytes()) + b"tb")
    read = pdparams_file.read(write(b"\x80\x02}(" + python2(b"neck.in2_conv.weight") + array + b"u."))
    assert list(read.tensors) == ["neck.in2_conv.weight"]
    assert same_bits(read.tensors["neck.in2_conv.weight"], values)


def test_bfloat16_is_what_paddle_stores_as_uint16(write):
    values = np.array([1.5, -0.0, np.inf], ml_dtypes.bfloat16)
    read = pdparams_file.read(write({"a.weight": values.view(np.uint16), "b.weight": values.view(np.uint16)}))
    assert same_bits(read.tensors["a.weight"], values)
    assert len(read.notes) == 1 and "bfloat16" in read.notes[0]


def test_numbers_and_texts_are_metadata(write):
    read = pdparams_file.read(write({**ARRAYS, "epoch": 3, "best": np.float32(0.5), "name": "db"}))
    assert unchanged(read.tensors)
    assert read.metadata == {"epoch": "3", "best": "0.5", "name": "db"}


class LodTensor:
    """Pickles as paddle.save pickles a tensor of a static graph: by `eval`."""

    def __reduce__(self):
        return builtins.eval, ("data", {"data": np.ones(2)})


def with_array_state(*state):
    """A file whose array is built from `state` (version, shape, dtype, Fortran order, bytes)."""
    class State:
        def __reduce__(self):
            return np.core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), state
    return {"a.weight": State()}


F4 = np.dtype("<f4")
REFUSED = {
    "optimizer, by its schedule": ({"a.w_0_moment1_0": np.ones(2), "LR_Scheduler": {"last_epoch": 3}}, "optimizer"),
    "optimizer, by its names": ({"conv2d_0.w_0_moment1_0": np.ones(2), "x": np.ones(2)}, "optimizer"),
    "optimizer, master weights": ({"master_weights": {"a": np.ones(2)}}, "optimizer"),
    "nested": ({"model": ARRAYS, "epoch": 3}, "model is a dict"),
    "list": ([np.ones(2)], "holds a list"), "nothing": ({"a.weight": None}, "a.weight is a NoneType"),
    "objects": ({"a.weight": np.array([{}, []], object)}, "a.weight: .*no tensor"),
    "texts": ({"a.weight": np.array(["x"])}, "a.weight: .*no tensor"),
    "records": ({"a.weight": np.zeros(2, [("a", "f4"), ("b", "i4")])}, "a.weight: .*no tensor"),
    "huge records": ({"a.weight": np.zeros(0, "V1000000000")}, "a.weight: .*no tensor"),
    "dates": ({"a.weight": np.zeros(2, "datetime64[s]")}, "a.weight: .*no tensor"),
    "complex": ({"a.weight": np.zeros(2, complex)}, "a.weight: .*no tensor"),
    "static graph": ({"a.weight": LodTensor()}, "asks for builtins.eval"),
    "in pieces": ({"a.weight@@.0": np.ones(2), "UnpackBigParamInfor@@": {}}, "protocol=4"),
    "name is a number": ({3: np.ones(2)}, "an entry named '3'"),
    "unprintable name": ({"a\x1b[2J": np.ones(2)}, "an entry named"),
    "a set": ({"a.weight": {1, 2}}, "a list, not an array"),
    "shape too long": (with_array_state(1, (1 << 40,), F4, False, bytes(16)), "do not fit"),
    "shape too short": (with_array_state(1, (3,), F4, False, bytes(16)), "do not fit"),
    "shape of huge sizes": (with_array_state(1, (1 << 40, 0, 1 << 40), F4, False, b""), "too large"),
    "shape negative": (with_array_state(1, (-4,), F4, False, bytes(16)), "out of range"),
    "shape of 40 sizes": (with_array_state(1, (1,) * 40, F4, False, bytes(4)), "shape"),
    "bytes not bytes": (with_array_state(1, (1,), F4, False, [1, 2]), "do not fit"),
    "no dtype": (with_array_state(1, (1,), "f4", False, bytes(4)), "dtype"),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("row", REFUSED)
@pytest.mark.filterwarnings("ignore")
def test_refused(write, row, protocol):
    content, message = REFUSED[row]
    path = write(content, protocol)
    with pytest.raises(DbnetError, match=message) as caught:
        pdparams_file.read(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_pdopt_by_its_suffix(write):
    with pytest.raises(DbnetError, match="optimizer's state"):
        pdparams_file.read(write(ARRAYS, suffix=".pdopt"))


@pytest.mark.parametrize(("content", "message"), [
    (b"", "is empty"), (b"<!DOCTYPE html>", "is no .pdparams"), (struct.pack("<IQ", 0, 4), "is no .pdparams"),
    (pickle.dumps(ARRAYS, 4)[:-1], "ends in the middle"), (pickle.dumps(ARRAYS, 4) + b"\0", "1 bytes after its pickle"),
    (pickle.dumps(ARRAYS, 0), "is no .pdparams"),
])
def test_not_such_a_file(write, content, message):
    with pytest.raises(DbnetError, match=message):
        pdparams_file.read(write(content))


@pytest.mark.parametrize("name", ["missing.pdparams", "."])
def test_no_file(tmp_path, name):
    with pytest.raises(DbnetError, match=r"cannot be read|not a regular file"):
        pdparams_file.read(tmp_path / name)


def test_the_trained_model(need):
    lines = need("oracle/paddle_det_mv3_db.names.tsv").read_text().splitlines()
    expected = dict(line.split("\t") for line in lines)
    read = pdparams_file.read(need("weights/db_mv3_icdar15.pdparams"))
    assert {name: ",".join(map(str, array.shape)) for name, array in read.tensors.items()} == expected
    assert {array.dtype.name for array in read.tensors.values()} == {"float32"}
    assert read.metadata == {"StructuredToParameterName@@": "269 names, dropped"}
    assert all(np.isfinite(array).all() for array in read.tensors.values())


# Writing --------------------------------------------------------------------------------------------------------------


def written(path, tensors, record=None):
    with path.open("w+b") as stream:
        pdparams_file.write(stream, tensors, record)
    return path


@pytest.mark.parametrize("dtype", WRITABLE)
def test_what_is_written_is_read_again(tmp_path, dtype):
    rng = np.random.default_rng(4)
    tensors = {f"layer{i}.weight": rng.standard_normal(shape).astype(dtype)
               for i, shape in enumerate([(), (3,), (2, 3, 1, 5), (0, 4)])}
    tensors["fortran"] = np.asfortranarray(rng.standard_normal((3, 4)).astype(dtype))
    read = pdparams_file.read(written(tmp_path / "a.pdparams", tensors, '{"k": "\u00e9"}'))
    assert list(read.tensors) == list(tensors)
    assert all(same_bits(read.tensors[name], np.ascontiguousarray(array).reshape(array.shape))
               for name, array in tensors.items())
    assert read.record == '{"k": "\u00e9"}'
    assert pdparams_file.read(written(tmp_path / "b.pdparams", tensors)).record is None


def test_python_and_so_paddle_reads_it(tmp_path):
    """paddle.load unpickles; the table makes tensors of the arrays."""
    arrays = {name: array for name, array in ARRAYS.items() if array.dtype.name in WRITABLE and array.dtype.isnative}
    found = pickle.loads(written(tmp_path / "a.pdparams", arrays, "text").read_bytes())  # noqa: S301  (its own bytes)
    assert found.pop("StructuredToParameterName@@") == {name: name for name in arrays}
    assert found.pop("dbnet") == "text"
    assert list(found) == list(arrays)
    assert all(same_bits(found[name], np.ascontiguousarray(array)) and found[name].flags.writeable
               for name, array in arrays.items())


def test_bfloat16_is_written_as_paddle_keeps_it(tmp_path):
    array = np.array([1.5, -2, 3e38], ml_dtypes.bfloat16)
    found = pickle.loads(written(tmp_path / "a.pdparams", {"a": array}).read_bytes())["a"]  # noqa: S301  (its own bytes)
    assert (found.dtype, found.tobytes()) == (np.uint16, array.tobytes())


@pytest.mark.parametrize("name", ["dbnet", "StructuredToParameterName@@"])
def test_names_that_mean_something_else_are_refused(tmp_path, name):
    with pytest.raises(DbnetError, match="cannot be named"):
        written(tmp_path / "a.pdparams", {name: np.zeros(3, np.float32)})


def test_types_that_paddle_has_no_place_for_are_refused(tmp_path):
    with pytest.raises(DbnetError, match="int32 cannot be stored"):
        written(tmp_path / "a.pdparams", {"a": np.zeros(3, np.int32)})
