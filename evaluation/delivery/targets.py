"""What `dbnet export --target` may be, and who writes it; the writers are imported when they are asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from converters.load import LoadedModel
from dbnet.errors import DbnetError
from dbnet.extras import require
from evaluation.delivery.settings import Delivered, ExportSettings

Writer = Callable[[LoadedModel, Path, ExportSettings], Delivered]


@dataclass(frozen=True)
class Target:
    """suffixes: that a file for it may have. writer: module:function. runner: it is compared in, None where that
    runtime is not one of ours. needs: package without which nothing is written. beside: how the files end that are
    written beside it, in place of its suffix.
    """

    name: str
    suffixes: tuple[str, ...]
    writer: str
    runner: str | None
    needs: str | None = None
    beside: tuple[str, ...] = ()

    def write(self, model: LoadedModel, out: Path, settings: ExportSettings) -> Delivered:
        """Raises DbnetError."""
        module, function = self.writer.split(":")
        writer: Writer = getattr(importlib.import_module(module), function)
        return writer(model, out, settings)

    def places(self, out: Path) -> tuple[Path, ...]:
        """`out` and everything that may be written beside it."""
        pair = (out.with_suffix(".bin"),) if out.suffix.lower() == ".xml" else ()
        return (out, *pair, *(out.with_name(f"{out.stem}.{end}") for end in self.beside))

    def check(self, out: Path) -> None:
        """Raises DbnetError for a file that is not named so, or if a package is missing."""
        if out.suffix.lower() not in self.suffixes:
            raise DbnetError(f"{out}: a file for {self.name} is called {' or '.join(self.suffixes)}, not "
                             f"{out.suffix or 'without a suffix'}; name it so, or choose another --target")
        if self.needs and not (self.name == "openvino" and out.suffix.lower() == ".onnx"):
            require(self.needs)


def _of(name: str, suffixes: str, runner: str | None, needs: str | None = None, beside: str = "") -> Target:
    return Target(name, tuple(suffixes.split()), f"evaluation.delivery.{name}:write", runner, needs,
                  tuple(beside.split()))


TARGETS = {target.name: target for target in (
    _of("onnx", ".onnx", "onnxruntime"),
    _of("mindir", ".mindir", "mindspore:mindir", "mindspore"),
    _of("opencv", ".onnx", "opencv"),
    _of("openvino", ".xml .onnx", "openvino", "openvino"),
    _of("rapidocr", ".onnx", "onnxruntime"),
    _of("lite", ".mindir .ms", None, "mindspore", "graph.mindir lite.txt lite.sh lite.json"),
    _of("om", ".om", None, None, "onnx keep_dtype.cfg atc.sh"),
)}
#: Where --target is not given.
_BY_SUFFIX = {".onnx": "onnx", ".mindir": "mindir", ".xml": "openvino", ".ms": "lite", ".om": "om"}


def target_of(out: Path, name: str | None) -> Target:
    """The target of that name, or else by the file's. Raises DbnetError if there is none, or the name does not fit."""
    name = name or _BY_SUFFIX.get(out.suffix.lower())
    if name is None:
        raise DbnetError(f"{out}: dbnet export writes {', '.join(_BY_SUFFIX)} files; use dbnet convert for "
                         f"{out.suffix or 'others'}")
    if name not in TARGETS:
        raise DbnetError(f"unknown target {name!r}; choose from {', '.join(TARGETS)}")
    TARGETS[name].check(out)
    return TARGETS[name]
