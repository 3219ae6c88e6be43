"""dbnet precision"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.evaluate_options import OWN_PROTOCOL, box_options, chosen_boxes, protocol_names
from dbnet.cli.options import (
    PathArgument,
    json_option,
    keep_float32_option,
    progress_bar,
    refuse_others,
    source_options,
    write_json,
)
from dbnet.errors import DbnetError

if TYPE_CHECKING:
    from dbnet.cli.compare_inputs import Inputs
    from evaluation.precision import PrecisionReport, Setup
    from evaluation.precision_search import Search

RUNNERS = ("torch", "onnxruntime")


def _number(_context: click.Context, _option: click.Parameter, value: float) -> float:
    """NaN is in every range of click's, for it is not outside."""
    if value != value:
        raise click.BadParameter("nan is no number; give one from 0 to 1")
    return value


@click.command()
@click.argument("model", type=PathArgument)
@click.option("--images", multiple=True, required=True, metavar="IMAGE|FOLDER|GLOB",
              help="What to run on (repeatable).")
@click.option("--recursive", "-r", is_flag=True, help="Look in the folders below --images too.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The first N images only.")
@click.option("--precision", "precision_", type=click.Choice(["fp16", "bf16"]), default="fp16", show_default=True)
@click.option("--goal", type=click.FloatRange(0, 1, min_open=True), callback=_number, default=1e-3, show_default=True,
              metavar="P", help="Largest difference in probability that is taken for none.")
@click.option("--search/--no-search", default=True, show_default=True,
              help="Look for the layers that have to stay float32, where half precision changes something.")
@keep_float32_option
@click.option("--gt", type=PathArgument, metavar="PATH",
              help="The labels of --images, folder, zip or label file: what it costs in F.")
@click.option("--format", "form", type=click.Choice((*OWN_PROTOCOL, "prepared")),
              help="Whose format --gt has, where it cannot be told.")
@click.option("--protocol", "-p", "protocols", multiple=True, metavar="NAME,...", callback=protocol_names,
              help="Score by these, as dbnet evaluate does.  [default: the data set's own]")
@click.option("--runner", type=click.Choice(RUNNERS),
              help="Default: ONNX Runtime on a CPU, which rounds alike on every machine; torch on other devices.")
@click.option("--device", help="cpu, cuda:0, Ascend, ...; default: cpu.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads of the runner.")
@json_option
@box_options
@source_options
def precision(model: Path, precision_: Any, json_path: str | None, **given: Any) -> None:
    """Say what half precision does to MODEL: which layers overflow or lose values, how far the probabilities drift,
    which boxes that moves, what it costs in F, and which layers have to stay float32.

    Everything is half precision: weights, images and maps; sums are float32. Exit code 1 if a box changes or a
    probability by more than --goal, also where a set of layers was found that cures it: with --keep-float32 that set is
    measured in its turn.
    """
    from dbnet.cli.compare_inputs import find_inputs
    from evaluation.precision import examine
    if given["gt"] is None:
        refuse_others("a run without --gt", {"form", "protocols"})
    _check_apart(json_path, model, given["gt"])
    setup = _setup(model, precision_, given)
    inputs = find_inputs(given["images"], *(given[name] for name in ("recursive", "limit", "gt", "form", "protocols")))
    keep = given["keep_float32"]
    with progress_bar(len(inputs.files), json_path == "-") as advance:
        report = examine(setup, inputs.named, inputs.samples, inputs.protocols, goal=given["goal"], keep=keep,
                         progress=lambda done: advance(done, 0))
    search = None
    if given["search"] and not report.fine and not keep:
        search = _searched(report, inputs, json_path == "-")
    _report(report, search, inputs, model, json_path)
    if not report.fine:
        raise click.exceptions.Exit(1)
    if failed := [*inputs.refused, *report.drift.maps.failed]:
        done = len(report.drift.maps.images)
        raise DbnetError(f"the same on {done} image{'' if done == 1 else 's'}, but {len(failed)} failed, the reasons "
                         f"stand above")


def _check_apart(json_path: str | None, *inputs: Path | None) -> None:
    """Raises DbnetError if --json would replace an input."""
    if json_path not in (None, "-") and any(path is not None and path.resolve() == Path(str(json_path)).resolve()
                                            for path in inputs):
        raise DbnetError(f"{json_path}: is read by this command; name another file for --json")


def _setup(model: Path, precision: Any, given: dict[str, Any]) -> Setup:
    """What runs. Raises DbnetError, also for a file whose weights are not known."""
    from converters.load import load_model
    from dbnet.errors import UnknownNetworkError
    from dbnet.precision import kept_layers
    from dbnet.running import parse_device
    from evaluation.half import half_runner
    from evaluation.precision import Setup
    device = given["device"] or "cpu"
    on_cpu = parse_device(device).kind == "cpu"
    try:
        loaded = load_model(model, given["options"])
    except UnknownNetworkError as error:
        raise DbnetError(f"{error}; dbnet precision needs a network that is known here: measure such a file as the "
                         f"tool that made it writes it in half precision, with dbnet compare --images") from error
    kept_layers(loaded.record.spec, given["keep_float32"])  # for its errors, before anything runs
    runner = given["runner"] or half_runner(loaded, prefer="onnxruntime" if on_cpu else "torch")
    rule = chosen_boxes(loaded.record.spec.boxes, given["boxes"])
    return Setup(loaded, precision, runner, rule, device, given["threads"], given["options"])


def _searched(report: PrecisionReport, inputs: Inputs, quiet: bool) -> Search:
    from rich.console import Console

    from evaluation.precision_search import Searcher
    console = Console(stderr=True)
    with console.status("looking for the layers that have to stay float32") as status:
        def tell(what: str) -> None:
            if not quiet:
                status.update(f"looking for the layers that have to stay float32: {what}")
        return Searcher(report, inputs.named, tell).search(inputs.samples, inputs.protocols)


def _report(report: PrecisionReport, search: Search | None, inputs: Inputs, model: Path,
            json_path: str | None) -> None:
    from dbnet.cli.precision_print import as_json, show
    if json_path:
        write_json(json_path, as_json(report, search, model))
    for line in [*inputs.refused, *report.drift.maps.failed]:
        click.echo(f"failed: {' '.join(line.split())}", err=True)
    if json_path != "-":
        show(report, search, model)
