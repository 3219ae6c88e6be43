"""Where a training stands: what it goes on with beside the trainer's state, and what it has found out so far.

Travels in the training file as JSON (`converters.training_file`), so that one file is the whole truth: result.csv and
the curves are drawn from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from dbnet.errors import DbnetError
from dbnet.loss_settings import Losses

VERSION = 1
#: Above all numbers of epochs, steps and images.
_LARGEST = 1 << 53


@dataclass(frozen=True)
class Row:
    """One epoch. loss to cross_entropy: means over its batches. lr: of the last one. train_s, eval_s: seconds.
    recall to fscore: fractions by MindOCR's metric, None where there was no evaluation.
    """

    epoch: int
    steps: int
    loss: float
    dice: float
    l1: float
    cross_entropy: float
    lr: float
    images_per_s: float
    train_s: float
    overflows: int
    recall: float | None = None
    precision: float | None = None
    fscore: float | None = None
    eval_s: float | None = None


@dataclass
class Journal:
    """epoch: epochs that are complete. batch: batches of the next one that are done. batches: of an epoch.

    images, batch_size (of all processes), seed: what the order of the images follows from. recipe: dotted path ->
    value as text. start: where the weights came from. backend: the one that wrote this. by: what scores are, `loss`
    (negative) or an indicator. sums, seconds: of the epoch that is not complete: its losses added up, and how long it
    took. rows: the complete epochs. best: epoch and score of the best checkpoint. kept: those of the other checkpoints.
    """

    batches: int
    images: int
    batch_size: int
    seed: int
    recipe: dict[str, str]
    start: list[str] = field(default_factory=list)
    backend: str = ""
    by: str = "loss"
    epoch: int = 0
    batch: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0] * 4)
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    best: tuple[int, float] | None = None
    kept: list[tuple[int, float]] = field(default_factory=list)

    @property
    def step(self) -> int:
        """Batches done in all: the number of the next one, from which its rate follows."""
        return self.epoch * self.batches + self.batch

    def add(self, losses: Losses) -> None:
        """One batch more in the sums."""
        self.sums = [total + value for total, value in zip(self.sums, losses, strict=True)]

    def close(self, row: Row) -> None:
        """The epoch is complete."""
        self.rows.append(row)
        self.advance()

    def advance(self) -> None:
        """To the next epoch."""
        self.epoch, self.batch, self.sums, self.seconds = self.epoch + 1, 0, [0.0] * 4, 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for `from_dict`."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        names = [f.name for f in fields(Row)]
        return plain | {"version": VERSION, "columns": names,
                        "rows": [[getattr(row, name) for name in names] for row in self.rows]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> Journal:
        """Raises DbnetError, naming `where`, if it is not what `to_dict` gives: it came with a file."""
        if data.get("version") != VERSION:
            raise DbnetError(f"{where}: its training has version {data.get('version')!r}, this dbnet reads {VERSION}; "
                             f"update dbnet-parity")
        try:
            rows = [Row(**dict(zip(data["columns"], values, strict=True))) for values in data["rows"]]
            best = data["best"]
            journal = cls(**{name: int(data[name]) for name in ("batches", "images", "batch_size", "seed")},
                          recipe={_shown(path): _shown(text) for path, text in data["recipe"].items()},
                          start=list(map(_shown, data["start"])), backend=_shown(data["backend"]),
                          by=_shown(data["by"]),
                          epoch=int(data["epoch"]), batch=int(data["batch"]), sums=list(map(float, data["sums"])),
                          seconds=float(data["seconds"]), rows=rows, best=None if best is None else _scored(best),
                          kept=list(map(_scored, data["kept"])))
            journal.check()
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DbnetError(f"{where}: what it says of its training is damaged ({type(error).__name__}: "
                             f"{_shown(str(error)[:120])}); "
                             f"take an earlier checkpoint") from error
        return journal

    def check(self) -> None:
        """Raises ValueError or TypeError for numbers that cannot be."""
        for row in self.rows:
            numbers = [(getattr(row, f.name), f.default is None) for f in fields(Row)]
            if not all((isinstance(n, (int, float)) and math.isfinite(n)) or (n is None and may_lack)
                       for n, may_lack in numbers):
                raise ValueError(f"the row of epoch {row.epoch}")
            if not all(isinstance(n, int) and 0 <= n < _LARGEST for n in (row.epoch, row.steps, row.overflows)):
                raise ValueError(f"the row of epoch {row.epoch}")
        if not 0 <= self.batch <= self.batches or len(self.sums) != 4 or self.batches < 1:
            raise ValueError(f"epoch {self.epoch}, batch {self.batch} of {self.batches}")
        scored = [*self.kept, *([] if self.best is None else [self.best])]
        if not all(0 <= n < _LARGEST for n in (self.epoch, self.batches, *(epoch for epoch, _ in scored))):
            raise ValueError(f"epoch {self.epoch} of {self.batches} batches, or those of its checkpoints")
        if not all(map(math.isfinite, (*self.sums, self.seconds, *(score for _, score in scored)))):
            raise ValueError("a sum, a time or a score that is no number")


def _shown(text: Any) -> str:
    """A text of a file, safe for a line of a terminal."""
    text = str(text)
    return text if text.isprintable() else repr(text)


def _scored(value: Any) -> tuple[int, float]:
    epoch, score = value
    return int(epoch), float(score)
