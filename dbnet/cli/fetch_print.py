"""What dbnet fetch prints: the table, a file's description, and the progress bar."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.options import print_table

if TYPE_CHECKING:
    from dbnet.fetch import Fetched, Means
    from dbnet.published import Entry

_HEADER = ("name", "variant", "data", "languages", "chip", "cards", "format", "input", "recall", "precision", "f-score",
           "digest")
#: The columns of a terminal that has less than `_WIDE`; --json has all.
_BRIEF, _WIDE = (0, 1, 2, 4, 6, 10, 11), 165


def told(entry: Entry) -> dict[str, Any]:
    """An entry as JSON has it."""
    row = entry.row
    figures = {name: value for name, value in asdict(row).items() if name not in ("downloads", "data")} if row else {}
    return {"name": entry.name, "variant": entry.variant, "file": entry.file, "format": entry.format,
            "digest": entry.digest, "url": entry.download.url, "input_shape": entry.download.input_shape,
            "data": entry.data, "languages": entry.languages, "scored_on": entry.scored_on,
            "backbone_only": entry.backbone_only, "recipes": entry.recipes, **figures}


def print_list(found: Sequence[Entry]) -> None:
    """The table of dbnet fetch --list."""
    kept = _BRIEF if sys.stdout.isatty() and shutil.get_terminal_size().columns < _WIDE else range(len(_HEADER))
    print_table("Recall, precision and f-score in percent, as published, by MindOCR's own metric.",
                [_HEADER[i] for i in kept], [[_cells(entry)[i] for i in kept] for entry in found],
                right=[at for at, i in enumerate(kept) if i in (5, 8, 9, 10)])
    if any("private" in entry.scored_on for entry in found):
        click.echo("12 public sets: the figures are of a private test set, "
                   + next(entry.scored_on for entry in found if "private" in entry.scored_on).partition(" (")[0] + ".")
    if any(entry.languages.count(",") for entry in found):
        for data, languages in {entry.data: entry.languages for entry in found if "," in entry.languages}.items():
            click.echo(f"{data}: {languages}.")


def _cells(entry: Entry) -> tuple[object, ...]:
    languages = f"{entry.languages.count(',') + 1} languages" if "," in entry.languages else entry.languages
    shape = "x".join(map(str, entry.download.input_shape or ()))
    row = entry.row
    if row is None:
        return (entry.name, entry.variant, entry.data, languages, "", "", entry.format, shape, "", "", "", entry.digest)
    figures = ("" if value is None else f"{value:.2f}" for value in (row.recall, row.precision, row.fscore))
    return (entry.name, entry.variant, entry.data, languages, row.chip, row.cards, entry.format, shape, *figures,
            entry.digest)


def describe(entry: Entry, done: Fetched) -> None:
    """To standard error: what the file is, what was published of it, and what to do with it."""
    for line in (_identity(entry), _figures(entry), f"{done.how}; SHA-256 begins with {entry.digest}, as it must"):
        if line:
            click.echo(line, err=True)
    for i, command in enumerate(_next(entry, shlex.quote(str(done.path)))):
        click.echo(f"{'next:' if i == 0 else '     '} {command}", err=True)


def _identity(entry: Entry) -> str:
    languages = f" ({entry.languages})" if entry.languages else ""
    if entry.row is None:
        what = "a backbone without neck and head, " if entry.backbone_only else ""
        return f"{entry.name} {entry.variant}: {what}weights to begin with, trained on {entry.data}{languages}"
    row = entry.row
    shape = f", input {entry.download.input_shape}" if entry.download.input_shape else ""
    return (f"{entry.name} {entry.variant}: {row.network} with {row.backbone}, trained on {entry.data}{languages}, "
            f"Ascend {row.chip}, {row.cards} card{'s' * (row.cards > 1)}{shape}")


def _figures(entry: Entry) -> str:
    if entry.row is None:
        return ""
    names = {"recall": entry.row.recall, "precision": entry.row.precision, "f-score": entry.row.fscore}
    figures = ", ".join(f"{name} {value:.2f}" for name, value in names.items() if value is not None)
    if not figures:
        return "" if entry.row.train_loss is None else f"published: train loss {entry.row.train_loss:g}"
    return f"published: {figures} % by MindOCR's own metric, on {entry.scored_on or entry.data}"


def _next(entry: Entry, path: str) -> Iterator[str]:
    """Commands that are worth a try with the file."""
    from dbnet.published import begun_with
    if entry.format == "mindir":
        yield f"dbnet inspect {path}"
    elif entry.row is None or entry.row.fscore is None:
        key = "model.backbone.pretrained" if entry.backbone_only else "model.pretrained"
        yield from (f"dbnet train -c {recipe} -o {key}={path}" for recipe in begun_with(entry)[:1])
    elif entry.recipe:
        yield f"dbnet evaluate -c {entry.recipe} {path} --root DATASET_ROOT"
    else:
        yield f"dbnet detect -m {path} IMAGES"
    if not entry.backbone_only:
        yield f"dbnet convert {path} {entry.name}.pth"


@contextlib.contextmanager
def progress(means: Means, name: str, quiet: bool) -> Iterator[Means]:
    """`means` with a bar on standard error, if that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield means
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    with Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
                  TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None, visible=False)
        yield replace(means, tell=lambda line: bar.console.print(f"dbnet: {line}", markup=False, highlight=False),
                      progress=lambda done, total: bar.update(task, completed=done, total=total, visible=True))
