"""From a recipe to a training that can run: data, weights, trainer, folder, and where it goes on."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dbnet.errors import DbnetError
from dbnet.extras import installed, require
from dbnet.loss_settings import Mining
from dbnet.recipe import Recipe
from dbnet.recipe_train import TrainingPlan, schedule_settings, training_plan
from dbnet.sample import Sample
from dbnet.spec import StepFunction
from dbnet.train_settings import Precision
from dbnet.training_set import TrainingSet
from evaluation.evaluate import evaluate
from evaluation.runners import Runner, cores
from evaluation.training import Report, Scores, Trainer, Training
from evaluation.training_data import training_samples, validation_samples
from evaluation.training_folder import SUFFIXES, Folder
from evaluation.training_journal import Journal
from evaluation.training_resume import check_average, check_best, check_network, find_training, resumed
from evaluation.training_start import origin_of_weights, start_weights

#: How launchers tell the number of processes: torchrun, MindSpore's rank table, mpirun, msrun.
_WORLDS = ("WORLD_SIZE", "RANK_SIZE", "OMPI_COMM_WORLD_SIZE", "MS_WORKER_NUM")
#: backend -> the module of its trainer, which exists where the framework does.
_TRAINERS = {"torch": "torch_reference.train", "mindspore": "ms_models.train"}


@dataclass(frozen=True)
class Request:
    """What is asked for beside the recipe. None: as the recipe says, or as usual.

    resume: True, or a file or folder. pretrained: a file. workers: processes that make batches; 0: none. last_step:
    batches in all. force: begin anew in a folder that holds a training. save_every: seconds.
    """

    backend: str | None = None
    device: str | None = None
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


def prepare(recipe: Recipe, request: Request, report: Report, stopped: Callable[[], str | None]) -> Ready:
    """Raises DbnetError, before anything is written, for all that can be known beforehand."""
    _check_alone()
    plan = training_plan(recipe, step_function=request.step_function, mining=request.mining,
                         precision=request.precision, seed=request.seed)
    backend = choose_backend(request.backend)
    folder = Folder(Path(recipe.get("train.ckpt_save_dir")), backend)
    resume = request.resume or _resume_of(recipe)
    in_place = folder.is_gone_on_with(resume)
    folder.check(in_place, request.force)
    samples = training_samples(recipe, plan.seed)
    validation = validation_samples(recipe) if plan.validation is not None else []
    _check_names(validation)
    journal = Journal(batches_of_epoch(recipe, plan, len(samples)), len(samples), plan.batch_size, plan.seed,
                      _told(recipe, plan, request), backend=backend,
                      by=plan.validation.indicator if plan.validation else "loss")
    lines: list[str] = []
    if resume:
        file, found = find_training(folder, None if resume is True else Path(resume))
        check_network(file, plan.spec)
        check_average(file, plan.optimizer.ema_decay is not None)
        journal, lines = resumed(file, found, journal)
        lines += check_best(journal, folder)
        weights = file.state
    else:
        file = None
        weights, journal.start = start_weights(plan.spec, origin_of_weights(recipe, request.pretrained), plan.seed)
    require(backend)
    module = importlib.import_module(_TRAINERS[backend])
    trainer: Trainer = module.Trainer(plan.spec, _only_weights(weights), plan.optimizer, plan.loss, request.device,
                                      plan.precision)
    if file is not None:
        _load(trainer, file.state, file.path)
        lines = [f"goes on from {file.path}: {journal.epoch} epochs and {journal.batch} of {journal.batches} batches "
                 f"done", *lines]
    folder.open(in_place)
    folder.write_recipe(recipe.settings, f"The effective recipe of a training with {recipe.label}.")
    data = TrainingSet(samples, plan.pipeline.augmentation, plan.pipeline.targets, plan.seed)
    training = Training(plan, schedule_settings(recipe, journal.batches), data, trainer, module.losses, journal, folder,
                        _validator(recipe, plan, backend, trainer, validation) if plan.validation else None, report,
                        stopped, request.save_every, request.last_step)
    workers = min(plan.workers, cores()) if request.workers is None else request.workers
    return Ready(training, workers, _title(recipe, plan, backend, trainer, training, len(validation)),
                 [*journal.start, *lines, *(f"note: {note}" for note in plan.notes)])


def _check_alone() -> None:
    """Raises DbnetError in one of several processes: they would write into one folder, each for itself."""
    for name in _WORLDS:
        if os.environ.get(name, "1") not in ("", "1"):
            raise DbnetError(f"{name} is {os.environ[name]}: this is one of several processes, and a training is one; "
                             f"start it without torchrun, msrun or mpirun")


def choose_backend(name: str | None) -> str:
    """The one of that name, or the one that is installed. Raises DbnetError if it is not."""
    name = name or next((backend for backend in SUFFIXES if installed(backend)), "torch")
    if not installed(name):
        require(name)  # says what to install
    return name


def batches_of_epoch(recipe: Recipe, plan: TrainingPlan, images: int) -> int:
    """Raises DbnetError for a batch that is larger than the data set."""
    whole, rest = divmod(images, plan.batch_size)
    if not whole and plan.drop_remainder:
        raise DbnetError(f"{recipe.where('train.loader.batch_size')}: a batch of {plan.batch_size} is more than the "
                         f"{images} images of the data set; give -o train.loader.batch_size={images} or less, or "
                         f"train.loader.drop_remainder=False")
    return whole + bool(rest and not plan.drop_remainder)


def _resume_of(recipe: Recipe) -> bool | Path:
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


def _check_names(samples: list[Sample]) -> None:
    """Raises DbnetError now for what the first validation would refuse, maybe after days."""
    seen: set[str] = set()
    for sample in samples:
        if sample.name in seen:
            raise DbnetError(f"{sample.image}: another image of eval.dataset is called {sample.name} too, and results "
                             f"are kept by file name; rename one of them, or train without: -o "
                             f"system.val_while_train=False")
        seen.add(sample.name)


def _only_weights(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    from dbnet.training import AVERAGE, MOMENTS, PENDING
    beside = (*(prefix for prefixes in MOMENTS.values() for prefix in prefixes), AVERAGE, PENDING)
    return {name: array for name, array in state.items() if "." in name and not name.startswith(beside)}


def _load(trainer: Trainer, state: Mapping[str, np.ndarray], path: Path) -> None:
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
    module: Any = importlib.import_module(_TRAINERS[backend].replace(".train", ".runner"))
    kind = module.TorchRunner if backend == "torch" else module.MindSporeRunner
    runner: Runner = kind(plan.spec, weights, device, ("probability",))
    return runner


def _title(recipe: Recipe, plan: TrainingPlan, backend: str, trainer: Trainer, training: Training,
           validation: int) -> str:
    journal = training.journal
    accumulated = f" x {plan.optimizer.accumulate}" if plan.optimizer.accumulate > 1 else ""
    checked = f"validation on {validation} images" if plan.validation else "no validation"
    return (f"{recipe.name}: {plan.spec.name} on {backend} ({trainer.device}), {plan.precision}, {plan.optimizer.name}"
            f"{', EMA' if plan.optimizer.ema_decay is not None else ''}; {journal.images} images, batch "
            f"{plan.batch_size}{accumulated}, {journal.batches} batches an epoch, {plan.epochs} epochs; {checked}; "
            f"into {training.folder.path}")
