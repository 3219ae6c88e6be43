"""What a .mindir's graph computes, as an expression: nodes that only pass a value on are gone, functions are put in.

Gone are MindSpore's `Load`, `Depend`, `UpdateState`, `TensorMove` (its order of effects), tuples, and casts between
floating-point types, which are counted. `a += b` is an addition, after which `a` is its result. Of a choice at run time
between a map and something made of it, as MindOCR's neck makes between a map and the same enlarged if its size differs,
the second is taken: where the sizes agree both are the same.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from converters.mindir_nodes import REF, Graph, Node, Program
from converters.protobuf_wire import MalformedError

#: Of functions within functions.
MAX_CALLS = 16
#: Of nodes and inputs, each as often as its function is called; a choice at run time counts as SWITCH_COST.
MAX_VALUES, SWITCH_COST = 100_000, 1000
#: Of a tuple that may be a shape, an axis or the like.
MAX_SHORT = 16
#: How far a choice is looked through for its other branch.
SWITCH_REACH = 1000
#: Operators of effects' order, which give their first input.
_PASSING = ("Load", "Depend", "TensorMove", "Identity", "StopGradient", "Return")
#: What MindSpore 1 called them.
_OLDER = {"tuple_getitem": "TupleGetItem", "make_tuple": "MakeTuple", "depend": "Depend", "TensorAdd": "Add",
          "partial": "Partial", "switch": "Switch"}
_IN_PLACE = {"InplaceAddExt": "Add", "InplaceAdd": "Add"}


class UnreadError(ValueError):
    """A graph that may well be right, and is not understood; one phrase."""


@dataclass(frozen=True, eq=False)
class Value:
    """A map, number or tuple. op: an operator of MindSpore, or `image`, `parameter`, `constant`, `tuple`, `closure`.
    content: a parameter's name, a constant's value. Equal values are one object, within one evaluation.
    """

    op: str
    inputs: tuple[Value, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    content: Any = None

    def arg(self, index: int) -> Value:
        """An input. Raises UnreadError if there are fewer."""
        if index >= len(self.inputs):
            raise UnreadError(f"{self.op} has {len(self.inputs)} inputs")
        return self.inputs[index]

    def constant(self, index: int, name: str = "") -> Any:
        """The constant given as an attribute of that name, or as an input; None if neither is there."""
        if name in self.attributes:
            return self.attributes[name]
        return plain(self.inputs[index]) if index < len(self.inputs) else None


def plain(value: Value) -> Any:
    """A constant's value, a short tuple of them; None for anything else."""
    if value.op == "tuple" and len(value.inputs) <= MAX_SHORT:
        return tuple(item.content if item.op == "constant" else None for item in value.inputs)
    return value.content if value.op == "constant" else None


def evaluate(program: Program) -> tuple[Value, bool]:
    """The network's output, and whether it casts to a short floating-point type.

    Raises MalformedError if a part is missing, UnreadError if it is written in a way that is not known here.
    """
    evaluator = _Evaluator(program)
    main = program.main
    if len(main.outputs) != 1:
        raise UnreadError(f"it has {len(main.outputs)} outputs")
    given = [Value("image", content=i) for i in range(len(main.inputs))]
    names = {name: Value("parameter", content=name.partition(":")[2] or name) for name in main.parameters}
    return evaluator.call(main, given, names, 0), evaluator.short


