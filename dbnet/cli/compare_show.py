"""A comparison of two models on the terminal: the verdict first, then what it rests on."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.options import print_table

if TYPE_CHECKING:
    from evaluation.compare_maps import MapComparison
    from parity.models import ModelComparison
    from parity.whole import WholeComparison

LISTED = 20
#: Boxes that differ, told one by one.
LISTED_BOXES = 10
_ALIKE = {"same": "the same", "within tolerance": "the same within tolerance"}


def show(whole: WholeComparison) -> None:
    """All that was compared."""
    from parity.told import rule_notes
    from parity.whole import title_of
    for name, side, rule in zip("AB", whole.sides, whole.rules, strict=True):
        click.echo(f"{name}: {title_of(side, rule if whole.maps is not None else None)}")
    if line := _verdict(whole):
        click.echo(line)
    if whole.stages is not None:
        show_stages(whole.stages, [note for side in whole.sides for note in getattr(side.runner, "notes", ())])
    for note in rule_notes(*whole.rules):
        click.echo(f"note: {note}")
    if whole.maps is not None and whole.maps.images:
        _maps(whole.maps)
    if whole.scores is not None:
        _scores(whole.scores)
    if whole.swap is not None:
        _swap(whole)


def _verdict(whole: WholeComparison) -> str:
    """The whole verdict, where neither the line of the stages nor that of the images says it."""
    stages = None if whole.stages is None else whole.stages.verdict
    verdict = whole.verdict
    seen, failed = (len(whole.maps.images), len(whole.maps.failed)) if whole.maps is not None else (0, 0)
    if verdict is not None and verdict == stages:
        return ""
    if verdict == "different":
        return f"different: in what they find{f'; the stages are {_ALIKE[stages]}' if stages else ''}"
    if verdict is None and failed and seen and not whole.stopped:
        return f"no verdict: the same on {seen} of {seen + failed} images, the others failed"
    if verdict is None:
        return "no verdict: not all could be compared"
    return "within tolerance: in what they find; the stages are the same" if stages else ""


def show_stages(result: ModelComparison, known: Collection[str] = ()) -> None:
    """Verdict, table and notes. known: notes that were told already."""
    from parity.told import stage_table, verdict_lines
    for line in verdict_lines(result):
        click.echo(line)
    click.echo("")
    click.echo(stage_table(result.rows, width=shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
    for note in dict.fromkeys(result.notes):
        if note not in known:
            click.echo(f"note: {note}")


def _maps(result: MapComparison) -> None:
    worst = sorted(result.images, key=lambda image: (image.same, -(image.max_abs or 0)))
    rows = [_row(image.name, image) for image in worst[:LISTED]]
    rest = len(worst) - LISTED
    total = _row(f"all {len(result.images)}", result)
    print_table("", ("image", "max |dp|", "mean |dp|", "boxes A", "boxes B", "identical", "moved", "max shift", "lost",
                     "invented"), [*rows, *([(f"({rest} more, no worse)", *[""] * 9)] if rest > 0 else []), total],
                right=range(1, 10))
    _differences(result.to_dict()["boxes"].get("differences", []))
    if result.other_sizes:
        click.echo(f"{result.other_sizes} of {len(result.images)} images have maps of two sizes, so their pixels are "
                   f"not the same, and their maps were not compared; --pixels gives both models the same")
    if result.not_finite:
        click.echo(f"{result.not_finite} of {len(result.images)} images have NaN or Inf in a map")
    boxes = result.boxes
    apart = "" if result.max_abs is None else (
        f"at least {result.max_abs:.1e} apart at the most, for not every value is known" if result.at_least else
        f"at most {result.max_abs:.1e} apart")
    same = "within tolerance" if result.max_abs else "same"
    if result.same and not boxes.a:
        click.echo(f"{same}: neither finds a box in {len(result.images)} images, which proves nothing of boxes, and "
                   f"probabilities are {apart} (tolerance {result.tolerance:g})")
    elif result.same:
        click.echo(f"{same}: {boxes.a} boxes in {len(result.images)} images, all with the same corners, and "
                   f"probabilities {apart} (tolerance {result.tolerance:g})")
    else:
        click.echo(f"different: {boxes.identical} of {boxes.a} boxes are the same, {boxes.moved} moved, {boxes.lost} "
                   f"lost, {boxes.invented} invented; {sum(not image.same for image in result.images)} of "
                   f"{len(result.images)} images differ (tolerance {result.tolerance:g} in probability, none in boxes)")


def _row(name: str, found: Any) -> tuple[object, ...]:
    """found: an image's comparison, or that of all."""
    boxes, mark = found.boxes, ">=" if found.at_least else ""
    numbers = ["-" if found.max_abs is None else f"{mark}{found.max_abs:.1e}",
               "-" if found.mean_abs is None else f"{found.mean_abs:.1e}"]
    if found.not_finite:
        numbers[0] = "NaN, Inf"
    return (name, *numbers, boxes.a, boxes.b, boxes.identical, boxes.moved, f"{boxes.max_shift:.1f}", boxes.lost,
            boxes.invented)


def _differences(found: list[dict[str, Any]]) -> None:
    """The boxes that differ most, and what decided."""
    for box in found[:LISTED_BOXES]:
        corner = ", ".join(f"{value:.0f}" for value in (box["a"] or box["b"])[0])
        click.echo(f"  {box['image']}: {box['kind']} at ({corner}): {box['why']}")
    if len(found) > LISTED_BOXES:
        click.echo(f"  ({len(found) - LISTED_BOXES} more in --json and --html)")


def _scores(comparison: Any) -> None:
    """A line for each protocol, and what is known of the difference."""
    found = comparison.to_dict()["protocols"]
    rows = [(name, f"{row['a']['fscore']:.5f}", f"{row['b']['fscore']:.5f}", f"{row['difference']['fscore']:+.5f}",
             f"{row['interval'][0]:+.4f} .. {row['interval'][1]:+.4f}",
             f"{row['interval_90'][0]:+.4f} .. {row['interval_90'][1]:+.4f}", row["images_apart"])
            for name, row in found.items()]
    print_table("", ("protocol", "F of A", "F of B", "B - A", "95 % interval", "90 % interval", "images apart"), rows,
                right=(1, 2, 3, 6))
    for name, row in found.items():
        if row["same_f"]:
            told = row["same_f"]
            click.echo(f"{name}: F {told['verdict']} within {told['margin']:g}: {told['why']}")
        elif row["note"]:
            click.echo(f"{name}: {row['note']}")


def _swap(whole: WholeComparison) -> None:
    """Which part makes how much of the difference."""
    from evaluation.comparison_report.sections import swap
    assert whole.swap is not None
    data = whole.swap.to_dict()
    rows = [(part["part"], part["what"], _number(part["boxes"], "+.2f"), _number(part["boxes_share"], ".0%"),
             _number(part["alone_boxes"], "d"), _number(part["fscore"], "+.5f"), _number(part["fscore_share"], ".0%"),
             _number(part["alone_fscore"], "+.5f")) for part in data["parts"]]
    print_table("", ("part", "A and B", "boxes", "share", "alone", "F", "share", "alone"), rows, right=range(2, 8))
    click.echo(whole.swap.summary)
    scored = whole.scores.protocols if whole.scores is not None else {}
    for note in swap({"swap": data, "scores": {"protocols": scored}})["notes"]:
        click.echo(f"note: {note}")


def _number(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)
