"""dbnet data show"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dbnet.cli.data_options import SYNTHTEXT, Source, source_options
from dbnet.cli.options import PathArgument
from dbnet.errors import DbnetError

if TYPE_CHECKING:
    from dbnet.datasets.preparing import Outcome

LIMIT = 20
#: All transcriptions of the pictures: those that no picture can show, too.
TEXTS = "texts.tsv"


@click.command()
@source_options
@click.option("--out", "-o", type=PathArgument, metavar="DIR", help="Folder for the pictures; it is made.")
@click.option("--limit", type=click.IntRange(min=1), default=LIMIT, show_default=True, metavar="N",
              help="Draw the first N images only.")
@click.option("--repaired", is_flag=True, help="Draw only images with a label that was repaired.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Threads. Default: one per core, at most 8.")
@click.option("--force", is_flag=True, help="Write into a folder that is not empty.")
def show(source: Source, out: Path | None, limit: int, repaired: bool, workers: int | None, force: bool) -> None:
    """Draw the labels into their images: readable green, ignored grey, repaired red (and as it was, orange).

    Each text has its number, from 0, as `dbnet data check --list` names it. Transcriptions that are no ASCII cannot be
    drawn; all of them stand in texts.tsv beside the pictures.
    """
    from dbnet.cli.data_print import progress
    from dbnet.datasets.preparing import prepare
    if out is None:
        raise click.UsageError("name the folder for the pictures: --out DIR")
    if not source.images:
        raise click.UsageError("labels are drawn into images: say where these lie, --images DIR")
    _check_folder(out, source.images, force)
    if source.dataset == SYNTHTEXT:
        from dbnet.cli.data_synthtext import first_entries
        paired = first_entries(source, limit)
    else:
        paired = source.paired()
    with progress(False) as advance:
        preparation = prepare(paired if repaired else replace(paired, entries=paired.entries[:limit]), workers, advance)
    chosen = [outcome for outcome in preparation.outcomes if outcome.sample is not None
              and (not repaired or any(repair.index is not None for repair in outcome.repairs))][:limit]
    left_out = [outcome for outcome in preparation.outcomes if outcome.sample is None]
    for outcome in left_out[:3]:
        click.echo(f"note: {outcome.name}: {outcome.repairs[-1].kind}: {outcome.repairs[-1].detail}", err=True)
    if not chosen:
        raise DbnetError("no image to draw" + (" has a label that was repaired" if repaired else ""))
    _draw(chosen, out)
    click.echo(f"wrote {len(chosen)} pictures and {TEXTS} to {out}")


def _check_folder(out: Path, images: Sequence[Path], force: bool) -> None:
    """Raises DbnetError if pictures could replace somebody's files."""
    for folder in images:
        here, there = out.resolve(), folder.resolve()
        if here == there or there in here.parents:
            raise DbnetError(f"{out}: lies among the images; name another folder")
    if out.exists() and not out.is_dir():
        raise DbnetError(f"{out}: is a file; name a folder")
    if not out.parent.is_dir():
        raise DbnetError(f"{out.parent}: no such folder; create it first")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise DbnetError(f"{out}: is not empty; name another folder, or add --force to write into it")


def _draw(outcomes: Sequence[Outcome], out: Path) -> None:
    from converters.writing import write_text
    from dbnet.datasets.label_picture import picture, states
    from dbnet.datasets.preparing import safe_name
    from dbnet.drawing import encoded
    out.mkdir(exist_ok=True)
    rows = ["image\tindex\tstate\ttranscription"]
    for outcome in outcomes:
        name = safe_name(outcome.name)
        target = out / (name if name.lower().endswith(".jpg") else f"{name}.jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(encoded(picture(outcome), ".jpg"))
        rows += _rows(outcome.name, states(outcome).items(), outcome.entry.sample.texts)
    write_text(out / TEXTS, "".join(f"{row}\n" for row in rows))


def _rows(name: str, states: Iterable[tuple[int, str]], texts: Sequence[str]) -> list[str]:
    return [f"{name}\t{index}\t{state}\t{' '.join(texts[index].split())}" for index, state in states]
