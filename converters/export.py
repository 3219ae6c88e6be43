"""The delivery form of a model: an .onnx for old and new runtimes, without what only training or converting needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from converters import onnx_file, onnx_graph
from converters.convert import require_same
from converters.delivery_note import DELIVERY_KEY, DeliveryNote
from converters.formats import target_format
from converters.load import LoadedModel, SourceOptions, load_model, require_sound
from converters.onnx_layers import DeformableForm
from converters.onnx_proof import must_be_proved, prove
from converters.tensor_file import Weights
from converters.weights import digest
from converters.writing import write_verified
from dbnet.errors import DbnetError
from dbnet.parameters import parameters
from dbnet.precision import FORMATS, always_float32, count_weights, kept_layers
from dbnet.record import RECORD_KEY
from dbnet.running import runnable
from dbnet.spec import ModelSpec, check_size
from dbnet.writing import check_target


def export(source: str | Path, target: str | Path, options: SourceOptions | None = None, *,
           opset: int | None = None, data_shape: tuple[int, int] | None = None,
           deformable: DeformableForm | None = None, force: bool = False) -> list[str]:
    """Writes the delivery form, without running it, and returns what to tell the user, a line each.

    `evaluation.delivery.deliver` compares it first, and writes for other runtimes. opset: by default 13, or 19 for
    native deformable convolutions. data_shape: height and width to fix, multiples of 32; else they stay dynamic.
    Raises DbnetError; the target is then untouched.
    """
    source, target = Path(source), Path(target)
    if target_format(target) != "onnx":
        raise DbnetError(f"{target}: the delivery form is an .onnx; use dbnet convert for {target.suffix}")
    check_target(target, source, force)
    if data_shape is not None:
        check_size(*data_shape)
    model, told = read_source(source, options)
    write_delivery(model, target, None, opset=opset, data_shape=data_shape, deformable=deformable)
    return [*told, *model.notes, *remarks(model, deformable)]


def read_source(source: Path, options: SourceOptions | None) -> tuple[LoadedModel, list[str]]:
    """A model without its training branch, and how it was proved, where that is needed. Raises DbnetError."""
    loaded = load_model(source, options)
    require_sound(loaded)
    proof = prove(loaded) if must_be_proved(loaded) else None
    return inference_part(loaded), [f"proved: {proof.describe()}"] if proof else []


def write_delivery(model: LoadedModel, target: Path, note: DeliveryNote | None, *, opset: int | None = None,
                   data_shape: tuple[int, int] | None = None, batch: int | None = None,
                   deformable: DeformableForm | None = None) -> LoadedModel:
    """Writes an .onnx that takes and gives what `note` says, and reads it back; None: what the record says.

    Gives the model that the file holds, whose weights are float16 where the note says fp16. Raises DbnetError; the
    target is then untouched.
    """
    spec = model.record.spec
    held = in_half(model, note.keep_float32) if note is not None and note.precision == "fp16" else model
    built = onnx_graph.build_graph(spec, held.weights, form="delivery", opset=opset, data_shape=data_shape, batch=batch,
                                   deformable=deformable)
    if note is not None:
        fit(built, spec, note)
    record = held.record.to_json()
    texts = {RECORD_KEY: record, onnx_file.FORM_KEY: "delivery", DELIVERY_KEY: note.to_json() if note else None}

    def verify(path: Path) -> None:
        require_same(onnx_file.read(path), held.weights, record, target)
        if (unread := load_model(path).unread) is not None:
            raise DbnetError(f"{target}: its graph was read back as another ({unread}); nothing was written, please "
                             f"report this")

    write_verified(target, lambda stream: onnx_file.write_model(stream, built, texts), verify)
    return held


def fit(model: onnx_graph.OnnxModel, spec: ModelSpec, note: DeliveryNote) -> None:
    """Changes a graph that was just built, of float16 weights for fp16, into what `note` says. Raises DbnetError."""
    from converters.onnx_fitting import give_logits, give_matrix, take_pixels
    from converters.onnx_fp16 import compute_in_half
    if note.logits:
        give_logits(model)
    if note.precision == "fp16":
        compute_in_half(model, spec, kept_layers(spec, note.keep_float32))
    take_pixels(model, note.pixels, spec.pixels)
    if note.rank == 2:
        give_matrix(model)


def in_half(model: LoadedModel, keep_float32: Sequence[str]) -> LoadedModel:
    """The model with float16 weights, but for the layers to keep; its record has their digest.

    Raises DbnetError for weights beyond float16, naming their layers, and for an unknown layer.
    """
    from converters.onnx_half import half_weights
    spec, form = model.record.spec, FORMATS["fp16"]
    keep = kept_layers(spec, keep_float32)
    known = runnable(spec, model.weights)
    weights: Weights = {name: known[name] for name in model.weights}
    beyond = [layer for layer, counts in count_weights(spec, weights, form).items()
              if counts.overflows and layer not in keep | always_float32(spec)]
    if beyond:
        raise DbnetError(f"{model.path}: weights of {len(beyond)} layer(s) are beyond float16's 65504; keep them: "
                         f"--keep-float32 {','.join(beyond)}")
    weights = half_weights(spec, weights, form, keep)
    return replace(model, weights=weights, record=replace(model.record, sha256=digest(weights)))


def remarks(model: LoadedModel, deformable: DeformableForm | None) -> list[str]:
    """Which runtimes cannot read such a model, a line each."""
    found = []
    if model.record.spec.deformable != "none":
        form, since = ("DeformConv", "1.25") if deformable == "native" else ("plain operators", "1.15")
        opencv = "OpenCV does not" if deformable == "native" else "OpenCV from 5 on"
        found.append(f"deformable convolutions as {form}: ONNX Runtime reads them from {since} on, {opencv}")
    if model.record.spec.relevant_semantics().get("upsampling") == "align_corners":
        found.append("its neck enlarges with aligned corners: ONNX Runtime computes that, OpenCV refuses the file")
    if any(array.dtype.name == "bfloat16" for array in model.weights.values()):
        found.append("bfloat16 weights: ONNX Runtime reads them, OpenCV 4 does not")
    return found


def inference_part(model: LoadedModel) -> LoadedModel:
    """The model without its training branch; the record then has the digest of what is left."""
    training = {p.name for p in parameters(model.record.spec) if p.training_only}
    weights = {name: array for name, array in model.weights.items() if name not in training}
    return replace(model, weights=weights, subset="inference", record=replace(model.record, sha256=digest(weights)))
