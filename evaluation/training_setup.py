"""From a recipe to a training that can run: data, weights, trainer, folder, and where it goes on."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dbnet.errors import DbnetError
from dbnet.loss_settings import Losses, Mining
from dbnet.recipe import Recipe
from dbnet.recipe_check import SEED_DEFAULT
from dbnet.recipe_train import TrainingPlan, schedule_settings, training_plan
from dbnet.sample import Sample
from dbnet.spec import StepFunction
from dbnet.train_settings import Precision
from dbnet.training_set import TrainingSet
from evaluation.evaluate import evaluate, image_names
from evaluation.runners import Runner, cores
from evaluation.training import LOOK_BATCHES, Training
from evaluation.training_data import training_samples, validation_samples
from evaluation.training_folder import Folder
from evaluation.training_journal import Journal
from evaluation.training_parts import Report, Scores, Trainer
from evaluation.training_resume import (
    check_average,
    check_best,
    check_network,
    closed_epoch,
    find_training,
    give_up_later,
    resumed,
    unknown_epochs,
)
from evaluation.training_start import origin_of_weights, start_weights
from evaluation.training_team import HALVES, Team


@dataclass(frozen=True)
class Request:
    """What is asked for beside the recipe and what a team is joined with. None: as the recipe says, or as usual.

    resume: True, or a file or folder. pretrained: a file. workers: processes that make batches; 0: none. last_step:
    batches in all. force: begin anew in a folder that holds a training. save_every: seconds.
    """

    resume: bool | Path = False
    pretrained: Path | None = None
    workers: int | None = None
    seed: int | None = None
    last_step: int | None = None
    step_function: StepFunction | None = None
    mining: Mining = "mindocr"
    precision: Precision | None = None
    force: bool = False
    save_every: float = 120.0


@dataclass(frozen=True, eq=False)
class Ready:
    """A training, the processes that it needs, and what is told of it before it begins: title, and lines."""

    training: Training
    workers: int
    title: str
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Start:
    """Where a training begins or goes on. state: of a trainer, with its file in `path`; else weights. closed: as of
    `Training`, in the first process."""

    state: Mapping[str, np.ndarray]
    journal: Journal
    lines: list[str]
    path: str | None = None
    closed: int = 0


def prepare(recipe: Recipe, request: Request, report: Report, stopped: Callable[[], str | None], team: Team) -> Ready:
    """A training whose folder is locked. Raises DbnetError, before anything is written, for all that can be known
    beforehand."""
    plan = training_plan(recipe, step_function=request.step_function, mining=request.mining,
                         precision=request.precision, seed=request.seed)
    folder = Folder(Path(recipe.get("train.ckpt_save_dir")), team.backend)
    samples = training_samples(recipe, plan.seed)
    settings = _told(recipe, plan, request)
    team.check_alike(settings | {"--seed": str(plan.seed), "--max-steps": str(request.last_step),
                                 "--step-function": plan.spec.step_function}, samples)
    with contextlib.ExitStack() as held:
        held.callback(folder.close)
        ready = _ready(recipe, request, report, stopped, team, plan, folder, samples, settings)
        held.pop_all()
    return ready


def _ready(recipe: Recipe, request: Request, report: Report, stopped: Callable[[], str | None], team: Team,
           plan: TrainingPlan, folder: Folder, samples: Sequence[Sample], settings: dict[str, str]) -> Ready:
    resume = request.resume or resume_of(recipe)
    in_place = folder.is_gone_on_with(resume)
    validation: list[Sample] = []
    if team.rank == 0:
        folder.lock()  # before anything in it is looked at
        folder.check(in_place, request.force)
        if plan.validation is not None:
            validation = validation_samples(recipe)
            image_names(validation)  # refuses now what the first validation would refuse, maybe after days
    journal = Journal(batches_of_epoch(recipe, plan, len(samples), team.size), len(samples),
                      plan.batch_size * team.size, plan.seed, settings, backend=team.backend,
                      by=plan.validation.indicator if plan.validation else "loss")
    start = _shared(team, _start(recipe, request, plan, folder, resume, journal) if team.rank == 0 else None)
    trainer, losses = _trainer(plan, team, start)
    if team.rank == 0:
        folder.open(in_place)
        folder.write_recipe(recipe.settings, f"The effective recipe of a training with {recipe.label}.")
    data = TrainingSet(samples, plan.pipeline.augmentation, plan.pipeline.targets, plan.seed,
                       plan.pipeline.ignore_orientation)
    sinks, notes = sinking(recipe, plan, team.backend, str(trainer.device))
    validate = None
    if plan.validation and team.rank == 0:
        validate = _validator(recipe, plan, team.backend, trainer, validation)
    training = Training(plan, schedule_settings(recipe, journal.batches), data, trainer, losses, start.journal, folder,
                        validate, report, stopped, request.save_every, request.last_step, team.peers, sinks,
                        start.closed)
    return Ready(training, _workers(plan, request, team), _title(recipe, plan, team, training, len(validation)),
                 [*start.journal.start, *start.lines, *(f"note: {note}" for note in (*plan.notes, *notes))])


def _start(recipe: Recipe, request: Request, plan: TrainingPlan, folder: Folder, resume: bool | Path,
           journal: Journal) -> _Start:
    """journal: of a new training."""
    if not resume:
        weights, journal.start = start_weights(plan.spec, origin_of_weights(recipe, request.pretrained), plan.seed)
        return _Start(weights, journal, [])
    file, found = find_training(folder, None if resume is True else Path(resume))
    check_network(file, plan.spec)
    check_average(file, plan.optimizer.ema_decay is not None)
    journal, lines = resumed(file, found, journal)
    closed = closed_epoch(found, journal)
    lines += check_best(journal, folder, closed)
    if folder.is_gone_on_with(resume):
        lines += unknown_epochs(journal, folder)
        lines += give_up_later(folder, file, found) if resume is not True else []
    done = f"{journal.epoch} epochs and {journal.batch} of {journal.batches} batches done"
    return _Start(file.state, journal, [f"goes on from {file.path}: {done}", *lines], str(file.path), closed)


def _shared(team: Team, start: _Start | None) -> _Start:
    """That of the first process, in all."""
    if team.size == 1:
        assert start is not None
        return start
    about = None if start is None else [start.journal.to_dict(), start.lines, start.path]
    journal, lines, path = team.peers.exchange(about)[0]
    state = team.peers.given({} if start is None else start.state)
    return start or _Start(state, Journal.from_dict(journal, "process 0"), lines, path)


def _trainer(plan: TrainingPlan, team: Team, start: _Start) -> tuple[Trainer, Callable[[Any], Losses]]:
    module = importlib.import_module(f"{HALVES[team.backend]}.train")
    trainer: Trainer = module.Trainer(plan.spec, _only_weights(start.state), plan.optimizer, plan.loss, team.device,
                                      plan.precision, team.world)
    if start.path is not None:
        _load(trainer, start.state, start.path)
    return trainer, module.losses


def _workers(plan: TrainingPlan, request: Request, team: Team) -> int:
    """Processes that prepare images for this one."""
    return min(plan.workers, max(1, cores() // team.local_size)) if request.workers is None else request.workers


def batches_of_epoch(recipe: Recipe, plan: TrainingPlan, images: int, processes: int = 1) -> int:
    """Raises DbnetError for a batch, in each of the processes, that is larger than the data set."""
    whole, rest = divmod(images, plan.batch_size * processes)
    where, each = recipe.where("train.loader.batch_size"), f" in each of {processes} processes" if processes > 1 else ""
    if images < processes:
        raise DbnetError(f"{where}: {images} images are not enough for {processes} processes; start fewer")
    if not whole and plan.drop_remainder:
        raise DbnetError(f"{where}: a batch of {plan.batch_size}{each} is more than the {images} images of the data "
                         f"set; give -o train.loader.batch_size={images // processes} or less, or "
                         f"train.loader.drop_remainder=False")
    return whole + bool(rest >= processes and not plan.drop_remainder)


def sinking(recipe: Recipe, plan: TrainingPlan, backend: str, device: str) -> tuple[bool, list[str]]:
    """Whether `train.dataset_sink_mode` is heeded, and what is to be said of it if the recipe asks for it."""
    path = "train.dataset_sink_mode"
    if not recipe.get(path):
        return False, []
    reason = ("PyTorch has no such mode" if backend == "torch" else
              "MindSpore cannot sink on a CPU" if device == "cpu" else None)
    if recipe.origins.get(path, SEED_DEFAULT) == SEED_DEFAULT:
        return reason is None, []
    if reason is not None:
        return False, [f"{path}: without effect here, for {reason}"]
    return True, [f"{path}: losses stay on the device for up to {min(plan.log_interval, LOOK_BATCHES)} batches; these "
                  f"come from dbnet's own processes, not through MindSpore's queue"]


def resume_of(recipe: Recipe) -> bool | Path:
    """MindOCR's own keys for --resume."""
    for path in ("model.resume", "train.resume"):
        value = recipe.get(path)
        if value:
            return True if value is True else Path(value)
    return False


