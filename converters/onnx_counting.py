"""Counters in an ONNX graph: how many values of a map overflow or vanish in half precision, without taking maps out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from dbnet.precision import Counts, HalfFormat

#: The output that holds them.
COUNTS = "counts"
#: Of each map: values, finite ones, those that overflow, are not zero, do not vanish, keep all bits; the largest.
_ROW = 7


def add_counts(proto: ModelProto, maps: Mapping[str, str], form: HalfFormat) -> None:
    """Adds the output `COUNTS`: a row for each of `maps` (name -> value, of four dimensions, in float32)."""
    largest = float(np.finfo(np.float32).max)
    limits = {"all": largest, "overflow": form.overflow, "normal": form.normal, "vanishes": form.vanishes, "zero": 0.0}
    nodes = [helper.make_node("Constant", [], [f"{COUNTS}.{name}"],
                              value=helper.make_tensor(name, TensorProto.FLOAT, [], [limit]))
             for name, limit in limits.items()]
    for name, numbers in (("one", [1] * 4), ("sides", [2, 3])):
        nodes.append(helper.make_node("Constant", [], [f"{COUNTS}.{name}"],
                                      value=helper.make_tensor(name, TensorProto.INT64, [len(numbers)], numbers)))
    for name, value in maps.items():
        nodes += _row(f"{COUNTS}.{name}", value)
    nodes.append(helper.make_node("Concat", [f"{COUNTS}.{name}.row" for name in maps], [COUNTS], axis=0))
    proto.graph.node.extend(nodes)
    proto.graph.output.append(ValueInfoProto(name=COUNTS))


def _row(path: str, value: str) -> Iterator[NodeProto]:
    """(7, 1, 1, 1) float64."""
    parts = [f"{path}.{part}" for part in ("size", "finite", "beyond", "nonzero", "alive", "normal", "largest")]
    size, finite, beyond, nonzero, alive, normal, largest = parts
    yield helper.make_node("Abs", [value], [f"{path}.abs"])
    yield helper.make_node("LessOrEqual", [f"{path}.abs", f"{COUNTS}.all"], [f"{path}.is_finite"])
    yield helper.make_node("Where", [f"{path}.is_finite", f"{path}.abs", f"{COUNTS}.zero"], [f"{path}.clean"])
    yield helper.make_node("Size", [value], [f"{path}.number"])
    yield helper.make_node("Reshape", [f"{path}.number", f"{COUNTS}.one"], [size])
    yield from _sum(f"{path}.is_finite", finite)
    for part, operator, limit in ((beyond, "GreaterOrEqual", "overflow"), (nonzero, "Greater", "zero"),
                                  (alive, "Greater", "vanishes"), (normal, "GreaterOrEqual", "normal")):
        yield helper.make_node(operator, [f"{path}.clean", f"{COUNTS}.{limit}"], [f"{part}.is"])
        yield from _sum(f"{part}.is", part)
    yield helper.make_node("ReduceMax", [f"{path}.clean"], [largest], keepdims=1)
    for part in (size, largest):
        yield helper.make_node("Cast", [part], [f"{part}.double"], to=TensorProto.DOUBLE)
    yield helper.make_node("Concat", [f"{part}.double" for part in parts], [f"{path}.row"], axis=0)


def _sum(value: str, name: str) -> Iterator[NodeProto]:
    """How often it is true: (1, 1, 1, 1) float64. Float32, the fastest, is exact within a channel."""
    yield helper.make_node("Cast", [value], [f"{name}.float"], to=TensorProto.FLOAT)
    yield helper.make_node("ReduceSum", [f"{name}.float", f"{COUNTS}.sides"], [f"{name}.channels"], keepdims=1)
    yield helper.make_node("Cast", [f"{name}.channels"], [f"{name}.wide"], to=TensorProto.DOUBLE)
    yield helper.make_node("ReduceSum", [f"{name}.wide"], [f"{name}.double"], keepdims=1)


def read_counts(array: np.ndarray, names: list[str]) -> dict[str, Counts]:
    """name -> what the output `COUNTS` says of its map."""
    found = {}
    for name, row in zip(names, array.reshape(-1, _ROW), strict=True):
        size, finite, beyond, nonzero, alive, normal = (int(number) for number in row[:6])
        found[name] = Counts(size, size - finite, beyond, nonzero - alive, alive - normal, float(row[6]))
    return found
