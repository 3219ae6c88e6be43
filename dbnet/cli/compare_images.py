"""`dbnet compare A B --images DIR`: two models on the same images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.evaluate_options import chosen_boxes
from dbnet.cli.options import print_table, progress_bar, tell_notes, write_json
from dbnet.errors import DbnetError

if TYPE_CHECKING:
    from evaluation.compare_maps import MapComparison, Side

LISTED = 20


def run(a: Path, b: Path, images: tuple[str, ...], json_path: str | None, options: Any, *, recursive: bool,
        limit: int | None, runner_a: str | None, runner_b: str | None, device: str | None, threads: int | None,
        boxes: dict[str, Any]) -> None:
    """Prints the comparison, and leaves with exit code 1 if the models differ. Raises DbnetError."""
    from evaluation.compare_maps import report
    result, sides = compared(a, b, images, options, json_path == "-", recursive=recursive, limit=limit,
                             runner_a=runner_a, runner_b=runner_b, device=device, threads=threads, boxes=boxes)
    if json_path:
        write_json(json_path, report(result, {"a": sides[0].settings(a), "b": sides[1].settings(b)}))
    if json_path != "-" and result.images:
        show(result, (a, b), sides)
    leave(result)


def compared(a: Path, b: Path, images: tuple[str, ...], options: Any, quiet: bool, *, recursive: bool,
             limit: int | None, runner_a: str | None, runner_b: str | None, device: str | None, threads: int | None,
             boxes: dict[str, Any]) -> tuple[MapComparison, list[Side]]:
    """Both models on the images; failures are told on standard error. Raises DbnetError."""
    from evaluation.compare_maps import Side, compare_maps
    from evaluation.detecting_inputs import find_images
    found = find_images(images, recursive)
    chosen = list(zip(found.names, found.files, strict=True))[:limit]
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    runners = _opened(a, b, options, (runner_a, runner_b), device, threads)
    first, second = sides = [Side(runner, chosen_boxes(runner.spec.boxes, boxes)) for runner in runners]
    with progress_bar(len(chosen), quiet) as advance:
        result = compare_maps(first, second, chosen, advance)
    if limit is None:
        result.failed[:0] = [f"{path}: {problem}" for path, problem in found.refused]
    for line in result.failed:
        click.echo(f"failed: {' '.join(line.split())}", err=True)
    return result, sides


def _opened(a: Path, b: Path, options: Any, runners: tuple[str | None, str | None], device: str | None,
            threads: int | None) -> list[Any]:
    from functools import partial

    from dbnet.cli.compare import for_each
    from evaluation.runners import open_runner
    openers = [partial(open_runner, path, runner, device, ("probability",), threads)
               for path, runner in zip((a, b), runners, strict=True)]
    opened = for_each(options, *openers)
    for side, runner in zip("AB", opened, strict=True):
        tell_notes(runner, f"{side}: ")
    return opened


def show(result: MapComparison, files: tuple[Path, Path], sides: list[Side]) -> None:
    """A line for each model, the images that differ most, and the verdict."""
    from dbnet.pixel_formats import told
    from evaluation.compare_maps import TOLERANCE
    for name, file, side in zip("AB", files, sides, strict=True):
        runner, rule = side.runner, side.rule
        click.echo(f"{name}: {file.name}: {runner.spec.name} on {runner.name} ({runner.device}); pixels "
                   f"{told(runner.spec.pixels)}; boxes {rule.rule} {rule.box_type}, binary_thresh "
                   f"{rule.binary_thresh:g}, box_thresh {rule.box_thresh:g}, unclip_ratio {rule.unclip_ratio:g}")
    worst = sorted(result.images, key=lambda image: (image.same, -(image.max_abs or 0)))
    rows = [_row(image.name, image.max_abs, image.mean_abs, image.boxes) for image in worst[:LISTED]]
    rest = len(worst) - LISTED
    total = _row(f"all {len(result.images)}", result.max_abs, result.mean_abs, result.boxes)
    print_table("", ("image", "max |dp|", "mean |dp|", "boxes A", "boxes B", "identical", "moved", "max shift", "lost",
                     "invented"), [*rows, *([(f"({rest} more, no worse)", *[""] * 9)] if rest > 0 else []), total],
                right=range(1, 10))
    if result.other_sizes:
        click.echo(f"{result.other_sizes} of {len(result.images)} images have maps of two sizes, so their pixels are "
                   f"not the same, and their maps were not compared; --pixels gives both models the same")
    boxes = result.boxes
    if result.same:
        click.echo(f"same: {boxes.a} boxes in {len(result.images)} images, all with the same corners, and "
                   f"probabilities at most {result.max_abs:.1e} apart (tolerance {TOLERANCE:g})")
    else:
        click.echo(f"different: {boxes.identical} of {boxes.a} boxes are the same, {boxes.moved} moved, {boxes.lost} "
                   f"lost, {boxes.invented} invented; {sum(not image.same for image in result.images)} of "
                   f"{len(result.images)} images differ (tolerance {TOLERANCE:g} in probability, none in boxes)")


def _row(name: str, max_abs: float | None, mean_abs: float | None, boxes: Any) -> tuple[object, ...]:
    numbers = ("-" if value is None else f"{value:.1e}" for value in (max_abs, mean_abs))
    return (name, *numbers, boxes.a, boxes.b, boxes.identical, boxes.moved, f"{boxes.max_shift:.1f}", boxes.lost,
            boxes.invented)


def leave(result: MapComparison) -> None:
    """Exit code 1 for different models; DbnetError if they are not, but some images could not be compared."""
    if not result.images:
        raise DbnetError(f"nothing could be compared: {len(result.failed)} images failed, the reasons stand above")
    if not result.same:
        raise click.exceptions.Exit(1)
    if result.failed:
        raise DbnetError(f"the same on {len(result.images)} images, but {len(result.failed)} failed, the reasons stand "
                         f"above")