def _told(recipe: Recipe, plan: TrainingPlan, request: Request) -> dict[str, str]:
    """The recipe and the options that go before it, as text, to be compared when the training goes on."""
    settings = {path: text for path, text, _ in recipe.lines()}
    return settings | {"--mining": request.mining, "--amp": plan.precision}


def _only_weights(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    from dbnet.training import AVERAGE, MOMENTS, PENDING
    beside = (*(prefix for prefixes in MOMENTS.values() for prefix in prefixes), AVERAGE, PENDING)
    return {name: array for name, array in state.items() if "." in name and not name.startswith(beside)}


def _load(trainer: Trainer, state: Mapping[str, np.ndarray], path: str) -> None:
    try:
        trainer.load_state(state)
    except DbnetError as error:
        raise DbnetError(f"{path}: {error}") from error


def _validator(recipe: Recipe, plan: TrainingPlan, backend: str, trainer: Trainer,
               samples: list[Sample]) -> Callable[[Mapping[str, np.ndarray], Callable[[int, int], None]], Scores]:
    """MindOCR's metric of some weights on the recipe's images, with the recipe's pixels and boxes."""
    pixels, boxes = recipe.pixels, recipe.boxes

    def validate(weights: Mapping[str, np.ndarray], progress: Callable[[int, int], None]) -> Scores:
        runner = _runner(plan, backend, str(trainer.device), weights)
        score = evaluate(runner, samples, pixels, boxes, ("mindocr",), progress=progress).scores["mindocr"]
        return Scores(score.recall, score.precision, score.fscore)

    return validate


def _runner(plan: TrainingPlan, backend: str, device: str, weights: Mapping[str, np.ndarray]) -> Runner:
    module: Any = importlib.import_module(f"{HALVES[backend]}.runner")
    kind = module.TorchRunner if backend == "torch" else module.MindSporeRunner
    runner: Runner = kind(plan.spec, weights, device, ("probability",))
    return runner


def _title(recipe: Recipe, plan: TrainingPlan, team: Team, training: Training, validation: int) -> str:
    journal = training.journal
    shared = f"{team.size} processes x " if team.size > 1 else ""
    accumulated = f" x {plan.optimizer.accumulate}" if plan.optimizer.accumulate > 1 else ""
    checked = f"validation on {validation} images" if plan.validation else "no validation"
    return (f"{recipe.name}: {plan.spec.name} on {team.backend} ({training.trainer.device}), {plan.precision}, "
            f"{plan.optimizer.name}{', EMA' if plan.optimizer.ema_decay is not None else ''}; {journal.images} images, "
            f"batch {shared}{plan.batch_size}{accumulated}, {journal.batches} batches an epoch, {plan.epochs} epochs; "
            f"{checked}; into {training.folder.path}")
