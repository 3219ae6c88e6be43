"""What CONTRIBUTING asks for and ruff has no rule for, read with `ast`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("dbnet", "ms_models", "torch_reference", "converters", "evaluation", "parity", "tests", "benchmarks")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION = 400, 60
#: Arguments that load half a checkpoint, or run what a file says, when they are given this value.
UNSAFE = {("strict", False), ("strict_load", False), ("weights_only", False), ("allow_pickle", True), ("shell", True)}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def faults(source: str, is_test: bool = False) -> Iterator[str]:
    """What is wrong with one file, one line each."""
    if (lines := source.count("\n")) > LONGEST_FILE:
        yield f"{lines} lines in a file, {LONGEST_FILE} at most"
    for node in ast.walk(ast.parse(source)):
        where = f"line {getattr(node, 'lineno', 0)}"
        if isinstance(node, Function):
            yield from (f"{where}: {fault}" for fault in function_faults(node, is_test))
        elif isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
            if (node.arg, node.value.value) in UNSAFE:
                yield f"{where}: {node.arg}={node.value.value}"
        elif isinstance(node, ast.ExceptHandler) and all(isinstance(step, ast.Pass) for step in node.body):
            yield f"{where}: an exception is dropped; contextlib.suppress says so openly"
        elif isinstance(node, ast.Name) and node.id == "NotImplemented" + "Error":
            yield f"{where}: a promise instead of code"


def function_faults(node: Function, is_test: bool) -> Iterator[str]:
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    if length > LONGEST_FUNCTION:
        yield f"{node.name} has {length} lines, {LONGEST_FUNCTION} at most"
    if is_test:
        return
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    if any(argument.annotation is None and argument.arg not in ("self", "cls") for argument in arguments):
        yield f"{node.name} has an argument without a type"
    if node.returns is None and node.name != "__init__":
        yield f"{node.name} has no return type"
    if any(isinstance(default, (ast.List, ast.Dict, ast.Set)) for default in node.args.defaults):
        yield f"{node.name} has a default that every call shares"


def undocumented(source: str) -> list[str]:
    """The module, if it has no docstring."""
    return [] if not source.strip() or ast.get_docstring(ast.parse(source)) else ["no docstring"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file(path):
    source = path.read_text(encoding="utf-8")
    is_test = path.name == "conftest.py" or path.name.startswith("test_")
    assert [*faults(source, is_test), *undocumented(source)] == []


@pytest.mark.parametrize("source", [
    f"load(a, strict={False})",
    f"load(a,\n     weights_only = {False})",
    f"np.load(a, allow_pickle={True})",
    "try:\n    f()\nexcept ValueError:\n    pass",
    "def f() -> None:\n    raise NotImplemented" + "Error",
    "def f(x) -> int:\n    return x",
    "def f(x: int):\n    return x",
    "def f(x: list = []) -> int:\n    return 1",
    "def f() -> None:\n" + "    x = 1\n" * 60,
    "x = 1\n" * 401,
])
def test_a_fault_is_found(source):
    assert len(list(faults(source))) == 1
