"""The loop: epochs of batches through a trainer of either half, with saves, validation, and an end at any step.

What a training has learned by a step follows from the recipe, the data and the seed alone, however often it was
interrupted. In several processes each computes its share of every batch; the first one alone looks at losses, validates
and writes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

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
from evaluation.training_parts import AskedError, Pending, Report, Scores, StoppedError, Trainer
from evaluation.training_peers import PeerError, Peers

#: How long losses may stay on the device before somebody looks at them, in seconds and in batches. To look is to wait
#: for all that the device still has to do.
LOOK_SECONDS, LOOK_BATCHES = 0.5, 50
#: How many file names of a batch an error line lists.
_NAMED = 8


@dataclass(eq=False)
class Training:
    """One training under way.

    losses: the trainer's `losses`, which waits for the device. validate: scores of weights; called with a function that
    is told of every image, and may raise. stopped: says why the training is to end after the step, or nothing.
    save_every: seconds between two saves of `last`. last_step: batches, None for all. peers: the processes that train
    together. sinks: losses stay on the device until they are to be logged. closed: the epoch after which the trainer's
    state was saved, if no batch came between.
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
    peers: Peers = field(default_factory=Peers)
    sinks: bool = False
    closed: int = 0

    def __post_init__(self) -> None:
        self._pending: list[Pending] = []
        self._looked = self._saved = time.monotonic()
        self._newest: tuple[Losses, float] | None = None
        self._latest: Pending | None = None
        self._saved_marks = self._marks()
        self._is_first = self.peers.rank == 0

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
        self._catch_up()
        try:
            while self.journal.step < self.steps or self._is_open():
                self._epoch(loader)
        except DbnetError as error:
            reason = self._reason_of(error)
            if reason is None:
                raise
            self._save_what_is_new()
            raise StoppedError(f"stopped by {reason} after {self.told_place()}; saved in {self.folder.last}, and the "
                               f"same command with --resume goes on from there") from error
        self._save_what_is_new()

    def _reason_of(self, error: DbnetError) -> str | None:
        """Who has asked for the end, if that is what the error is about."""
        if not isinstance(error, AskedError | PeerError) and self.stopped() is not None:
            # Whoever sends a signal to all processes ends those that prepare images before this one hears of it.
            try:
                self._meet()
            except AskedError as asked:
                return str(asked)
        return str(error) if isinstance(error, AskedError) else None

    def _save_what_is_new(self) -> None:
        if not self._is_first:
            return
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
        for whole, read in zip(places, loader.batches(journal.epoch, map(self._share, places)), strict=True):
            batch, rate = _trimmed(read), learning_rate(self.schedule, journal.step)
            if self.peers.size > 1:
                self.trainer.prepare(batch)
                self._meet()  # in the step everybody waits for all, and there is no way out
            parts = self.trainer.step(batch, rate)
            if self._is_first:
                self._pending.append(Pending(parts, batch.names, whole, journal.step + 1, rate))
            journal.batch += 1
            now = time.monotonic()
            journal.seconds, started = journal.seconds + now - started, now
            if self._is_due(now):
                self._look()
            if self._is_first and now - self._saved > self.save_every:
                self.save()
                started = time.monotonic()  # writing is no training
            self._meet()
        self._look()
        if self._is_open():
            self._close()

    def _is_due(self, now: float) -> bool:
        """Whether the losses are to be looked at."""
        if self.journal.batch % self.plan.log_interval == 0 or len(self._pending) >= LOOK_BATCHES:
            return True
        return not self.sinks and now - self._looked > LOOK_SECONDS

    @property
    def batch_size(self) -> int:
        """Images of all processes together."""
        return self.plan.batch_size * self.peers.size

    def _share(self, places: np.ndarray) -> np.ndarray:
        """Of a batch those that this process computes: all compute as many, and what is over is left out."""
        count = len(places) // self.peers.size
        return places[self.peers.rank * count:][:count]

    def _places(self, epoch: int) -> list[np.ndarray]:
        """The places in the data set of each batch."""
        order = self.data.order(epoch) if self.plan.shuffle else np.arange(len(self.data))
        return [order[i * self.batch_size:(i + 1) * self.batch_size] for i in range(self.journal.batches)]

    def _meet(self) -> None:
        """Waits for all processes. Raises AskedError, in all of them, if one is to end; PeerError if one has failed."""
        for reason in self.peers.exchange(self.stopped()):
            if reason is not None:
                raise AskedError(reason)

    def _look(self) -> None:
        """At the losses of the pending batches. Raises DbnetError if one is no number."""
        for pending in self._pending:
            found = self.losses(pending.parts)
            if not all(map(math.isfinite, found)):
                raise self._spoilt(pending, "the loss is " + ", ".join(
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
        return self.journal.batch * self.batch_size / max(self.journal.seconds, 1e-9)

    def _spoilt(self, pending: Pending, what: str) -> DbnetError:
        names = pending.names
        if self.peers.size > 1:
            names = tuple(self.data.samples[int(place)].name for place in pending.places)
        listed = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        kept = f"{self.folder.last} is from before" if self.folder.last.is_file() else "nothing had been saved yet"
        epoch, batch = divmod(pending.step - 1, self.journal.batches)
        return DbnetError(f"{what} at epoch {epoch + 1}, step {batch + 1} of {self.journal.batches}, in the batch of "
                          f"{listed}; {kept}; look at these images (dbnet data show), or lower scheduler.lr")

    def save(self) -> None:
        """`last`. Raises DbnetError for weights that are no numbers, and then for what cannot be written."""
        self._look()
        state = self.trainer.state()
        # Pending gradients may overflow under O2; the step is left out then.
        bad = [name for name, array in state.items() if not name.startswith(PENDING) and not np.isfinite(array).all()]
        if bad and self._latest is not None:
            raise self._spoilt(self._latest, f"NaN or Inf in {len(bad)} arrays of the state, such as {bad[0]},")
        self.folder.save_last(self.plan.spec, state, self.journal)
        self._saved, self._saved_marks = time.monotonic(), self._marks()

    def _close(self) -> None:
        """What comes after an epoch's last batch. The first process does it, and the others wait."""
        if self._is_first:
            self._close_first()
        else:
            self.journal.advance()
        if self.peers.size > 1:
            self._meet()

    def _close_first(self) -> None:
        """Validation, its checkpoints, its row."""
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
            journal.best = epoch, score
        dropped: list[int] = []
        if score is not None or self.plan.keep_policy == "latest_k":
            dropped = self._rank(epoch, score or 0.0)
        journal.close(row)
        if self._has_checkpoint(epoch) or not self.folder.last.is_file():
            self.save()  # first: whatever a kill leaves undone of what follows is made from it
        if self._has_checkpoint(epoch):
            self._save_checkpoints(epoch, average)
        for number in dropped:
            self.folder.drop_epoch(number)
        self.folder.write_results(journal.rows)
        self.report.epoch(row, is_best)

    def _catch_up(self) -> None:
        """What a kill right after the last save has left undone, and what it has left of later epochs in result.csv."""
        if not self._is_first:
            return
        if self.closed and self._has_checkpoint(self.closed):
            self._save_checkpoints(self.closed, self.trainer.weights(average=True))
        if self.journal.rows or self.folder.results():
            self.folder.write_results(self.journal.rows)

    def _validated(self, done: int, images: int) -> None:
        self.report.validating(done, images)
        if self.stopped() is not None:
            self._meet()  # where the others wait

    def _rank(self, epoch: int, score: float) -> list[int]:
        """Puts an epoch among those whose checkpoints are kept, if it is one. Gives those that no longer are."""
        by_score = self.plan.keep_policy == "top_k"
        ranked = sorted([*self.journal.kept, (epoch, score)],
                        key=lambda item: (-item[1], item[0]) if by_score else (-item[0], 0))
        self.journal.kept = sorted(ranked[:self.plan.keep])
        return [number for number, _ in ranked[self.plan.keep:]]

    def _has_checkpoint(self, epoch: int) -> bool:
        """Whether the weights after this epoch are kept: as the best, or as its own."""
        best, kept = self.journal.best, self.journal.kept
        return (best is not None and best[0] == epoch) or epoch in (number for number, _ in kept)

    def _save_checkpoints(self, epoch: int, weights: Mapping[str, np.ndarray]) -> None:
        if self.journal.best is not None and self.journal.best[0] == epoch:
            self.folder.save_best(self.plan.spec, weights)
        if epoch in (number for number, _ in self.journal.kept):
            self.folder.save_epoch(epoch, self.plan.spec, weights)


def _trimmed(batch: Example) -> Example:
    """Without the rows that an incomplete last batch does not fill."""
    count = len(batch.names)
    if len(batch.image) == count:
        return batch
    return batch._replace(**{name: getattr(batch, name)[:count] for name in batch._fields if name != "names"})
