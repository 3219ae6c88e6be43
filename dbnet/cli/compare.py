"""dbnet compare"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dbnet.cli.compare_reports import REPORTS, check_apart, report_options
from dbnet.cli.evaluate_options import BOX_SETTINGS, OWN_PROTOCOL, box_options, protocol_names
from dbnet.cli.options import (
    SOURCE_SETTINGS,
    PathArgument,
    RunnerType,
    check_kept,
    json_option,
    keep_float32_option,
    map_output_option,
    print_table,
    refuse_others,
    source_options,
    write_json,
)
from dbnet.precision_names import PRECISIONS

LISTED = 20
#: What needs a ground truth; what needs images; what needs models that run.
_OF_SCORES = {"form": "--format", "protocols": "--protocol", "same_f": "--same-f"}
_OF_IMAGES = {"limit", "recursive", "gt", "swap", *_OF_SCORES, "protocol_b", *BOX_SETTINGS}
_OF_RUNS = {"runner_a", "runner_b", "precision_a", "precision_b", "keep_float32", "device", "threads",
            "map_output", "pixels", *_OF_IMAGES, *REPORTS}


@click.command()
@click.argument("a", type=PathArgument)
@click.argument("b", type=PathArgument)
@click.option("--weights", is_flag=True, help="Compare tensor by tensor, bit for bit, and nothing else.")
@click.option("--stages/--no-stages", default=None, help="Compare stage by stage and look for the cause, on the first "
                                                         "of --images or a drawn picture.  [default: stages]")
@click.option("--images", multiple=True, metavar="IMAGE|FOLDER|GLOB",
              help="Run both on these images too and compare probability maps and boxes (repeatable).")
@click.option("--recursive", "-r", is_flag=True, help="Look in the folders below --images too.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The first N images only.")
@click.option("--gt", type=PathArgument, metavar="PATH",
              help="The labels of --images, folder, zip or label file: compare the F-scores too.")
@click.option("--format", "form", type=click.Choice((*OWN_PROTOCOL, "prepared")),
              help="Whose format --gt has, where it cannot be told.")
@click.option("--protocol", "-p", "protocols", multiple=True, metavar="NAME,...", callback=protocol_names,
              help="Score by these, as dbnet evaluate does.  [default: the data set's own]")
@click.option("--same-f", type=click.FloatRange(0, 1, min_open=True, max_open=True), metavar="MARGIN",
              help="Test that the F-scores are the same within MARGIN, say 0.001; that is then what decides the exit "
                   "code.")
@click.option("--swap", is_flag=True, help="Exchange one part after the other (pixels, network, box rule, protocol), "
                                           "and say what each makes of the difference.")
@click.option("--protocol-b", metavar="NAME", help="With --swap: B is scored by this one.")
@click.option("--runner-a", type=RunnerType(),
              help="Who runs A; with @PYTHON as another environment's interpreter has it. Default: the format's own "
                   "framework.")
@click.option("--runner-b", type=RunnerType(), help="Who runs B.")
@click.option("--precision-a", type=click.Choice(PRECISIONS), default="float32", show_default=True,
              help="What A computes in; fp16 and bf16 in torch and ONNX Runtime.")
@click.option("--precision-b", type=click.Choice(PRECISIONS), default="float32", show_default=True,
              help="What B computes in.")
@keep_float32_option
@click.option("--device", help="cpu, cuda:0, Ascend, ...; default: the best present.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads of the runners.")
@report_options
@json_option
@box_options
@source_options
@map_output_option
@click.pass_context
def compare(context: click.Context, a: Path, b: Path, weights: bool, images: tuple[str, ...], json_path: str | None,
            options: Any, **given: Any) -> None:
    """Compare two models of any format: stage by stage with the cause of a difference, what they find in images and
    whether it matters for the score, or their weights under canonical names.

    Exit code 1 if they differ. A is the reference: the stages are compared on its pixels, chained from the image and
    once more each from A's maps, which tells an error from an inherited one. With --images each model gets its own
    pixels and box rule, unless options say otherwise; the same are two whose boxes have the same corners and whose
    probabilities are at most 1e-4 apart. With --same-f the exit code says whether the F-scores were shown to be the
    same: no difference found is not the same. With --weights a different semantic (such as stem_pool) is a difference:
    equal names do not make equal numbers; so is a graph that is no known network, whatever its names.

    A or B, or both, may be a trace of dbnet trace or of a kit, FILE.trace or FILE.trace:RUN: the model is then fed what
    was fed where it was recorded. A trace that does not keep its inputs needs the same files as --images.
    """
    from parity.trace_file import is_trace, split_run
    files = [split_run(path)[0] for path in (a, b)]
    check_apart(json_path, given["reports"], *files, *([given["gt"]] if given["gt"] else []))
    check_kept(given["keep_float32"], given["precision_a"], given["precision_b"])
    traces = tuple(name for name, file in zip("ab", files, strict=True) if is_trace(file))
    if traces:
        _check_traces(traces, weights, given)
    if weights:
        if images or given["stages"]:
            raise click.UsageError(f"give --weights or {'--images' if images else '--stages'}, one of them")
        refuse_others("--weights", _OF_RUNS)
        _compare_weights(a, b, json_path, options)
        return
    _check_needs(images, given, bool(traces))
    from dbnet.cli.compare_run import Request, run
    run(Request(a, b, images, json_path, options, given, ("dbnet", *(context.find_root().obj or ()))))


def _check_traces(traces: tuple[str, ...], weights: bool, given: dict[str, Any]) -> None:
    """Usage errors for what a trace cannot do."""
    if weights:
        raise click.UsageError("a trace holds no weights; leave out --weights")
    if given["stages"] is not None:
        raise click.UsageError("with a trace its stages and images are compared together; leave out --stages and "
                               "--no-stages")
    if given["swap"]:
        raise click.UsageError("--swap runs both models with each other's parts, and a trace runs nothing")
    refuse_others("a trace, which runs nothing",
                  {f"{option}_{name}" for name in traces for option in ("runner", "precision")})
    if len(traces) == 2:
        refuse_others("two traces, which run nothing", {"device", "threads", "map_output", "keep_float32",
                                                                *SOURCE_SETTINGS})


def _check_needs(images: tuple[str, ...], given: dict[str, Any], traced: bool) -> None:
    """traced: one of the two is a trace, which brings its images, or says which they were."""
    if not images:
        if given["stages"] is False:
            raise click.UsageError("--no-stages leaves nothing to compare without --images")
        own = {"limit", *BOX_SETTINGS} if traced else set()
        refuse_others("a comparison without --images", _OF_IMAGES - own)
    if given["gt"] is None:
        refuse_others("a comparison without --gt", set(_OF_SCORES))
    if given["protocol_b"] is not None:
        from evaluation.protocols.table import NAMES
        if not given["swap"] or given["gt"] is None:
            raise click.UsageError("--protocol-b goes with --swap and --gt")
        if given["protocol_b"] not in NAMES:
            raise click.BadParameter(f"unknown protocol {given['protocol_b']!r}; choose from {', '.join(NAMES)}")


def _compare_weights(a: Path, b: Path, json_path: str | None, options: Any) -> None:
    from functools import partial

    from converters.choices import for_each
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
