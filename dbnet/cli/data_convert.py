"""dbnet data convert"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from dbnet.cli.data_options import SYNTHTEXT, Source, source_options
from dbnet.cli.options import PathArgument, json_option, write_json
from dbnet.errors import DbnetError

if TYPE_CHECKING:
    from dbnet.datasets.preparing import Preparation


@click.command()
@source_options
@click.option("--out", "-o", "--output_path", "--output-path", type=PathArgument, metavar="FILE",
              help="The label file to write, .txt; of synthtext the .mat file.")
@click.option("--out-images", type=PathArgument, metavar="DIR",
              help="Also gather all images in DIR, as hard links: the same files, so do not edit them there. gif and "
                   "images with an EXIF orientation become PNG, in the pixels that their labels mean.")
@click.option("--copy", is_flag=True, help="With --out-images: copies instead of links.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Threads. Default: one per core, at most 8.")
@click.option("--list", "listed", is_flag=True, help="Print a line for each repair.")
@click.option("--force", is_flag=True, help="Replace an older label file, or fill a folder that is not empty.")
@json_option
def convert(source: Source, out: Path | None, out_images: Path | None, copy: bool, workers: int | None, listed: bool,
            force: bool, json_path: str | None) -> None:
    """Write a data set's labels as one label file, as MindOCR and PaddleOCR read them.

    DATASET: icdar2015, td500 (and HUST-TR400), ctw1500, totaltext, mlt2017, synthtext, or prepared for a label file.
    Each line is an image's name, a tab, and a list of {"transcription", "points"}. Every label is mended or left out
    where it has to be, and the list of that is printed.
    """
    if out is None:
        raise click.UsageError("name the label file to write: --out train_det_gt.txt")
    if json_path not in (None, "-") and Path(json_path or "").resolve() == out.resolve():
        raise click.UsageError("--json and --out are one file")
    if copy and out_images is None:
        raise click.UsageError("--copy goes with --out-images")
    if source.dataset == SYNTHTEXT:
        from dbnet.cli.data_synthtext import convert_synthtext
        if out_images is not None:
            raise click.UsageError("--out-images means nothing with synthtext")
        convert_synthtext(source, out, workers, listed, force, json_path)
        return
    _check_out(out, source, force)
    if out_images is not None:
        _check_copies(out_images, source, force)
    preparation = _prepared(source, out_images, not copy, workers, json_path == "-")
    _write(out, preparation.lines)
    data = {**_report(preparation), "out": str(out)}
    if json_path is not None:
        write_json(json_path, data)
    if json_path != "-":
        from dbnet.cli.data_print import print_preparation
        print_preparation(preparation, bool(source.images), listed)
        click.echo(f"wrote {out}" + (f", images in {out_images}" if out_images else ""))


def _report(preparation: Preparation) -> dict[str, Any]:
    from dbnet.cli.data_print import report
    return report(preparation)


def _prepared(source: Source, copies: Path | None, link: bool, workers: int | None, quiet: bool) -> Preparation:
    from dbnet.cli.data_print import progress
    from dbnet.datasets.preparing import prepare
    paired = source.paired()
    if not paired.entries:
        raise DbnetError(f"{', '.join(map(str, source.labels))}: holds no labels; nothing was written")
    if copies is not None:
        copies.mkdir(exist_ok=True)
    with progress(quiet) as advance:
        preparation = prepare(paired, workers, advance, copies, link)
    if not preparation.lines:
        first = next(repair for repair in preparation.repairs if repair.effect == "left out")
        raise DbnetError(f"none of {len(paired.entries)} images can be used: {first.image}: {first.kind}, "
                         f"{first.detail}; nothing was written")
    return preparation


def _check_out(out: Path, source: Source, force: bool) -> None:
    """Raises DbnetError if the label file cannot be written, or would replace or spoil something else."""
    from dbnet.datasets.labels import PREFIX
    from dbnet.writing import check_target
    if out.suffix.lower() != ".txt":
        raise DbnetError(f"{out}: a label file ends in .txt; name it so")
    check_target(out, next((path for path in source.labels if path.is_file()), None), force)
    for labels in source.labels:
        if not labels.is_dir() or labels.resolve() != out.parent.resolve():
            continue
        marked = any(PREFIX.match(file.name) or file.suffix.lower() == ".gt" for file in labels.iterdir())
        if not marked or PREFIX.match(out.name):
            raise DbnetError(f"{out}: lies among the labels and would be read as one of them; name another folder")
    if out.is_file() and out.stat().st_size and not _is_label_file(out):
        raise DbnetError(f"{out}: exists and is no label file; name another file")


def _is_label_file(path: Path) -> bool:
    from dbnet.datasets.archive import decode
    from dbnet.datasets.labelfile import FIRST_LINES, is_label_file
    with path.open("rb") as stream:
        return is_label_file(decode(b"".join(stream.readline(2**22) for _ in range(FIRST_LINES))))


def _check_copies(copies: Path, source: Source, force: bool) -> None:
    """Raises DbnetError if the folder for the images is not a new or an empty one, and nothing allows that."""
    if not source.images:
        raise click.UsageError("--out-images needs --images")
    for images in source.images:
        here, there = copies.resolve(), images.resolve()
        if here == there or here in there.parents or there in here.parents:
            raise DbnetError(f"{copies}: holds the original images, or lies among them; name another folder")
    if copies.exists() and not copies.is_dir():
        raise DbnetError(f"{copies}: is a file; name a folder")
    if not copies.parent.is_dir():
        raise DbnetError(f"{copies.parent}: no such folder; create it first")
    if copies.is_dir() and any(copies.iterdir()) and not force:
        raise DbnetError(f"{copies}: is not empty; name another folder, or add --force to fill it")


def _write(out: Path, lines: list[str]) -> None:
    from converters.writing import write_verified
    data = "".join(f"{line}\n" for line in lines).encode()

    def write(stream: BinaryIO) -> None:
        stream.write(data)

    def verify(path: Path) -> None:
        if path.read_bytes() != data:
            raise DbnetError(f"{out}: what was written is not what was meant; check the disk")

    write_verified(out, write, verify)
