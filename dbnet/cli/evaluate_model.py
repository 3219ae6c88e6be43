"""`dbnet evaluate MODEL` and `-c RECIPE`: a model on a data set, by its own settings or by a recipe's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbnet.cli.evaluate_options import OWN_PROTOCOL, chosen_boxes, combinations
from dbnet.cli.evaluate_print import told_images
from dbnet.errors import DbnetError
from dbnet.pixel_formats import AnySpec, OpaqueSpec, told
from dbnet.sample import Sample
from dbnet.spec import TRAINING_FIELDS, BoxRule, ModelSpec

if TYPE_CHECKING:
    from dbnet.recipe import Recipe
    from dbnet.shards import Shard
    from evaluation.clusters.connecting import OnRay
    from evaluation.evaluate import Evaluation
    from evaluation.runners import Runner


@dataclass(frozen=True, eq=False)
class Job:
    """What is to be scored.

    data: the data set or recipe, for people. labels: files that must stay. spec: what the model has to be, and whose
    pixels and boxes are taken; None takes the model's own. settings: for the report.
    """

    model: Path
    samples: list[Sample]
    data: str
    protocols: tuple[str, ...]
    labels: tuple[Path, ...] = ()
    spec: ModelSpec | None = None
    notes: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()


def of_dataset(model: Path, dataset: str, root: Path, protocols: tuple[str, ...], limit: int | None) -> Job:
    """MODEL on a data set as it was published."""
    from dbnet.datasets import sources
    try:
        samples = sources.load(dataset, root=root)
    except DbnetError as error:
        told, options, _ = str(error).partition("; give them with --labels")  # options of dbnet data
        hint = "; labels lie beside images/ or as they were published, else prepare them (dbnet data) for -c RECIPE"
        raise DbnetError(told + hint * bool(options)) from error
    if not samples:
        raise DbnetError(f"{root}: no images of {dataset} to evaluate")
    return Job(model, samples[:limit], dataset, protocols or (OWN_PROTOCOL[dataset],))


def of_recipe(model: Path | None, recipe: str, overrides: Sequence[str], root: Path | None, protocols: tuple[str, ...],
              limit: int | None) -> Job:
    """What MindOCR's `tools/eval.py -c RECIPE` does. MODEL goes before eval.ckpt_load_path, --root before dataset_root.

    Raises DbnetError if the recipe is not understood, has nothing to evaluate, or its model or data are not there.
    """
    from dbnet.recipe import read_recipe
    read = read_recipe(recipe, overrides)
    if model is not None and read.origins.get("eval.ckpt_load_path") == "command line":
        raise click.UsageError("MODEL and -o eval.ckpt_load_path=... name a model both; give one of them")
    if root is not None and read.origins.get("eval.dataset.dataset_root") == "command line":
        raise click.UsageError("--root and -o eval.dataset.dataset_root=... name a folder both; give one of them")
    read = read if root is None else read.with_root(root)
    spec = read.spec()
    read.need("eval")
    model = model or _own_model(read)
    samples = _samples(read)[:limit]
    if not samples:
        raise DbnetError(f"{read.where('eval.dataset.label_file')}: no images to evaluate")
    notes = () if protocols else (
        "scored by mindocr, the metric of MindOCR's recipes and tables; a data set's official score is another one: "
        "--protocol rrc, td500, ctw1500, totaltext or mlt2017, or several side by side",)
    return Job(model, samples, f"recipe {read.name}", protocols or ("mindocr",),
               (read.file, *(part.label_file for part in read.eval_data)), spec, notes + _published(read),
               (("recipe", read.label),))


def _own_model(recipe: Recipe) -> Path:
    """eval.ckpt_load_path."""
    path = "eval.ckpt_load_path"
    value = recipe.get(path, None)
    hint = f"name MODEL, or give -o {path}=..."
    if not value:
        raise DbnetError(f"{recipe.where(path)} names no model; {hint}")
    if "://" in value:
        from dbnet.published import file_at
        get = f"fetch it (dbnet fetch {file})" if (file := file_at(value)) else "download it"
        raise DbnetError(f"{recipe.where(path)}: {value} is an address; {get}, then {hint}")
    if not Path(value).exists():
        raise DbnetError(f"{recipe.where(path)}: {value}: no such file; {hint}")
    return Path(value)


def _samples(recipe: Recipe) -> list[Sample]:
    """Of all label files of eval.dataset, of each the first part that sample_ratio leaves, as in MindOCR."""
    from dbnet.datasets.prepared import load_prepared
    kind = recipe.get("eval.dataset.type")
    if kind != "DetDataset":
        raise DbnetError(f"{recipe.where('eval.dataset.type')}: {kind} is not evaluated, only DetDataset")
    samples: list[Sample] = []
    there = 0
    for data in recipe.eval_data:
        for what, path in (("data_dir", data.images), ("label_file", data.label_file)):
            if not path.exists():
                raise DbnetError(f"{recipe.where(f'eval.dataset.{what}')}: {path}: not found{_beside(path)}; --root or "
                                 f"-o eval.dataset.dataset_root=... names the folder above it")
        found = load_prepared(data.label_file, data.images)
        samples += found[:round(len(found) * data.ratio)]
        there += len(found)
    if there and not samples:
        raise DbnetError(f"{recipe.where('eval.dataset.sample_ratio')} leaves none of {there} images; "
                         f"give a larger one")
    return samples


def _beside(path: Path) -> str:
    """The text files that do lie there: a set may have its labels under another name."""
    names = sorted(file.name for file in path.parent.glob("*.txt"))[:5] if path.suffix == ".txt" else []
    return f" ({path.parent} has {', '.join(names)})" if names else ""


def _published(recipe: Recipe) -> tuple[str, ...]:
    """What the seed publishes for a recipe of this package that was not changed on the command line."""
    from dbnet.recipe_configs import CONFIGS, published
    own = recipe.file.resolve().parent == CONFIGS
    changed = [path for path, origin in recipe.origins.items()
               if "command line" in origin and path not in ("eval.ckpt_load_path", "eval.dataset.dataset_root",
                                                            "train.dataset.dataset_root")]
    rows = [row for row in published() if row.recipe == recipe.name and row.fscore] if own and not changed else []
    told = [f"recall {row.recall:.2f}, precision {row.precision:.2f}, f-score {row.fscore:.2f} % (Ascend {row.chip})"
            for row in rows]
    return (f"the seed publishes for {recipe.name}, by mindocr: {'; '.join(told)}",) if told else ()


def run(job: Job, progress: Callable[[int, int], object], *, swept: dict[str, list[Any]], save: Path | None,
        runner: str | None, device: str | None, threads: int | None, boxes: dict[str, Any],
        options: Any, precision: str = "float32", keep_float32: Sequence[str] = (),
        shard: Shard | None = None, ray: OnRay | None = None) -> tuple[str, Evaluation]:
    """What is told first, and the evaluation. Raises DbnetError, also for a model that is not the recipe's network."""
    how: dict[str, Any] = {"runner": runner, "device": device, "threads": threads, "options": options,
                           "otherwise": job.spec, "precision": precision, "keep_float32": keep_float32}
    if ray is None:
        from evaluation.runners import open_runner
        opened = open_runner(job.model, stages=("probability",), concurrent=True, **how)
        return _scored(job, opened, options, boxes, swept, save=save, progress=progress, shard=shard)
    from evaluation.clusters.evaluating import opened_on_ray, with_cluster
    from evaluation.evaluate import image_names
    image_names(job.samples)  # for its errors, before a cluster is looked for
    with opened_on_ray(ray, job.model, len(job.samples), **how) as cluster:
        title, evaluation = _scored(job, cluster.runner, options, boxes, swept, save=save, progress=progress,
                                    shard=shard, detecting=cluster.detecting)
        return f"{title}; {cluster}", with_cluster(evaluation, cluster)


