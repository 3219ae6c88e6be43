"""MindSpore's .mindir: written from graph mode, and run by its own graph.

A .mindir holds a network's graph with its weights and is what MindSpore Lite's converter takes. The graph written here
is the one that `MindSporeRunner` runs, with the same settings, so that its numbers are the same bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import mindspore as ms
import numpy as np
from google.protobuf.message import DecodeError
from mindspore import Tensor, nn
from mindspore.train.mind_ir_pb2 import ModelProto

from dbnet import signals
from dbnet.errors import DbnetError, short
from dbnet.pixel_formats import AnySpec
from dbnet.running import check_images, check_stages, parse_device, told_logits
from dbnet.seeded import seeded_images
from dbnet.spec import STRIDE
from ms_models import compat
from ms_models.runner import MindSporeRunner, Stages, environment_of

#: What may be in a file's name for `mindspore.export`; folders count.
LEGAL = "letters of English, digits and @ _ - . : /"
#: Under which `user_info` a file says what it gives (`converters.delivery_note`).
DELIVERY_KEY = "dbnet.delivery"
#: How MindSpore's encrypted files begin: AES-GCM, AES-CBC, SM4-CBC.
_ENCRYPTED = tuple(code.to_bytes(4, "little") for code in (0x7F3A5ED8, 0x7F3A5ED9, 0x7F3A5EDA))
#: The size of the image that a file is tried with, if it takes any.
_TRIED = (64, 96)


# Writing --------------------------------------------------------------------------------------------------------------


class _OneMap(nn.Cell):
    """The only map of a graph, not in a tuple: runtimes other than MindSpore want it so."""

    def __init__(self, graph: Stages):
        super().__init__(auto_prefix=False)
        self.graph = graph

    def construct(self, x: Tensor) -> Tensor:
        return self.graph(x)[0]


def write(stream: BinaryIO, runner: MindSporeRunner, shape: Sequence[int | None], user_info: Mapping[str, str]) -> None:
    """The graph of a runner that was opened for one stage. shape: (N, 3, H, W), None where any will do.

    user_info: what the file carries along beside the graph; MindSpore loads it unread. It is exported under a legal
    name in a temporary folder, whatever the stream's file is called. Raises DbnetError if MindSpore cannot export it.
    """
    cell = _OneMap(Stages(runner.net, runner.stages))
    cell.set_train(False)
    image = Tensor(shape=list(shape), dtype=ms.float32) if None in shape else \
        Tensor(np.zeros([side or 1 for side in shape], np.float32))

    def inform(model: Any) -> None:
        for key, text in user_info.items():
            model.user_info[key] = text

    syntax = ms.get_context("jit_syntax_level")
    with tempfile.TemporaryDirectory(prefix="dbnet-") as folder:
        path = Path(folder, "model.mindir")
        try:
            with compat.quiet(), signals.kept_signals():
                ms.export(cell, image, file_name=str(path), file_format="MINDIR", custom_func=inform)
        except (RuntimeError, ValueError, TypeError, MemoryError) as error:
            raise DbnetError(f"MindSpore {ms.__version__} could not export the graph: {compat.first_sentence(error)}; "
                             f"a folder whose name has only {LEGAL} can be named in TMPDIR") from error
        finally:
            ms.set_context(jit_syntax_level=syntax)  # which an export that fails leaves changed
        if not path.is_file():
            raise DbnetError("the graph and its weights have more than 1 GiB, which MindSpore writes as several files; "
                             "such a model is not exported here")
        with path.open("rb") as exported:
            shutil.copyfileobj(exported, stream, 1 << 20)


# Reading --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outline:
    """shapes: of the inputs, None for a free side. user_info: texts that it carries along. lite: MindSpore Lite has
    converted it, so that MindSpore cannot run it.
    """

    shapes: tuple[tuple[int | None, ...], ...]
    user_info: Mapping[str, str]
    lite: bool


def outline_of(path: Path) -> Outline:
    """What a .mindir says of itself, without loading its graph. Raises DbnetError if it is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DbnetError(f"{path}: cannot be read ({error.strerror}); name a .mindir") from error
    if content[:4] in _ENCRYPTED:
        raise DbnetError(f"{path}: is encrypted; save it anew with MindSpore, without a key")
    model = ModelProto()
    try:
        model.ParseFromString(content)
        if not model.HasField("graph"):
            raise DecodeError("it has no graph")
    except DecodeError as error:
        raise DbnetError(f"{path}: is damaged or no MindIR; copy it or export it again") from error
    operators = {primitive.op_type for primitive in model.primitives}
    lite = "Conv2D" not in operators and any(name == "Custom" or name.endswith("Fusion") for name in operators)
    shapes = tuple(tuple(side if 0 < side < 1 << 31 else None for side in tensor.dims)
                   for one in model.graph.input for tensor in one.tensor[:1])
    return Outline(shapes, dict(model.user_info), lite)


