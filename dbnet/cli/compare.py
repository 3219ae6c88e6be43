"""dbnet compare"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from dbnet.cli.evaluate_options import BOX_SETTINGS, box_options
from dbnet.cli.options import (
    PathArgument,
    json_option,
    map_output_option,
    print_table,
    refuse_others,
    source_options,
    write_json,
)

LISTED = 20
RUNNERS = ("torch", "mindspore", "onnxruntime")
#: What only a comparison on images looks at.
_RUNNING = {"limit", "runner_a", "runner_b", "device", "threads", "recursive", "map_output", "pixels", *BOX_SETTINGS}
#: Of these, what a comparison of stages looks at too, and what needs images.
_OF_STAGES = {"runner_a", "runner_b", "device", "pixels"}
_OF_IMAGES = {"limit", "recursive", "threads", "map_output", *BOX_SETTINGS}
T = TypeVar("T")


@click.command()
@click.argument("a", type=PathArgument)
@click.argument("b", type=PathArgument)
@click.option("--weights", is_flag=True, help="Compare tensor by tensor, bit for bit.")
@click.option("--stages", is_flag=True, help="Compare stage by stage and look for the cause, on a drawn picture or "
                                             "the first of --images. The default.")
@click.option("--images", multiple=True, metavar="IMAGE|FOLDER|GLOB",
              help="Run both on these images and compare probability maps and boxes (repeatable).")
@click.option("--recursive", "-r", is_flag=True, help="Look in the folders below --images too.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The first N images only.")
@click.option("--runner-a", type=click.Choice(RUNNERS), help="Who runs A. Default: the format's own framework.")
@click.option("--runner-b", type=click.Choice(RUNNERS), help="Who runs B.")
@click.option("--device", help="cpu, cuda:0, Ascend, ...; default: the best present.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads of the runners.")
@json_option
@box_options
@source_options
@map_output_option
def compare(a: Path, b: Path, weights: bool, stages: bool, images: tuple[str, ...], json_path: str | None,
            options: Any, **given: Any) -> None:
    """Compare two models of any format: stage by stage with the cause of a difference, what they find in images, or
    their weights under canonical names.

    Exit code 1 if they differ. A is the reference: the stages are compared on its pixels, chained from the image and
    once more each from A's maps, which tells an error from an inherited one. With --weights a different semantic (such
    as stem_pool) is a difference: equal names do not make equal numbers; so is a graph that is no known network,
    whatever its names. With --images each model gets its own pixels and box rule, unless options say otherwise; the
    same are two whose boxes have the same corners and whose probabilities are at most 1e-4 apart.
    """
    if weights and (images or stages):
        raise click.UsageError(f"give --weights or {'--images' if images else '--stages'}, one of them")
    if stages or not (weights or images):
        from dbnet.cli.compare_stages import run as run_stages
        refuse_others("--stages", _RUNNING - _OF_STAGES - (_OF_IMAGES if images else set()))
        run_stages(a, b, images, json_path, options, given)
        return
    if images:
        from dbnet.cli.compare_images import run
        run(a, b, images, json_path, options, **given)
        return
    refuse_others("--weights", _RUNNING)
    from functools import partial

    from converters.compare_weights import compare_weights
    from converters.load import load_model
    first, second = for_each(options, partial(load_model, a), partial(load_model, b))
    result = compare_weights(first, second)
    if json_path:
        write_json(json_path, {
            "same": result.same, "identical": result.identical, "different": [d.__dict__ for d in result.different],
            "only_a": result.only_a, "only_b": result.only_b, "semantics": result.semantics, "unread": result.unread,
            "sha256": [first.record.sha256, second.record.sha256]})
    if json_path != "-":
        _show(result)
    if not result.same:
        raise click.exceptions.Exit(1)


def for_each(options: Any, *openers: Callable[[Any], T]) -> list[T]:
    """Both models. What chooses in a file (--part, --take, --map-output, ...) goes to those that leave the choice, as
    long as one of the two does.
    """
    refused: dict[str, Exception] = {}
    loaded = []
    for opener in openers:
        model, idle = _without_idle(opener, options)
        for name, error in idle.items():
            if name in refused:
                raise refused[name] from None
            refused[name] = error
        loaded.append(model)
    return loaded


def _without_idle(opener: Callable[[Any], T], options: Any) -> tuple[T, dict[str, Exception]]:
    """The model, and the fields of `options` that had to be left out for it."""
    from dataclasses import replace

    from converters.load import NoChoiceError
    idle: dict[str, Exception] = {}
    while True:
        try:
            return opener(options), idle
        except NoChoiceError as error:
            chosen = [name for name in error.fields if getattr(options, name) is not None]
            if not chosen:
                raise
            idle |= dict.fromkeys(chosen, error)
            options = replace(options, **dict.fromkeys(chosen))


def _show(result: Any) -> None:
    if result.same:
        click.echo(f"same: {result.identical} tensors, bit for bit, and the same semantics")
        return
    for side, reason in result.unread.items():
        click.echo(f"graph: that of {side.upper()} was not read and may compute something else, whatever the names of "
                   f"its weights: it {reason}")
    if result.equal:
        click.echo(f"not known to be the same: {result.identical} tensors are equal, bit for bit, but not what is "
                   f"computed with them; --images compares that")
        return
    click.echo(f"different: {len(result.different)} tensors differ, {result.identical} are identical, "
               f"{len(result.only_a)} only in A, {len(result.only_b)} only in B")
    for key, (ours, theirs) in result.semantics.items():
        click.echo(f"semantics: {key} is {ours} in A, {theirs} in B")
    for side, names in (("A", result.only_a), ("B", result.only_b)):
        if names:
            click.echo(f"only in {side}: {', '.join(names[:LISTED])}{' ...' if len(names) > LISTED else ''}")
    if result.different:
        worst = sorted(result.different, key=lambda d: -(d.max_rel if d.max_rel is not None else float("inf")))
        print_table("", ("tensor", "why", "max abs", "max rel"),
                    [(d.name, d.why, _number(d.max_abs), _number(d.max_rel)) for d in worst[:LISTED]], right=(2, 3))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2e}"
