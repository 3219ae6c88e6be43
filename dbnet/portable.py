"""Copies of our own modules that another interpreter can import, with NumPy and one framework and nothing else.

What is copied follows from the sources: a module, the packages it lies in, and whatever these import, also inside
functions. Neither is anything imported here, nor does it matter whether this is a checkout or an installed wheel.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from dbnet.errors import DbnetError

#: Our own packages. They lie beside each other, in a checkout and where the wheel is installed.
PACKAGES = ("dbnet", "ms_models", "torch_reference", "converters", "evaluation", "parity")
_ROOT = Path(__file__).resolve().parents[1]


def copy_modules(folder: Path, entries: Sequence[str], allowed: Sequence[str]) -> list[Path]:
    """Copies `entries` (`ms_models.runner`) and all of ours that they need below `folder`; returns the files, sorted.

    folder: exists; put on the path of the other interpreter. allowed: the packages which that interpreter has besides
    the standard library. Raises DbnetError if one of the modules needs another one in order to be imported, and for a
    module that is none of ours, or a file that cannot be written.
    """
    sources = closure(entries)
    check_needs(sources, allowed)
    copied = []
    for path in sources.values():
        target = folder / path.relative_to(_ROOT)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
        except OSError as error:
            raise DbnetError(f"{target}: could not be written ({error.strerror}); choose another folder") from error
        copied.append(target)
    return sorted(copied)


def closure(entries: Sequence[str]) -> dict[str, Path]:
    """module -> its file, of `entries` and all of ours that they import, sorted. Raises DbnetError for none of ours."""
    found: dict[str, Path] = {}
    waiting = list(entries)
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        path = _file_of(module)
        if path is None:
            raise DbnetError(f"{module}: is no module of this package; check the name, or install the package again")
        found[module] = path
        waiting += [parent for parent in [module.rpartition(".")[0]] if parent]
        for name, _line, _runs in _imports(path, module):
            # `from package import name`: name is a module, or something in the package's own file.
            target = name if _file_of(name) else name.rpartition(".")[0]
            if name.split(".")[0] in PACKAGES:
                waiting.append(target)
    return dict(sorted(found.items()))


def check_needs(sources: dict[str, Path], allowed: Sequence[str]) -> None:
    """Raises DbnetError if importing one of the modules imports a package of others that is not `allowed`."""
    for module, path in sources.items():
        for name, line, runs in _imports(path, module):
            package = name.split(".")[0]
            if runs and package not in {*PACKAGES, *sys.stdlib_module_names, *allowed}:
                raise DbnetError(f"{module} (line {line}) imports {package}, and the copies have only "
                                 f"{', '.join(allowed) or 'the standard library'}; import it inside a function")


def _file_of(module: str) -> Path | None:
    parts = module.split(".")
    if parts[0] not in PACKAGES:
        return None
    base = _ROOT.joinpath(*parts)
    return next((path for path in (base / "__init__.py", base.with_name(f"{parts[-1]}.py")) if path.is_file()), None)


def _imports(path: Path, module: str) -> Iterator[tuple[str, int, bool]]:
    """(dotted name, line, whether importing the module runs it) of every import, but those for type checkers."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def walk(node: ast.AST, runs: bool) -> Iterator[tuple[str, int, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, runs) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[:len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((f"{base}.{alias.name}", node.lineno, runs) for alias in node.names)
        else:
            inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            checkers = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
            for child in node.orelse if checkers else ast.iter_child_nodes(node):  # type: ignore[attr-defined]
                yield from walk(child, runs and not inside)

    yield from walk(ast.parse(path.read_bytes(), str(path)), True)
