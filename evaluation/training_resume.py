"""Going on with a training: which file, whether it is one of this recipe, and from which batch."""

from __future__ import annotations

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


def find_training(folder: Folder, given: Path | None) -> tuple[TrainingFile, Journal | None]:
    """The file to go on from: `given`, a file or a folder, or the one in the training's own folder that is further.

    Its journal is None in a file of MindOCR's. Raises DbnetError if there is none, or it cannot be gone on with.
    """
    if given is not None and not given.is_dir():
        return _read(given)
    place = folder.path if given is None else given
    found = [_read(path) for path in Folder(place, "torch").trainings()]
    if not found:
        raise DbnetError(f"{place}: holds no training to go on with (last.pth or last.ckpt); leave out --resume to "
                         f"begin one, or name its file: --resume FILE")
    return max(found, key=lambda pair: (0 if pair[1] is None else pair[1].step, pair[0].path.suffix == folder.suffix))


def _read(path: Path) -> tuple[TrainingFile, Journal | None]:
    file = read_training(path)
    return file, Journal.from_dict(file.about, str(path)) if file.about else None


def check_network(file: TrainingFile, spec: ModelSpec) -> None:
    """Raises DbnetError if the file is another network's than the recipe's."""
    theirs, ours = file.record.spec, spec
    left_open = TRAINING_FIELDS if file.bare else ()
    pairs = {name: (theirs.semantics()[name], value) for name, value in ours.relevant_semantics().items()}
    told = [f"{name} is {found}, the recipe says {wanted}" for name, (found, wanted) in pairs.items()
            if found != wanted and name not in left_open]
    if told:
        hint = "; give --step-function" if told[0].startswith("step_function") else ""
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


def check_best(journal: Journal, folder: Folder) -> list[str]:
    """Forgets the best checkpoint, and says so, where it is not in this folder: it is to have one of its own."""
    if journal.best is None or folder.find_best() is not None:
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
