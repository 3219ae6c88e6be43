"""What becomes of every difference between the project a file comes from and the one that its target is named for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from converters.dialects import DIALECTS, origin_of
from converters.load import LoadedModel, default_record
from converters.onnx_proof import Proof
from converters.weight_map import Dialect
from dbnet.spec import MINDOCR_BOXES, MINDOCR_PIXELS, TRAINING_FIELDS, ModelSpec

Status = Literal["applied", "folded", "not representable"]
#: The row of a proof: value and target are the largest difference and the allowed one.
PROOF = "largest difference from the file"
STATUSES: tuple[Status, ...] = ("applied", "folded", "not representable")


@dataclass(frozen=True)
class Item:
    """One difference. what: a semantic field, `pixels.*`, `boxes.*`, or the name of what was folded.

    value: the origin's. target: what a bare file of the target's project means, or all that its code knows.
    status: `applied`: whoever reads the target with this package, or runs its graph, computes it; `folded`: made part
    of the weights; `not representable`: the target's own project computes something else. why: one phrase.
    training: inference does not depend on it.
    """

    what: str
    value: Any
    target: Any
    status: Status
    why: str
    training: bool = False


def report(model: LoadedModel, dialect: Dialect, kind: str, deformable: str | None = None) -> list[Item]:
    """Every difference between what `model` computes and what a bare file in `dialect` does.

    kind: the target's format. deformable: how an .onnx has its deformable convolutions.
    """
    spec = model.record.spec
    theirs = default_record(dialect.name, spec).spec
    if _judged_by(dialect, kind) and dialect.project == "MindOCR" and origin_of(dialect, spec.name) != dialect.name:
        theirs = replace(theirs, pixels=MINDOCR_PIXELS, boxes=MINDOCR_BOXES)  # another project's network in its names
    items = [*_semantics(spec, theirs, dialect, kind), *_outside(spec, theirs, dialect, kind),
             *_folded(DIALECTS[model.dialect], dialect, spec)]
    if kind == "onnx" and spec.deformable != "none":
        form = "DeformConv" if deformable == "native" else "plain operators"
        items.append(Item("deformable form", "one operator", form, "applied", "in the graph"))
    return items


def graph_items(model: LoadedModel, proof: Proof | None) -> list[Item]:
    """What reading a graph made of batch norms, and how far the result is from the file."""
    items, found = [], model.foreign
    if found is not None and found.folded and model.weights is found.weights:
        items.append(Item("batch norms in their convolutions", found.folded, found.norms, "folded",
                          f"{found.folded} of {found.norms}, identities now"))
    if proof is not None:
        items.append(Item(PROOF, max(proof.random, proof.picture), proof.tolerance, "applied", proof.describe()))
    return items


def _judged_by(dialect: Dialect, kind: str) -> bool:
    """True if the target is meant for the project's own code: a file in its names, MindOCR's .ckpt."""
    return dialect.foreign or (kind == "ckpt" and dialect.name == "mindocr")


def _semantics(spec: ModelSpec, theirs: ModelSpec, dialect: Dialect, kind: str) -> Iterator[Item]:
    default = theirs.semantics()
    for name, value in spec.relevant_semantics().items():
        training = name in TRAINING_FIELDS
        if _judged_by(dialect, kind) and not dialect.knows(name, spec):
            known = dialect.known(name, spec)
            why = f"{dialect.project} knows only {only(known)}"
            yield Item(name, value, known, "not representable", why, training)
        elif value != default[name]:
            yield Item(name, value, default[name], "applied", "in the graph" if kind == "onnx" else "by the record",
                       training)


def _outside(spec: ModelSpec, theirs: ModelSpec, dialect: Dialect, kind: str) -> Iterator[Item]:
    """Pixels and boxes: no weights, so a project's own code takes its own."""
    for part, ours, default in (("pixels", spec.pixels, theirs.pixels), ("boxes", spec.boxes, theirs.boxes)):
        for name, value in asdict(ours).items():
            other = getattr(default, name)
            if value == other:
                continue
            if _judged_by(dialect, kind):
                yield Item(f"{part}.{name}", value, other, "not representable",
                           f"{dialect.project} takes this from its recipe, not from a file of weights")
            else:
                yield Item(f"{part}.{name}", value, other, "applied", "by the record")


def _folded(source: Dialect, target: Dialect, spec: ModelSpec) -> Iterator[Item]:
    squeezes = spec.backbone == "mobilenetv3" and spec.se_gate != "none"
    for what in dict.fromkeys((*source.folded, *target.folded)):
        theirs, ours = source.folded.get(what), target.folded.get(what)
        if theirs == ours or (what == "squeeze-and-excitation" and not squeezes):
            continue
        yield Item(what, theirs or "as here", ours or "as here", "folded", str(theirs or ours))
    if source.logits != target.logits:
        theirs, ours = ("outside the head" if d.logits else "in the head" for d in (source, target))
        yield Item("last sigmoid", theirs, ours, "applied", "the network ends with the probability in both")


def summary(items: list[Item], dialect: Dialect) -> list[str]:
    """A line for each status that occurs; what only training sees is left to the list itself."""
    lines = []
    for status in STATUSES:
        found = [item for item in items if item.status == status and not item.training]
        if list(_short(found)):
            where = f" in {dialect.project}'s own code" if status == "not representable" else ""
            lines.append(f"{status}{where}: {', '.join(_short(found))}")
    return lines


def _short(items: list[Item]) -> Iterator[str]:
    """Pixels and boxes by the names of what differs; the values are in the record."""
    for item in items:
        if item.what == PROOF:
            continue  # told by itself
        if item.status == "folded":
            yield f"{item.what} ({item.why})"
        elif item.what == "deformable form":
            yield f"deformable convolutions as {item.target}"
        elif "." not in item.what and item.what != "last sigmoid":
            yield f"{item.what}={item.value}"
    for part in ("pixels", "boxes"):
        names = [item.what.removeprefix(f"{part}.") for item in items if item.what.startswith(f"{part}.")]
        if names:
            yield f"{part} ({', '.join(names)})"


def only(known: Any) -> str:
    """A value of `Dialect.fixed`, or several."""
    return " or ".join(map(str, known)) if isinstance(known, tuple) else str(known)


def as_data(items: list[Item]) -> list[dict[str, Any]]:
    """For --json."""
    return [asdict(item) for item in items]


