"""From the nodes of an .onnx to terms (`onnx_terms`): one rule for each operator that these networks are written with.

A node that no rule reads becomes a term of its own operator, which only those will miss who look for a layer there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from converters.onnx_folding import SPARE_BYTES, Folding
from converters.onnx_nodes import Node, NodeGraph
from converters.onnx_terms import OTHER, Term, Terms
from dbnet.errors import DbnetError, UnknownNetworkError

Value = Term | np.ndarray
#: Reads a node: its first output, all of its outputs, or None if it is another layer than the rule is for.
Rule = Callable[["Reader", Node, Sequence[Value | None]], "Value | list[Value] | None"]


class Reader:
    """The values of a graph. repaired: nodes whose attributes no runtime takes, and what they must mean. refused:
    layers that are read here, but compute what no weight file can say; one phrase each.
    """

    def __init__(self, graph: NodeGraph, rules: dict[str, Rule]):
        self.graph, self.rules, self.terms, self.opset = graph, rules, Terms(), graph.opset
        self.values: dict[str, Value] = dict(graph.tensors)
        self.repaired: list[str] = []
        self.refused: list[str] = []
        self.folding = Folding(SPARE_BYTES + sum(array.nbytes for array in graph.tensors.values()))
        #: Of the image, where the graph says it.
        self.size: tuple[int | None, int | None] = (None, None)

    def run(self, where: str) -> dict[str, Term]:
        """The outputs that depend on the image.

        Raises UnknownNetworkError if there are none, or several inputs; DbnetError if the graph is damaged: it has a
        cycle, or takes what nothing gives.
        """
        images = list(self.graph.inputs.items())
        if len(images) != 1:
            raise UnknownNetworkError(f"{where}: takes {len(images)} inputs, not one image; it is no DBNet")
        name, sides = images[0]
        if len(sides) == 4:
            self.size = sides[2], sides[3]
        self.values[name] = Term("Image", (), {}, "the image", 3, Fraction(1))
        for node in in_order(self.graph, set(self.values), where):
            self._read(node)
        outputs = {name: value for name in self.graph.outputs if isinstance(value := self.values.get(name), Term)}
        if not outputs:
            raise UnknownNetworkError(f"{where}: computes nothing from its image; it is no DBNet")
        return outputs

    def _read(self, node: Node) -> None:
        self.terms.label = node.label
        inputs = [self.values.get(name) if name else None for name in node.inputs]
        found: Value | list[Value] | None
        if node.operator == "Constant":
            found = constant(node)
        elif any(isinstance(value, Term) for value in inputs) or node.captured:
            rule = self.rules.get(node.operator)
            found = self._by_rule(rule, node, inputs) if rule and inputs else None
        else:
            found = self.folding(node, [value for value in inputs if not isinstance(value, Term)], self.opset)
        outputs = found if isinstance(found, list) else [found]
        for i, name in enumerate(node.outputs):
            value = outputs[i] if i < len(outputs) else None
            self.values[name] = self.unread(node, inputs, i) if value is None else value

    def _by_rule(self, rule: Rule, node: Node, inputs: Sequence[Value | None]) -> Value | list[Value] | None:
        try:
            with np.errstate(all="ignore"):
                return rule(self, node, inputs)
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError, ZeroDivisionError):
            return None  # an attribute or a constant that is none of this operator's

    def unread(self, node: Node, inputs: Sequence[Value | None], output: int) -> Term:
        """A term of the node's own operator, marked as such: its name may be a layer's, but it is none. constants: the
        arrays among its inputs.
        """
        captured = [value for name in node.captured if isinstance(value := self.values.get(name), Term)]
        args = [value for value in inputs if isinstance(value, Term)]
        constants = tuple(value for value in inputs if isinstance(value, np.ndarray) and value.dtype != object)
        return Term(OTHER + node.operator, (*args, *captured), {"constants": constants, "output": output}, node.label)


def in_order(graph: NodeGraph, given: set[str], where: str) -> list[Node]:
    """The nodes, each after those whose outputs it takes. Raises DbnetError if there is no such order."""
    waiting: dict[str, list[int]] = {}
    missing = []
    made = {name for node in graph.nodes for name in node.outputs if name}
    for i, node in enumerate(graph.nodes):
        needed = {name for name in node.inputs if name and name not in given}
        if unknown := needed - made:
            raise DbnetError(f"{where}: {node.label} takes {min(unknown)[:60]}, which nothing in the graph gives; "
                             f"the file is damaged, export it again")
        needed |= {name for name in node.captured if name in made and name not in given and name not in node.outputs}
        missing.append(len(needed))
        for name in needed:
            waiting.setdefault(name, []).append(i)
    ready, ordered, seen = deque(i for i, count in enumerate(missing) if not count), list[Node](), set(given)
    while ready:
        node = graph.nodes[ready.popleft()]
        ordered.append(node)
        for name in filter(None, node.outputs):
            if name in seen:
                raise DbnetError(f"{where}: {name[:60]} is computed twice; the file is damaged, export it again")
            seen.add(name)
            for i in waiting.get(name, ()):
                missing[i] -= 1
                if not missing[i]:
                    ready.append(i)
    if len(ordered) < len(graph.nodes):
        raise DbnetError(f"{where}: its nodes take each other's outputs in a circle; the file is damaged, export it "
                         f"again")
    return ordered


def constant(node: Node) -> np.ndarray | None:
    """The value of a Constant."""
    for name, kind in (("value", None), ("value_float", np.float32), ("value_int", np.int64),
                       ("value_floats", np.float32), ("value_ints", np.int64)):
        value = node.attributes.get(name)
        if isinstance(value, np.ndarray):
            return value
        if value is not None and kind is not None:
            return np.array(value, kind)
    return None
