"""The proof that a foreign .onnx was understood: file and converted model, run side by side before anything is written.

Both run in ONNX Runtime or, without it, in onnx's own reference evaluator, on random input and on a drawn picture.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converters import onnx_file
from converters.onnx_outline import read_outline
from converters.tensor_file import Weights
from dbnet.datasets.drawn import draw
from dbnet.errors import DbnetError
from dbnet.extras import installed, require
from dbnet.preprocess import prepare
from dbnet.running import runnable
from dbnet.seeded import seeded_images
from dbnet.spec import STRIDE, ModelSpec

if TYPE_CHECKING:
    from converters.load import LoadedModel
    from converters.onnx_foreign import ForeignModel

#: Largest difference of the probability: both are float32 computations of the same numbers, in another order.
TOLERANCE = 1e-4
#: Sizes of random input and picture where the file takes every size; of both in the reference evaluator.
SIZE, PICTURE, SMALL = (96, 160), (352, 640), (64, 96)
_ERRORS_ONLY = 3
OURS = "the converted model"
_KINDS = {"tensor(float16)": np.float16, "tensor(double)": np.float64}

#: (N, 3, H, W) float32 -> all outputs by name.
Run = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Proof:
    """random, picture: largest difference of the probability. *_size: height and width in pixels."""

    runtime: str
    random: float
    random_size: tuple[int, int]
    picture: float
    picture_size: tuple[int, int]
    tolerance: float = TOLERANCE

    def describe(self) -> str:
        """One phrase."""
        sizes = [f"{height}x{width}" for height, width in (self.random_size, self.picture_size)]
        return (f"largest difference of the probability between the file and the converted model in {self.runtime}: "
                f"{self.random:.1e} on random input ({sizes[0]}), {self.picture:.1e} on a picture ({sizes[1]})")

    def as_data(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


@dataclass(frozen=True)
class _Session:
    """A model in a runtime. size: height and width of the images that it takes, None where it takes all."""

    runtime: str
    run: Run
    fast: bool
    size: tuple[int | None, int | None] = (None, None)


def must_be_proved(model: LoadedModel) -> bool:
    """True for an .onnx that is not ours."""
    return model.format == "onnx" and (model.foreign is not None or model.bare)


def prove(model: LoadedModel) -> Proof | None:
    """Runs the file that `model` was read from beside our own graph of the weights, with the semantics of the file.

    None if the file computes nothing. Raises DbnetError if they differ by more than TOLERANCE, or cannot be run.
    """
    found = model.foreign
    if found is None and not read_outline(model.path).nodes:
        return None
    if found is not None:
        _size(model.path, found.size, SIZE)
    spec = model.record.spec if found is None else found.record.spec
    theirs, ours = _open_both(model, found.repaired if found else [], _archive(spec, model.weights))
    usual = (SIZE, PICTURE) if theirs.fast else (SMALL, SMALL)
    sizes = [_size(model.path, found.size if found else theirs.size, size) for size in usual]
    differences = []
    for image in (seeded_images(1, *sizes[0]), _picture(spec, sizes[1])):
        wanted = _probability(theirs.run(image), found, model.path)
        same = wanted.shape == (1, 1, *image.shape[2:])
        differences.append(float(np.abs(wanted - ours.run(image)["probability"]).max()) if same else math.inf)
    proof = Proof(theirs.runtime, differences[0], sizes[0], differences[1], sizes[1])
    if not max(differences) <= TOLERANCE:
        raise DbnetError(f"{model.path}: was not understood: {proof.describe()}, {TOLERANCE:.0e} is allowed; nothing "
                         f"was written, please report this file")
    return proof


def _size(path: Path, fixed: tuple[int | None, int | None], usual: tuple[int, int]) -> tuple[int, int]:
    height, width = (side or other for side, other in zip(fixed, usual, strict=True))
    if height % STRIDE or width % STRIDE or height * width > 1 << 24:
        raise DbnetError(f"{path}: takes images of {height}x{width} only, and a DBNet's are multiples of {STRIDE}; "
                         f"export it with another size")
    return height, width


def _picture(spec: ModelSpec, size: tuple[int, int]) -> np.ndarray:
    image, _ = draw(7, *size)
    return prepare(image, replace(spec.pixels, resize="stretch", size=size)).tensor


def _probability(outputs: dict[str, np.ndarray], found: ForeignModel | None, path: Path) -> np.ndarray:
    """(1, 1, H, W) of the output that is it."""
    output = next(iter(outputs.values())) if found is None else outputs[found.output]
    if found is not None and found.channel is not None:
        output = output[:, found.channel]
    output = np.asarray(output, np.float32)
    if output.ndim < 2:
        raise DbnetError(f"{path}: its output has the shape {output.shape}, which is no map")
    output = output.reshape(-1, 1, *output.shape[-2:])[:1]
    if found is not None and found.logits:
        output = 1 / (1 + np.exp(-output.astype(np.float64)))
    return output


# Runtimes -------------------------------------------------------------------------------------------------------------


def _open_both(model: LoadedModel, repaired: list[str], archive: bytes) -> tuple[_Session, _Session]:
    """The file and our graph in the same runtime: ONNX Runtime or, where it is not there or refuses the file (as it
    does some that torch wrote at old opsets), the reference evaluator. Raises DbnetError if neither takes it.
    """
    source = _repair(model.path, repaired) if repaired else str(model.path)
    refusal = None
    if installed("onnxruntime"):
        try:
            return _open_onnx_runtime(source, str(model.path)), _open_onnx_runtime(archive, OURS)
        except DbnetError as error:
            refusal = error
    try:
        theirs = _open_reference(source, str(model.path))
        theirs.run(seeded_images(1, *SMALL))
    except DbnetError as error:
        raise refusal or error from error
    return theirs, _open_reference(archive, OURS)


def _archive(spec: ModelSpec, weights: Weights) -> bytes:
    """Our own graph, without the training branch."""
    stream = io.BytesIO()
    used = {name: array for name, array in runnable(spec, weights).items() if not name.startswith("head.thresh.")}
    onnx_file.write(stream, used, spec, None, form="archive")
    return stream.getvalue()


def _open_onnx_runtime(source: bytes | str, where: str) -> _Session:
    ort = require("onnxruntime")
    name, failures = f"ONNX Runtime {ort.__version__}", _failures(ort)
    settings = ort.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    try:
        session = ort.InferenceSession(source, settings, providers=["CPUExecutionProvider"])
    except failures as error:
        raise DbnetError(f"{where}: cannot be proved, {name} refuses it: {_one_line(error)}; nothing was "
                         f"written") from error
    image, names = session.get_inputs()[0], [output.name for output in session.get_outputs()]
    shape = [side if isinstance(side, int) and side > 0 else None for side in image.shape]
    batch, kind = (shape or [None])[0] or 1, _KINDS.get(image.type, np.float32)

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        try:
            outputs = session.run(names, {image.name: np.repeat(images, batch, 0).astype(kind)})
        except failures as error:
            raise DbnetError(f"{where}: cannot be proved, {name} fails to run it: {_one_line(error)}; nothing was "
                             f"written") from error
        return dict(zip(names, outputs, strict=True))

    return _Session(name, run, True, (shape[2], shape[3]) if len(shape) == 4 else (None, None))


def _failures(ort: Any) -> tuple[type[Exception], ...]:
    """ONNX Runtime's own exceptions, which share no base class."""
    state = vars(ort.capi.onnxruntime_pybind11_state).values()
    own = (kind for kind in state if isinstance(kind, type) and issubclass(kind, Exception))
    return (*own, RuntimeError, ValueError)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _open_reference(source: bytes | str, where: str) -> _Session:
    import onnx
    from onnx.reference import ReferenceEvaluator
    model = onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(source)
    if any(opset.domain == "" and opset.version < 14 for opset in model.opset_import):
        for node in (node for node in model.graph.node if node.op_type == "BatchNormalization"):
            kept = [attribute for attribute in node.attribute if attribute.name != "momentum"]
            del node.attribute[:]  # it trains before opset 14, unless the old statistics have all the weight
            node.attribute.extend([*kept, onnx.helper.make_attribute("momentum", 1.0)])
    try:
        evaluator = ReferenceEvaluator(model)
    except (RuntimeError, ValueError, TypeError) as error:
        raise _unproved(where, error) from error

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        try:
            outputs = evaluator.run(None, {evaluator.input_names[0]: images})
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise _unproved(where, error) from error
        return dict(zip(evaluator.output_names, outputs, strict=True))

    return _Session(f"onnx {onnx.__version__}'s reference evaluator", run, False)


def _unproved(where: str, error: Exception) -> DbnetError:
    return DbnetError(f"{where}: cannot be proved without ONNX Runtime ({_one_line(error)}): pip install "
                      f"'dbnet-parity[onnxruntime]'; nothing was written")


def _repair(path: Path, nodes: list[str]) -> bytes:
    """The model without the attributes of transposed convolutions that no runtime takes."""
    import onnx
    model = onnx.load(str(path))
    for node in model.graph.node:
        if node.op_type == "ConvTranspose" and (node.name or node.output[0]) in nodes:
            kept = [attribute for attribute in node.attribute if attribute.name not in ("output_shape", "auto_pad")]
            del node.attribute[:]
            node.attribute.extend(kept)
    return bytes(model.SerializeToString())