def _scored(job: Job, opened: Runner, options: Any, boxes: dict[str, Any], swept: dict[str, list[Any]],
            **how: Any) -> tuple[str, Evaluation]:
    """The same of an open model. how: of `evaluate`."""
    from evaluation.delivered import pixels_for
    from evaluation.evaluate import evaluate
    save, notes = how["save"], [*job.notes, *getattr(opened, "notes", ())]
    pixels, own_boxes = opened.spec.pixels, opened.spec.boxes
    if job.spec is not None:
        notes += _check_network(job, opened.spec)
        own_boxes = job.spec.boxes
        if options.pixels is not None:
            notes.append(f"the recipe's pixels ({told(job.spec.pixels)}) are left aside, its box rule is not")
        else:
            pixels = pixels_for(opened, job.spec.pixels)
    if pixels != opened.spec.pixels:
        notes.append(f"pixels are the recipe's ({told(pixels)}), not the model's own ({told(opened.spec.pixels)})")
    rule = chosen_boxes(own_boxes, boxes)
    evaluation = evaluate(opened, job.samples, pixels, rule, job.protocols, sweep=combinations(rule, swept), **how)
    if notes or job.spec is not None:
        evaluation = replace(evaluation, settings=evaluation.settings | dict(job.settings) | {"notes": notes})
    resumed = f", {evaluation.resumed} of them from {save}" if evaluation.resumed else ""
    title = (f"{job.model.name}: {opened.spec.name} on {opened.name} ({opened.device}), "
             f"{told_images(evaluation)} of {job.data}{resumed}; pixels {told(pixels)}; boxes {_told(rule)}")
    return title, evaluation


def _check_network(job: Job, found: AnySpec) -> list[str]:
    """Notes. Raises DbnetError for a network that is known not to be the recipe's."""
    if isinstance(found, OpaqueSpec):
        return [f"whether this is the network of {job.data} is not known, and was not checked"]
    wanted = job.spec or found
    differing = [f"{name} is {value}, the recipe says {wanted.semantics()[name]}"
                 for name, value in (found.relevant_semantics() | {"backbone": found.backbone}).items()
                 if name not in TRAINING_FIELDS and value != wanted.semantics()[name]]
    if differing:
        first = [text for text in differing if text.startswith("backbone")] or differing
        raise DbnetError(f"{job.model}: is not the network of {job.data}: {'; '.join(first)}; take the recipe of this "
                         f"model, or score it by its own settings: dbnet evaluate MODEL --root DIR")
    return []


def _told(rule: BoxRule) -> str:
    own = f" {rule.score_mode}{' dilated' if rule.dilation else ''}" if rule.rule == "paddle" else ""
    return (f"{rule.rule}{own} {rule.box_type}, binary_thresh {rule.binary_thresh:g}, box_thresh {rule.box_thresh:g}, "
            f"unclip_ratio {rule.unclip_ratio:g}, max_candidates {rule.max_candidates}")
