"""Going on with a training: which file, whether it is one of this recipe, and from which batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from converters.training_file import TrainingFile, read_training
from dbnet.errors import DbnetError
from dbnet.spec import TRAINING_FIELDS, ModelSpec
from dbnet.training import AVERAGE
from evaluation.training_folder import Folder
from evaluation.training_journal import Journal

#: Settings that change nothing that is learned, by their last name or as a whole.
_HARMLESS = ("dataset_root", "num_workers", "log_interval", "ckpt_save_dir", "resume", "pretrained", "ckpt_max_keep",
             "ckpt_save_policy", "ckpt_load_path", "dataset_sink_mode", "use_minddata", "device_id", "log_level")

#: No recipe says it, an option does.
STEP_FUNCTION = "step_function"


def find_training(folder: Folder, given: Path | None) -> tuple[TrainingFile, Journal | None]:
    """The file to go on from: `given`, a file or a folder, or the one in the training's own folder that is further.

    Its journal is None in a file of MindOCR's. Raises DbnetError if there is none, or it cannot be gone on with.
    """
    if given is not None and not given.is_dir():
        return _read(given)
    place = folder.path if given is None else given
    found = [_read(path) for path in Folder(place, "torch").trainings()]
    if not found:
        instead = "give --force in place of --resume to begin anew" if folder.results() else (
            "leave out --resume to begin one")
        raise DbnetError(f"{place}: holds no training to go on with (last.pth or last.ckpt); {instead}, or name its "
                         f"file: --resume FILE")
    return max(found, key=lambda pair: (_place(*pair), pair[0].path.suffix == folder.suffix))


def _place(file: TrainingFile, journal: Journal | None) -> tuple[int, float]:
    """How far a training is: epochs, and the part of the next one, for its batches may have been larger ones."""
    if journal is None:
        return int(file.state.get("epoch_num", 0)), 0.0
    return journal.epoch, journal.batch / journal.batches


def give_up_later(folder: Folder, file: TrainingFile, found: Journal | None) -> list[str]:
    """Has the folder's `last` of the other format, if it is further than the file that is to be gone on with, removed
    as soon as there is a new one: --resume would come back to it. A line that says so."""
    for path in folder.trainings():
        if path in (folder.last, file.path):
            continue
        with contextlib.suppress(DbnetError):  # a damaged one is told of when it is asked for
            if _place(*_read(path)) > _place(file, found):
                folder.given_up.append(path)
    return [f"{path} is further: it is given up, and goes when this training is saved" for path in folder.given_up]


def unknown_epochs(journal: Journal, folder: Folder) -> list[str]:
    """Checkpoints that are another course's of this training, or have been kept too long: a line that says so."""
    kept = {epoch for epoch, _ in journal.kept}
    others = [path.name for path in folder.epochs() if int(path.stem[1:]) not in kept]
    return [f"{folder.path}: {', '.join(others)}: not among the checkpoints that this training keeps; left as they "
            f"are until it comes to these epochs"] if others else []


def _read(path: Path) -> tuple[TrainingFile, Journal | None]:
    file = read_training(path)
    return file, Journal.from_dict(file.about, str(path)) if file.about else None


def check_network(file: TrainingFile, spec: ModelSpec) -> None:
    """Raises DbnetError if the file is another network's than the recipe's."""
    theirs, ours = file.record.spec, spec
    left_open = TRAINING_FIELDS if file.bare else ()
    pairs = {name: (theirs.semantics()[name], value) for name, value in ours.relevant_semantics().items()}
    differing = {name: pair for name, pair in pairs.items() if pair[0] != pair[1] and name not in left_open}
    told = [f"{name} is {found}, {'here' if name == STEP_FUNCTION else 'the recipe says'} {wanted}"
            for name, (found, wanted) in differing.items()]
    if told:
        hint = f"; give --step-function {differing[STEP_FUNCTION][0]}" if STEP_FUNCTION in differing else ""
        raise DbnetError(f"{file.path}: is a training of another network: {'; '.join(told)}{hint}; resume with its own "
                         f"recipe, or begin a new training from it: --pretrained {file.path}")


def check_average(file: TrainingFile, kept: bool) -> None:
    """Raises DbnetError if the file has averaged weights that a training without `train.ema` would lose."""
    if not kept and any(name.startswith(AVERAGE) for name in file.state):
        raise DbnetError(f"{file.path}: holds averaged weights, which a training without train.ema would lose; give -o "
                         f"train.ema=True, or begin a new training: --pretrained {file.path}")


def resumed(file: TrainingFile, found: Journal | None, fresh: Journal) -> tuple[Journal, list[str]]:
    """The journal to go on with, and what a user should know. fresh: the one of a new training of this recipe."""
    if found is None:
        epochs = file.state.get("epoch_num")
        if epochs is None:
            raise DbnetError(f"{file.path}: does not say after which epoch it was saved (epoch_num); begin a new "
                             f"training from it: --pretrained {file.path}")
        start = f"start: {file.path}, a training file that dbnet train did not write"
        return replace(fresh, epoch=int(epochs), start=[start]), [*file.notes]
    notes = list(differences(found.recipe, fresh.recipe))
    journal = replace(found, recipe=fresh.recipe, backend=fresh.backend, batches=fresh.batches, images=fresh.images,
                      batch_size=fresh.batch_size, seed=fresh.seed, by=fresh.by)
    if found.by != fresh.by:
        journal = replace(journal, best=None, kept=[])
        notes.append(f"the best checkpoint was chosen by {found.by}, is now by {fresh.by}: it is looked for anew")
    ways = {name: (getattr(found, name), getattr(fresh, name)) for name in ("images", "batch_size", "seed", "batches")}
    changed = [f"{name.replace('_', ' ')} {was} is now {now}" for name, (was, now) in ways.items() if was != now]
    if changed and found.batch:
        journal = replace(journal, batch=0, sums=[0.0] * 4, seconds=0.0)
        notes.append(f"{', '.join(changed)}: epoch {journal.epoch + 1} begins anew, for its batches are other ones")
    elif changed:
        notes.append(f"{', '.join(changed)}: not the batches that it would have had")
    return journal, notes


def closed_epoch(found: Journal | None, journal: Journal) -> int:
    """The epoch after which a file was saved, if no batch came between and its scores still count; else 0."""
    return journal.epoch if found is not None and not found.batch and found.by == journal.by else 0


def check_best(journal: Journal, folder: Folder, closed: int) -> list[str]:
    """Forgets the best checkpoint, and says so, where it is not in this folder: it is to have one of its own.

    closed: the epoch whose checkpoints can be made from the file.
    """
    if journal.best is None or folder.find_best() is not None or journal.best[0] == closed:
        return []
    (epoch, score), journal.best, journal.kept = journal.best, None, []
    return [f"the best checkpoint so far ({journal.by} {abs(score):.5f} after epoch {epoch}) is not in {folder.path}, "
            f"where the best one is looked for anew"]


def differences(before: dict[str, str], now: dict[str, str], told: str = "{} was {}, is now {}") -> Iterable[str]:
    """A line for each setting of a recipe that may change what is learned. told: of its path and the two values."""
    for path in sorted(before.keys() | now.keys()):
        was, value = before.get(path, "not set"), now.get(path, "not set")
        if was != value and path.rpartition(".")[2] not in _HARMLESS:
            yield told.format(path, was, value)
