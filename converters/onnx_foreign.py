"""An .onnx that another project wrote: its weights under canonical names, and what it computes, read from its graph.

Names of tensors mean nothing here; they only tell whose pixels the network takes. A batch norm that an exporter folded
into the convolution before it becomes one that does nothing but add the bias: its scale is 1, its variance 1 less
epsilon. What comes out is proved by `onnx_proof` before it is written anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from converters.delivery_note import read_delivery
from converters.dialects import DIALECTS, TORCH, origin_of
from converters.onnx_front import without_front
from converters.onnx_match import PLACES, Match, MismatchError, Norm
from converters.onnx_nodes import NodeGraph, read_nodes
from converters.onnx_outline import Outline, family_of, read_outline
from converters.onnx_outputs import Called, matched
from converters.onnx_reading import Reader
from converters.onnx_rules import RULES
from converters.onnx_terms import IDENTITY
from converters.tensor_file import Weights
from dbnet.errors import DbnetError, UnknownNetworkError
from dbnet.parameters import parameters
from dbnet.pixel_formats import FAMILIES
from dbnet.record import Record
from dbnet.spec import SPECS, ModelSpec, with_semantics

#: What a batch norm's epsilon is taken for where none is left.
DEFAULT_EPS = 1e-5
#: Operators of quantised networks, and of recognisers of text.
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "DynamicQuantizeLinear")
_OTHERS = {"LSTM": "a recogniser of text (it has an LSTM)", "GRU": "a recogniser of text (it has a GRU)",
           "Softmax": "a classifier or a recogniser (it ends with a softmax)"}


class RefusedGraphError(UnknownNetworkError):
    """A network whose layers are known, and that no weights can say, whatever their names are."""


@dataclass
class ForeignModel:
    """What a graph is. record: spec and origin, without a digest. weights: canonical names, canonical order.

    output: the graph's output that is the probability, or its logits; channel: of that output, None for all of it.
    size: height and width of the images that it takes, None where it takes all. norms, folded: how many batch norms it
    has, and how many of them are part of their convolutions. told: how its origin was recognised, None if it was not.
    named_here: its tensors have the paths that every network has here, whoever trained it.
    repaired: nodes whose attributes no runtime takes. notes: what a user must know, one phrase each.
    """

    record: Record
    weights: Weights
    output: str
    channel: int | None
    logits: bool
    size: tuple[int | None, int | None]
    norms: int = 0
    folded: int = 0
    told: str | None = None
    named_here: bool = False
    repaired: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    release: Callable[[np.ndarray], None] = lambda array: None

    @property
    def subset(self) -> str:
        """`complete`, or `inference` without the training branch."""
        return "complete" if any(name.startswith("head.thresh.") for name in self.weights) else "inference"

    def describe_folded(self) -> str:
        """One phrase."""
        return (f"folded: {self.folded} of {self.norms} batch norms are part of their convolutions; read as identities "
                f"that add the bias")

    def of_origin(self, origin: str) -> Record:
        """The record with another project's pixels and boxes."""
        return _record(self.record.spec, origin, None)


def read_foreign(path: Path, record: Record | None = None) -> ForeignModel:
    """Reads an .onnx by its graph. record: what the file says of itself, if it carries one of ours.

    Raises UnknownNetworkError if the graph is no network that is built here; DbnetError if it is damaged.
    """
    graph, outline = read_nodes(path), read_outline(path)
    if record is not None and (note := read_delivery(path)) is not None:
        graph = without_front(graph, note.pixels, record.spec.pixels)
    if outline.locations:  # in a place that no reader looks at, but a runtime does
        raise UnknownNetworkError(f"{path}: keeps tensors in another file (external data), which is not read")
    reader = Reader(graph, RULES)
    outputs = reader.run(str(path))
    called = Called(reader)
    try:
        with np.errstate(all="ignore"):
            output, channel, found = matched(outputs, called)
            spec, weights, notes = _model(found)
    except MismatchError as error:
        if reader.refused:
            raise RefusedGraphError(f"{path}: {reader.refused[0]}") from error
        raise UnknownNetworkError(f"{path}: fits no known network by its graph: {_looks_like(graph)}{error}") from error
    except DbnetError as error:  # a value that no spec can have
        raise RefusedGraphError(f"{path}: {error}") from error
    origin, told = _origin(outline, spec, found)
    folded = sum(norm.variance is IDENTITY for norm in found.norms)
    return ForeignModel(_record(spec, origin, record), weights, output, channel, found.semantics["logits"],
                        reader.size, len(found.norms), folded, told, _is_named_here(outline), reader.repaired,
                        [*notes, *_notes(found, reader.repaired), *called.note(output, outputs[output])],
                        graph.release)


def _looks_like(graph: NodeGraph) -> str:
    operators = [node.operator for node in graph.nodes]
    if any(operator in _QUANTISED for operator in operators):
        return "it is quantised; "
    found = next((what for operator, what in _OTHERS.items() if operator in operators), None)
    return f"it looks like {found}; " if found else ""


# Spec and weights -----------------------------------------------------------------------------------------------------


