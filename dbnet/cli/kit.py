"""dbnet kit"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dbnet.cli.options import PathArgument, RunnerType, progress_bar, source_options
from dbnet.errors import DbnetError


@click.command()
@click.argument("model", type=PathArgument)
@click.option("--images", multiple=True, required=True, metavar="IMAGE|FOLDER|GLOB",
              help="What the network is run on there (repeatable).")
@click.option("--out", "-o", type=PathArgument, required=True, metavar="FOLDER", help="The kit, created.")
@click.option("--recursive", "-r", is_flag=True, help="Look in the folders below --images too.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The first N images only.")
@click.option("--runner", type=RunnerType(), help="Who makes the reference, on this CPU.  [default: mindspore, or the "
                                                  "next that is installed]")
@click.option("--force", is_flag=True, help="Replace a kit, if nothing else is in it: no results, no files of yours.")
@source_options
def kit(model: Path, images: tuple[str, ...], out: Path, recursive: bool, limit: int | None, runner: str | None,
        force: bool, options: Any) -> None:
    """Make one folder for the hour that there is on a host with an Ascend NPU.

    It holds MODEL, the images as arrays, what the network gives here, and run.py, which needs NumPy and MindSpore only:
    it looks first whether it can be done, does the most valuable first, goes on when it is started again, and writes
    one small file to carry back, for dbnet compare. The images come in their natural order.
    """
    from evaluation.detecting_inputs import find_images
    from parity.kit import check_folder, make_kit
    check_folder(out, force)
    found = find_images(images, recursive)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    if found.refused and (limit is None or len(found.files) < limit):
        path, problem = found.refused[0]
        raise DbnetError(f"{path}: {problem}; take it away, or name the images one by one")
    chosen = list(zip(found.names, found.files, strict=True))[:limit]
    with progress_bar(len(chosen), quiet=False) as advance:
        made = make_kit(model, chosen, out, options, runner, force, advance)
    size = f"{made.size / 1e9:.1f} GB" if made.size >= 1e9 else f"{made.size / 1e6:.0f} MB"
    click.echo(f"{out}: {model.name}, {made.images} image{'s'[:made.images != 1]}, {size}; kit {made.digest[:16]}; "
               f"reference by {made.runner}")
    click.echo("there: python run.py --preflight, then python run.py --minutes 50; before that here: "
               "python run.py --rehearse --out rehearsal.trace")
