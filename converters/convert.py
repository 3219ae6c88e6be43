"""Any supported file to any other: source -> canonical -> target, verified bit for bit before it appears."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from converters.check import weight_map
from converters.dialects import DIALECTS, MINDOCR_ENHANCE, get_dialect, native_dialect
from converters.formats import codec, target_format
from converters.load import LoadedModel, OpenChoiceError, SourceOptions, default_record, load_model, require_sound
from converters.onnx_proof import Proof, must_be_proved, prove
from converters.report import Item, graph_items, only, report, summary
from converters.tensor_file import TensorFile, Weights
from converters.weight_map import Dialect
from converters.weights import same_bits
from converters.writing import write_verified
from dbnet.errors import DbnetError
from dbnet.record import Record
from dbnet.writing import check_target

if TYPE_CHECKING:
    from converters.onnx_layers import DeformableForm

__all__ = ["Conversion", "LoadedModel", "SourceOptions", "convert", "load_model", "save_model"]


@dataclass
class Conversion:
    """What was converted, and what a user must know about it. proof: of an .onnx that is not ours, that it was
    understood. said: which semantics, or `pixels`, the user gave."""

    source: LoadedModel
    target: Path
    format: str
    dialect: str
    tensors: int
    carries_record: bool
    remarks: list[str] = field(default_factory=list)
    report: list[Item] = field(default_factory=list)
    proof: Proof | None = None
    said: list[str] = field(default_factory=list)


def convert(source: str | Path, target: str | Path, options: SourceOptions | None = None, to: str | None = None,
            force: bool = False, stages: bool = False, deformable: DeformableForm | None = None) -> Conversion:
    """Converts a weight file. `to`: dialect of the target's names; stages: an .onnx gets every stage as an output;
    deformable: how its deformable convolutions are written.

    Raises DbnetError; the target is then untouched.
    """
    source, target = Path(source), Path(target)
    keeps = target_format(target) in ("ckpt", "pth")
    check_target(target, source, force)
    try:
        model = load_model(source, options)
    except OpenChoiceError as error:
        raise DbnetError(f"{error}; or --with-optimizer for the whole training, into a .ckpt or .pth") from error
    require_sound(model)
    proof = prove(model) if must_be_proved(model) else None
    conversion = save_model(model, target, to=to, force=force, stages=stages, deformable=deformable)
    conversion.proof = proof
    if options is not None:
        conversion.said = [*options.semantics, *(["pixels"] if options.pixels is not None else [])]
    conversion.report += graph_items(model, proof)
    if model.training:
        conversion.remarks.append("its weights only; " + ("--with-optimizer" if keeps else
                                  "a .ckpt or .pth with --with-optimizer") + " keeps the whole training")
    return conversion


def save_model(model: LoadedModel, target: Path, to: str | None = None, force: bool = False,
               stages: bool = False, deformable: DeformableForm | None = None) -> Conversion:
    """Writes a loaded model. Raises DbnetError; the target is then untouched."""
    kind = target_format(target)
    check_target(target, model.path, force)
    dialect = _target_dialect(target, kind, to)
    record = model.record
    if record.spec.name not in dialect.specs:
        raise DbnetError(f"{target}: {dialect.project} has no names for {record.spec.name}; "
                         f"{'leave out --to' if to else 'name a .pth, .onnx or .safetensors'}")
    lost = dialect.cannot_express(record.spec)
    other = "leave out --to" if to else "name a .pth, .onnx or .safetensors"
    if lost and dialect.foreign:
        told = ", ".join(f"{name} is {getattr(record.spec, name)}, {dialect.project} knows only "
                         f"{only(dialect.known(name, record.spec))}" for name in lost)
        raise DbnetError(f"{target}: cannot be represented for {dialect.project}: {told}; {other}")
    if stages and kind != "onnx":
        raise DbnetError(f"{target}: only an .onnx file has stage outputs; leave out --stages")
    if deformable and kind != "onnx":
        raise DbnetError(f"{target}: only an .onnx file has a form of its convolutions; leave out --deformable")
    remarks = []
    if lost and kind == "ckpt":
        remarks.append(f"exact in ms_models, not in MindOCR: {', '.join(lost)}")
        if record.spec.name in MINDOCR_ENHANCE.specs and not MINDOCR_ENHANCE.cannot_express(record.spec):
            remarks.append("MindOCR's det_mobilenet_v3_enhance computes it: --to mindocr_enhance")
    fed = default_record(dialect.name, record.spec).spec.pixels.colour
    if dialect is MINDOCR_ENHANCE and record.spec.pixels.colour != fed:
        remarks.append(f"these weights want {record.spec.pixels.colour} pixels, MindOCR's recipes feed {fed}")
    text: str | None = record.to_json()
    if kind in ("ckpt", "pdparams") and _goes_without_saying(record, dialect):
        text = None  # a str entry trips scripts that call .asnumpy() on every value; the bare file means the same
    names = _write(model, target, kind, dialect, text, stages, deformable)
    return Conversion(model, target, kind, dialect.name, names, text is not None, remarks,
                      report(model, dialect, kind, deformable))


def _target_dialect(target: Path, kind: str, to: str | None) -> Dialect:
    if to is None:
        return native_dialect(target.suffix.lower())
    dialect = get_dialect(to)
    if kind == "onnx" and to != "mindocr":
        raise DbnetError(f"{target}: an .onnx file has canonical names only; leave out --to")
    if kind in ("ckpt", "pth", "pdparams") and target.suffix.lower() not in dialect.suffixes:
        raise DbnetError(f"{target}: {to} names belong into {' or '.join(dialect.suffixes)}, not {target.suffix}; "
                         f"rename the target or leave out --to")
    return dialect


def _goes_without_saying(record: Record, dialect: Dialect) -> bool:
    """True if this is the project's own network and pixels: what a bare file is taken for by everybody."""
    default = default_record(dialect.name, record.spec)
    same = (record.spec, record.origin) == (default.spec, default.origin)
    return same and DIALECTS[default.origin].project == dialect.project


