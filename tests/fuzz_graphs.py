"""Sound files that are read by their graphs: .onnx of other projects, and MindSpore's .mindir. Always the same."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import onnx
from onnx import helper

from converters import onnx_file
from converters.protobuf_wire import bytes_field
from tests.fuzz_weights import MINDOCR, named, record, weights
from tests.mindir_scenes import image, model, node, output, parameter, user_info

ROOT = Path(__file__).resolve().parents[1]


def _whole(form: str, opset: int) -> bytes:
    stream = io.BytesIO()
    onnx_file.write(stream, weights(MINDOCR), MINDOCR, None, form=form, opset=opset)
    return stream.getvalue()


def _foreign(data: bytes, nodes: slice, constants: bool = False) -> bytes:
    """Some nodes of a whole model, its values under names that say nothing. constants: tensors as nodes, as Paddle2ONNX
    has them."""
    whole = onnx.load_from_string(data)
    chosen = list(whole.graph.node)[nodes]
    made = {name for one in chosen for name in one.output}
    used = {name for one in chosen for name in one.input if name}
    tensors = [tensor for tensor in whole.graph.initializer if tensor.name in used]
    inputs = sorted(used - made - {tensor.name for tensor in tensors})
    new = {name: f"v{i}" for i, name in enumerate(sorted(used | made))}
    for one in chosen:
        one.input[:], one.output[:] = _renamed(one.input, new), _renamed(one.output, new)
    for tensor in tensors:
        tensor.name = new[tensor.name]
    if constants:
        chosen = [*(helper.make_node("Constant", [], [t.name], value=t) for t in tensors), *chosen]
    outputs = [new[value.name] for value in whole.graph.output if value.name in made] or [chosen[-1].output[0]]
    shapes = [[None, 3, None, None] if nodes.start is None else [1, 1, None, None]] * len(inputs)
    graph = helper.make_graph(chosen, "g", [helper.make_tensor_value_info(new[name], 1, shape)
                                            for name, shape in zip(inputs, shapes, strict=True)],
                              [helper.make_tensor_value_info(name, 1, None) for name in outputs],
                              [] if constants else tensors)
    made_of = helper.make_model(graph, opset_imports=whole.opset_import, producer_name="pytorch")
    return bytes(made_of.SerializeToString())


def _renamed(names: Iterable[str], new: dict[str, str]) -> list[str]:
    return [new.get(name, name) for name in names]


@cache
def foreign_onnx() -> tuple[bytes, ...]:
    """The beginning of a network, its end, and the same with constants; then whole ones."""
    archive, delivery = _whole("archive", 17), _whole("delivery", 11)
    return (_foreign(archive, slice(None, 14)), _foreign(archive, slice(-25, None)),
            _foreign(delivery, slice(None, 30), constants=True), _foreign(delivery, slice(-12, None), constants=True),
            _foreign(archive, slice(None), constants=True), _foreign(delivery, slice(None)), archive)


@cache
def mindir() -> tuple[bytes, ...]:
    """A few parameters and nodes, and with a record."""
    few = named(MINDOCR, ".ckpt", few=True)
    parameters = [parameter(f"g:{name}", array) for name, array in few.items()]
    names = [f"g:{name}" for name in few]
    nodes = [node("REF::Conv2D", ["g:x", names[0]], "g:1", bytes_field(5, bytes_field(1, b"stride"))),
             node("REF::ReLU", ["g:1"], "g:2")]
    primitives = b"".join(bytes_field(18, bytes_field(1, name) + bytes_field(2, name)) for name in (b"Conv2D", b"ReLU"))
    return (model(*nodes, *parameters, image(1, 3, 64, 64), output("g:2"), more=primitives),
            model(*parameters, image(1, 3, -1, -1), more=user_info("dbnet", record(MINDOCR))))


@cache
def mindir_graph() -> tuple[bytes, ...]:
    """A whole network as MindSpore exports it; made in a process of its own, and none where it is not installed."""
    if importlib.util.find_spec("mindspore") is None:
        return ()
    script = ("import sys; from tests.fuzz_weights import MINDOCR; from tests.mindir_scenes import exported\n"
              "sys.stdout.buffer.write(b'MINDIR' + exported(MINDOCR))")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True)
    return (done.stdout[done.stdout.rindex(b"MINDIR") + 6:],)
