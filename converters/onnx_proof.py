"""The proof that a foreign .onnx was understood: file and converted model, run side by side before anything is written.

Both run in ONNX Runtime or, without it, in onnx's own reference evaluator, on random input and on a drawn picture. Of
the file only what the probability needs is executed (`onnx_pruned`).
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converters import onnx_file
from converters.onnx_outline import read_outline
from converters.onnx_pruned import Pruned, pruned
from converters.tensor_file import Weights
from dbnet.datasets.drawn import draw
from dbnet.errors import DbnetError, short
from dbnet.extras import installed, onnxruntime_errors, require
from dbnet.preprocess import prepare
from dbnet.running import runnable
from dbnet.seeded import seeded_images
from dbnet.spec import STRIDE, ModelSpec

if TYPE_CHECKING:
    from converters.load import LoadedModel
    from converters.onnx_foreign import ForeignModel

#: Largest difference of the probability: both are float32 computations of the same numbers, in another order.
TOLERANCE = 1e-4
#: Where the file computes in float16 or bfloat16 and the converted model in float32: the rounding of 50 layers. A
#: float16 has 11 bits, and steps of 5e-4 just below 1.
HALF_TOLERANCE = 5e-3
#: Sizes of random input and picture where the file takes every size; of both in the reference evaluator.
SIZE, PICTURE, SMALL = (96, 160), (352, 640), (64, 96)
_ERRORS_ONLY = 3
OURS = "the converted model"
#: Of TensorProto; everything else gets float32.
_KINDS: dict[int, Any] = {10: np.float16, 11: np.float64}
#: What onnx's reference evaluator raises for a node that it does not know, or that has no sense.
_REFERENCE_FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError,
                       TypeError, ValueError)

#: (N, 3, H, W) float32 -> the output.
Run = Callable[[np.ndarray], np.ndarray]


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
                f"{self.random:.1e} on random input ({sizes[0]}), {self.picture:.1e} on a picture ({sizes[1]})"
                + (f" (it computes in half precision: up to {self.tolerance:.0e} may be rounding)"
                   if self.tolerance != TOLERANCE else ""))

    def as_data(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


@dataclass(frozen=True)
class _Session:
    """A model in a runtime."""

    runtime: str
    run: Run
    fast: bool


def must_be_proved(model: LoadedModel) -> bool:
    """True for an .onnx that is not ours."""
    return model.format == "onnx" and (model.foreign is not None or model.bare)


def prove(model: LoadedModel) -> Proof | None:
    """Runs the file that `model` was read from beside our own graph of the weights, with the semantics of the file.

    None if the file computes nothing. Raises DbnetError if they differ by more than TOLERANCE (HALF_TOLERANCE for one
    that computes in float16), or cannot be run.
    """
    found = model.foreign
    if found is None and not read_outline(model.path).nodes:
        return None
    if found is not None:
        _size(model.path, found.size, SIZE)
    spec = model.record.spec if found is None else found.record.spec
    source = pruned(model.path, found.output if found else None, found.repaired if found else ())
    theirs, ours = _open_both(source, model.path, _archive(spec, model.weights))
    usual = (SIZE, PICTURE) if theirs.fast else (SMALL, SMALL)
    fixed = source.shape[2:] if len(source.shape) == 4 else (None, None)
    sizes = [_size(model.path, found.size if found else fixed, size) for size in usual]
    differences = []
    for image in (seeded_images(1, *sizes[0]), _picture(spec, sizes[1])):
        wanted = _probability(theirs.run(image), found, model.path)
        same = wanted.shape == (1, 1, *image.shape[2:])
        differences.append(float(np.abs(wanted - ours.run(image)).max()) if same else math.inf)
    tolerance = HALF_TOLERANCE if source.half else TOLERANCE
    proof = Proof(theirs.runtime, differences[0], sizes[0], differences[1], sizes[1], tolerance)
    if not max(differences) <= tolerance:
        raise DbnetError(f"{model.path}: was not understood: {proof.describe()}, {tolerance:.0e} is allowed; nothing "
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


def _probability(output: np.ndarray, found: ForeignModel | None, path: Path) -> np.ndarray:
    """(1, 1, H, W) of the output that is it, or holds it."""
    try:
        output = np.asarray(output if found is None or found.channel is None else output[:, found.channel], np.float32)
    except (TypeError, ValueError, IndexError) as error:  # a sequence, texts, nothing
        raise DbnetError(f"{path}: its output holds no numbers, which is no map") from error
    if output.ndim < 2:
        raise DbnetError(f"{path}: its output has the shape {output.shape}, which is no map")
    output = output.reshape(-1, 1, *output.shape[-2:])[:1]
    if found is not None and found.logits:
        output = 1 / (1 + np.exp(-output.astype(np.float64)))
    return output


# Runtimes -------------------------------------------------------------------------------------------------------------


def _open_both(source: Pruned, path: Path, archive: bytes) -> tuple[_Session, _Session]:
    """The file and our graph in the same runtime: ONNX Runtime or, where it is not there or refuses the file (as it
    does some that torch wrote at old opsets), the reference evaluator. Raises DbnetError if neither takes it.
    """
    ours = Pruned(archive, "probability", 1, (None, 3, None, None), False)
    refusal = None
    if installed("onnxruntime"):
        try:
            return _open_onnx_runtime(source, str(path)), _open_onnx_runtime(ours, OURS)
        except DbnetError as error:
            refusal = error
    try:
        theirs = _open_reference(source, str(path))
        theirs.run(seeded_images(1, *SMALL))
    except DbnetError as error:
        raise refusal or error from error
    return theirs, _open_reference(ours, OURS)


def _archive(spec: ModelSpec, weights: Weights) -> bytes:
    """Our own graph, without the training branch."""
    stream = io.BytesIO()
    used = {name: array for name, array in runnable(spec, weights).items() if not name.startswith("head.thresh.")}
    onnx_file.write(stream, used, spec, None, form="archive")
    return stream.getvalue()


def _open_onnx_runtime(model: Pruned, where: str) -> _Session:
    ort = require("onnxruntime")
    name, failures = f"ONNX Runtime {ort.__version__}", onnxruntime_errors(ort)
    settings = ort.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    try:
        session = ort.InferenceSession(model.content, settings, providers=["CPUExecutionProvider"])
        image = session.get_inputs()[0].name
    except failures as error:
        raise DbnetError(f"{where}: cannot be proved, {name} refuses it: {_told(error)}; nothing was "
                         f"written") from error

    def run(images: np.ndarray) -> np.ndarray:
        try:
            output: np.ndarray = session.run([model.output], {image: _fed(images, model)})[0]
        except failures as error:
            raise DbnetError(f"{where}: cannot be proved, {name} fails to run it: {_told(error)}; nothing was "
                             f"written") from error
        return output

    return _Session(name, run, True)


def _fed(images: np.ndarray, model: Pruned) -> np.ndarray:
    """As many images, and of the type, that the model takes."""
    batch = (model.shape or (None,))[0] or 1
    return np.repeat(images, batch, 0).astype(_KINDS.get(model.kind, np.float32))


def _told(error: Exception) -> str:
    return short(" ".join(str(error).split()), 200)


def _open_reference(source: Pruned, where: str) -> _Session:
    import onnx
    from onnx.reference import ReferenceEvaluator
    model = onnx.load_from_string(source.content)
    if any(opset.domain == "" and opset.version < 14 for opset in model.opset_import):
        for node in (node for node in model.graph.node if node.op_type == "BatchNormalization"):
            kept = [attribute for attribute in node.attribute if attribute.name != "momentum"]
            del node.attribute[:]  # it trains before opset 14, unless the old statistics have all the weight
            node.attribute.extend([*kept, onnx.helper.make_attribute("momentum", 1.0)])
    try:
        evaluator = ReferenceEvaluator(model)
    except _REFERENCE_FAILURES as error:
        raise _unproved(where, error) from error

    def run(images: np.ndarray) -> np.ndarray:
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # which quote onnx's source
                output: Any = evaluator.run([source.output], {evaluator.input_names[0]: _fed(images, source)})
        except _REFERENCE_FAILURES as error:
            raise _unproved(where, error) from error
        return np.asarray(output[0])

    return _Session(f"onnx {onnx.__version__}'s reference evaluator", run, False)


def _unproved(where: str, error: Exception) -> DbnetError:
    return DbnetError(f"{where}: cannot be proved without ONNX Runtime ({_told(error)}): pip install "
                      f"'dbnet-parity[onnxruntime]'; nothing was written")
