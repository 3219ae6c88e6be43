"""Every row of a benchmark measured: rows in processes of their own, rounds in turns, so that a noisy machine favours
no one.

Rows whose processes live at the same time take turns, and each round begins with another of them: A B C, B C A, C A B.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.benching.collecting import Collected, Collector, Everywhere
from evaluation.benching.data import BenchData
from evaluation.benching.entry import Entry
from evaluation.benching.plan import Plan

#: What is told of the progress: a few words, and how many of how many steps are done.
Tell = Callable[[str, int, int], object]


@dataclass
class Measured:
    """entries: one for each row. found: what each detected, by its place. interrupted: somebody did not want to wait
    for the rest.
    """

    entries: list[Entry]
    found: dict[int, Collected] = field(default_factory=dict)
    interrupted: bool = False


def entries_of(plan: Plan) -> list[Entry]:
    """In the order of the rows: all runners, shapes and batches of a model, then the next model."""
    return [Entry(place, plan, *choice) for place, choice in enumerate(
        itertools.product(plan.models, plan.runners, plan.shapes, plan.batches))]


def groups_of(plan: Plan, entries: Sequence[Entry]) -> list[list[Entry]]:
    """Which take turns with each other: as many as may live at the same time, of one model before all."""
    groups: list[list[Entry]] = []
    for model in plan.models:
        own = [entry for entry in entries if entry.path == model]
        if groups and len(groups[-1]) + len(own) <= plan.together:
            groups[-1] += own
        else:
            groups += [own[i:i + plan.together] for i in range(0, len(own), plan.together)]
    return groups


def told_order(plan: Plan, groups: Sequence[Sequence[Entry]]) -> str:
    """For `Bundle.settings`."""
    turns = "rounds in turns, each beginning with the next row: A B C, B C A, ..."
    if len(groups) == 1:
        return turns
    rows = ", then ".join("rows " + " ".join(str(entry.place + 1) for entry in group) for group in groups)
    return f"{turns}; {rows}, no more than {plan.together} processes at the same time"


def measure(plan: Plan, data: BenchData, folder: Path, tell: Tell, everywhere: Everywhere | None = None) -> Measured:
    """Measures all; an error stays with its row. folder: for maps that are compared later. everywhere: what a cluster
    does, see `Collector`.
    """
    entries = entries_of(plan)
    groups = groups_of(plan, entries)
    result = Measured(entries)
    paths = [str(sample.image) for sample in data.samples]
    steps = _Steps(len(entries) * (1 + plan.rounds), tell)
    collector = Collector(paths, data.names, folder, plan.tolerance, everywhere)
    try:
        for group in groups:
            try:
                _group(plan, group, paths, collector, result, steps)
            finally:
                for entry in group:
                    entry.close()
    except KeyboardInterrupt:
        result.interrupted = True
        for group in groups:
            _cut(group)
    return result


@dataclass
class _Steps:
    """Of the progress."""

    total: int
    tell: Tell
    done: int = 0

    def step(self, what: str) -> None:
        self.tell(what, self.done, self.total)
        self.done += 1


def _group(plan: Plan, group: list[Entry], paths: list[str], collector: Collector, result: Measured,
           steps: _Steps) -> None:
    for entry in group:
        steps.step(f"{entry.title}: starting")
        with entry.failing():
            entry.start(plan.timed(paths, entry.batch)[0])
            result.found[entry.place] = collector.collect(entry)
    for number, entry in _turns(group, plan.rounds):
        if entry.error is None:
            steps.step(f"{entry.title}: round {number + 1} of {plan.rounds}")
            with entry.failing():
                entry.turn(plan.timed(paths, entry.batch), plan.warmup)
    for entry in group:
        with entry.failing():
            entry.remember_memory()
    learning = [entry for entry in group if entry.error is None and entry.trains]
    for entry in learning:
        steps.tell(f"{entry.title}: a training begins", steps.done, steps.total)
        with entry.failing():
            entry.begin_training()
    for number, entry in _turns(learning, plan.rounds):
        if entry.error is None:
            steps.tell(f"{entry.title}: training, round {number + 1} of {plan.rounds}", steps.done, steps.total)
            with entry.failing():
                entry.train(plan.calls, plan.warmup)


def _turns(group: Sequence[Entry], rounds: int) -> Iterator[tuple[int, Entry]]:
    for number in range(rounds):
        for i in range(len(group)):
            yield number, group[(number + i) % len(group)]


def _cut(group: Sequence[Entry]) -> None:
    """After an interrupt: only rounds that all rows of a group have can be compared."""
    begun = [entry for entry in group if entry.error is None]
    rounds = min((len(entry.seconds.whole) for entry in begun), default=0)
    learned = min((len(entry.seconds.train_step) for entry in begun if entry.trains), default=0)
    for entry in begun:
        entry.cut(rounds, learned)


def nothing_measured(entries: Sequence[Entry]) -> str | None:
    """Why there is nothing to report; None if there is something."""
    if any(entry.seconds.whole for entry in entries):
        return None
    return next((entry.error for entry in entries if entry.error is not None), "nothing was measured")


def settings_of(plan: Plan, entries: Sequence[Entry], busy: list[float], interrupted: bool = False) -> dict[str, Any]:
    """`Bundle.settings`."""
    groups = groups_of(plan, entries)
    return {"rounds": max((len(entry.seconds.whole) for entry in entries), default=0), "asked_rounds": plan.rounds,
            "interrupted": interrupted, "warmup": plan.warmup, "calls": plan.calls, "threads": plan.threads,
            "seed": plan.seed, "order": told_order(plan, groups) + ("; interrupted" if interrupted else ""),
            "groups": [[entry.place for entry in group] for group in groups], "busy": busy, "train": plan.train}
