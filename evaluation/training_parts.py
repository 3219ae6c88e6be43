"""What the loop of a training deals with: a trainer of either half, scores, who is told of it, and how it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dbnet.errors import DbnetError
from dbnet.loss_settings import Losses
from dbnet.training_set import Example
from evaluation.training_journal import Row

if TYPE_CHECKING:
    from evaluation.training import Training


class Trainer(Protocol):
    """What both halves have: `torch_reference.train.Trainer`, `ms_models.train.Trainer`."""

    steps: int
    overflows: int
    device: Any

    def prepare(self, batch: Example) -> None: ...

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


class AskedError(DbnetError):
    """Somebody has asked for the end: who."""


@dataclass(frozen=True)
class Pending:
    """A batch whose loss nobody has looked at. parts: on the device. names: of the images that this process has read;
    places: those of all in the data set. step: its number, from 1."""

    parts: Any
    names: tuple[str, ...]
    places: np.ndarray
    step: int
    rate: float
