"""One row while it is measured: its process, what it has said so far, and the error that ended it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dbnet.errors import DbnetError
from dbnet.extras import installed, module_of, require
from dbnet.runner_names import parse_runner
from evaluation.benching.bundle_types import Seconds, digest_of
from evaluation.benching.machine import cores
from evaluation.benching.plan import Plan, Shape
from evaluation.benching.process import BenchProcess
from evaluation.benching.training import CROP, TRAINERS

#: Their graph is compiled when a model runs for the first time.
_LAZY = ("torch:compile", "mindspore")


@dataclass
class Entry:
    """place: of the row, from 0. seconds: filled turn by turn. computes: what two rows with the same share, so that
    their results can be compared; known once it is open. model: of `bundle_types.Model`. training: how it was trained.
    """

    place: int
    plan: Plan
    path: Path
    runner: str
    shape: Shape
    batch: int
    seconds: Seconds = field(default_factory=Seconds)
    error: str | None = None
    device: str = "unknown"
    environment: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    model: dict[str, Any] | None = None
    computes: str = ""
    peak: int | None = None
    training: dict[str, Any] | None = None
    _process: BenchProcess | None = None

    def __post_init__(self) -> None:
        self.who = parse_runner(self.runner)

    @property
    def title(self) -> str:
        """For people."""
        at = "" if self.shape is None else f" {self.shape[0]}x{self.shape[1]}"
        return f"{self.path.name} in {self.runner}{at}{f' batch {self.batch}' if self.batch > 1 else ''}"

    @property
    def trains(self) -> bool:
        """Whether steps of training are timed: of a half of this environment, as it trains."""
        return (self.plan.train and self.who.python is None and self.who.framework in TRAINERS
                and self.who.variant in (None, "eager", "graph"))

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """An error within is this row's alone, and its end."""
        try:
            yield
        except DbnetError as error:
            self.error = str(error)
            self.close()
        except BaseException:
            self.close(at_once=True)
            raise

    def start(self, paths: Sequence[str]) -> None:
        """Import, load, graph and first run. paths: of the first batch. Raises DbnetError."""
        who, plan = self.who, self.plan
        if who.python is None and not installed(module_of(who.framework)):
            require(who.framework)  # for its error: one that is not there needs no process
        self._process = BenchProcess(who.framework)
        own = None if plan.threads is None else _some_cores(plan.threads)
        imported = self._ask("begin", framework=who.framework, cores=own, elsewhere=who.python is not None)["import"]
        threads = None if who.framework == "mindspore" else plan.threads  # which goes by its cores
        told = self._ask("open", path=str(self.path), runner=self.runner, device=plan.device, threads=threads,
                         precision=plan.precision, keep_float32=list(plan.keep_float32), options=dict(plan.options),
                         shape=None if self.shape is None else list(self.shape))
        self.device, self.environment, self.notes = told["device"], told["environment"], told["notes"]
        if plan.train and who.framework in TRAINERS and not self.trains:
            self.notes.append(f"{self.title}: --train times no steps of it, only of {' and '.join(TRAINERS)} as they "
                              f"are, without another mode or @PYTHON")
        self.model, self.computes = told["model"], digest_of([told["computes"], self.shape])
        first = self._ask("first", paths=list(paths))
        if who.here == _LAZY[0] or who.framework == _LAZY[1]:
            told["graph_compile"] = max(first["first_run"] - first["usual"], 0.0)
        for name, value in (("imported", told["import"] if imported is None else imported), ("load", told["load"]),
                            ("graph_compile", told["graph_compile"]), ("first_run", first["first_run"])):
            if value is not None:
                getattr(self.seconds, name).append(float(value))

    def detect(self, paths: Sequence[str], keep: int, maps: bool) -> tuple[list[list[dict[str, Any]]],
                                                                          list[np.ndarray]]:
        """What is found in the first `keep` of a batch, as a bundle holds it, and their maps. Raises DbnetError."""
        answer, arrays = self._call("detect", paths=list(paths), keep=keep, maps=maps)
        return answer["detections"], [arrays[str(i)] for i in range(keep)] if maps else []

    def turn(self, batches: Sequence[Sequence[str]], warmup: int) -> None:
        """A round. Raises DbnetError."""
        answer = self._ask("turn", batches=[list(batch) for batch in batches], warmup=warmup)
        for name in ("pixels", "network", "boxes", "whole"):
            getattr(self.seconds, name).append(answer[name])

    def remember_memory(self) -> None:
        """Before anything else is done in the process."""
        if self.error is None:
            self.peak = self._ask("memory")["of_runner"]

    def begin_training(self) -> None:
        """Raises DbnetError."""
        size = list(self.shape or CROP)
        told = self._ask("train_open", size=size, batch=self.batch, precision=self.plan.precision,
                         device=self.plan.device, seed=self.plan.seed)
        self.training = {"size": size, "first_step": told["first_step"]}
        if self.who.framework == _LAZY[1]:  # torch has nothing to prepare
            self.seconds.train_compile.append(told["prepare"])

    def train(self, steps: int, warmup: int) -> None:
        """A round of training. Raises DbnetError."""
        self.seconds.train_step.append(self._ask("train_turn", steps=steps, warmup=warmup)["train_step"])
        assert self.training is not None and self._process is not None
        self.training["peak_memory_bytes"] = self._process.peak

    def cut(self, rounds: int, learned: int) -> None:
        """Keeps so many rounds; a row without any has an error, one with fewer than were asked for a note."""
        for name in ("pixels", "network", "boxes", "whole"):
            del getattr(self.seconds, name)[rounds:]
        del self.seconds.train_step[learned:]
        if not rounds:
            self.error = "interrupted before its first round was complete"
        elif rounds < self.plan.rounds:
            self.notes.append(f"{self.title}: interrupted after {rounds} of {self.plan.rounds} rounds")
        elif self.trains and learned < self.plan.rounds:
            self.notes.append(f"{self.title}: interrupted after {learned} of {self.plan.rounds} rounds of training")

    def close(self, at_once: bool = False) -> None:
        """Ends its process."""
        process, self._process = self._process, None
        if process is not None:
            process.close(at_once)

    def _ask(self, do: str, **header: Any) -> dict[str, Any]:
        return self._call(do, **header)[0]

    def _call(self, do: str, **header: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        assert self._process is not None
        return self._process.call(do, **header)


def _some_cores(threads: int) -> list[int] | None:
    """The first of those that this process may use: the same for all rows, whatever else runs on them."""
    if not hasattr(os, "sched_getaffinity") or threads >= cores():
        return None
    return sorted(os.sched_getaffinity(0))[:threads]
