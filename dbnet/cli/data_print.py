"""What `dbnet data` prints: counts, repairs by kind, and a progress bar."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.options import print_table

if TYPE_CHECKING:
    from dbnet.datasets.preparing import Preparation
    from dbnet.datasets.repair import Repair


@contextmanager
def progress(quiet: bool) -> Iterator[Any]:
    """Yields a callback (done, total); the bar goes to standard error, and only to a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    console = Console(stderr=True)
    with Progress(TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                  console=console, disable=quiet or not console.is_terminal, transient=True) as bar:
        task = bar.add_task("images", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_preparation(preparation: Preparation, with_images: bool, listed: bool) -> None:
    """Counts, repairs and the hash."""
    images, texts, readable = preparation.written
    title = (f"{told_dataset(preparation)}: {images} images, {texts} texts: {readable} readable, {texts - readable} "
             f"ignored")
    if preparation.official:
        title += f"; read: the published counts of {preparation.official}"
    elif preparation.read != preparation.written:
        title += "; read: {} images, {} texts, {} readable".format(*preparation.read)
    click.echo(title)
    if not with_images:
        click.echo("note: the labels alone; --images DIR has images checked and outlines clipped to them", err=True)
    print_repairs(preparation.repairs, listed)
    click.echo(f"sha256 of the labels: {preparation.sha256}")


def print_repairs(repairs: Sequence[Repair], listed: bool) -> None:
    """A row for each kind with an example, or a line for each repair."""
    from dbnet.datasets.repair import KINDS, counted
    if listed:
        for repair in repairs:
            click.echo(f"{repair.image}{told_index(repair)}: {repair.kind}: {repair.detail}")
    rows = []
    for kind, count in counted(repairs).items():
        first = next(repair for repair in repairs if repair.kind == kind)
        effect, meaning = KINDS[kind]
        rows.append((kind, count, effect, meaning, f"{first.image}{told_index(first)}: {first.detail}"))
    if rows:
        print_table("", ("kind", "count", "", "meaning", "first"), rows, right=[1])


def told_dataset(preparation: Preparation) -> str:
    """By the name that the command line gives it."""
    return {"labelfile": "prepared"}.get(preparation.dataset, preparation.dataset)


def told_index(repair: Repair) -> str:
    return "" if repair.index is None else f" text {repair.index}"


def report(preparation: Preparation) -> dict[str, Any]:
    """The JSON form: counts, hash, repairs."""
    from dbnet.datasets.repair import counted
    names = ("images", "texts", "readable")
    return {
        "dataset": told_dataset(preparation), "sha256": preparation.sha256,
        "official_counts": preparation.official, "complete": preparation.complete,
        "read": dict(zip(names, preparation.read, strict=True)),
        "written": dict(zip(names, preparation.written, strict=True)),
        "counts": counted(preparation.repairs),
        "repairs": [{"image": repair.image, "index": repair.index, "kind": repair.kind, "effect": repair.effect,
                     "detail": repair.detail} for repair in preparation.repairs],
    }
