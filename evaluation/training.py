"""The loop: epochs of batches through a trainer of either half, with saves, validation, and an end at any step.

What a training has learned by a step follows from the recipe, the data and the seed alone, however often it was
interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

from dbnet.errors import DbnetError
from dbnet.loader import Loader
from dbnet.loss_settings import Losses
from dbnet.recipe_train import TrainingPlan
from dbnet.train_settings import ScheduleSettings, learning_rate
from dbnet.training import PENDING
from dbnet.training_set import Example, TrainingSet
from evaluation.training_folder import Folder
from evaluation.training_journal import Journal, Row

#: How long losses may stay on the device before somebody looks at them, in seconds and in batches. To look is to wait
#: for all that the device still has to do.
LOOK_SECONDS, LOOK_BATCHES = 0.5, 50
#: How many file names of a batch an error line lists.
_NAMED = 8


class Trainer(Protocol):
    """What both halves have: `torch_reference.train.Trainer`, `ms_models.train.Trainer`."""

    steps: int
    overflows: int
    device: Any

    def step(self, batch: Example, rate: float) -> Any: ...

    def weights(self, average: bool = False) -> dict[str, np.ndarray]: ...

    def state(self) -> dict[str, np.ndarray]: ...

    def load_state(self, state: Mapping[str, np.ndarray]) -> None: ...


@dataclass(frozen=True)
class Scores:
    """Of one validation, fractions."""

    recall: float
    precision: float
    fscore: float

    def by(self, indicator: str) -> float:
        """indicator: `metric.main_indicator`."""
        return float(getattr(self, indicator.replace("-", "")))


class Report(Protocol):
    """What is told while it runs. Every call returns at once."""

    def step(self, training: Training, losses: Losses, rate: float, images_per_s: float) -> None: ...

    def validating(self, done: int, images: int) -> None: ...

    def epoch(self, row: Row, is_best: bool) -> None: ...


class StoppedError(DbnetError):
    """Somebody asked for the end; what was learned is saved."""


@dataclass(frozen=True)
class Pending:
    """A batch whose loss nobody has looked at. parts: on the device. step: its number, from 1."""

    parts: Any
    names: tuple[str, ...]
    step: int
    rate: float


@dataclass(eq=False)
class Training:
    """One training under way.

    losses: the trainer's `losses`, which waits for the device. validate: scores of weights; called with a function that
    is told of every image, and may raise. stopped: says why the training is to end after the step, or nothing.
    save_every: seconds between two saves of `last`. last_step: batches, None for all.
    """

    plan: TrainingPlan
    schedule: ScheduleSettings
    data: TrainingSet
    trainer: Trainer
    losses: Callable[[Any], Losses]
    journal: Journal
    folder: Folder
    validate: Callable[[Mapping[str, np.ndarray], Callable[[int, int], None]], Scores] | None
    report: Report
    stopped: Callable[[], str | None] = lambda: None
    save_every: float = 120.0
    last_step: int | None = None

    def __post_init__(self) -> None:
        self._pending: list[Pending] = []
        self._looked = self._saved = time.monotonic()
        self._newest: tuple[Losses, float] | None = None
        self._latest: Pending | None = None
        self._saved_marks = self._marks()

    @property
    def steps(self) -> int:
        """Batches that there will be in all."""
        whole = self.plan.epochs * self.journal.batches
        return whole if self.last_step is None else min(whole, self.last_step)

    def run(self, loader: Loader) -> None:
        """To the end, with a save there.

        Raises StoppedError, after a save, when `stopped` says so; DbnetError if the loss is no number, for images that
        cannot be read and files that cannot be written: then `last` is what was saved before.
        """
        try:
            while self.journal.step < self.steps or self._is_open():
                self._epoch(loader)
        except DbnetError as error:
            # Whoever sends a signal to all processes ends those that prepare images before this one hears of it.
            reason = self.stopped()
            if reason is None:
                raise
            self._save_what_is_new()
            raise StoppedError(f"stopped by {reason} after {self.told_place()}; saved in {self.folder.last}, and the "
                               f"same command with --resume goes on from there") from error
        self._save_what_is_new()

    def _save_what_is_new(self) -> None:
        if self._saved_marks != self._marks() or not self.folder.last.is_file():
            self.save()

    def _marks(self) -> tuple[int, int]:
        """What changes with everything that is worth a save."""
        return self.journal.step, len(self.journal.rows)

    def told_place(self) -> str:
        """How far it is, for people."""
        journal = self.journal
        whole = f"{journal.epoch} of {self.plan.epochs} epochs"
        return f"{whole} and {journal.batch} of {journal.batches} batches" if journal.batch else whole

    def _is_open(self) -> bool:
        """Whether all batches of an epoch are done, but not what comes after them."""
        return self.journal.batch == self.journal.batches

    def _epoch(self, loader: Loader) -> None:
        """The rest of an epoch, or what `last_step` leaves of it."""
        journal = self.journal
        places = self._places(journal.epoch)[journal.batch:][:max(0, self.steps - journal.step)]
        started = time.monotonic()
        for batch in loader.batches(journal.epoch, places):
            rate = learning_rate(self.schedule, journal.step)
            self._pending.append(Pending(self.trainer.step(_trimmed(batch), rate), batch.names, journal.step + 1, rate))
            journal.batch += 1
            now = time.monotonic()
            journal.seconds, started = journal.seconds + now - started, now
            if now - self._looked > LOOK_SECONDS or len(self._pending) >= LOOK_BATCHES or self._is_logged():
                self._look()
            if now - self._saved > self.save_every:
                self.save()
                started = time.monotonic()  # writing is no training
            self._check_stopped()
        self._look()
        if self._is_open():
            self._close()

    def _is_logged(self) -> bool:
        return self.journal.batch % self.plan.log_interval == 0

    def _places(self, epoch: int) -> list[np.ndarray]:
        """The places in the data set of each batch."""
        order = self.data.order(epoch) if self.plan.shuffle else np.arange(len(self.data))
        return [order[i * self.plan.batch_size:(i + 1) * self.plan.batch_size] for i in range(self.journal.batches)]

    def _check_stopped(self) -> None:
        reason = self.stopped()
        if reason is not None:
            raise StoppedError(reason)

    def _look(self) -> None:
        """At the losses of the pending batches. Raises DbnetError if one is no number."""
        for pending in self._pending:
            found = self.losses(pending.parts)
            if not all(map(math.isfinite, found)):
                raise self._spoilt(pending.step, pending.names, "the loss is " + ", ".join(
                    f"{name} {value:g}" for name, value in zip(("", "dice", "L1", "cross entropy"), found, strict=True)
                ).strip())
            self.journal.add(found)
            self._newest = found, pending.rate
        if self._pending and self._newest is not None:
            self._latest = self._pending[-1]
            self.report.step(self, *self._newest, self._images_per_s())
        self._pending = []
        self._looked = time.monotonic()

    def _images_per_s(self) -> float:
        return self.journal.batch * self.plan.batch_size / max(self.journal.seconds, 1e-9)

    def _spoilt(self, step: int, names: tuple[str, ...], what: str) -> DbnetError:
        listed = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        kept = f"{self.folder.last} is from before" if self.folder.last.is_file() else "nothing had been saved yet"
        epoch, batch = divmod(step - 1, self.journal.batches)
        return DbnetError(f"{what} at epoch {epoch + 1}, step {batch + 1} of {self.journal.batches}, in the batch of "
                          f"{listed}; {kept}; look at these images (dbnet data show), or lower scheduler.lr")

    def save(self) -> None:
        """`last`. Raises DbnetError for weights that are no numbers, and then for what cannot be written."""
        self._look()
        state = self.trainer.state()
        # Pending gradients may overflow under O2; the step is left out then.
        bad = [name for name, array in state.items() if not name.startswith(PENDING) and not np.isfinite(array).all()]
        if bad and self._latest is not None:
            raise self._spoilt(self._latest.step, self._latest.names, f"NaN or Inf in {len(bad)} arrays of the state, "
                                                                      f"such as {bad[0]},")
        self.folder.save_last(self.plan.spec, state, self.journal)
        self._saved, self._saved_marks = time.monotonic(), self._marks()

    def _close(self) -> None:
        """What comes after an epoch's last batch: validation, its checkpoints, its row."""
        journal, validation, epoch = self.journal, self.plan.validation, self.journal.epoch + 1
        loss, dice, l1, cross_entropy = (total / journal.batches for total in journal.sums)
        row = Row(epoch, journal.step, loss, dice, l1, cross_entropy, learning_rate(self.schedule, journal.step - 1),
                  self._images_per_s(), journal.seconds, self.trainer.overflows)
        # Without validation the loss decides, as in MindOCR: the less, the better.
        score = -loss if validation is None else None
        is_due = self.validate is not None and validation is not None and validation.due(epoch)
        if is_due or score is not None or self.plan.keep_policy == "latest_k":
            average = self.trainer.weights(average=True)
        if self.validate is not None and validation is not None and is_due:
            started = time.monotonic()
            try:
                scores = self.validate(average, self._validated)
            except DbnetError:  # an image has gone bad, say: the epoch must not be lost with it
                self._save_what_is_new()
                raise
            row = replace(row, **asdict(scores), eval_s=time.monotonic() - started)
            score = scores.by(validation.indicator)
        is_best = score is not None and (journal.best is None or score > journal.best[1])
        if score is not None and is_best:
            self.folder.save_best(self.plan.spec, average)
            journal.best = epoch, score
        if score is not None or self.plan.keep_policy == "latest_k":
            self._keep(epoch, score or 0.0, average)
        journal.close(row)
        self.folder.write_results(journal.rows)
        self.report.epoch(row, is_best)

    def _validated(self, done: int, images: int) -> None:
        self.report.validating(done, images)
        self._check_stopped()

    def _keep(self, epoch: int, score: float, weights: Mapping[str, np.ndarray]) -> None:
        """A checkpoint of this epoch, if it is among those that are kept; one that no longer is goes."""
        by_score = self.plan.keep_policy == "top_k"
        ranked = sorted([*self.journal.kept, (epoch, score)],
                        key=lambda item: (-item[1], item[0]) if by_score else (-item[0], 0))
        self.journal.kept = sorted(ranked[:self.plan.keep])
        if epoch in (number for number, _ in self.journal.kept):
            self.folder.save_epoch(epoch, self.plan.spec, weights)
        for number, _ in ranked[self.plan.keep:]:
            self.folder.drop_epoch(number)


def _trimmed(batch: Example) -> Example:
    """Without the rows that an incomplete last batch does not fill."""
    count = len(batch.names)
    if len(batch.image) == count:
        return batch
    return batch._replace(**{name: getattr(batch, name)[:count] for name in batch._fields if name != "names"})
