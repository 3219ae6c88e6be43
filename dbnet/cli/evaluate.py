"""dbnet evaluate"""

from __future__ import annotations

import sys
from collections.abc import Collection
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dbnet.cli.evaluate_options import (
    BOX_SETTINGS,
    box_options,
    chosen_boxes,
    combinations,
    jsonl_file,
    protocol_names,
    sweep_settings,
)
from dbnet.cli.options import SOURCE_SETTINGS, PathArgument, json_option, source_options
from dbnet.errors import DbnetError

if TYPE_CHECKING:
    from evaluation.evaluate import Evaluation

DATASETS = ("icdar2015",)
RUNNERS = ("torch", "mindspore", "onnxruntime")
#: Where a data set's files lie below --root.
DATA_PARTS = ("images", "gt", "test/images", "test/gt")
#: The protocol that a data set's numbers are published by.
OWN_PROTOCOL = {"icdar2015": "rrc", "mlt2017": "mlt2017", "ctw1500": "ctw1500", "totaltext": "totaltext",
                "td500": "td500"}


@click.command()
@click.argument("model", type=PathArgument, required=False)
@click.option("--dataset", type=click.Choice(DATASETS), default="icdar2015", show_default=True,
              help="How --root is laid out.")
@click.option("--root", type=PathArgument,
              help="Folder (or the one above test/) with images/ and gt/ or gt.zip. The images that exist are scored.")
@click.option("--results", type=PathArgument,
              help="Instead of MODEL: a detector's result files, folder or zip, in a data set's submission format.")
@click.option("--gt", type=PathArgument, help="With --results: the ground truth, folder or zip; no images needed.")
@click.option("--format", "form", type=click.Choice(tuple(OWN_PROTOCOL)),
              help="Whose format --results and --gt have, where it cannot be told.")
@click.option("--protocol", "-p", "protocols", multiple=True, metavar="NAME,...", callback=protocol_names,
              help="rrc, mindocr, mhliao, mmocr, totaltext, ctw1500, td500, mlt2017, or all, side by side. "
                   "Default: the data set's own.")
@click.option("--sweep", "swept", multiple=True, metavar="NAME=VALUES", callback=sweep_settings,
              help="Score under several thresholds too, e.g. box_thresh=0.3:0.7:0.1 or unclip_ratio=1.5,2 (repeatable: "
                   "all combinations); with --results, score=...")
@click.option("--images", type=click.IntRange(min=0), default=10, show_default=True, metavar="N",
              help="Rows of the table of images, worst first; --json has all.")
@click.option("--save", type=PathArgument, metavar="FILE.jsonl", callback=jsonl_file,
              help="Keep detections in FILE as they come; an interrupted run goes on from there.")
@click.option("--runner", type=click.Choice(RUNNERS), help="Default: the format's own framework.")
@click.option("--device", help="cpu, cuda:0, Ascend, ...; default: the best present.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Score the first N images only.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads of the runner.")
@json_option
@box_options
@source_options
def evaluate(model: Path | None, root: Path | None, results: Path | None, gt: Path | None, images: int,
             json_path: str | None, **given: Any) -> None:
    """Score MODEL (any supported format) on a data set, or anybody's result files against a ground truth.

    The pixel format is the model's own, from the record in the file or from its dialect, and so is the box rule unless
    options say otherwise. The 95 % interval of the F-score comes from drawing the images again 2000 times (bootstrap).
    """
    if model is not None and results is None:
        _refuse_others("MODEL", {"gt", "form"})
        del given["form"]
        _keep(json_path, model, given["save"], *(root / part for part in DATA_PARTS if root is not None))
        title, evaluation = _of_model(model, _needed("MODEL", root, "--root"), json_path == "-", **given)
    elif results is not None and model is None:
        _refuse_others("--results", {"root", "dataset", "save", "runner", "device", "threads", *BOX_SETTINGS,
                                     *SOURCE_SETTINGS})
        _keep(json_path, results, gt)
        title, evaluation = _of_results(results, _needed("--results", gt, "--gt"), given["form"], given["protocols"],
                                        given["swept"], given["limit"])
    else:
        raise click.UsageError("give either MODEL and --root, or --results and --gt")
    _report(title, evaluation, images, json_path)


def _needed(what: str, given: Path | None, option: str) -> Path:
    if given is None:
        raise click.UsageError(f"{what} needs {option}")
    return given


def _refuse_others(what: str, names: Collection[str]) -> None:
    """A usage error for an option that was given and means nothing beside `what`."""
    context = click.get_current_context()
    for parameter in context.command.params:
        if parameter.name in names and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[0]} means nothing with {what}")


