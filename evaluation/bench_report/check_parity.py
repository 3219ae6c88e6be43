"""Whether the parity that a bundle claims follows from what it keeps. The maps behind `max_abs` are not kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dbnet.sample import Detection
from dbnet.spec import SPECS
from evaluation.bench_report.joined import UNCOMPARED, verdict_of
from evaluation.benching.bundle import Bundle, Parity
from evaluation.compare_maps import Boxes, compare_boxes

#: Figure, what the bundle says, what it should.
Told = tuple[str, object, object]


def parity_told(bundle: Bundle, number: int, found: Mapping[str, Sequence[Sequence[Detection]]]) -> list[Told]:
    """What to compare of one row. found: detections of every image by their key."""
    row = bundle.rows[number]
    if row.detections is None:
        return []
    if row.parity is None:
        return _missing(bundle, number)
    told = _reference(bundle, number, row.parity)
    theirs = bundle.rows[row.parity.reference].detections
    same = row.parity.boxes_same == row.parity.boxes_all
    if theirs is not None:
        pairs = zip(found[theirs], found[row.detections], strict=True)
        boxes = sum((compare_boxes(list(a), list(b)) for a, b in pairs), Boxes())
        told += [("boxes that are the same as the reference's", row.parity.boxes_same, boxes.identical),
                 ("boxes of both", row.parity.boxes_all, boxes.a + boxes.invented)]
        same = boxes.same
    return [*told, ("parity", row.parity.verdict, verdict_of(row.parity.max_abs, row.parity.tolerance, same))]


def _reference(bundle: Bundle, number: int, parity: Parity) -> list[Told]:
    """It is a row before this one that was compared with none itself."""
    told: list[Told] = []
    if parity.reference >= number or bundle.rows[parity.reference].parity is not None:
        told.append(("row that it was compared with", f"row {parity.reference + 1}",
                     "an earlier one that others are compared with"))
    if not 1 <= parity.images <= len(bundle.data["names"]):
        told.append(("images compared", parity.images, f"1 to {len(bundle.data['names'])}"))
    if (parity.max_abs is not None and parity.max_abs < 0) or parity.tolerance < 0:
        told.append(("differences of the maps", f"{parity.max_abs}, tolerance {parity.tolerance}", "none below 0"))
    return told


def _missing(bundle: Bundle, number: int) -> list[Told]:
    """The first row of a model in a size is a reference; each later one was compared with it."""
    row = bundle.rows[number]
    if bundle.model(row).spec not in SPECS or UNCOMPARED in row.notes:
        return []
    first = next(place for place, other in enumerate(bundle.rows)
                 if other.detections is not None and (other.model, other.shape) == (row.model, row.shape))
    return [] if first == number else [("parity", "none", f"a comparison, as row {first + 1} is of the same model")]
