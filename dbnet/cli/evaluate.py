"""dbnet evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dbnet.cli.options import PathArgument, json_option, print_table, source_options

DATASETS = ("icdar2015",)
RUNNERS = ("torch", "mindspore", "onnxruntime")


@click.command()
@click.argument("model", type=PathArgument)
@click.option("--dataset", type=click.Choice(DATASETS), default="icdar2015", show_default=True)
@click.option("--root", type=PathArgument, required=True,
              help="Folder (or the one above test/) with images/ and gt/ or gt.zip. The images that exist are scored.")
@click.option("--runner", type=click.Choice(RUNNERS), help="Default: the format's own framework.")
@click.option("--device", help="cpu, cuda:0, Ascend, ...; default: the best present.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Score the first N images only.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads of the runner.")
@json_option
@source_options
def evaluate(model: Path, dataset: str, root: Path, runner: str | None, device: str | None, limit: int | None,
             threads: int | None, json_path: str | None, options: Any) -> None:
    """Score MODEL (any supported format) on a data set by its official protocol.

    Pixel format and box rule are the model's own: from the record in the file, or from its dialect.
    """
    from dbnet.datasets import icdar2015
    from evaluation.evaluate import evaluate as run
    from evaluation.runners import open_runner
    samples = icdar2015.load(root)[:limit]
    opened = open_runner(model, runner=runner, device=device, stages=("probability",), threads=threads, options=options)
    with _progress(len(samples), json_path == "-") as advance:
        result = run(opened, samples, opened.spec.pixels, opened.spec.boxes, progress=advance)
    if json_path == "-":
        click.echo(result.to_json(), nl=False)
        return
    if json_path:
        from converters.writing import write_text
        write_text(Path(json_path), result.to_json())
    spec, environment = opened.spec, opened.environment()
    click.echo(f"{model.name}: {spec.name} on {opened.name} ({opened.device}), {len(samples)} images of {dataset}; "
               f"pixels {spec.pixels.colour} {spec.pixels.resize} {spec.pixels.size}, boxes {spec.boxes.rule}")
    print_table("", ("protocol", "precision", "recall", "f-score"),
                [(name, *(f"{value:.5f}" for value in (score.precision, score.recall, score.fscore)))
                 for name, score in result.scores.items()], right=(1, 2, 3))
    told = {**{k: v for k, v in result.versions.items() if isinstance(v, str)},
            **{k: v for k, v in environment.items() if isinstance(v, (str, int))}}
    click.echo(", ".join(f"{name} {version}" for name, version in told.items()))


def _progress(total: int, quiet: bool) -> Any:
    """A context manager that yields a callback (done, total); the bar goes to standard error."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)

    @contextmanager
    def bar() -> Any:
        with Progress(TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                      console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
            task = progress.add_task("images", total=total)
            yield lambda done, _total: progress.update(task, completed=done)

    return bar()
