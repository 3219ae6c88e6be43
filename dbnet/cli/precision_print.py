"""What `dbnet precision` prints, and its JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.options import print_table

if TYPE_CHECKING:
    from evaluation.precision import Drift, LayerCounts, PrecisionReport
    from evaluation.precision_search import Search

#: Layers told of, beside those that overflow.
LISTED = 8
#: Names in one line.
NAMES = 12


def show(report: PrecisionReport, search: Search | None, model: Path) -> None:
    """Layers, drift, and the layers to keep; the verdict last."""
    setup = report.setup
    device = report.environments[1]["device"]
    click.echo(f"{model.name}: {setup.model.record.spec.name} in {setup.precision} against float32, in {setup.runner} "
               f"({device}), {_images(len(report.drift.maps.images))}")
    for note in setup.model.notes:
        click.echo(f"note: {note}", err=True)
    _layers(report)
    _drift(report, search)
    for line in verdict(report, search):
        click.echo(line)


def _layers(report: PrecisionReport) -> None:
    form = report.setup.form
    told = report.overflowing
    rest = sorted((layer for layer in report.layers if layer not in told), key=lambda one: -one.float32.largest)
    told += rest[:LISTED]
    print_table(f"layers that overflow, and those of the largest values; counted on {_images(report.counted)}",
                ("layer", "largest", "headroom", "overflow", "to zero", "subnormal", "weights: overflow", "to zero",
                 f"Inf, NaN in {form.name}"), [_row(layer, report) for layer in told], right=range(1, 9))
    if hidden := len(report.layers) - len(told):
        lost = max(report.layers, key=lambda one: one.float32.flushed / max(one.float32.size, 1))
        share = (f"the largest share of values goes to zero in {lost.name}: "
                 f"{_share(lost.float32.flushed, lost.float32.size)}")
        click.echo(f"({hidden} more, all in the JSON; {share if lost.float32.flushed else 'no value goes to zero'})")


def _row(layer: LayerCounts, report: PrecisionReport) -> tuple[str, ...]:
    room, own = layer.headroom(report.setup.form), layer.float32
    return (layer.name, f"{own.largest:.3g}", "-" if room is None else f"{room:.3g}x", _share(own.beyond, own.size),
            _share(own.flushed, own.size), _share(own.subnormal, own.size),
            _share(layer.weights.beyond, layer.weights.size), _share(layer.weights.flushed, layer.weights.size),
            _share(layer.nonfinite, layer.half.size))


def _images(number: int) -> str:
    return f"{number} image{'' if number == 1 else 's'}"


def _share(number: int, of: int) -> str:
    return "0" if not number else f"{number:,} ({100 * number / of:.2g} %)"


def _drift(report: PrecisionReport, search: Search | None) -> None:
    name = report.setup.precision
    kept = f" with {', '.join(report.kept)} in float32" if report.kept else ""
    rows = [_drift_row(f"{name}{kept}", report.drift)]
    if search is not None:
        found = {one.keep: one for one in (search.for_range, search.for_boxes, search.for_goal) if one is not None}
        rows += [_drift_row(f"{len(keep)} of {search.layers} layers in float32", one.drift)
                 for keep, one in found.items() if keep]
    protocols = list(report.drift.scores.protocols) if report.drift.scores else []
    header = ("", "max |dp|", "mean |dp|", "Inf, NaN", "boxes", "same", "moved", "max shift", "lost", "invented",
              *(f"F {protocol} ({report.drift.scores.protocols[protocol].a.fscore:.5f})"  # type: ignore[union-attr]
                for protocol in protocols))
    print_table("drift from float32", header, rows, right=range(1, len(header)))


def _drift_row(what: str, drift: Drift) -> tuple[str, ...]:
    boxes = drift.boxes
    scores = drift.scores.protocols.values() if drift.scores else ()
    return (what, _number(drift.maps.max_abs), _number(drift.maps.mean_abs), str(drift.nonfinite),
            f"{boxes.a} -> {boxes.b}", str(boxes.identical), str(boxes.moved), f"{boxes.max_shift:.1f}",
            str(boxes.lost), str(boxes.invented),
            *(f"{one.b.fscore:.5f} ({one.difference.fscore:+.5f})" for one in scores))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def verdict(report: PrecisionReport, search: Search | None) -> list[str]:
    """One line each: whether half precision does, what overflows, and which layers to keep."""
    name, drift = report.setup.precision, report.drift
    lines = []
    for layer in report.overflowing[:NAMES]:
        what = [f"{layer.weights.beyond} of its {layer.weights.size} weights" if layer.weights.overflows else "",
                f"{layer.float32.beyond} of its {layer.float32.size} values" if layer.float32.overflows else "",
                f"{layer.taken_half.beyond} of the {layer.taken_half.size} values that it takes"
                if layer.taken_half.beyond else ""]
        largest = max(layer.weights.largest, layer.float32.largest, layer.taken_half.largest)
        lines.append(f"overflow: {layer.name}: {' and '.join(filter(None, what))} are beyond "
                     f"{report.setup.form.largest:g} (largest {largest:.4g})")
    if report.fine:
        if report.kept:
            return [*lines, f"the same boxes in {name} with these layers in float32, no probability more than "
                            f"{report.goal:g} apart"]
        return [*lines, f"everything can be {name}: the same boxes, no probability more than {report.goal:g} apart"]
    changed = drift.boxes.moved + drift.boxes.lost + drift.boxes.invented
    lines.append(f"{name} changes the result: {changed} boxes differ, probabilities by up to "
                 f"{_number(drift.maps.max_abs)} (goal {report.goal:g})"
                 + (f", and {drift.nonfinite} are no numbers" if drift.nonfinite else ""))
    return lines + (_advice(search) if search is not None else [])


def _advice(search: Search) -> list[str]:
    lines = []
    sets = [("nothing overflows", search.for_range), ("the same boxes", search.for_boxes),
            ("the goal", search.for_goal)]
    for what, found in sets:
        if found is None or (what == "the goal" and found is search.for_boxes):
            continue
        if not found.met:
            lines.append(f"{what}: not reached even with {len(found.keep)} of {search.layers} layers in float32")
        elif found.keep:
            lines.append(f"{what}, with {len(found.keep)} of {search.layers} layers in float32: --keep-float32 "
                         f"{_listed(found.keep)}")
        else:
            lines.append(f"{what}: kept with every layer in half precision")
    return lines


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - NAMES
    return ",".join(names[:NAMES]) + (f",... ({rest} more, all in the JSON)" if rest > 0 else "")


def as_json(report: PrecisionReport, search: Search | None, model: Path) -> dict[str, Any]:
    """Plain values."""
    from evaluation.evaluate import versions
    setup, record = report.setup, report.setup.model.record
    return {"fine": report.fine, "precision": setup.precision, "goal": report.goal,
            "model": {"file": str(model), "spec": record.spec.name, "sha256": record.sha256,
                      "pixels": asdict(record.spec.pixels), "boxes": asdict(setup.rule)},
            "runner": setup.runner, "keep_float32": list(report.kept),
            "overflow": [layer.name for layer in report.overflowing], "drift": report.drift.to_dict(),
            "search": search.to_dict() if search is not None else None, "counted_images": report.counted,
            "layers": [layer.to_dict(setup.form) for layer in report.layers],
            "environments": {"float32": report.environments[0], setup.precision: report.environments[1]},
            "versions": versions()}
