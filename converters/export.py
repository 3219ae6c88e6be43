"""The delivery form of a model: an .onnx for old and new runtimes, without what only training or converting needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from converters import onnx_file, onnx_graph
from converters.convert import require_same
from converters.formats import target_format
from converters.load import LoadedModel, SourceOptions, load_model, require_sound
from converters.onnx_layers import DeformableForm
from converters.onnx_proof import must_be_proved, prove
from converters.weights import digest
from converters.writing import write_verified
from dbnet.errors import DbnetError
from dbnet.parameters import parameters
from dbnet.spec import check_size
from dbnet.writing import check_target


def export(source: str | Path, target: str | Path, options: SourceOptions | None = None, *,
           opset: int | None = None, data_shape: tuple[int, int] | None = None,
           deformable: DeformableForm | None = None, force: bool = False,
           check: Callable[[Path, LoadedModel], str] | None = None) -> list[str]:
    """Writes the delivery form and returns what to tell the user, a line each.

    opset: by default 13, or 19 for native deformable convolutions. data_shape: height and width to fix, multiples of
    32; else they stay dynamic. deformable: how deformable convolutions are written. check: looks at the finished file
    before it appears, raises DbnetError or says what it found (`evaluation.export_check`). Raises DbnetError; the
    target is then untouched.
    """
    source, target = Path(source), Path(target)
    if target_format(target) != "onnx":
        raise DbnetError(f"{target}: export writes .onnx files; use dbnet convert for {target.suffix}")
    check_target(target, source, force)
    if data_shape is not None:
        check_size(*data_shape)
    loaded = load_model(source, options)
    require_sound(loaded)
    proof = prove(loaded) if must_be_proved(loaded) else None
    model = inference_part(loaded)
    opset = onnx_graph.default_opset("delivery", deformable) if opset is None else opset
    record = model.record.to_json()
    told = [f"proved: {proof.describe()}"] if proof else []

    def verify(path: Path) -> None:
        require_same(onnx_file.read(path), model.weights, record, target)
        if check is not None:
            told.append(check(path, model))

    write_verified(target, lambda stream: onnx_file.write(
        stream, model.weights, model.record.spec, record, form="delivery", opset=opset, data_shape=data_shape,
        deformable=deformable), verify)
    shape = f"{data_shape[0]}x{data_shape[1]}" if data_shape else "dynamic"
    return [f"{source.name} -> {target.name}: {model.record.spec.name}, delivery form, opset {opset}, shape {shape}, "
            f"{target.stat().st_size / 1e6:.1f} MB", *told, *model.notes, *_remarks(model, deformable)]


def _remarks(model: LoadedModel, deformable: DeformableForm | None) -> list[str]:
    remarks = []
    if model.record.spec.deformable != "none":
        form, since = ("DeformConv", "1.25") if deformable == "native" else ("plain operators", "1.15")
        remarks.append(f"deformable convolutions as {form}: ONNX Runtime reads them from {since} on, OpenCV does not")
    if model.record.spec.relevant_semantics().get("upsampling") == "align_corners":
        remarks.append("its neck enlarges with aligned corners: ONNX Runtime computes that, OpenCV refuses the file")
    if any(array.dtype.name == "bfloat16" for array in model.weights.values()):
        remarks.append("bfloat16 weights: ONNX Runtime reads them, OpenCV 4 does not")
    return remarks


def inference_part(model: LoadedModel) -> LoadedModel:
    """The model without its training branch; the record then has the digest of what is left."""
    training = {p.name for p in parameters(model.record.spec) if p.training_only}
    weights = {name: array for name, array in model.weights.items() if name not in training}
    return replace(model, weights=weights, subset="inference", record=replace(model.record, sha256=digest(weights)))
