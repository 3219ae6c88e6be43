"""What `dbnet detect` tells people: a progress bar, a table, and the images that failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.options import print_table
from dbnet.errors import DbnetError

if TYPE_CHECKING:
    from dbnet.spec import BoxRule
    from evaluation.detecting import Summary

TOLD = {"json": "boxes, scores and settings of all images",
        "txt": "res_NAME.txt of each image, as competitions take them",
        "zip": "the same for upload",
        "mindocr": "all images, as MindOCR writes them",
        "pictures": "each image with its boxes",
        "crops": "each text, cut out and turned upright"}


@contextmanager
def progress(total: int) -> Iterator[Any]:
    """Yields a callback (summary so far); the bar goes to standard error, and only to a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    with Progress(TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                  TextColumn("{task.fields[failed]}"), console=console, disable=not console.is_terminal,
                  transient=True) as bar:
        task = bar.add_task("images", total=total, failed="")
        done = 0

        def advance(summary: Summary) -> None:
            nonlocal done
            done += 1
            failed = f"{len(summary.failed)} failed" if summary.failed else ""
            bar.update(task, completed=done, failed=failed)

        yield advance


def print_summary(model: Path, runner: Any, boxes: BoxRule, summary: Summary, kinds: Sequence[str],
                  folder: Path | None, json_path: str | None) -> None:
    """Two tables on standard output: how many, and what was written where."""
    from evaluation.detecting_files import KINDS
    pixels = runner.spec.pixels
    click.echo(f"{model.name}: {runner.spec.name} on {getattr(runner, 'title', runner.name)} ({runner.device}); pixels "
               f"{pixels.colour} {pixels.resize} {pixels.size}; boxes {boxes.rule} {boxes.box_type}, binary_thresh "
               f"{boxes.binary_thresh:g}, box_thresh {boxes.box_thresh:g}, unclip_ratio {boxes.unclip_ratio:g}")
    rate = f"{summary.images / summary.seconds:.1f}" if summary.images and summary.seconds else "-"
    print_table("", ("images", "boxes", "failed", "seconds", "images/s"),
                [(summary.images, summary.boxes, len(summary.failed), f"{summary.seconds:.1f}", rate)], range(5))
    written = [(f"{folder}/{KINDS[kind]}", TOLD[kind]) for kind in kinds
               if summary.images or not KINDS[kind].endswith("/")]
    if json_path is not None:
        written.insert(0, (json_path, TOLD["json"]))
    print_table("", ("written", "holds"), written)


def report_failures(summary: Summary, where: str) -> None:
    """Names every image that failed, on standard error; raises DbnetError if one did, or the run was stopped."""
    for line in summary.failed:
        click.echo(f"failed: {' '.join(line.split())}", err=True)
    if summary.stopped:
        raise DbnetError(f"{where}: stopped after {summary.images} of {summary.asked} images: {summary.stopped}; what "
                         f"was found in those is there")
    if summary.failed and not summary.images:
        raise DbnetError(f"nothing could be detected: {len(summary.failed)} of {summary.asked} images failed, the "
                         f"reasons stand above")
    if summary.failed:
        raise DbnetError(f"{len(summary.failed)} of {summary.asked} images failed, the reasons stand above; the other "
                         f"{summary.images} are in {where}")
