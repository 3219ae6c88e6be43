"""dbnet data synth"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.options import PathArgument, json_option, write_json
from dbnet.signals import ended_as_by_interrupt

if TYPE_CHECKING:
    from dbnet.datasets.synth_fonts import Face
    from dbnet.datasets.synth_photographs import Found

COUNT, MOST = 100, 1_000_000
#: Sides of a scene in pixels.
SIDE = click.IntRange(64, 4096)


def _scripts(_context: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    """--scripts latin,chinese as a tuple, in the order of the fonts' own list."""
    if text is None:
        return None
    from dbnet.datasets.synth_words import LETTERS
    named = [name.strip().lower() for name in text.split(",") if name.strip()]
    if unknown := [name for name in named if name not in LETTERS]:
        raise click.BadParameter(f"{', '.join(unknown)}: choose from {','.join(LETTERS)}")
    if not named:
        raise click.BadParameter(f"names no script; choose from {','.join(LETTERS)}")
    return tuple(name for name in LETTERS if name in named)


@click.command()
@click.option("--out", "-o", type=PathArgument, metavar="DIR", help="Folder for the set; it is made.")
@click.option("--count", "-n", type=click.IntRange(1, MOST), default=COUNT, show_default=True, metavar="N",
              help="Scenes.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, metavar="S",
              help="Another one draws other scenes.")
@click.option("--size", type=(SIDE, SIDE), default=(720, 1280), show_default=True, metavar="H W",
              help="Height and width in pixels.")
@click.option("--fonts", type=PathArgument, multiple=True, metavar="DIR",
              help="Folder of .ttf, .otf or .ttc files, in it or below (repeatable). Default: the system's.")
@click.option("--backgrounds", type=PathArgument, metavar="DIR",
              help="Folder of photographs WITHOUT ANY TEXT, of which parts become backgrounds.")
@click.option("--scripts", callback=_scripts, metavar="NAME,...",
              help="latin,accented,cyrillic,greek,chinese,japanese,korean. Default: all that the fonts have.")
@click.option("--workers", type=click.IntRange(1, 256), metavar="N", help="Processes. Default: one per core.")
@click.option("--force", is_flag=True, help="Replace an older drawn set.")
@json_option
def synth(out: Path | None, count: int, seed: int, size: tuple[int, int], fonts: Sequence[Path],
          backgrounds: Path | None, scripts: tuple[str, ...] | None, workers: int | None, force: bool,
          json_path: str | None) -> None:
    """Draw scenes with texts, and their labels: a data set that is nobody's.

    Texts in many fonts and scripts, level, turned, in perspective or bent, stand on boards, walls, streets and parts of
    photographs. DIR gets images/, det_gt.txt (a prepared label file) and manifest.json. The same seed, fonts,
    backgrounds and versions make the same bytes.
    """
    from dbnet.cli.data_print import progress
    from dbnet.datasets.synth_fonts import limited
    from dbnet.datasets.synth_pool import Plan
    from dbnet.datasets.synth_set import check_out, draw_set
    if out is None:
        raise click.UsageError("name the folder for the set: --out DIR")
    _check_apart(out, backgrounds, json_path)
    check_out(out, force)
    faces = _faces(fonts)
    if scripts is not None:
        faces = limited(faces, scripts)
    photographs = None if backgrounds is None else _photographs(backgrounds)
    plan = Plan(count, seed, size, tuple(faces), photographs)
    with ended_as_by_interrupt(), progress(json_path == "-") as advance:
        manifest = draw_set(out, plan, workers, advance, force)
    if json_path is not None:
        write_json(json_path, {"out": str(out), **manifest})
    if json_path != "-":
        _tell(manifest, out)


def _check_apart(out: Path, backgrounds: Path | None, json_path: str | None) -> None:
    """What is written must not become what is read."""
    here = out.resolve()
    if json_path not in (None, "-") and here in Path(json_path or "").resolve().parents:
        raise click.UsageError(f"--json {json_path} lies in the folder of the set; name a file outside of it")
    if backgrounds is not None:
        there = backgrounds.resolve()
        if here == there or here in there.parents or there in here.parents:
            raise click.UsageError("--out and --backgrounds lie in one another; name a folder apart")


def _faces(folders: Sequence[Path]) -> list[Face]:
    """The fonts of these folders, or else the system's, or else OpenCV's own."""
    from dbnet.datasets.synth_fonts import find_faces, stroke_faces
    from dbnet.errors import DbnetError
    if folders:
        return find_faces(folders)
    try:
        return find_faces()
    except DbnetError as error:
        click.echo(f"note: {error}; until then OpenCV's stroke letters are drawn, latin only", err=True)
        return stroke_faces()


def _photographs(folder: Path) -> Found:
    from dbnet.datasets.pairing import common_folder
    from dbnet.datasets.synth_photographs import find_photographs
    found = find_photographs(common_folder([folder]))
    if found.left_out:
        name, fault = found.left_out[0]
        more = f" (and {len(found.left_out) - 1} more)" if len(found.left_out) > 1 else ""
        click.echo(f"note: left out as a background: {name} {fault}{more}", err=True)
    return found


def _tell(manifest: dict[str, Any], out: Path) -> None:
    from dbnet.datasets.synth_set import IMAGES, LABELS, MANIFEST
    height, width = manifest["size"]
    texts, readable = manifest["texts"], manifest["readable"]
    used = sum(font["words"] > 0 for font in manifest["fonts"])
    click.echo(f"drew {manifest['images']} scenes of {height} x {width} pixels, {texts} texts: {readable} readable, "
               f"{texts - readable} ignored; {used} of {len(manifest['fonts'])} fonts, "
               f"{', '.join(manifest['scripts'])}")
    click.echo(f"sha256 of the labels: {manifest['labels_sha256']}")
    click.echo(f"wrote {out}: {IMAGES}, {LABELS}, {MANIFEST}")
