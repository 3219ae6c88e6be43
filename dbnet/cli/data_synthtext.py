"""dbnet data convert and check for SynthText, whose labels are one .mat file."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.data_options import Source
from dbnet.cli.data_print import progress
from dbnet.cli.options import print_table, write_json
from dbnet.errors import DbnetError

if TYPE_CHECKING:
    from dbnet.datasets.pairing import Paired
    from dbnet.datasets.synthtext_summary import Summary

#: Faults that a JSON report lists, of the millions there may be; the counts are of all.
MOST_LISTED = 100_000


def convert_synthtext(source: Source, out: Path, workers: int | None, listed: bool, force: bool,
                      json_path: str | None) -> None:
    """Writes the labels put right, in the format of gt.mat. Raises DbnetError."""
    from dbnet.datasets import synthtext
    with progress(json_path == "-") as advance:
        summary = synthtext.convert(source.labels[0], next(iter(source.images), None), out, workers, advance, force)
    _tell(summary, listed, json_path, out)


def check_synthtext(source: Source, workers: int | None, listed: bool, json_path: str | None) -> bool:
    """Whether no image has to be left out. Raises DbnetError."""
    from dbnet.datasets import synthtext
    with progress(json_path == "-") as advance:
        summary = synthtext.check(source.labels[0], next(iter(source.images), None), workers, advance)
    _tell(summary, listed, json_path, None)
    return summary.kept_images == summary.images


def first_entries(source: Source, limit: int) -> Paired:
    """The first images of the labels that are there, at most `limit`. Raises DbnetError if none is."""
    from dbnet.datasets import synthtext
    from dbnet.datasets.pairing import Entry, Paired, common_folder, name_below
    folder = common_folder(source.images)
    labels = synthtext.load(source.labels[0], folder)
    there = islice((sample for sample in labels if sample.image.is_file()), limit)
    entries = [Entry(name_below(folder, sample.image), sample.image, sample) for sample in there]
    if not entries:
        raise DbnetError(f"{folder}: none of the images of {source.labels[0]} is there; give the folder that holds "
                         f"SynthText's folders 1 to 200")
    return Paired("synthtext", folder, entries)


def _tell(summary: Summary, listed: bool, json_path: str | None, out: Path | None) -> None:
    for note in summary.notes:
        click.echo(f"note: {note}", err=True)
    if json_path is not None:
        write_json(json_path, _report(summary, out))
    if json_path == "-":
        return
    click.echo(f"synthtext: {summary.kept_images} of {summary.images} images, {summary.kept_words} of {summary.words} "
               f"words")
    if listed:
        for fault in summary.faults:
            click.echo(str(fault))
    rows = [(kind, count, str(next(iter(summary.faults.of(kind))))) for kind, count in summary.counts.items()]
    if rows:
        print_table("", ("kind", "count", "first"), rows, right=[1])
    if out is not None:
        click.echo(f"sha256 of the file: {summary.sha256}\nwrote {out}")


def _report(summary: Summary, out: Path | None) -> dict[str, Any]:
    faults: Iterable[Any] = islice(iter(summary.faults), MOST_LISTED)
    return {
        "dataset": "synthtext", "sha256": summary.sha256 or None, "out": None if out is None else str(out),
        "complete": summary.kept_images == summary.images,
        "read": {"images": summary.images, "texts": summary.words},
        "written": {"images": summary.kept_images, "texts": summary.kept_words},
        "counts": summary.counts, "notes": list(summary.notes),
        "repairs": [{"image": fault.image, "index": None if fault.word is None else fault.word - 1, "kind": fault.kind,
                     "detail": fault.detail} for fault in faults],
        "repairs_listed": min(len(summary.faults), MOST_LISTED),
    }
