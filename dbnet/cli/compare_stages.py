"""`dbnet compare A B`: two models stage by stage, and why they part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.options import print_table, write_json

if TYPE_CHECKING:
    from parity.models import ModelComparison, StageRow
    from parity.staged import StagedModel

#: The picture that is drawn where no images are given: a seed, height and width.
DRAWN = (3, 352, 512)
HEADER = ("stage", "max abs", "max rel", "tolerance", "99.9 %", "cosine", "its own", "A to float64", "B to float64", "")


def run(a: Path, b: Path, images: tuple[str, ...], json_path: str | None, options: Any, given: dict[str, Any]) -> None:
    """Prints the comparison, with `images` that of the boxes too, and leaves with exit code 1 if the models differ.

    Raises DbnetError.
    """
    from dbnet.cli import compare_images
    from evaluation.compare_maps import report
    from evaluation.evaluate import versions
    from parity.models import compare_models
    files = [] if not images else _files(images, given["recursive"])
    sides = open_both(a, b, options, given["runner_a"], given["runner_b"], given["device"])
    result = compare_models(*sides, pictures_of(files))
    data = {**result.to_dict(), "boxes": None, "a": sides[0].told(), "b": sides[1].told(), "versions": versions()}
    maps = None
    if images:
        maps, runs = compare_images.compared(a, b, images, options, json_path == "-", **given)
        found = report(maps, {"a": runs[0].settings(a), "b": runs[1].settings(b)})
        data = found | result.to_dict() | {"maps": found["stages"]}
        data["verdict"] = result.verdict if maps.same or not maps.images else "different"
    if json_path:
        write_json(json_path, data)
    if json_path != "-":
        show(result, sides)
        if maps is not None and maps.images:
            compare_images.show(maps, (a, b), runs)
    if result.verdict == "different":
        raise click.exceptions.Exit(1)
    if maps is not None:
        compare_images.leave(maps)


def _files(images: tuple[str, ...], recursive: bool) -> list[str]:
    from evaluation.detecting_inputs import find_images
    return list(find_images(images, recursive).files)


def open_both(a: Path, b: Path, options: Any, runner_a: str | None, runner_b: str | None,
               device: str | None) -> tuple[StagedModel, StagedModel]:
    """Both models with their stages. Raises DbnetError."""
    from functools import partial

    from dbnet.cli.compare import for_each
    from parity.staged import open_staged
    openers = partial(open_staged, a, runner_a, device), partial(open_staged, b, runner_b, device)
    first, second = for_each(options, *openers)
    return first, second


def pictures_of(files: Sequence[str]) -> list[Any]:
    """The first image that can be read, else a drawn one; (H, W, 3) uint8 in BGR."""
    from dbnet.datasets.drawn import draw
    from dbnet.errors import DbnetError
    from dbnet.preprocess import read_image
    for file in files:
        try:
            return [read_image(file)]
        except DbnetError:  # told where the boxes are compared
            continue
    return [draw(*DRAWN)[0]]


def show(result: ModelComparison, sides: Sequence[StagedModel]) -> None:
    """Verdict, table, causes and notes."""
    for name, side in zip("AB", sides, strict=True):
        click.echo(f"{name}: {side.path.name}: {side.runner.spec.name} on {side.runner.name} ({side.runner.device})")
    for line in verdict_lines(result):
        click.echo(line)
    print_table("", HEADER, [_cells(row) for row in result.rows], right=range(1, 9))
    for note in result.notes:
        click.echo(f"note: {note}")


def verdict_lines(result: ModelComparison) -> list[str]:
    """What a reader needs first."""
    if result.first is None:
        return ["same: every stage is equal bit for bit" if result.verdict == "same" else
                "within tolerance: no stage differs by more than its tolerance"]
    inside = f", in {result.layer}" if result.layer not in (None, result.first) else ""
    lines = [f"different: first at {result.first}{inside}; cause: {result.cause}"]
    for cause in result.causes:
        left = "nothing" if not cause.residual else _error(cause.residual)
        lines.append(f"  {cause.cause}: {cause.what}; mended of it, {left} is left of {_error(cause.before)}"
                     f"{'' if cause.explained else ', more than the tolerance'}")
    if len(result.own) > 1:
        lines.append(f"  errors of their own, not inherited: {', '.join(result.own)}")
    return lines


def _error(value: float) -> str:
    return f"an error of {value:.1e}" if math.isfinite(value) else "sizes or values that cannot be compared"


def _cells(row: StageRow) -> Sequence[str]:
    if row.comparison is None:
        return (row.stage, *["-"] * 8, f"DIFFERS: {row.why}")
    c, isolated = row.comparison, row.isolated
    far = ["-" if value is None else f"{value:.1e}" for value in row.to_float64]
    return (row.stage, f"{c.max_abs:.2e}", f"{c.max_rel:.2e}", f"{c.tolerance:.0e}", f"{c.q999:.1e}", f"{c.cosine:.7f}",
            "-" if isolated is None else f"{isolated.max_rel:.1e}", *far,
            "ok" if c.passed else "inherited" if isolated is not None and isolated.passed else "DIFFERS")
