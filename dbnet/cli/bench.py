"""dbnet bench"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from converters.writing import check_report
from dbnet.cli.bench_options import OWN_SHAPE, batch_list, runner_list, shape_list
from dbnet.cli.evaluate_options import OWN_PROTOCOL, protocol_names
from dbnet.cli.options import (
    PathArgument,
    RunnerType,
    check_kept,
    json_option,
    keep_float32_option,
    map_output_option,
    precision_option,
    refuse_others,
    shard_option,
    source_options,
)
from dbnet.cli.ray_options import ray_options
from dbnet.errors import DbnetError
from dbnet.spec import STRIDE
from dbnet.writing import check_target


@click.command()
@click.argument("models", type=PathArgument, nargs=-1, required=True)
@click.option("--runner", "runners", multiple=True, required=True, metavar="NAME,...", callback=runner_list,
              shell_complete=RunnerType().shell_complete,
              help="Who runs them: names of --runner everywhere, with :VARIANT and @PYTHON (repeatable).")
@click.option("--shape", "shapes", multiple=True, metavar="HxW,...", callback=shape_list,
              help=f"Size of the networks' input, multiples of {STRIDE}, to which images are fitted (repeatable); "
                   f"{OWN_SHAPE}: each image at the model's own evaluation size.  [default: {OWN_SHAPE}]")
@click.option("--batch", "batches", multiple=True, metavar="N,...", callback=batch_list,
              help="Images in one call of the network (repeatable).  [default: 1]")
@click.option("--images", multiple=True, metavar="IMAGE|FOLDER|GLOB",
              help="Run on these, without scores (repeatable).  [default: drawn scenes, which are scored]")
@click.option("--root", type=PathArgument, metavar="DIR", help="Run on a data set, as in dbnet evaluate, and score.")
@click.option("--dataset", type=click.Choice(tuple(OWN_PROTOCOL)), default="icdar2015", show_default=True,
              help="How --root is laid out.")
@click.option("--protocol", "-p", "protocols", multiple=True, metavar="NAME,...", callback=protocol_names,
              help="Score by these, as dbnet evaluate does; tables show the first.  [default: the data set's own, rrc]")
@click.option("--limit", type=click.IntRange(min=1), metavar="N",
              help="The first N images only; of drawn scenes how many there are.  [default: all, 8 drawn ones]")
@click.option("--seed", type=click.IntRange(min=0, max=2**31 - 1), default=0, show_default=True,
              help="Which scenes are drawn.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True, metavar="N",
              help="Turns of each row; medians are over them.")
@click.option("--calls", type=click.IntRange(1, 100_000), default=8, show_default=True, metavar="N",
              help="Batches that are timed in each turn, spread over the images.")
@click.option("--warmup", type=click.IntRange(0, 1000), default=1, show_default=True, metavar="N",
              help="Batches at the beginning of each turn that do not count.")
@click.option("--threads", type=click.IntRange(1, 4096), metavar="N",
              help="CPU threads, and cores that a process may use.  [default: each runtime's own choice]")
@click.option("--device", help="cpu, cuda:0, Ascend, ...; default: the best present.")
@click.option("--together", type=click.IntRange(1, 256), default=8, show_default=True, metavar="N",
              help="Processes that live at the same time and take turns, one for each row.")
@click.option("--train", is_flag=True, help="Time steps of training too, in torch and mindspore.")
@click.option("--label", metavar="TEXT", help="What a table calls this machine.")
@click.option("-o", "--out", type=PathArgument, metavar="FILE.json",
              help="Keep everything that was measured and found, for dbnet report.")
@click.option("--force", is_flag=True, help="Replace FILE.json if it is there.")
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
@shard_option
@ray_options
@precision_option
@keep_float32_option
@json_option
@source_options
@map_output_option
def bench(models: tuple[Path, ...], out: Path | None, json_path: str | None, options: Any,
          **given: Any) -> None:
    """Measure MODELS (any supported formats) in several runners: speed, memory, score and parity, row by row.

    A row is one model in one runner at one shape and batch, in a process of its own. The rows' processes take turns,
    so that what else runs on the machine slows all of them. Latencies are from an image file to its boxes, one batch
    at a time. The exit code is 3 if a row could not be measured; the others are reported all the same.
    """
    from dbnet.cli import bench_run
    check_kept(given["keep_float32"], given["precision"])
    _check(models, out, json_path, given)
    bench_run.run(bench_run.Request(models, out, json_path, options, given))


def _check(models: Sequence[Path], out: Path | None, json_path: str | None, given: dict[str, Any]) -> None:
    """Before anything is read. Raises DbnetError, and a usage error."""
    if given["images"] and given["root"] is not None:
        raise click.UsageError("--images has no labels and --root has; give one of them")
    if given["images"]:
        refuse_others("--images, which have no labels", {"protocols"})
    if given["root"] is None:
        refuse_others("a run without --root", {"dataset"})
    if given["train"] and not {"torch", "mindspore", "torch:eager", "mindspore:graph"} & set(given["runners"]):
        raise click.UsageError("--train: only torch and mindspore train, without @PYTHON; add one of them to --runner")
    if given["label"] is not None and not given["label"].strip():
        raise click.UsageError("--label is empty; say what a table calls this machine")
    if json_path == "-" and given["markdown"]:
        raise click.UsageError("--json - and --markdown both print; give one of them")
    seen: dict[Path, Path] = {}
    for model in models:
        if (twice := seen.setdefault(model.resolve(), model)) is not model:
            raise click.UsageError(f"{model} is given twice" + (f" (as {twice})" if twice != model else ""))
        if not model.is_file():
            raise DbnetError(f"{model}: {'is a folder' if model.is_dir() else 'no such file'}; name a weight file")
    written = [Path(path) for path in (out, json_path) if path is not None and str(path) != "-"]
    for path in written:
        if any(path.resolve() == model for model in seen):
            raise DbnetError(f"{path}: is one of the models; name another file")
    if len({path.resolve() for path in written}) < len(written):
        raise click.UsageError("-o and --json name the same file; --json has figures alone, -o all that was measured")
    if out is not None:
        check_report(out)
        check_target(out, force=given["force"])
    elif given["force"]:
        raise click.UsageError("--force means nothing without -o")
