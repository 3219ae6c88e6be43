"""What `dbnet train` tells people: a progress bar or plain lines while it runs, and what it has left at the end."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

import click

from dbnet.cli.options import print_table

if TYPE_CHECKING:
    from dbnet.loss_settings import Losses
    from evaluation.training import Training
    from evaluation.training_journal import Row
    from evaluation.training_setup import Ready


class Printed:
    """`evaluation.training.Report` on standard error: a bar on a terminal, else a line every `system.log_interval`."""

    def __init__(self, is_first: bool = True) -> None:
        """is_first: of the processes that train together; the others tell nothing."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar = Progress(TextColumn("{task.description}"), BarColumn(10), MofNCompleteColumn(),
                             TextColumn("{task.fields[told]}"), console=self._console, transient=True,
                             disable=not (self._console.is_terminal and is_first))
        self._is_first = is_first
        self._task = self._bar.add_task("", total=None, told="", visible=False)
        self._epochs = 0

    def __enter__(self) -> Printed:
        self._bar.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None,
                 _trace: TracebackType | None) -> None:
        self._bar.stop()

    def begin(self, ready: Ready) -> None:
        """What is known before the first step."""
        self._epochs = ready.training.plan.epochs
        for line in (ready.title, *ready.lines):
            self._say(line)

    def step(self, training: Training, losses: Losses, rate: float, images_per_s: float) -> None:
        journal, plan = training.journal, training.plan
        seconds = (training.steps - journal.step) * training.batch_size / max(images_per_s, 1e-9)
        told = f"lr {rate:.3g}, {images_per_s:.1f} img/s, ETA {duration(seconds)}"
        if training.trainer.overflows:
            told += f", {training.trainer.overflows} overflows"
        epoch = f"epoch {journal.epoch + 1}/{plan.epochs}"
        self._bar.update(self._task, description=epoch, completed=journal.batch, total=journal.batches,
                         told=f"loss {losses.total:.3f}, {told}", visible=True)
        if self._bar.disable and journal.batch % plan.log_interval == 0:
            parts = f"dice {losses.dice:.3f}, L1 {losses.l1:.3f}, cross entropy {losses.cross_entropy:.3f}"
            self._say(f"{epoch} step {journal.batch}/{journal.batches}: loss {losses.total:.4f} ({parts}), {told}")

    def validating(self, done: int, images: int) -> None:
        self._bar.update(self._task, description="validation", completed=done, total=images, told="")

    def epoch(self, row: Row, is_best: bool) -> None:
        line = (f"epoch {row.epoch}/{self._epochs}: loss {row.loss:.4f} (dice {row.dice:.3f}, L1 {row.l1:.3f}, cross "
                f"entropy {row.cross_entropy:.3f}), lr {row.lr:.3g}, {row.images_per_s:.1f} img/s, "
                f"{duration(row.train_s)}")
        if row.fscore is not None:
            line += f"; recall {row.recall:.4f}, precision {row.precision:.4f}, f-score {row.fscore:.4f}"
        self._say(line + (", the best so far" if is_best else ""))

    def _say(self, line: str) -> None:
        # Through the console where a bar is to stay below, else as it is: rich would fold it.
        if not self._is_first:
            return
        if self._bar.disable:
            click.echo(line, err=True)
        else:
            self._console.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False)


def duration(seconds: float) -> str:
    """1:02:03, or 42 s."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def print_outcome(training: Training) -> None:
    """On standard output: how far it came, and what lies in the folder."""
    from evaluation.training_folder import CURVES, RECIPE, RESULTS
    journal, plan, folder = training.journal, training.plan, training.folder
    complete = journal.epoch >= plan.epochs
    click.echo(f"{'complete' if complete else 'ended'} after {training.told_place()}, {journal.step} steps in all"
               + ("" if complete else "; --resume goes on"))
    rows = [(folder.last, "the training, to go on from: --resume")]
    best = folder.find_best()
    if journal.best is not None and best is not None:
        epoch, score = journal.best
        rows.insert(0, (best, f"the best weights: {journal.by} {abs(score):.5f}, after epoch {epoch}"))
    if journal.kept:
        rows.append((folder.path / "e*.*", f"those of the epochs "
                                                         f"{', '.join(str(epoch) for epoch, _ in journal.kept)}"))
    if journal.rows:
        rows += [(folder.path / RESULTS, "a line for each epoch"), (folder.path / CURVES, "the same as curves")]
    rows.append((folder.path / RECIPE, "the effective recipe"))
    print_table("", ("file", "holds"), rows)
