"""dbnet trace"""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.evaluate_options import box_options, chosen_boxes
from dbnet.cli.options import (
    PathArgument,
    RunnerType,
    check_kept,
    keep_float32_option,
    map_output_option,
    precision_option,
    progress_bar,
    shard_option,
    source_options,
    tell_notes,
)
from dbnet.cli.ray_options import ray_options
from dbnet.errors import DbnetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dbnet.shards import Shard
    from evaluation.clusters.connecting import OnRay
    from evaluation.detecting_inputs import Inputs
    from parity.staged import StagedModel
    from parity.trace import Trace


@click.command()
@click.argument("model", type=PathArgument)
@click.option("--images", "-i", multiple=True, required=True, metavar="IMAGE|FOLDER|GLOB",
              help="What to run on (repeatable).")
@click.option("--recursive", "-r", is_flag=True, help="Look in the folders below --images too.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The first N images only.")
@shard_option
@click.option("--out", "-o", type=PathArgument, required=True, metavar="FILE.trace", help="The trace to write.")
@click.option("--force", is_flag=True, help="Replace FILE.trace.")
@click.option("--level", type=click.Choice(["statistics", "sampled", "full"]), default="sampled", show_default=True,
              help="What is kept of a map: 647 numbers and a digest (5 kB), 4096 values more (22 kB), or all of it.")
@click.option("--stages", metavar="STAGE,...", help="These stages only; the input and the probability always.  "
                                                    "[default: all that the model gives]")
@click.option("--keep", metavar="STAGE,...", help="Keep these in full at any level: probability, say, for other box "
                                                  "rules, or pixels, so that nobody needs the images.")
@click.option("--runner", type=RunnerType(), help="Who runs it. Default: the format's own framework.")
@click.option("--device", help="cpu, cuda:0, Ascend, ...; default: the best present.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads of the runner.")
@ray_options
@precision_option
@keep_float32_option
@box_options
@source_options
@map_output_option
def trace(model: Path, images: tuple[str, ...], recursive: bool, limit: int | None, shard: Shard | None, out: Path,
          force: bool, level: str, stages: str | None, keep: str | None, runner: str | None, device: str | None,
          threads: int | None, precision: str, keep_float32: tuple[str, ...], boxes: dict[str, Any], options: Any,
          ray: OnRay | None) -> None:
    """Record what MODEL computes on images - inputs, stages, boxes, environment, digests - in one file, for a
    comparison on another machine: dbnet compare FILE.trace MODEL.

    The same run gives the same bytes: the file has no time, no path and no name of a machine in it. At the levels
    statistics and sampled the other machine needs the same image files, which it knows by their digests; with --level
    full, or --keep pixels, it needs none.
    """
    from dbnet.writing import check_target
    from parity.trace_file import ONLY, write_traces
    from parity.trace_record import recorded_stages
    check_kept(keep_float32, precision)
    given_stages, given_kept = _names("--stages", stages), _names("--keep", keep) or ()
    _check_name(out)
    check_target(out, model, force)
    found = found_images(images, recursive, limit)
    if any(out.resolve() == Path(file).resolve() for file in found.files):
        raise DbnetError(f"{out}: is one of the images; name another file")
    chosen = list(zip(found.names, found.files, strict=True))[:limit]
    count = len(chosen if shard is None else shard.of(chosen))
    with _opened(ray, model, count, level, runner=runner, device=device, options=options, threads=threads,
                 precision=precision, keep_float32=keep_float32) as (side, record):
        tell_notes(side.runner)
        recorded_stages(side, given_kept)  # for its errors
        wanted = recorded_stages(side, None if given_stages is None else (*given_stages, *given_kept))
        with progress_bar(count, False) as advance:
            run = record(chosen_boxes(side.runner.spec.boxes, boxes), chosen, level, wanted, out.parent, given_kept,
                         advance, shard)
    write_traces(out, {ONLY: run}, force)
    click.echo(_told(run, out))


@contextlib.contextmanager
def _opened(ray: OnRay | None, model: Path, images: int, level: str,
            **how: Any) -> Iterator[tuple[StagedModel, Callable[..., Trace]]]:
    """The model, here or in the workers of a cluster, and who records it. how: of `open_staged`."""
    if ray is None:
        from parity.staged import open_staged
        from parity.trace_record import record
        side = open_staged(model, **how)
        yield side, functools.partial(record, side)
        return
    from parity.trace_on_ray import opened_traces
    with opened_traces(ray, model, images, level, **how) as tracing:
        yield tracing.side, tracing.record
        for note in tracing.cluster.team.notes:
            click.echo(f"note: {note}", err=True)


def found_images(given: Sequence[str], recursive: bool, limit: int | None) -> Inputs:
    """What `find_images` finds, with its notes told. Raises DbnetError for an image that cannot be read; with a limit,
    one that would be among the first so many is told and left out.
    """
    from dbnet.datasets.archive import natural_order
    from evaluation.detecting_inputs import find_images
    found = find_images(given, recursive)
    refused = [f"{path}: {problem}" for path, problem in found.refused]
    if refused and (limit is None or not found.files):
        raise DbnetError("; ".join(refused[:3]))
    if limit is not None and limit <= len(found.files) and len(given) == 1 and os.path.isdir(given[0]):
        last = natural_order(found.files[limit - 1])  # in a folder the order of paths is that of names
        refused = [f"{path}: {problem}" for path, problem in found.refused if natural_order(path) <= last]
    left_out = [f"{text}; left out" for text in refused[:3]]
    left_out += [f"{len(refused) - 3} more left out"] * (len(refused) > 3)
    for note in (*found.notes, *left_out):
        click.echo(f"note: {note}", err=True)
    return found


def _check_name(out: Path) -> None:
    from converters.writing import WEIGHT_SUFFIXES
    if out.suffix.lower() in WEIGHT_SUFFIXES:
        raise DbnetError(f"{out}: is named like a weight file; name it {out.stem}.trace")


def _names(option: str, text: str | None) -> tuple[str, ...] | None:
    """The stages of an option, None where it is not given."""
    if text is None:
        return None
    from parity.trace import ORDER
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if unknown := [name for name in names if name not in ORDER]:
        raise click.BadParameter(f"unknown stage {unknown[0]!r}; choose from {', '.join(ORDER)}", param_hint=option)
    if not names:
        raise click.BadParameter(f"no stage in it; choose from {', '.join(ORDER)}", param_hint=option)
    return names


def _told(run: Trace, out: Path) -> str:
    """One line: what was recorded."""
    from parity.trace_part import SHARD
    about, counts = run.about, [len(found) for i in range(len(run.images)) if (found := run.boxes(i)) is not None]
    part = f" (--shard {about[SHARD]['part']} of {about[SHARD]['images']})" if SHARD in about else ""
    return (f"{out}: {len(run.images)} images{part}, {len(run.stages)} stages ({run.level}), {sum(counts)} boxes, "
            f"{os.path.getsize(out) / 1e6:.1f} MB; {about['file']} on {about['runner']} "
            f"{about['environment'].get('version')} ({about['device']})")