class _Evaluator:
    def __init__(self, program: Program):
        self.program = program
        self.known: dict[tuple[Any, ...], Value] = {}
        self.left = MAX_VALUES
        self.short = False
        self.outer: dict[str, Value] = {}

    def make(self, op: str, inputs: tuple[Value, ...] = (), attributes: Mapping[str, Any] | None = None,
             key: Any = None, content: Any = None) -> Value:
        """The value, or the equal one that was made before. key: of the attributes, such as their primitive's name."""
        identity = (op, tuple(map(id, inputs)), key, repr(content))
        if identity not in self.known:
            self.known[identity] = Value(op, inputs, attributes or {}, content)
        return self.known[identity]

    def call(self, graph: Graph, given: list[Value], names: Mapping[str, Value], depth: int) -> Value:
        """What `graph` gives for these inputs. names: parameters, which every function sees."""
        if depth > MAX_CALLS or len(given) != len(graph.inputs):
            raise UnreadError(f"the function {graph.name} is called too deep, or with other inputs than it has")
        if not depth:
            self.outer = dict(names)
        values = ChainMap(dict(zip(graph.inputs, given, strict=True)), self.outer)
        for node in graph.nodes:
            self.spend(1 + len(node.inputs))
            for name in node.outputs:
                values[name] = self.node(node, values, depth)
        if len(graph.outputs) != 1 or graph.outputs[0] not in values:
            raise MalformedError(f"nothing computes the output of {graph.name}")
        return values[graph.outputs[0]]

    def spend(self, values: int) -> None:
        self.left -= values
        if self.left < 0:
            raise UnreadError(f"its functions amount to more than {MAX_VALUES} nodes and inputs")

    def node(self, node: Node, values: MutableMapping[str, Value], depth: int) -> Value:
        if node.operator == "Constant":
            return self.make("constant", content=node.attributes.get("value"))
        inputs = [self.value(name, values) for name in node.inputs]
        name = node.operator.removeprefix(REF)
        if name in self.program.functions:
            return self.call(self.program.functions[name], inputs, {}, depth + 1)
        if name in values:
            return self.called(values[name], inputs, depth)
        if node.operator.startswith(REF) and name not in self.program.primitives:
            raise MalformedError(f"it lacks the operator {name} that its nodes name")
        operator, attributes = self.program.primitives.get(name, (_OLDER.get(name, name), node.attributes))
        key = name if name in self.program.primitives else node.outputs
        if operator in _IN_PLACE and len(inputs) > 1:
            result = self.make(_IN_PLACE[operator], tuple(inputs[:2])) if _unscaled(inputs) else \
                self.make(operator, tuple(inputs), attributes, key)
            values[node.inputs[0]] = result
            return result
        return self.operator(operator, inputs, attributes, key)

    def value(self, name: str, values: Mapping[str, Value]) -> Value:
        if name in values:
            return values[name]
        if name in self.program.functions:
            return self.make("closure", content=name)
        raise MalformedError(f"nothing computes {name}")

    def operator(self, operator: str, inputs: list[Value], attributes: Mapping[str, Any], key: Any) -> Value:
        if operator in _PASSING and inputs:
            return inputs[0]
        if operator == "Cast" and len(inputs) > 1 and plain(inputs[1]) in _FLOATS:
            self.short |= plain(inputs[1]) in _SHORT
            return inputs[0]
        if operator == "MakeTuple":
            return self.make("tuple", tuple(inputs))
        if operator == "TupleGetItem" and len(inputs) == 2:
            index = plain(inputs[1])
            if inputs[0].op == "tuple" and isinstance(index, int) and 0 <= index < len(inputs[0].inputs):
                return inputs[0].inputs[index]
            if index == 0 and inputs[0].op in ("BatchNorm", "MaxPool3DWithArgmax"):
                return inputs[0]
        if operator == "Partial" and inputs:
            return self.make("closure", tuple(inputs[1:]), content=inputs[0].content)
        return self.make(operator, tuple(inputs), attributes, key)

    def called(self, target: Value, inputs: list[Value], depth: int) -> Value:
        """A function that was chosen at run time."""
        if depth > MAX_CALLS:
            raise UnreadError("its functions are chosen too deep")
        if target.op == "Switch" and len(target.inputs) == 3:
            self.spend(SWITCH_COST)
            yes, no = (self.called(branch, inputs, depth + 1) for branch in target.inputs[1:])
            if yes in reached(no, SWITCH_REACH):
                return no
            return yes if no in reached(yes, SWITCH_REACH) else self.make("Switch", (target.inputs[0], yes, no))
        function = self.program.functions.get(target.content) if target.op == "closure" else None
        if function is None:
            raise UnreadError("it calls what is no function")
        return self.call(function, [*target.inputs, *inputs], {}, depth + 1)


#: Numbers of mindspore.float16, float32, float64 and bfloat16 as inputs of `Cast`, and those of two bytes.
_FLOATS, _SHORT = (42, 43, 44, 45), (42, 45)


def _unscaled(inputs: list[Value]) -> bool:
    """Whether `alpha`, if it is there, is 1."""
    return len(inputs) < 3 or plain(inputs[2]) in (None, 1)


def reached(value: Value, limit: int = 10_000) -> Iterator[Value]:
    """The value and all that it is made of, nearest first; of very much the nearest only."""
    seen, waiting = {value}, [value]
    for found in waiting:
        yield found
        for item in found.inputs:
            if item not in seen and len(seen) < limit:
                seen.add(item)
                waiting.append(item)