def _model(found: Match) -> tuple[ModelSpec, Weights, list[str]]:
    """Raises MismatchError for a combination that no spec can say."""
    eps, notes = _epsilon(found.norms)
    said = {name: value for name, value in found.semantics.items() if name not in ("logits", "plain")}
    said["upsampling"] = next(name for name in PLACES if name in found.places)
    spec = with_semantics(_nearest(said), {**said, "norm_eps": eps})
    tensors = dict(found.weights)
    for norm in found.norms:
        tensors |= _norm_tensors(norm, eps)
    if found.order != (0, 1, 2, 3):
        for name in (f"head.{branch}.0.weight" for branch in ("segm", "thresh")):
            if name in tensors:
                tensors[name] = _reordered(tensors[name], found.order)
    complete = "head.thresh.0.weight" in tensors
    weights: Weights = {}
    for p in parameters(spec):
        if p.training_only and not complete:
            continue
        array = tensors.pop(p.name, None)
        if array is None or array.shape != p.shape:
            raise MismatchError(f"{p.name} is missing, or of another shape than here")
        weights[p.name] = np.ascontiguousarray(array)
    if tensors:
        raise MismatchError(f"{min(tensors)} has no place in {spec.name}")
    return spec, weights, notes


def _nearest(said: dict[str, Any]) -> ModelSpec:
    """Of the specs with this backbone the one that most of what was read fits."""
    def score(spec: ModelSpec) -> int:
        ours = {**spec.semantics(), "se_gate": spec.se_gate == "none"}
        theirs = {**said, "se_gate": said.get("se_gate") == "none"}
        heavy = ("neck", "fusion", "deformable", "first_shortcut", "se_gate")
        return sum((8 if name in heavy else 1) for name, value in theirs.items() if ours.get(name) == value)

    return max((spec for spec in SPECS.values() if spec.backbone == said["backbone"]), key=score)


def _epsilon(norms: list[Norm]) -> tuple[float, list[str]]:
    """One for all batch norms: the smallest, for what is above it can be added to a variance."""
    found = sorted({float(f"{norm.eps:.6g}") for norm in norms if norm.variance is not IDENTITY and norm.eps > 0})
    notes = [f"batch norms with several epsilons ({', '.join(map(str, found))}): the smallest for all, the rest added "
             f"to the variances"] if len(found) > 1 else []
    return found[0] if found else DEFAULT_EPS, notes


def _norm_tensors(norm: Norm, eps: float) -> Weights:
    variance = norm.variance
    if variance is IDENTITY:
        # 1 to the last bit once epsilon is added and the root taken, in float32 and in float64.
        variance = np.full(norm.gamma.shape, np.float32(1 - eps), np.float32)
    elif (more := float(f"{norm.eps:.6g}") - eps) > 0:
        variance = (variance.astype(np.float64) + more).astype(variance.dtype)
    return {f"{norm.path}.gamma": norm.gamma, f"{norm.path}.beta": norm.beta, f"{norm.path}.moving_mean": norm.mean,
            f"{norm.path}.moving_variance": variance}


def _reordered(kernel: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """A head's first kernel for maps that the graph joins in `order`, for those joined from p5 to p2."""
    out, channels, *sides = kernel.shape
    blocks = kernel.reshape(out, 4, channels // 4, *sides)
    return np.ascontiguousarray(blocks[:, [order.index(i) for i in range(4)]]).reshape(kernel.shape)


# Whose it is ----------------------------------------------------------------------------------------------------------


def _origin(outline: Outline, spec: ModelSpec, found: Match) -> tuple[str, str | None]:
    """A name of DIALECTS, and what tells so (None: nothing does, it is the likeliest one)."""
    family = family_of(outline)
    if family is not None and _is_named_here(outline):
        return origin_of(TORCH, spec.name), family[1]
    if family is not None:
        return family[0].removesuffix("_pp"), family[1]
    if outline.producer.lower().startswith("mindspore"):
        return "mindocr", "it was written by MindSpore"
    if found.order == (3, 2, 1, 0):
        return "mmocr", "it joins its maps from p2 to p5"
    if spec.relevant_semantics().get("offsets") == "mhliao":
        return "mhliao", "its offsets are read as MhLiao/DB's"
    if "same" in (spec.relevant_semantics().get("stem_pool"), spec.relevant_semantics().get("depthwise_padding")):
        return "mindocr", "its paddings are MindOCR's"
    if spec.backbone == "mobilenetv3" or spec.relevant_semantics().get("first_shortcut") == "projection" \
            or spec.fusion == "asf_spatial":
        return "paddle", None
    return "mhliao", None


def _is_named_here(outline: Outline) -> bool:
    family = family_of(outline)
    return family is not None and family[0].startswith("mindocr")  # whose paths other projects' networks have here too


def _record(spec: ModelSpec, origin: str, known: Record | None) -> Record:
    """Semantics from the graph; pixels and boxes from the file's record, else the origin's."""
    if known is not None:
        return replace(known, spec=replace(spec, pixels=known.spec.pixels, boxes=known.spec.boxes), sha256=None)
    dialect = DIALECTS[origin]
    usual = dialect.spec(SPECS[spec.name])
    if origin in FAMILIES and (spec.name not in dialect.specs or origin_of(dialect, spec.name) != origin):
        pixels, boxes = FAMILIES[origin]
        usual = replace(usual, pixels=pixels, boxes=boxes)
    return Record(replace(spec, pixels=usual.pixels, boxes=usual.boxes), origin)


def _notes(found: Match, repaired: list[str]) -> list[str]:
    notes = []
    if found.order != (0, 1, 2, 3):
        joined = ", ".join(f"p{5 - i}" for i in found.order)
        notes.append(f"the file joins its maps as {joined}: the input blocks of the head's first kernel were reordered")
    if repaired:
        notes.append(f"repaired: output_shape and auto_pad of {len(repaired)} transposed convolutions, which no "
                     f"runtime takes (MindSpore's exporter)")
    if "floor" not in found.places and "align_corners" not in found.places:
        notes.append("this graph rounds where it should floor: its Resize has no nearest_mode, as in older files "
                     "of Paddle2ONNX. Converted as it computes; --set upsampling=floor is what Paddle computes")
    return notes