def _write(model: LoadedModel, target: Path, kind: str, dialect: Dialect, record: str | None, stages: bool,
           deformable: DeformableForm | None) -> int:
    module = codec(kind)
    if kind == "onnx":
        tensors: Weights = model.weights

        def write(stream: BinaryIO) -> None:
            module.write(stream, tensors, model.record.spec, record, form="archive", stages=stages,
                         deformable=deformable)
    else:
        tensors = weight_map(dialect.name, model.record.spec).inverse(model.weights)

        def write(stream: BinaryIO) -> None:
            module.write(stream, tensors, record)

    write_verified(target, write, lambda path: require_same(module.read(path), tensors, record, target))
    return len(tensors)


def require_same(file: TensorFile, tensors: Weights, record: str | None, target: Path) -> None:
    """Raises DbnetError unless the file that was just written holds these tensors, bit for bit, and the record."""
    wrong = sorted(set(tensors) ^ set(file.tensors))
    for name, array in file.tensors.items():
        if name in tensors and not same_bits(array, tensors[name]):
            wrong.append(name)
        file.release(array)  # keeps the peak at one copy of the weights
    if wrong or file.record != record:
        raise DbnetError(f"{target}: what was read back is not what was written "
                         f"({', '.join(wrong[:3]) or 'the record'}); nothing was changed, check the disk")


def describe(conversion: Conversion) -> list[str]:
    """What the command prints: one line for the result, then one for each thing worth knowing."""
    model, spec = conversion.source, conversion.source.record.spec
    values = sum(array.size for array in model.weights.values())
    subset = "" if model.subset == "complete" else ", inference subset"
    read = "its graph" if model.foreign else model.dialect
    kept = f"written bit for bit{_made(model)}" if model.foreign else "bit for bit"
    lines = [f"{model.path.name} ({read}) -> {conversion.target.name} ({conversion.dialect}): {spec.name}"
             f"{subset}, {len(model.weights)} tensors, {values:,} values, {kept}; "
             f"sha256 {(model.record.sha256 or '')[:16]}"]
    semantics = ", ".join(f"{k}={v}" for k, v in key_semantics(model).items())
    project = DIALECTS[model.record.origin].project
    how = f"taken from {project}'s default, the file carries no record" if model.bare \
        else f"from the file's record, origin {model.record.origin}"
    if model.bare and model.graph_read:
        how = f"what a graph decides as its graph says, the rest taken from {project}'s default"
    if conversion.said:
        how = f"{', '.join(conversion.said)} as you say, else {how}"
    lines.append(f"semantics: {semantics} ({how})")
    told = summary(conversion.report, DIALECTS[conversion.dialect])
    proved = [f"proved: {conversion.proof.describe()}"] if conversion.proof else []
    return [*lines, *proved, *told, *model.notes, *conversion.remarks]


def _made(model: LoadedModel) -> str:
    """How many tensors stand in no file: those of a batch norm that is part of its convolution."""
    folded = model.foreign.folded if model.foreign and model.weights is model.foreign.weights else 0
    return f" ({3 * folded} of them made: scale, mean and variance of {folded} folded batch norms)" if folded else ""


def key_semantics(model: LoadedModel) -> dict[str, object]:
    """The switches that equal names leave open, as far as this backbone has them, and the colour order."""
    spec = model.record.spec
    named = {k: v for k, v in spec.relevant_semantics().items()
             if k in ("stem_pool", "depthwise_padding", "se_gate", "offsets", "neck_gate", "upsampling")}
    return {**named, "pixels": f"{spec.pixels.colour} {spec.pixels.resize}", "boxes": spec.boxes.rule}
