"""Graphs in a .mindir that would take long, or go round in circles, if they were followed: none takes two seconds."""

from __future__ import annotations

import time

import pytest

from converters.mindir_semantics import read_semantics
from converters.protobuf_wire import bytes_field, varint_field
from dbnet.errors import DbnetError
from dbnet.parameters import parameters
from dbnet.spec import SPECS
from tests.mindir_scenes import image, model, node, output

R18 = SPECS["dbnet_resnet18"]
NAMES = {p.name: p.name for p in parameters(R18)}


def function(name: str, *fields: bytes) -> bytes:
    return bytes_field(8, b"".join(fields) + bytes_field(2, name.encode()))


def calling(times: int, depth: int) -> bytes:
    """Functions that call each other `times` times, `depth` deep."""
    more = b"".join(function(f"f{i}", *(node(f"REF::f{i + 1}", [], f"n{i}.{j}") for j in range(times)),
                             output(f"n{i}.0")) for i in range(depth))
    more += function(f"f{depth}", node("Constant", [], "c"), output("c"))
    return model(node("REF::f0", [], "y"), output("y"), more=more)


def tuples(depth: int) -> bytes:
    steps = [node("MakeTuple", [f"t{i}", f"t{i}"], f"t{i + 1}") for i in range(depth)]
    return model(image(1, 3, 64, 64, name="t0"), *steps, node("ReduceMean", [f"t{depth}"] * 2, "y"), output("y"))


def switches(depth: int) -> bytes:
    steps = [node("Switch", ["x", f"s{i}", f"s{i}"], f"s{i + 1}") for i in range(depth)]
    return model(image(1, 3, 64, 64, name="x"), node("Partial", ["f"], "s0"), *steps, node(f"REF::s{depth}", [], "y"),
                 output("y"), more=function("f", node("Constant", [], "c"), output("c")))


def nested(depth: int) -> bytes:
    inner = varint_field(16, 20)
    for _ in range(depth):
        inner = varint_field(16, 20) + bytes_field(17, inner)
    return model(node("Constant", [], "y", bytes_field(5, bytes_field(1, b"value") + inner)), output("y"))


@pytest.mark.parametrize(("content", "refused"), [
    (calling(4, 16), False), (calling(1, 5000), False), (tuples(3000), False), (switches(3000), False),
    (switches(12), False), (nested(5), False), (nested(200), True),
    (model(*[node("a", [], "b")] * 70_000), True), (model(node("a", ["a"], "a"), output("a")), True),
    (model(node("REF::a", [], "b"), output("b")), True), (model(output("y")), True), (model(), False),
    (model(output("x"), more=function("x", node("REF::x", [], "y"), output("y"))), True),
    (model(node("REF::x", [], "y"), output("y"), more=function("x", node("REF::x", [], "z"), output("z"))), False),
    (model(node("Sigmoid", [], "y"), output("y")), False), (model(node("Add", ["y"], "y"), output("y")), True),
    (model(image(1, 3, 64, 64), node("BiasAdd", ["g:x"], "z"), node("Sigmoid", ["z"], "y"), output("y")), False),
], ids=range(17))
def test_hostile_graphs(content, refused):
    begin = time.perf_counter()
    if refused:
        with pytest.raises(DbnetError, match=r"x\.mindir: is damaged"):
            read_semantics(memoryview(content), R18, NAMES, "x.mindir")
    else:
        reading = read_semantics(memoryview(content), R18, NAMES, "x.mindir")
        assert "not read to its end" in " ".join(reading.notes)
    assert time.perf_counter() - begin < 2
