"""ONNX files, read and written on the wire: initialisers go from array to stream, and come back as views.

`onnx.save` holds a file in memory more than six times. Reading needs no onnx at all, and takes what a tensor means from
nothing but its name: the semantics of our own files stand in their record. The graphs of other people's files are read
by `onnx_foreign`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from converters.formats import detect
from converters.mapped_file import MappedFile
from converters.onnx_wire import DTYPES, GRAPH, INITIALIZER, initialisers, model_places
from converters.protobuf_wire import MalformedError, UnsupportedError, bytes_field, length_head, varint_field
from converters.tensor_file import TensorFile, Weights
from converters.weights import bytes_of
from dbnet.errors import DbnetError, UnknownNetworkError, short
from dbnet.record import RECORD_KEY
from dbnet.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto

    from converters.onnx_graph import Form, OnnxModel
    from converters.onnx_layers import DeformableForm

_CODES = {dtype.name: code for code, dtype in DTYPES.items()}
#: Beside the record in metadata_props: which form the graph has.
FORM_KEY = "dbnet.form"
#: What a protocol buffer may hold; beyond it every reader refuses the file.
MAX_BYTES = (1 << 31) - 1

# Fields of TensorProto.
_DIMS, _TYPE, _NAME, _RAW = 1, 2, 8, 9


# Writing --------------------------------------------------------------------------------------------------------------


def write(stream: BinaryIO, weights: Weights, spec: ModelSpec, record: str | None, *, form: Form = "archive",
          opset: int | None = None, stages: bool = False, data_shape: tuple[int, int] | None = None,
          batch: int | None = None, deformable: DeformableForm | None = None,
          change: Callable[[ModelProto], object] | None = None) -> None:
    """Writes the model; every tensor keeps its canonical name, its type and its bits, and `read` gives it back.

    The delivery form leaves out the training branch. change: called with the graph, without its initialisers, before
    that is written. The other arguments are those of `onnx_graph.build_graph`.
    Raises DbnetError as `build_graph` does, and for more than 2 GiB; OSError as the stream does.
    """
    from converters.onnx_graph import build_graph  # imports onnx, which reading does not need

    model = build_graph(spec, weights, form=form, opset=opset, stages=stages, data_shape=data_shape, batch=batch,
                        deformable=deformable)
    if change is not None:
        change(model.proto)
    write_model(stream, model, {RECORD_KEY: record, FORM_KEY: form})


def write_model(stream: BinaryIO, model: OnnxModel, texts: Mapping[str, str | None]) -> None:
    """Writes a graph that is built, which is spent then. texts: what stands beside it, but for None. Raises as `write`.
    """
    graph = model.proto.graph.SerializeToString()
    model.proto.ClearField("graph")
    for key, value in texts.items():
        if value is not None:
            model.proto.metadata_props.add(key=key, value=value)
    heads = [_tensor_head(name, array) for name, array in model.initialisers.items()]
    size = len(graph) + sum(map(len, heads)) + sum(array.nbytes for array in model.initialisers.values())
    if size > MAX_BYTES:
        raise DbnetError(f"an .onnx file cannot hold {size} bytes; store the weights as float16 or in .safetensors")
    # The graph comes last, so that a file cut off anywhere ends before its graph should.
    stream.write(model.proto.SerializeToString() + length_head(GRAPH, size) + graph)
    for head, array in zip(heads, model.initialisers.values(), strict=True):
        stream.write(head)
        stream.write(bytes_of(array))


def _tensor_head(name: str, array: np.ndarray) -> bytes:
    """All of a graph's `initializer` field but the values."""
    inner = b"".join(varint_field(_DIMS, dim) for dim in array.shape)
    inner += varint_field(_TYPE, _CODES[array.dtype.name]) + bytes_field(_NAME, name.encode())
    inner += length_head(_RAW, array.nbytes)
    return length_head(INITIALIZER, len(inner) + array.nbytes) + inner


# Reading --------------------------------------------------------------------------------------------------------------


def read(path: Path) -> TensorFile:
    """Reads all initialisers of a graph. They are views into the mapped file, possibly unaligned, so it must stay as
    it is while they are used; those that another program stored as typed fields are copies.

    Weights that our delivery form stores in the shape of 1x1 kernels come back as the dense layers' (O, I).
    Raises DbnetError if it is no ONNX model, damaged, or keeps tensors where they are not read from.
    """
    mapped = MappedFile(path)
    if (found := detect(path)) != "onnx":
        raise DbnetError(f"{path}: is a .{found} file, not an ONNX model; name it so")
    try:
        model = model_places(mapped.view)
        tensors = initialisers(mapped, *model.graph)
    except UnsupportedError as error:
        raise UnknownNetworkError(f"{path}: {short(error, 400)}") from error
    except MalformedError as error:
        raise DbnetError(f"{path}: is damaged or no ONNX model: {short(error)}; copy or download it again") from error
    record = model.metadata.pop(RECORD_KEY, None)
    if model.metadata.get(FORM_KEY) == "delivery":
        tensors = {name: _dense(name, array) for name, array in tensors.items()}
    return TensorFile("onnx", tensors, record, model.metadata, release=mapped.release)


def _dense(name: str, array: np.ndarray) -> np.ndarray:
    dense = name.endswith((".conv_reduce.weight", ".conv_expand.weight")) and array.shape[2:] == (1, 1)
    return array.reshape(array.shape[:2]) if dense else array