def _keep(json_path: str | None, *inputs: Path | None) -> None:
    """Raises DbnetError if --json would replace something that is read or written otherwise, or lies in it."""
    if json_path is None or json_path == "-":
        return
    report = Path(json_path).resolve()
    for path in inputs:
        if path is not None and path.resolve() in (report, *report.parents):
            raise DbnetError(f"{report}: belongs to {path}, which this command needs; name another file for --json")


def _of_model(model: Path, root: Path, quiet: bool, *, dataset: str, protocols: tuple[str, ...],
              swept: dict[str, list[Any]], save: Path | None, runner: str | None, device: str | None,
              limit: int | None, threads: int | None, boxes: dict[str, Any], options: Any) -> tuple[str, Evaluation]:
    from dbnet.datasets import icdar2015
    from evaluation.evaluate import evaluate as run
    from evaluation.runners import open_runner
    if "score" in swept:
        raise click.UsageError("--sweep score is for --results; with a model sweep box_thresh")
    samples = icdar2015.load(root)[:limit]
    opened = open_runner(model, runner=runner, device=device, stages=("probability",), threads=threads, options=options,
                         concurrent=True)
    spec = opened.spec
    rule = chosen_boxes(spec.boxes, boxes)
    with _progress(len(samples), quiet) as advance:
        evaluation = run(opened, samples, spec.pixels, rule, protocols or (OWN_PROTOCOL[dataset],),
                         sweep=combinations(rule, swept), save=save, progress=advance)
    resumed = f", {evaluation.resumed} of them from {save}" if evaluation.resumed else ""
    title = (f"{model.name}: {spec.name} on {opened.name} ({opened.device}), {len(samples)} images of {dataset}"
             f"{resumed}; pixels {spec.pixels.colour} {spec.pixels.resize} {spec.pixels.size}; boxes {_told(rule)}")
    return title, evaluation


def _told(rule: Any) -> str:
    own = f" {rule.score_mode}{' dilated' if rule.dilation else ''}" if rule.rule == "paddle" else ""
    return (f"{rule.rule}{own} {rule.box_type}, binary_thresh {rule.binary_thresh:g}, box_thresh {rule.box_thresh:g}, "
            f"unclip_ratio {rule.unclip_ratio:g}, max_candidates {rule.max_candidates}")


def _of_results(results: Path, gt: Path, form: str | None, protocols: tuple[str, ...], swept: dict[str, list[Any]],
                limit: int | None) -> tuple[str, Evaluation]:
    from dbnet.datasets.labels import read_labels
    from evaluation.evaluate import evaluate_results
    from evaluation.result_order import told_names, told_order
    from evaluation.results import by_sample, read_results
    if set(swept) - {"score"}:
        raise click.UsageError("result files hold boxes and scores, no maps: only --sweep score=... can be varied")
    labels = read_labels(gt, form)
    found = told_names(read_results(results, form or labels.dataset), labels.samples)
    found = told_order(found, labels.samples)
    matched = by_sample(found, labels.samples)
    samples, detections = labels.samples[:limit], matched[:limit]
    names = protocols or (OWN_PROTOCOL.get(labels.dataset, "rrc"),)
    evaluation = evaluate_results(samples, detections, names, score_thresholds=swept.get("score", ()))
    notes = found.notes
    if limit is None and len(found.detections) < len(samples):  # else it is not known whose results are missing
        notes = [*notes, f"{len(samples) - len(found.detections)} of {len(samples)} images have no result: taken as no "
                         f"detections in them"]
    if (swept or "mmocr" in names) and all(d.score == 1 for image in detections for d in image):
        notes = [*notes, "every detection has the score 1, so a threshold on scores changes nothing"]
    settings = evaluation.settings | {"results": str(results), "format": found.format, "gt": str(gt),
                                      "dataset": labels.dataset, "notes": notes}
    title = (f"{results.name} ({found.format}): {sum(map(len, detections))} detections; {gt.name} ({labels.dataset}): "
             f"{len(samples)} images with {sum(len(sample.polygons) for sample in samples)} texts")
    return title, replace(evaluation, settings=settings)


def _report(title: str, evaluation: Evaluation, images: int, json_path: str | None) -> None:
    from dbnet.cli.evaluate_print import print_images, print_scores, print_sweep, print_versions
    for note in evaluation.settings.get("notes", ()):
        click.echo(f"note: {note}", err=True)
    if json_path == "-":
        evaluation.write_json(sys.stdout)
        return
    if json_path:
        from converters.writing import write_report
        write_report(Path(json_path), evaluation.write_json)
    click.echo(title)
    print_scores(evaluation.results)
    if images:
        print_images(evaluation, images)
    if evaluation.sweep:
        print_sweep(evaluation)
    print_versions(evaluation)


@contextmanager
def _progress(total: int, quiet: bool) -> Any:
    """Yields a callback (done, total); the bar goes to standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    with Progress(TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                  console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
        task = progress.add_task("images", total=total)
        yield lambda done, _total: progress.update(task, completed=done)
