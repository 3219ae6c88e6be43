"""dbnet detect"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.detect_options import check_report_apart, chosen_kinds, chosen_runner, kind_names
from dbnet.cli.detect_print import print_summary, progress, report_failures
from dbnet.cli.evaluate_options import box_options, chosen_boxes
from dbnet.cli.options import (
    PathArgument,
    RunnerType,
    check_kept,
    json_option,
    keep_float32_option,
    map_output_option,
    precision_option,
    source_options,
    tell_notes,
)
from dbnet.errors import DbnetError

if TYPE_CHECKING:
    from evaluation.detecting_files import Writer
    from evaluation.detecting_inputs import Inputs


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="IMAGE|FOLDER|GLOB...")
@click.option("--model", "-m", type=PathArgument, required=True, help="Weights in any supported format.")
@click.option("--recursive", "-r", is_flag=True, help="Look in the folders below a FOLDER too.")
@click.option("--out", "-o", type=PathArgument, help="Folder of the results, created.  [default: detections]")
@click.option("--force", is_flag=True, help="Write into a folder that holds other files; those of the same name are "
                                            "replaced.")
@click.option("--only", multiple=True, metavar="NAME,...", callback=kind_names,
              help="Write these only: json, txt (res_*.txt), zip (of them), mindocr (det_results.txt), pictures, "
                   "crops. Default: all but crops.")
@click.option("--no-pictures", is_flag=True, help="No pictures of the results.")
@click.option("--no-overlay", is_flag=True, help="Pictures with the boxes only, without the probability map.")
@click.option("--crops", is_flag=True, help="Also an image of each text, cut out and turned upright.")
@click.option("--picture-format", type=click.Choice(["jpg", "png"]), default="jpg", show_default=True)
@click.option("--runner", type=RunnerType("auto"), default="auto", show_default=True,
              help="auto: ONNX Runtime on a CPU, where it is the fastest; else the format's own framework. With "
                   "@PYTHON as another environment's interpreter has it.")
@click.option("--device", help="cpu, cuda:0, Ascend, ...; default: the best present.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads of the runner.")
@precision_option
@keep_float32_option
@json_option
@box_options
@source_options
@map_output_option
def detect(inputs: tuple[str, ...], model: Path, recursive: bool, out: Path | None, force: bool, runner: str,
           device: str | None, threads: int | None, json_path: str | None, boxes: dict[str, Any], options: Any,
           only: tuple[str, ...], no_pictures: bool, no_overlay: bool, crops: bool, picture_format: str, precision: str,
           keep_float32: tuple[str, ...]) -> None:
    """Find the texts in images: boxes as JSON and text files, and pictures that show them.

    Takes image files, folders of them, and globs. With --json FILE (- for standard output) and without --out, that
    is all that is written. Goes on past an image that cannot be read, names it at the end, and exits with 3.
    """
    check_kept(keep_float32, precision)
    folder = out or (Path("detections") if json_path is None else None)
    kinds = chosen_kinds(folder is None, only, no_pictures, no_overlay, crops)
    found = _images(inputs, recursive, folder, force, json_path)
    from evaluation.detecting import Looks, detect_images, settings_of
    from evaluation.runners import open_runner
    opened = open_runner(model, chosen_runner(runner, device, model), device, ("probability",), threads, options,
                         concurrent=True, precision=precision, keep_float32=keep_float32)
    tell_notes(opened)
    pixels, rule = opened.spec.pixels, chosen_boxes(opened.spec.boxes, boxes)
    looks = Looks("pictures" in kinds, not no_overlay, "crops" in kinds, f".{picture_format}")
    writer = _writer(folder, kinds, found.names, looks.suffix, settings_of(opened, model, pixels, rule), json_path)
    with progress(len(found.files)) as advance:
        summary = detect_images(opened, found, pixels, rule, looks, writer, progress=advance)
    if json_path != "-":
        print_summary(model, opened, rule, summary, writer.kinds, folder, json_path)
    report_failures(summary, f"{folder or json_path}" if folder or json_path != "-" else "standard output")


def _images(inputs: Sequence[str], recursive: bool, folder: Path | None, force: bool, json_path: str | None) -> Inputs:
    """What is to be detected in. Raises DbnetError before any work is done for what cannot be read or written."""
    from evaluation.detecting_inputs import find_images
    from evaluation.detecting_output import check_apart, check_folder
    found = find_images(inputs, recursive)
    if folder is not None:
        check_folder(folder, force)
        check_apart(folder, found.files)
        check_report_apart(folder, json_path)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    return found


def _writer(folder: Path | None, kinds: Sequence[str], names: Sequence[str], suffix: str, settings: dict[str, Any],
            json_path: str | None) -> Writer:
    from evaluation.detecting_files import Pipe, Writer, json_sink
    from evaluation.detecting_output import OutputFolder, unwritable
    report = None
    if json_path is not None:
        report = Pipe(sys.stdout.buffer) if json_path == "-" else json_sink(Path(json_path))
    try:
        writer = Writer(OutputFolder(folder) if folder else None, kinds, names, suffix, settings, report)
    except (OSError, DbnetError) as error:
        if report:
            report.abandon()
        if isinstance(error, BrokenPipeError | DbnetError):
            raise
        raise unwritable(folder or Path(str(json_path)), error) from error
    for note in writer.notes:
        click.echo(f"note: {note}", err=True)
    return writer
