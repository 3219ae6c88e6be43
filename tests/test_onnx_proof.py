"""The proof of a foreign .onnx: what of it is executed, and how far it may be off."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper

from converters import onnx_proof
from converters.convert import convert
from converters.load import SourceOptions, load_model
from converters.onnx_proof import HALF_TOLERANCE, TOLERANCE, prove
from converters.onnx_pruned import pruned
from dbnet.__main__ import cli
from dbnet.errors import DbnetError
from tests.foreign_onnx import exported, saved, scrambled
from tests.test_onnx_foreign import MV3, ours

SMALL = replace(MV3, neck_channels=16)


def constant(graph: onnx.GraphProto, name: str, value: object) -> str:
    graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def loop(graph: onnx.GraphProto, out: str) -> None:
    """2^60 rounds."""
    info = helper.make_tensor_value_info
    body = helper.make_graph([helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["v", "v"], ["w"])],
                             "body", [info("i", 7, []), info("go", 9, []), info("v", 1, [1])],
                             [info("on", 9, []), info("w", 1, [1])])
    constant(graph, "trips", np.int64(1 << 60)), constant(graph, "always", np.bool_(True))
    constant(graph, "start", np.zeros(1, np.float32))
    graph.node.append(helper.make_node("Loop", ["trips", "always", "start"], [out], body=body))


def huge(graph: onnx.GraphProto, out: str) -> None:
    """2 GiB of zeros, of a size that is computed."""
    constant(graph, "side", np.array([1 << 15]))
    graph.node.append(helper.make_node("Concat", ["side", "side"], ["sides"], axis=0))
    graph.node.append(helper.make_node("ConstantOfShape", ["sides"], ["zeros"]))
    graph.node.append(helper.make_node("ReduceMax", ["zeros"], [out], keepdims=0))


def unknown(graph: onnx.GraphProto, out: str) -> None:
    graph.node.append(helper.make_node("Cast", ["image"], [out], to=99))


@pytest.mark.parametrize("reference", [False, True], ids=["onnxruntime", "reference"])
@pytest.mark.parametrize("add", [loop, huge, unknown])
def test_only_what_the_probability_needs_is_executed(add: Callable[..., None], reference, tmp_path, monkeypatch):
    if reference:
        monkeypatch.setattr(onnx_proof, "installed", lambda name: False)
    model = scrambled(ours(SMALL))
    add(model.graph, "other")
    model.graph.output.append(helper.make_tensor_value_info("other", 1, None))
    begin = time.process_time()
    proof = prove(load_model(saved(model, tmp_path / "x.onnx")))
    assert proof is not None and max(proof.random, proof.picture) < 1e-5
    assert time.process_time() - begin < 10


@pytest.mark.parametrize(("add", "told"), [
    (loop, "'Loop' 'other' has a graph in it"), (huge, "'zeros' has 1,073,741,824 values, more than 67,108,864"),
])
def test_what_could_run_for_ever_or_fill_memory_is_refused(add, told, tmp_path):
    model = ours(SMALL)
    add(model.graph, "other")
    model.graph.node.append(helper.make_node("Add", ["probability", "other"], ["more"]))
    model.graph.output[0].name = "more"
    path = saved(model, tmp_path / "x.onnx")
    with pytest.raises(DbnetError, match=told) as caught:
        pruned(path, "more")
    assert str(path) in str(caught.value)


def test_the_loop_of_torchs_deformable_convolutions_ends(tmp_path, monkeypatch):
    import onnxruntime
    info = helper.make_tensor_value_info
    body = helper.make_graph([helper.make_node("Cast", ["always"], ["on"], to=9),
                              helper.make_node("Cast", ["i"], ["row"], to=1)], "body",
                             [info("i", 7, []), info("go", 9, [])], [info("on", 9, []), info("row", 1, [])])
    model = ours(SMALL)
    constant(model.graph, "trips", np.int64(1 << 60)), constant(model.graph, "always", np.bool_(True))
    model.graph.node.append(helper.make_node("Loop", ["trips", "always"], ["rows"], body=body))
    model.graph.output.append(info("rows", 1, None))
    monkeypatch.setattr("converters.onnx_pruned.MAX_ROUNDS", 5)
    source = pruned(saved(model, tmp_path / "x.onnx"), "rows")
    feed = {"image": np.zeros((1, 3, 32, 32), np.float32)}
    session = onnxruntime.InferenceSession(source.content, providers=["CPUExecutionProvider"])
    assert session.run(["rows"], feed)[0].tolist() == [0, 1, 2, 3, 4]
    assert len(onnx.load_from_string(source.content).graph.node) == 4  # none of the network
    body.node[1].op_type = "Exp"  # anything else
    model.graph.node[-1].attribute[0].g.CopyFrom(body)
    with pytest.raises(DbnetError, match="has a graph in it"):
        pruned(saved(model, tmp_path / "y.onnx"), "rows")


def test_a_function_is_refused_where_it_is_needed(tmp_path):
    model = ours(SMALL)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.functions.append(helper.make_function("mine", "Last", ["x"], ["y"], [
        helper.make_node("Identity", ["x"], ["y"])], [helper.make_opsetid("", 13)]))
    model.graph.node.append(helper.make_node("Last", ["probability"], ["more"], domain="mine"))
    model.graph.output.append(helper.make_tensor_value_info("more", 1, None))
    path = saved(model, tmp_path / "x.onnx")
    with pytest.raises(DbnetError, match="'Last' is a function"):
        pruned(path, "more")
    kept = onnx.load_from_string(pruned(path, "probability").content)
    assert not kept.functions and len(kept.graph.node) == len(model.graph.node) - 1


@pytest.mark.parametrize("error", [KeyError("99"), AttributeError("no"), ZeroDivisionError(), AssertionError(),
                                   IndexError("\x1b"), MemoryError()])
def test_whatever_the_reference_evaluator_raises_is_one_line(error, tmp_path, monkeypatch):
    from onnx.reference import ReferenceEvaluator

    def fails(*arguments: object) -> None:
        raise error
    monkeypatch.setattr(onnx_proof, "installed", lambda name: False)
    model = load_model(saved(scrambled(ours(SMALL)), tmp_path / "x.onnx"))
    for method in ("run", "__init__"):
        with monkeypatch.context() as patch:
            patch.setattr(ReferenceEvaluator, method, fails)
            with pytest.raises(DbnetError, match="cannot be proved without") as caught:
                prove(model)
        assert str(caught.value).isprintable()


def test_the_reference_evaluators_warnings_are_nobodys(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_proof, "installed", lambda name: False)
    from onnx.reference import ReferenceEvaluator
    run = ReferenceEvaluator.run

    def warns(self, *arguments, **options):
        warnings.warn("divide by zero", RuntimeWarning, stacklevel=1)
        return run(self, *arguments, **options)
    monkeypatch.setattr(ReferenceEvaluator, "run", warns)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prove(load_model(saved(scrambled(ours(SMALL)), tmp_path / "x.onnx")))


# Half precision -------------------------------------------------------------------------------------------------------


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """As `net.half()` is exported: image, weights and probability in float16."""
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t") and attribute.t.data_type == onnx.TensorProto.FLOAT and node.op_type != "Resize":
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float16)))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return model


def test_a_network_in_half_precision_has_its_own_tolerance(tmp_path):
    model = halved(exported(SMALL, 17))
    for node in model.graph.node:  # their factors are float32 in any network
        if node.op_type == "Resize":
            factors = next(n for n in model.graph.node if n.output and n.output[0] == node.input[2])
            factor = numpy_helper.to_array(factors.attribute[0].t).astype(np.float32)
            factors.attribute[0].t.CopyFrom(numpy_helper.from_array(factor))
    proof = prove(load_model(saved(model, tmp_path / "x.onnx")))
    assert proof is not None and proof.tolerance == HALF_TOLERANCE
    assert TOLERANCE / 10 < max(proof.random, proof.picture) <= HALF_TOLERANCE
    assert "(it computes in half precision: up to 5e-03 may be rounding)" in proof.describe()


def test_weights_that_are_only_stored_short_have_the_usual_one(tmp_path):
    from io import BytesIO

    from converters import onnx_file
    from dbnet.seeded import seeded_weights
    stream = BytesIO()
    onnx_file.write(stream, seeded_weights(SMALL, dtype="float16"), SMALL, None)
    proof = prove(load_model(saved(scrambled(onnx.load_from_string(stream.getvalue())), tmp_path / "x.onnx")))
    assert proof is not None and proof.tolerance == TOLERANCE and "half" not in proof.describe()


# What the command says ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "there", "not_there"), [
    ([], ["--pixels says otherwise"], ["as you say"]),
    (["--pixels", "size=320x320,resize=stretch"], ["(pixels as you say, else what a graph decides", "\nboxes: "],
     ["says otherwise", "pixels and boxes:"]),
    (["--pixels", "mhliao"], ["boxes: mhliao's, with its pixels"], ["says otherwise", "pixels and boxes:"]),
    (["--set", "depthwise_padding=same"], ["(depthwise_padding as you say, else what a graph decides"], []),
])
def test_the_command_does_not_contradict_what_was_said(words, there, not_there, tmp_path):
    model = ours(SMALL)
    path = saved(model, tmp_path / "x.onnx")
    done = CliRunner().invoke(cli, ["convert", str(path), str(tmp_path / "x.pth"), *words])
    assert done.exit_code == 0, done.output
    assert [text for text in there if text not in done.output] == []
    assert [text for text in not_there if text in done.output] == []


def test_bit_for_bit_is_said_of_what_was_written(tmp_path):
    path = saved(exported(SMALL), tmp_path / "x.onnx")
    done = CliRunner().invoke(cli, ["convert", str(path), str(tmp_path / "x.pth")])
    assert "values, written bit for bit (144 of them made: scale, mean and variance of 48 folded batch norms); sha256" \
        in done.output
    again = CliRunner().invoke(cli, ["convert", str(tmp_path / "x.pth"), str(tmp_path / "y.ckpt")])
    assert "values, bit for bit; sha256" in again.output
    assert convert(path, tmp_path / "z.pth", SourceOptions(pixels="mhliao")).said == ["pixels"]
