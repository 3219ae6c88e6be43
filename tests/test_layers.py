"""The layers of docs/DESIGN: imports go downwards only, and frameworks stay in the two halves. Read with `ast`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = {"dbnet": 1, "ms_models": 2, "torch_reference": 2, "converters": 3, "evaluation": 4, "parity": 5}
FRAMEWORKS = ("torch", "mindspore", "onnxruntime")
#: The framework each half is written in; no other may appear there at all.
HALVES = {"torch_reference": "torch", "ms_models": "mindspore"}
#: The command line calls every layer, so it stands above them all.
ABOVE = ("dbnet.__main__", "dbnet.cli")
TOP = max(LAYERS.values()) + 1


@dataclass(frozen=True)
class Import:
    """One imported name: `module` as far as it can be read, `deferred` if it does not run when the file is imported."""

    module: str
    line: int
    deferred: bool


def module_name(path: Path) -> str:
    """The dotted name of a file below the repository's root; a package has the name of its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))}


def imports_of(source: str, module: str, is_package: bool = False) -> Iterator[Import]:
    """Every import in `source`, also inside functions, relative ones resolved against `module`."""
    def walk(node: ast.AST, deferred: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, deferred) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[:len(module.split(".")) - node.level + is_package]
                base = ".".join([*parents, base] if base else parents)
            yield from (Import(f"{base}.{alias.name}", node.lineno, deferred) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for child in node.body:
                yield from walk(child, True)
            for child in node.orelse:
                yield from walk(child, deferred)
        else:
            inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            for child in ast.iter_child_nodes(node):
                yield from walk(child, deferred or inside)
    return walk(ast.parse(source), False)


def layer_of(module: str) -> int | None:
    """The layer of a dotted name; None for what is not ours."""
    if any(module == above or module.startswith(above + ".") for above in ABOVE):
        return TOP
    return LAYERS.get(module.split(".")[0])


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """What `source`, as the module of that name, imports against the rules: one line each."""
    package, own = module.split(".")[0], layer_of(module) or 0
    found = []
    for imported in imports_of(source, module, is_package):
        target, layer = imported.module.split(".")[0], layer_of(imported.module)
        where = f"{module}:{imported.line} imports {imported.module}"
        if layer is not None and layer > own:
            found.append(f"{where}, which is a layer above")
        elif layer is not None and layer == own != TOP and target != package:
            found.append(f"{where}, the other half")
        if target in FRAMEWORKS and target != HALVES.get(package, target):
            found.append(f"{where}, the other half's framework")
        elif target in FRAMEWORKS and package not in HALVES and not imported.deferred:
            found.append(f"{where} at module level")
    return found


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """One path per cycle that a depth-first walk closes."""
    done: set[str] = set()
    found = []

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module):], module])
        elif module not in done:
            for target in sorted(graph.get(module, ())):
                visit(target, [*path, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found


def import_graph() -> dict[str, set[str]]:
    """module -> the modules of ours that it imports when it is imported."""
    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        graph[module] = set()
        for imported in imports_of(path.read_text(encoding="utf-8"), module, path.name == "__init__.py"):
            # `from package import name`: name is a module of ours, or something in the package's own file.
            target = imported.module if imported.module in MODULES else imported.module.rpartition(".")[0]
            if not imported.deferred and target in MODULES:
                graph[module].add(target)
    return graph


def test_every_package_is_in_a_layer():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - {"tests", "benchmarks"} == set(LAYERS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downwards(module):
    path = MODULES[module]
    assert not violations(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")


def test_no_import_cycles():
    assert not cycles(import_graph())


@pytest.mark.parametrize(("module", "source"), [
    ("dbnet.spec", "import converters"),
    ("dbnet.spec", "def f():\n    from converters.convert import convert"),
    ("dbnet.spec", "from dbnet.cli import options"),
    ("dbnet.spec", "from . import __main__"),
    ("converters.convert", "from evaluation import detect"),
    ("converters.convert", "import torch"),
    ("converters.convert", "from torch import nn"),
    ("converters.convert", "try:\n    import onnxruntime as ort\nexcept ImportError:\n    ort = None"),
    ("converters.convert", "class A:\n    import mindspore.ops"),
    ("converters.convert", "if not TYPE_CHECKING:\n    import mindspore"),
    ("evaluation.detect", "from parity.compare import compare"),
    ("evaluation.detect", "if TYPE_CHECKING:\n    from parity.compare import Comparison"),
    ("ms_models.dbnet", "from torch_reference import resnet"),
    ("torch_reference.dbnet", "def f():\n    import ms_models.resnet"),
    ("torch_reference.dbnet", "import mindspore"),
    ("ms_models.runner", "def f():\n    import torch"),
    ("dbnet.cli.convert", "import torch"),
])
def test_a_violation_is_found(module, source):
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(("module", "source"), [
    ("parity.cases", "import converters, evaluation.runners, dbnet.spec, ms_models"),
    ("evaluation.runners", "def f():\n    import torch"),
    ("evaluation.runners", "if TYPE_CHECKING:\n    import torch"),
    ("torch_reference.dbnet", "from torch import nn\nfrom torch_reference import fpn\nfrom . import head"),
    ("dbnet.cli.demo", "import parity.compare\nfrom dbnet.cli import options"),
    ("converters.convert", "import torchmetrics"),
])
def test_what_is_allowed_is_not_reported(module, source):
    assert not violations(source, module)


def test_relative_imports_are_resolved():
    assert [i.module for i in imports_of("from .a import b\nfrom .. import c", "p.q.r")] == ["p.q.a.b", "p.c"]
    assert [i.module for i in imports_of("from .a import b", "p.q", is_package=True)] == ["p.q.a.b"]


def test_a_cycle_is_found():
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c", "a"]]
    assert not cycles({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()})
