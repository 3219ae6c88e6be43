"""dbnet evaluate"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.evaluate_options import (
    BOX_SETTINGS,
    OWN_PROTOCOL,
    box_options,
    jsonl_file,
    protocol_names,
    sweep_settings,
)
from dbnet.cli.options import (
    SOURCE_SETTINGS,
    PathArgument,
    RunnerType,
    check_kept,
    json_option,
    keep_float32_option,
    map_output_option,
    precision_option,
    progress_bar,
    refuse_others,
    shard_option,
    source_options,
)
from dbnet.cli.ray_options import ray_options
from dbnet.cli.recipe_options import RecipeCommand, opt_option
from dbnet.errors import DbnetError

if TYPE_CHECKING:
    from evaluation.evaluate import Evaluation

DATASETS = tuple(OWN_PROTOCOL)
#: Where a data set's files lie below --root.
DATA_PARTS = ("images", "gt", "test/images", "test/gt")


@click.command(cls=RecipeCommand)
@click.argument("model", type=PathArgument, required=False)
@click.option("-c", "--config", "recipe", metavar="RECIPE",
              help="A recipe (MindOCR's YAML, or a name of dbnet recipe list): its data, pixels and boxes, and unless "
                   "MODEL is given its eval.ckpt_load_path.")
@opt_option
@click.option("--dataset", type=click.Choice(DATASETS), default="icdar2015", show_default=True,
              help="How --root is laid out.")
@click.option("--root", type=PathArgument,
              help="Folder of the data set as it was published; with -c: the recipe's dataset_root. For icdar2015 (or "
                   "the folder above test/) images/ and gt/ or gt.zip; the images that exist are scored.")
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
@click.option("--runner", type=RunnerType(),
              help="Default: the format's own framework. With @PYTHON as another environment's interpreter has it.")
@click.option("--device", help="cpu, cuda:0, Ascend, ...; default: the best present.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Score the first N images only.")
@shard_option
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads of the runner.")
@ray_options
@precision_option
@keep_float32_option
@json_option
@box_options
@source_options
@map_output_option
def evaluate(model: Path | None, recipe: str | None, results: Path | None, json_path: str | None, images: int,
             **given: Any) -> None:
    """Score MODEL (any supported format) on a data set, or anybody's result files against a ground truth.

    The pixel format is the model's own, from the record in the file or from its dialect, and so is the box rule unless
    options or a recipe say otherwise. The 95 % interval of the F-score comes from drawing the images again 2000 times
    (bootstrap).
    """
    from dbnet.cli import evaluate_model, evaluate_results
    if results is None:
        check_kept(given["keep_float32"], given["precision"])
        _check_model_options(json_path, model, given)
    if recipe is not None and results is None:
        refuse_others("-c", {"gt", "form", "dataset"})
        title, evaluation = _of_model(json_path, evaluate_model.of_recipe(model, recipe, **_taken(
            given, "overrides", "root", "protocols", "limit")), given)
    elif model is not None and results is None:
        refuse_others("MODEL", {"gt", "form"})
        refuse_others("MODEL without -c", {"overrides"})
        _needed("MODEL", given["root"], "--root, or -c RECIPE")
        title, evaluation = _of_model(json_path, evaluate_model.of_dataset(model, **_taken(
            given, "dataset", "root", "protocols", "limit")), given)
    elif results is not None and model is None:
        refuse_others("--results", {"recipe", "overrides", "root", "dataset", "save", "runner", "device", "threads",
                                     "precision", "keep_float32", "map_output", "address", "workers", *BOX_SETTINGS,
                                     *SOURCE_SETTINGS})
        gt = _needed("--results", given["gt"], "--gt")
        _keep(json_path, results, gt)
        title, evaluation = evaluate_results.run(results, gt, **_taken(given, "form", "protocols", "swept", "limit",
                                                                       "shard"))
    else:
        raise click.UsageError("give MODEL and --root, or -c RECIPE, or --results and --gt")
    _report(title, evaluation, images, json_path)


def _taken(given: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: given[name] for name in names}


def _check_model_options(json_path: str | None, model: Path | None, given: dict[str, Any]) -> None:
    """Before anything is read."""
    if "score" in given["swept"]:
        raise click.UsageError("--sweep score is for --results; with a model sweep box_thresh")
    root = given["root"]
    _keep(json_path, model, given["save"], *(root / part for part in DATA_PARTS if root is not None))


def _of_model(json_path: str | None, job: Any, given: dict[str, Any]) -> tuple[str, Evaluation]:
    from dbnet.cli import evaluate_model
    _keep(json_path, job.model, *job.labels, *{sample.image.parent for sample in job.samples})
    images, shard = range(len(job.samples)), given["shard"]
    with progress_bar(len(images if shard is None else shard.of(images)), json_path == "-") as advance:
        return evaluate_model.run(job, advance, **_taken(given, "swept", "save", "runner", "device", "threads", "boxes",
                                                         "options", "precision", "keep_float32", "shard", "ray"))


def _needed(what: str, given: Path | None, option: str) -> Path:
    if given is None:
        raise click.UsageError(f"{what} needs {option}")
    return given


def _keep(json_path: str | None, *inputs: Path | None) -> None:
    """Raises DbnetError if --json would replace something that is read or written otherwise, or lies in it."""
    if json_path is None or json_path == "-":
        return
    report = Path(json_path).resolve()
    for path in inputs:
        if path is not None and path.resolve() in (report, *report.parents):
            raise DbnetError(f"{report}: belongs to {path}, which this command needs; name another file for --json")


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
    if evaluation.part is not None and not json_path:
        click.echo("note: only what --json writes of a part can be put together (dbnet report merge)", err=True)
    click.echo(title)
    print_scores(evaluation)
    if images:
        print_images(evaluation, images)
    if evaluation.sweep:
        print_sweep(evaluation)
    print_versions(evaluation)
