"""dbnet export"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.export_seed import in_the_seeds_words, make_folder, named_by_the_seed, seed_options
from dbnet.cli.options import (
    PathArgument,
    RunnerType,
    check_kept,
    deformable_option,
    json_option,
    keep_float32_option,
    source_options,
    write_json,
)
from dbnet.errors import DbnetError

if TYPE_CHECKING:
    from evaluation.delivery.deliver import Delivery
    from evaluation.delivery.settings import Size

#: As in `evaluation.delivery.targets`, which is not imported for --help.
TARGETS = ("onnx", "mindir", "opencv", "openvino", "rapidocr", "lite", "om")


def _buckets(_context: click.Context, _option: click.Parameter, given: Sequence[str]) -> tuple[Size, ...]:
    """`736x1280,1152x2048`, repeatable."""
    found = []
    for text in (part.strip() for value in given for part in value.split(",")):
        height, cross, width = text.lower().partition("x")
        if not (cross and height.isdecimal() and width.isdecimal()):
            raise click.BadParameter(f"{text!r} is no size; write HEIGHTxWIDTH, e.g. 736x1280,1152x2048")
        found.append((int(height), int(width)))
    return tuple(found)


@click.command()
@click.argument("model", type=PathArgument, required=False)
@click.argument("out", type=PathArgument, required=False)
@click.option("--target", type=click.Choice(TARGETS), help="The runtime it is for.  [default: by OUT's suffix]")
@click.option("--data-shape", "--data_shape", nargs=2, type=int, metavar="H W",
              help="Fix height and width (multiples of 32).")
@click.option("--batch", type=click.IntRange(min=1), metavar="N",
              help="Fix the number of images.  [default: any; 1 with --data-shape]")
@click.option("--opset", type=int, help="ONNX opset.  [default: 13; opencv: 12; with --deformable native: 19]")
@deformable_option
@click.option("--precision", type=click.Choice(["float32", "fp16"]), default="float32", show_default=True,
              help="What it computes in; input and output are float32.")
@keep_float32_option
@click.option("--output", type=click.Choice(["probability", "logits"]), default="probability", show_default=True,
              help="Logits leave the sigmoid to whoever runs it.")
@click.option("--images", multiple=True, metavar="IMAGE|FOLDER|GLOB",
              help="Compare on these (repeatable).  [default: drawn scenes]")
@click.option("--check-in", multiple=True, type=RunnerType(), metavar="RUNNER",
              help="Compare in this runtime too, or in this one of the target's kind (repeatable): "
                   "opencv@/env/bin/python.")
@click.option("--buckets", multiple=True, callback=_buckets, metavar="HxW,...",
              help="Targets lite, om: the sizes to compile for (repeatable).")
@click.option("--most-buckets", type=click.IntRange(1, 100), metavar="N",
              help="Targets lite, om: how many sizes to take from --images.  [default: 16]")
@click.option("--soc", metavar="NAME", help="Target om: the chip, e.g. Ascend310P3.  [default: npu-smi's]")
@click.option("--prepare", is_flag=True, help="Targets lite, om: write what the converter takes, and do not run it.")
@click.option("--handoff", type=PathArgument, metavar="DIR",
              help="Also write a folder for the team that deploys: data, boxes, an example in C++.")
@click.option("--force", is_flag=True, help="Replace existing files.")
@json_option
@seed_options
@source_options
def export(model: Path | None, out: Path | None, target: str | None, images: Sequence[str], check_in: Sequence[str],
           handoff: Path | None, json_path: str | None, seed: Any, options: Any, **settings: Any) -> None:
    """Write MODEL as OUT for a runtime, and compare both there before OUT appears.

    OUT's suffix says which (.onnx, .mindir, .xml, .ms, .om), or --target. Without training branch; an .onnx has IR 8
    and opset 13. MindOCR's way is understood too: --model_name_or_config dbnet_resnet50 --data_shape 736 1280
    --local_ckpt_path x.ckpt writes dbnet_resnet50.mindir. Use dbnet convert for a file that can be trained further.
    """
    check_kept(settings["keep_float32"], settings["precision"])
    if seed:
        model, out, target, options, settings["boxes"] = named_by_the_seed(
            model, out, target, settings["data_shape"], seed, options)
    if settings["most_buckets"] is None:
        del settings["most_buckets"]
    if model is None or out is None:
        raise click.UsageError("name MODEL and OUT, e.g. dbnet export model.ckpt model.onnx")
    from evaluation.delivery.settings import ExportSettings
    from evaluation.delivery.targets import target_of
    chosen = target_of(out, target)
    _check_options(chosen.name, settings)
    files = _images(images)
    wanted = ExportSettings(target=chosen.name, images=tuple(files), **settings)
    places = chosen.places(out)
    _check_report(json_path, places, handoff)
    if handoff is not None:
        from evaluation.delivery.handoff import check_handoff
        check_handoff(handoff, wanted.force, places)
    make_folder(seed)
    from evaluation.delivery.deliver import deliver
    with _stopped_cleanly():
        with in_the_seeds_words(seed):
            done = deliver(model, out, options, wanted, images=files, check_in=check_in)
        more, failed = ([], None) if handoff is None else _handed_over(handoff, done, files, wanted.force)
    done = replace(done, told=[*done.told, *more])
    if json_path != "-":  # before what can fail: these files stand
        for line in done.told:
            click.echo(line)
    if json_path:
        write_json(json_path, done.to_dict())
    if done.delivered.undone:
        raise DbnetError(f"{out}: {done.delivered.undone}")
    if failed:
        raise DbnetError(failed)


def _handed_over(folder: Path, done: Delivery, images: Sequence[Path], force: bool) -> tuple[list[str], str | None]:
    """Writes the hand-off of what stands already: what to tell, and why it could not be written."""
    if done.delivered.undone is not None:
        return [f"no hand-off in {folder}: the file that it is of could not be made yet; --prepare hands over what the "
                f"converter takes"], None
    from evaluation.delivery.handoff import write_handoff
    try:
        return write_handoff(folder, done.delivered, done.model, images, force=force), None
    except DbnetError as error:
        names = ", ".join(path.name for path in done.delivered.files)
        return [f"no hand-off in {folder}: {error}"], f"{error}; the export itself stands ({names}): --force next time"


@contextmanager
def _stopped_cleanly() -> Iterator[None]:
    """SIGTERM ends the work as an interruption does, which leaves nothing half written behind."""
    ours = threading.current_thread() is threading.main_thread() and \
        signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    before = signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number)) if ours else None
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, before)


def _check_report(json_path: str | None, places: Sequence[Path], handoff: Path | None) -> None:
    """A usage error for a --json that would replace what is exported, or lie in the hand-off."""
    if json_path in (None, "-"):
        return
    report = os.path.realpath(str(json_path))
    if report in [os.path.realpath(place) for place in places]:
        raise click.UsageError(f"--json {json_path}: is a file of the export itself; name another")
    if handoff is not None and Path(report).is_relative_to(os.path.realpath(handoff)):
        raise click.UsageError(f"--json {json_path}: lies in the hand-off, which holds its own files; name another")


#: Option -> the targets that it means something to.
_OF = {"buckets": ("lite", "om"), "most_buckets": ("lite", "om"), "prepare": ("lite", "om"), "soc": ("om",),
       "opset": ("onnx", "opencv", "openvino", "rapidocr", "om"),
       "deformable": ("onnx", "opencv", "openvino", "rapidocr", "om")}
#: (target, option) -> the values that it may have, and why.
_ONLY: dict[tuple[str, str], tuple[tuple[Any, ...], str]] = {
    ("rapidocr", "data_shape"): ((None,), "RapidOCR's images have many sizes"),
    ("rapidocr", "batch"): ((None, 1), "RapidOCR gives one image at once"),
    ("rapidocr", "output"): (("probability",), "RapidOCR makes boxes of probabilities"),
    ("opencv", "batch"): ((None, 1), "OpenCV's DB API gives one image at once"),
    ("opencv", "output"): (("probability",), "OpenCV's DB API makes boxes of probabilities"),
    ("opencv", "deformable"): ((None, "decomposed"), "no OpenCV reads DeformConv; decomposed runs in OpenCV from 5 on"),
}


def _check_options(target: str, given: dict[str, Any]) -> None:
    """A usage error for an option of other targets, or a value that this one cannot have."""
    for name, targets in _OF.items():
        if given.get(name) not in (None, (), False) and target not in targets:
            raise click.UsageError(f"--{name.replace('_', '-')} means nothing for --target {target}; it is of "
                                   f"{', '.join(targets)}")
    for (whose, name), (values, why) in _ONLY.items():
        if whose == target and given[name] not in values:
            raise click.UsageError(f"--{name.replace('_', '-')} cannot be {given[name]} for --target {target}: {why}")


def _images(given: Sequence[str]) -> list[Path]:
    """Raises DbnetError for one that cannot be read: a comparison on fewer images than were meant proves less."""
    if not given:
        return []
    from evaluation.detecting_inputs import find_images
    found = find_images(given)
    if found.refused:
        raise DbnetError(f"{found.refused[0][0]}: {found.refused[0][1]}; leave it out of --images")
    return [Path(path) for path in found.files]