def _input_of(path: Path, outline: Outline) -> tuple[int | None, ...]:
    """Of its only input, an image. Raises DbnetError for any other file."""
    if outline.lite:
        raise DbnetError(f"{path}: was converted by MindSpore Lite, and MindSpore cannot run it; use --runner "
                         f"mindspore_lite, or the .mindir that it was made of")
    told = " and ".join(f"({', '.join('any' if side is None else str(side) for side in shape)})"
                        for shape in outline.shapes) or "nothing"
    if len(outline.shapes) != 1:
        raise DbnetError(f"{path}: takes {told}; only a file that takes one image and nothing else runs here")
    shape = outline.shapes[0]
    if len(shape) != 4 or shape[1] not in (3, None):
        raise DbnetError(f"{path}: takes {told}, not one colour image (N, 3, H, W)")
    if any(side is not None and side % STRIDE for side in shape[2:]):
        raise DbnetError(f"{path}: takes images of shape {told}; sides must be multiples of {STRIDE} here")
    return shape


def _gives_logits(path: Path, outline: Outline) -> bool | None:
    """What the file says that it gives; None if it does not say."""
    text = outline.user_info.get(DELIVERY_KEY)
    if text is None:
        return None
    try:
        return {"probability": False, "logits": True}[json.loads(text)["output"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DbnetError(f"{path}: its delivery note is damaged ({type(error).__name__}: {short(error)}); export the "
                         f"model again") from error


def digest_of(path: Path) -> str:
    """sha256 of the file, and of the weights beside it where MindSpore has put them there."""
    parts = [path, *sorted(path.with_name(path.stem.removesuffix("_graph") + "_variables").glob("data_*"))]
    total = hashlib.sha256()
    for part in parts:
        with part.open("rb") as stream:
            while block := stream.read(1 << 20):  # not file_digest, for Python 3.10 in other environments
                total.update(block)
    return total.hexdigest()


# Running --------------------------------------------------------------------------------------------------------------


class MindIRRunner:
    """A .mindir by its own graph: what `dbnet export` and plain `mindspore.export` write, MindOCR's published ones.

    spec: what it computes, passed through. device: see `MindSporeRunner`, whose settings hold here too. stages: the
    `probability`, or the `logits` of a file that gives these; None is the first. A sigmoid is applied where a file
    gives logits, which it says in its delivery note; of others one seeded image tells. shape: of the input, (N, 3, H,
    W), None where any will do. digest: sha256 of the file. notes: one line each.

    Raises DbnetError for another device, and for a file that is no .mindir, wants something else than one image, or
    gives something else than one map of its size.
    """

    name = "mindspore"
    title = "mindspore:mindir"
    at_once = 1
    threads: int | None = None
    jit_level: str | None = None

    def __init__(self, path: str | Path, spec: AnySpec, device: str | None = None,
                 stages: tuple[str, ...] | None = ("probability",)):
        self.path, self.spec = Path(path), spec
        self.stages = ("probability",) if stages is None else check_stages(stages)
        if self.path.suffix != ".mindir":
            raise DbnetError(f"{self.path}: MindSpore loads no file that is not called .mindir; rename it")
        outline = outline_of(self.path)
        self.shape = _input_of(self.path, outline)
        self.notes: list[str] = []
        self.digest = digest_of(self.path)
        self._device = compat.set_device(None if device is None else parse_device(device))
        self.device = "cpu" if self._device.kind == "cpu" else f"{self._device.kind}:{self._device.index}"
        self._precision = compat.set_arithmetic(self._device.kind, "exact")
        ms.set_context(mode=ms.GRAPH_MODE)
        compat.cure_avx512()
        self._graph = self._loaded()
        logits = _gives_logits(self.path, outline)
        self.logits = self._try() if logits is None else logits
        if self.stages not in (("probability",), ("logits",) if self.logits else ("probability",)):
            gives = "logits and their sigmoid" if self.logits else "the probability map"
            raise DbnetError(f"{self.path}: gives {gives} by its own graph, and no stage {self.stages[-1]}; --runner "
                             f"mindspore computes every stage of its weights")

    def _loaded(self) -> Any:
        try:
            with compat.quiet(), signals.kept_signals():
                graph = nn.GraphCell(ms.load(str(self.path)))
        except (RuntimeError, ValueError, TypeError, MemoryError) as error:
            raise DbnetError(f"{self.path}: MindSpore {ms.__version__} does not load it: "
                             f"{compat.first_sentence(error)}; export it again") from error
        graph.set_train(False)
        if None in self.shape:  # else it would be compiled anew for every size
            graph.set_inputs(Tensor(shape=[self.shape[0], 3, *self.shape[2:]], dtype=ms.float32))
        return graph

    def _try(self) -> bool:
        """Whether it gives logits: by the values of one seeded image."""
        count, _, height, width = self.shape
        found = self._computed(seeded_images(count or 1, height or _TRIED[0], width or _TRIED[1]))
        note = told_logits(found, self.path)
        self.notes += [] if note is None else [note]
        return note is not None

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The map (N, 1, H, W) of (N, 3, H, W) float32 images, sides multiples of 32 px; a file with fixed sizes takes
        no other, one for a single image takes them one after the other. Raises DbnetError otherwise.
        """
        images = check_images(images)
        self._check_shape(images.shape)
        parts = np.split(images, len(images)) if self.shape[0] == 1 else [images]
        found = np.concatenate([self._computed(part) for part in parts])
        if self.logits and self.stages == ("probability",):
            small = np.exp(-np.abs(found))
            found = np.where(found >= 0, 1, small) / (1 + small)
        return {self.stages[0]: found}

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        batch, *sides = self.shape
        told = f"({', '.join('any' if side is None else str(side) for side in self.shape)})"
        if any(side not in (None, given) for side, given in zip(sides, shape[1:], strict=True)):
            size = "x".join(str(side or given) for side, given in zip(sides[1:], shape[2:], strict=True))
            raise DbnetError(f"{self.path}: takes images of shape {told} only, not {shape}; say in --pixels how they "
                             f"come to that size: resize=stretch,size={size}, or choose --runner mindspore, which "
                             f"takes every size")
        if batch not in (None, 1, shape[0]):
            raise DbnetError(f"{self.path}: takes exactly {batch} images at once, {told}, not {shape[0]}; export it "
                             f"for one image or any number, or choose --runner mindspore")

    def _computed(self, images: np.ndarray) -> np.ndarray:
        """The map as the file gives it."""
        try:
            with compat.quiet(), compat.kept_signals():
                found = self._graph(Tensor(images))
                maps = [one.asnumpy() for one in (found if isinstance(found, (tuple, list)) else (found,))]
        except (RuntimeError, ValueError, TypeError, AttributeError, MemoryError) as error:
            raise DbnetError(f"{self.path}: MindSpore failed on {self.device} at {images.shape}: "
                             f"{compat.first_sentence(error)}; try a smaller image or another device") from error
        wanted = (len(images), 1, *images.shape[2:])
        if len(maps) != 1 or maps[0].shape != wanted:
            told = ", ".join(str(one.shape) for one in maps)
            raise DbnetError(f"{self.path}: gives {told} for images of shape {images.shape}, not one probability map "
                             f"{wanted}")
        return np.asarray(maps[0], np.float32)

    def environment(self) -> dict[str, Any]:
        """What can move a number: versions, device, precision, jit level, threads; and that the file's graph ran."""
        return {**environment_of(self._device, self._precision, None), "graph": "mindir"}
