"""dbnet interop"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from dbnet.cli.options import (
    SOURCE_SETTINGS,
    PathArgument,
    RunnerType,
    map_output_option,
    refuse_others,
    source_options,
    tell_notes,
)
from dbnet.errors import DbnetError

#: Keys of `converters.module_names.CODES`, which a test compares; listed here so that --help imports nothing.
CODES = ("ms_models", "torch_reference", "mindocr", "mindocr_enhance", "mhliao", "mmocr", "mmocr0")


@click.group()
def interop() -> None:
    """Write what other comparison tools read: msprobe's layer mapping, Polygraphy's inputs and outputs."""


@interop.command()
@click.argument("model", type=PathArgument)
@click.argument("golden", type=PathArgument, required=False)
@click.option("--output", "-o", "target", type=PathArgument, required=True, metavar="FILE.yaml",
              help="The mapping, for msprobe compare -lm.")
@click.option("--target", "target_code", type=click.Choice(CODES),
              help="Whose code is dumped as msprobe's --target_path.  [default: that of MODEL's names]")
@click.option("--golden", "golden_code", type=click.Choice(CODES),
              help="Whose code is dumped as --golden_path.  [default: that of GOLDEN's names, or torch_reference]")
@click.option("--target-prefix", metavar="TEXT", help="What stands before the names in the target's dump, such as "
                                                      "_net.  [default: as in that project's own files]")
@click.option("--golden-prefix", metavar="TEXT", help="The same of the golden dump.  [default for mhliao: "
                                                      "model.module.]")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@source_options
def msprobe(model: Path, golden: Path | None, target: Path, target_code: str | None, golden_code: str | None,
            target_prefix: str | None, golden_prefix: str | None, force: bool, options: Any) -> None:
    """Write which layer of MODEL's code is which of another project's, as Huawei's msprobe reads it (level L0).

    With GOLDEN, a file of the other project, its names say whose code that is; without it, --golden does. A .ckpt is
    taken for MindOCR's; --target ms_models means the MindSpore half of this package.
    """
    from functools import partial

    from converters.choices import for_each
    from converters.layer_mapping import Side, layer_mapping
    from converters.load import load_model
    from converters.module_names import code_of_dialect
    from converters.writing import WEIGHT_SUFFIXES
    from dbnet.writing import check_target, replacing
    for source in (model, golden):
        check_target(target, source, force)
    if target.suffix.lower() in WEIGHT_SUFFIXES:
        raise DbnetError(f"{target}: is named like a weight file; name it {target.stem}.yaml")
    models = for_each(options, *(partial(load_model, path) for path in (model, golden) if path is not None))
    target_code = target_code or code_of_dialect(models[0].dialect)
    golden_code = golden_code or ("torch_reference" if golden is None else code_of_dialect(models[1].dialect))
    sides = (Side(target_code, models[0].record.spec, _with_dot(target_prefix)),
             Side(golden_code, models[-1].record.spec, _with_dot(golden_prefix)))
    mapping = layer_mapping(*sides)
    what = f"{sides[0].spec.name}: {sides[0].code} -> {sides[1].code}"
    with replacing(target) as (stream, _):
        stream.write(mapping.text(f"{what}, by dbnet interop msprobe").encode())
    click.echo(f"{target}: {what}; {mapping.paired} of {mapping.modules} modules have a counterpart, "
               f"{len(mapping.rows)} rows")
    click.echo(f"msprobe compare -tp TARGET/dump.json -gp GOLDEN/dump.json -lm {shlex.quote(str(target))} -o OUT")


def _with_dot(prefix: str | None) -> str | None:
    return prefix if not prefix or prefix.endswith(".") else f"{prefix}."


@interop.command()
@click.argument("source", metavar="MODEL|RUN.trace", type=PathArgument)
@click.option("--images", multiple=True, metavar="IMAGE|FOLDER|GLOB", help="What MODEL runs on (repeatable).")
@click.option("--recursive", "-r", is_flag=True, help="Look in the folders below --images too.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The first N images only.")
@click.option("--inputs", type=PathArgument, required=True, metavar="FILE.json", help="For --load-inputs.")
@click.option("--outputs", type=PathArgument, required=True, metavar="FILE.json", help="For --load-outputs.")
@click.option("--stages", metavar="NAME,...", help="Stages to write, or all.  [default: probability; of a trace "
                                                   "what it keeps in full]")
@click.option("--rename", multiple=True, metavar="OLD=NEW", help="Call an input or output as the graph does that "
                                                                 "Polygraphy will run, e.g. image=x (repeatable).")
@click.option("--runner", type=RunnerType(), help="Who runs MODEL. Default: the format's own framework.")
@click.option("--device", help="cpu, cuda:0, Ascend, ...; default: the best present.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads of the runner.")
@click.option("--force", is_flag=True, help="Replace existing files.")
@source_options
@map_output_option
def polygraphy(source: Path, images: tuple[str, ...], inputs: Path, outputs: Path, stages: str | None,
               rename: tuple[str, ...], force: bool, options: Any, **given: Any) -> None:
    """Write what goes into MODEL and what comes out, as NVIDIA's Polygraphy reads it, for polygraphy run.

    Of a trace: what it keeps in full (dbnet trace --level full, or --keep pixels,probability).
    """
    from evaluation.polygraphy_files import SameNameError, check_targets, write_exchange
    from parity.trace_file import is_trace, split_run
    names, wanted = _renames(rename), _stages(stages)
    file = split_run(source)[0]
    check_targets(inputs, outputs, [file], force)
    if is_trace(file):
        refuse_others("a trace", {"images", "recursive", "limit", "runner", "device", "threads", "map_output",
                                  *SOURCE_SETTINGS})
        runner, environment, pairs = _of_trace(source, wanted)
    elif not images:
        raise click.UsageError("give --images, or a trace of level full")
    else:
        files = _images(images, given.pop("recursive"), given.pop("limit"))
        check_targets(inputs, outputs, list(map(Path, files)), force)
        runner, environment, pairs = _of_model(source, files, wanted, options, **given)
    try:
        written = write_exchange(pairs, f"dbnet-{runner}", inputs, outputs, names)
    except SameNameError as error:
        raise click.BadParameter(str(error), param_hint="--rename") from error
    click.echo(f"{inputs}: {written.images} image{'s' * (written.images > 1)} as {', '.join(written.inputs)}")
    click.echo(f"{outputs}: {', '.join(written.outputs)} of dbnet-{runner}")
    click.echo(shlex.join(["polygraphy", "run", "MODEL.onnx", "--onnxrt", "--load-inputs", str(inputs),
                           "--load-outputs", str(outputs), "--atol", *_allowed(written.outputs, names, environment)]))


def _allowed(largest: dict[str, float], names: dict[str, str], environment: Mapping[str, Any]) -> list[str]:
    """What each output may differ by, as Polygraphy takes it: absolute, where our tolerances are relative."""
    from dbnet.spec import STAGES, TRAINING_STAGES
    from parity.tolerances import least_of, tolerances, tolerances_of
    try:
        table = tolerances_of(environment).on_whole_images()
    except DbnetError:  # of a device without a row
        table = tolerances("cpu").on_whole_images()
    ours = {new: old for old, new in names.items()}
    told = []
    for name, value in largest.items():
        stage = ours.get(name, name)
        stage = stage if stage in STAGES + TRAINING_STAGES else "probability"  # an output of somebody else's graph
        told.append(f"{name}:{max(value, least_of(stage)) * table.of(stage):.1e}")
    return told


def _renames(given: tuple[str, ...]) -> dict[str, str]:
    names = {}
    for text in given:
        old, equals, new = text.partition("=")
        if not (old and equals and new):
            raise click.BadParameter(f"{text!r} is not OLD=NEW", param_hint="--rename")
        names[old] = new
    return names


def _stages(text: str | None) -> tuple[str, ...] | None:
    """Those named; () for all, None where nothing is said."""
    from dbnet.spec import STAGES, TRAINING_STAGES
    if text is None or text == "all":
        return None if text is None else ()
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names or (text,):
        if name not in STAGES + TRAINING_STAGES:
            raise click.BadParameter(f"unknown stage {name!r}; choose from all, {', '.join(STAGES + TRAINING_STAGES)}",
                                     param_hint="--stages")
    return names


def _images(given: tuple[str, ...], recursive: bool, limit: int | None) -> list[str]:
    from dbnet.cli.trace import found_images
    return found_images(given, recursive, limit).files[:limit]


def _of_model(source: Path, files: list[str], stages: tuple[str, ...] | None, options: Any, runner: str | None,
              device: str | None, threads: int | None) -> tuple[str, Mapping[str, Any], Iterator[Any]]:
    """Whose name the outputs bear, how it computes, and what goes in and comes out."""
    from evaluation.polygraphy_files import exchanges
    from evaluation.runners import open_runner
    opened = open_runner(source, runner, device, ("probability",) if stages is None else stages or None, threads,
                         options)
    tell_notes(opened)
    return opened.name, opened.environment(), exchanges(opened, files)


def _of_trace(source: Path, stages: tuple[str, ...] | None) -> tuple[str, Mapping[str, Any], Iterator[Any]]:
    """The same of what a trace keeps."""
    from converters.onnx_graph import INPUT
    from parity.trace import PIXELS
    from parity.traced import open_trace
    side = open_trace(source)
    trace = side.recorded
    kept = [stage for stage in trace.stages if all(trace.full(i, stage) is not None for i in range(len(trace.images)))]
    own = kept if stages is None else trace.stages
    wanted = stages or tuple(stage for stage in own if stage != PIXELS)
    for stage in (PIXELS, *(wanted or ("probability",))):
        if stage not in trace.stages:
            raise DbnetError(f"{source}: has no stage {stage}; it has {', '.join(trace.stages)}")
        if stage not in kept:
            raise DbnetError(f"{source}: does not keep {stage} in full; record it with dbnet trace --level full, or "
                             f"--keep pixels,{'probability' if stage == PIXELS else stage}")
    pairs = (({INPUT: trace.full(i, PIXELS)}, {stage: trace.full(i, stage) for stage in wanted})
             for i in range(len(trace.images)))
    return side.runner.name, side.runner.environment(), pairs
