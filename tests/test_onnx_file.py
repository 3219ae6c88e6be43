"""The .onnx codec against the onnx package, and against files that onnx writes otherwise."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from converters import onnx_file, onnx_wire
from converters.tensor_file import TensorFile, Weights
from converters.weights import same_bits
from dbnet.errors import DbnetError
from dbnet.parameters import parameters
from dbnet.spec import SPECS, ModelSpec

MV3 = SPECS["dbnet_mobilenetv3"]
RECORD = '{"spec": "dbnet_mobilenetv3", "origin": "é \U0001f600"}'
TRAINING = [p.name for p in parameters(MV3) if p.training_only]


@lru_cache(maxsize=6)
def weights_of(spec: ModelSpec, dtype: Any = np.float32) -> Weights:
    """Weights that leave no parameter at a default and no stage saturated."""
    rng = np.random.default_rng(0)
    weights = {}
    for p in parameters(spec):
        if p.role.is_norm or p.role.name == "BIAS":
            values = rng.uniform(0.5, 1.5, p.shape) if p.role.name in ("NORM_SCALE", "NORM_VARIANCE") \
                else rng.normal(0, 0.1, p.shape)
        else:
            values = rng.normal(0, np.prod(p.shape[1:]) ** -0.5, p.shape)
        weights[p.name] = values.astype(np.float32).astype(dtype)
    return weights


def written(weights: Weights, record: str | None = RECORD, **options: Any) -> bytes:
    stream = BytesIO()
    onnx_file.write(stream, weights, MV3, record, **options)
    return stream.getvalue()


@cache
def archive() -> bytes:
    return written(weights_of(MV3))


def load(folder: Path, content: bytes, name: str = "x.onnx") -> TensorFile:
    path = folder / name
    path.write_bytes(content)
    return onnx_file.read(path)


def assert_same(found: Weights, expected: Weights) -> None:
    assert list(found) == list(expected)
    for name in expected:
        assert same_bits(found[name], expected[name]), name


def refusal(folder: Path, content: bytes, name: str = "x.onnx") -> str:
    """The one line with which a file is refused; it names the file."""
    with pytest.raises(DbnetError) as caught:
        load(folder, content, name)
    assert str(caught.value).startswith(str(folder / name))
    return str(caught.value)


# Round trips ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64],
                         ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("form", ["archive", "delivery"])
def test_round_trip(form, dtype, tmp_path):
    weights = weights_of(MV3, dtype)
    file = load(tmp_path, written(weights, form=form))
    kept = {n: a for n, a in weights.items() if form == "archive" or n not in TRAINING}
    assert_same(file.tensors, kept)
    assert (file.format, file.record, file.metadata) == ("onnx", RECORD, {"dbnet.form": form})
    assert not any(array.flags.writeable for array in file.tensors.values())


@pytest.mark.parametrize("name", SPECS)
def test_every_spec_round_trips(name, tmp_path):
    path = tmp_path / "x.onnx"
    with path.open("wb") as stream:
        onnx_file.write(stream, weights_of(SPECS[name]), SPECS[name], None)
    file = onnx_file.read(path)
    assert file.record is None
    assert_same(file.tensors, weights_of(SPECS[name]))
    onnx.checker.check_model(str(path), full_check=True)


def test_order_and_odd_values_survive(tmp_path):
    weights = dict(reversed(weights_of(MV3).items()))
    odd = np.resize(np.array([np.nan, -0.0, np.inf, 1e-40, -1.0], np.float32), 256 * 9 * 64).reshape(64, 256, 3, 3)
    weights["head.segm.0.weight"] = np.asfortranarray(odd)
    assert_same(load(tmp_path, written(weights)).tensors, weights)


def test_an_inference_subset_stays_one(tmp_path):
    subset = {n: a for n, a in weights_of(MV3).items() if n not in TRAINING}
    assert_same(load(tmp_path, written(subset)).tensors, subset)


def test_dense_weights_are_kernels_in_the_delivery_form_only():
    name = "backbone.features.6.layers.6.conv_reduce.weight"
    for form, rank in (("archive", 2), ("delivery", 4)):
        stored = {i.name: i for i in onnx.load_from_string(written(weights_of(MV3), form=form)).graph.initializer}
        assert len(stored[name].dims) == rank


@pytest.mark.parametrize("form", ["archive", "delivery"])
def test_onnx_reads_what_we_write(form):
    model = onnx.load_from_string(written(weights_of(MV3), form=form))
    onnx.checker.check_model(model, full_check=True)
    assert {p.key: p.value for p in model.metadata_props} == {"dbnet": RECORD, "dbnet.form": form}
    for tensor in model.graph.initializer:
        array = weights_of(MV3)[tensor.name]
        assert numpy_helper.to_array(tensor).tobytes() == array.tobytes()


def test_what_onnx_saves_again_is_the_same(tmp_path):
    model = onnx.load_from_string(archive())
    assert_same(load(tmp_path, model.SerializeToString()).tensors, weights_of(MV3))


def test_equal_arguments_give_equal_bytes():
    assert written(weights_of(MV3)) == archive()


# Cost -----------------------------------------------------------------------------------------------------------------


class Sink:
    """A stream that keeps nothing."""

    size = 0

    def write(self, content: bytes | memoryview) -> None:
        self.size += len(content)


def test_the_file_is_never_in_memory(tmp_path):
    spec, sink, path = SPECS["dbnet_resnet18"], Sink(), tmp_path / "x.onnx"
    weights = weights_of(spec)
    tracemalloc.start()
    onnx_file.write(sink, weights, spec, RECORD)
    assert sink.size > 45e6
    assert tracemalloc.get_traced_memory()[1] < 3e6
    with path.open("wb") as stream:
        onnx_file.write(stream, weights, spec, RECORD)
    tracemalloc.reset_peak()
    file = onnx_file.read(path)
    assert tracemalloc.get_traced_memory()[1] < 3e6
    tracemalloc.stop()
    for array in file.tensors.values():
        file.release(array)
    assert_same(file.tensors, weights)


def test_reading_does_not_import_onnx(tmp_path):
    (tmp_path / "x.onnx").write_bytes(archive())
    code = ("import sys; from pathlib import Path; from converters import onnx_file\n"
            "assert onnx_file.read(Path(sys.argv[1])).tensors; assert 'onnx' not in sys.modules")
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.onnx")], check=True, timeout=60)


# Files of others ------------------------------------------------------------------------------------------------------


def foreign(*tensors: TensorProto, **graph: Any) -> bytes:
    """A valid model with these initialisers, as onnx writes it."""
    node = helper.make_node("Identity", ["x"], ["y"])
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    proto = helper.make_graph([node], "g", value[:1], value[1:], list(tensors), **graph)
    return helper.make_model(proto, ir_version=8, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString()


CODES = {code: dtype for code, dtype in onnx_file.DTYPES.items() if dtype.name != "bool"}


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("code", onnx_file.DTYPES, ids=lambda c: onnx_file.DTYPES[c].name)
def test_every_type(code, raw, tmp_path):
    dtype = onnx_file.DTYPES[code]
    expected = np.array([[0, 1, 2], [100, 3, 1]]).astype(dtype)
    if dtype.kind == "i" or dtype.name in ("float16", "bfloat16", "float32", "float64"):
        expected[0, 2] = -100
    values = expected.tobytes() if raw else expected.reshape(-1)
    tensor = helper.make_tensor("w", code, expected.shape, values, raw=raw)
    assert tensor.HasField("raw_data") == raw
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), expected)
    assert_same(load(tmp_path, foreign(tensor)).tensors, {"w": expected})


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1,)])
@pytest.mark.parametrize("raw", [True, False])
def test_scalars_and_empty_tensors(shape, raw, tmp_path):
    expected = np.full(shape, 7, np.int64)
    values = expected.tobytes() if raw else expected.reshape(-1)
    tensor = helper.make_tensor("w", TensorProto.INT64, shape, values, raw=raw)
    assert_same(load(tmp_path, foreign(tensor)).tensors, {"w": expected})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.integers(-2**63, 2**63 - 1), min_size=1, max_size=80), block=st.integers(10, 40))
def test_typed_integers_in_blocks(values, block, tmp_path):
    tensor = helper.make_tensor("w", TensorProto.INT64, [len(values)], values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_wire, "BLOCK_BYTES", block)
        assert load(tmp_path, foreign(tensor)).tensors["w"].tolist() == values


def test_halves_as_integers_keep_their_bits(tmp_path):
    for code, dtype in ((TensorProto.FLOAT16, np.float16), (TensorProto.BFLOAT16, ml_dtypes.bfloat16)):
        bits = np.arange(1 << 16, dtype=np.uint16)
        tensor = TensorProto(name="w", data_type=code, dims=[1 << 16], int32_data=bits.tolist())
        assert_same(load(tmp_path, foreign(tensor)).tensors, {"w": bits.view(dtype)})


def test_metadata_of_others_is_kept(tmp_path):
    model = onnx.load_from_string(foreign(helper.make_tensor("w", 1, [1], [1.0])))
    helper.set_model_props(model, {"author": "someone", "": ""})
    file = load(tmp_path, model.SerializeToString())
    assert (file.record, file.metadata) == (None, {"author": "someone", "": ""})


def external(path: Path) -> bytes:
    model = onnx.load_from_string(foreign(numpy_helper.from_array(np.zeros(1000, np.float32), "w")))
    onnx.save(model, str(path), save_as_external_data=True, location="data.bin", size_threshold=0)
    return path.read_bytes()


def sparse() -> bytes:
    values = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [2])
    return foreign(sparse_initializer=[helper.make_sparse_tensor(values, indices, [4])])


@pytest.mark.parametrize(("content", "told"), [
    (lambda folder: external(folder / "e.onnx"), "external data"),
    (lambda folder: foreign(TensorProto(name="w", data_type=1, dims=[1], data_location=1)), "external data"),
    (lambda folder: sparse(), "sparse"),
    (lambda folder: foreign(helper.make_tensor("w", TensorProto.STRING, [1], [b"a"])), "w has the type 8"),
    (lambda folder: foreign(helper.make_tensor("w", TensorProto.FLOAT8E4M3FN, [1], [1.0])), "w has the type 17"),
    (lambda folder: foreign(TensorProto(name="w", dims=[1], raw_data=b"1234")), "w has the type 0"),
    (lambda folder: foreign(TensorProto(name="w", data_type=1, segment=TensorProto.Segment(begin=0))), "segments"),
])
def test_what_is_valid_but_not_read(content, told, tmp_path):
    assert told in refusal(tmp_path, content(tmp_path))
