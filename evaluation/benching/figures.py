"""From measured seconds to what a table shows; the one place where that is computed, for every command."""

from __future__ import annotations

import math
import statistics
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.benching.bundle_types import Row

#: Percentiles of a call's latency.
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Latency:
    """Seconds of one call, over all calls of all rounds. calls: how many; few say little of p95 and p99."""

    p50: float
    p95: float
    p99: float
    calls: int


@dataclass(frozen=True)
class Figures:
    """What there is of a row; None for what was not measured. Seconds, but for what says otherwise.

    imported, load, graph_compile, first_run: medians over the fresh processes. whole, network, pixels, boxes: latency
    of one batch. images_per_second: from files to boxes; network_images_per_second: of the network alone; each the
    median over the rounds, and `rounds`, `network_rounds` are the rounds' own. train_compile: before the first step of
    a training. step_ms: one step in milliseconds, the median over the rounds; train_images_per_second: what that makes
    with all cards.
    """

    imported: float | None
    load: float | None
    graph_compile: float | None
    first_run: float | None
    whole: Latency | None
    network: Latency | None
    pixels: Latency | None
    boxes: Latency | None
    images_per_second: float | None
    network_images_per_second: float | None
    rounds: tuple[float, ...]
    network_rounds: tuple[float, ...]
    train_compile: float | None
    step_ms: float | None
    train_images_per_second: float | None
    step_rounds: tuple[float, ...]
    peak_memory_bytes: int | None


def figures(row: Row) -> Figures:
    """Of one row."""
    seconds = row.seconds
    whole, network = rates(seconds.whole, row.batch), rates(seconds.network, row.batch)
    steps = tuple(1000 * median for median in _medians(seconds.train_step))
    step = _median(steps)
    return Figures(
        _median(seconds.imported), _median(seconds.load), _median(seconds.graph_compile), _median(seconds.first_run),
        latency(seconds.whole), latency(seconds.network), latency(seconds.pixels), latency(seconds.boxes),
        _median(whole), _median(network), whole, network, _median(seconds.train_compile), step,
        None if not step else 1000 * row.batch * row.cards / step, steps, row.peak_memory_bytes)


def latency(rounds: Sequence[Sequence[float]]) -> Latency | None:
    """Of all calls; percentiles lie between two calls where none is exactly there."""
    calls = [call for calls in rounds for call in calls]
    if not calls:
        return None
    p50, p95, p99 = (float(value) for value in np.percentile(np.array(calls, np.float64), PERCENTILES))
    return Latency(p50, p95, p99, len(calls))


def rates(rounds: Sequence[Sequence[float]], batch: int) -> tuple[float, ...]:
    """Images a second of each round. A round's calls are summed: images differ, and each takes its time."""
    return tuple(batch * len(calls) / sum(calls) for calls in rounds if calls and sum(calls) > 0)


def rivals(rows: Sequence[Row], settings: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """For each row what it shares with those that it is ranked among: model, shape, batch, and that they took turns."""
    groups = {place: number for number, group in enumerate(settings.get("groups", ())) for place in group}
    return [(row.model, str(row.shape), row.batch, groups.get(place)) for place, row in enumerate(rows)]


def ranks(rows: Sequence[Row], settings: Mapping[str, Any] = types.MappingProxyType({})) -> list[int | None]:
    """Places by images a second among the `rivals`, from 1; None for a row without a figure. settings: of the bundle.

    Rows that took turns have rounds in pairs. A row shares a place with the fastest of it unless it is slower than that
    one in so many of these that equals would be so in 5 % of all cases, which fewer than five rounds never show: what a
    second run may turn round is no order.
    """
    found: list[int | None] = [None] * len(rows)
    groups: dict[tuple[Any, ...], list[tuple[int, tuple[float, ...]]]] = {}
    for place, (row, key) in enumerate(zip(rows, rivals(rows, settings), strict=True)):
        if (own := rates(row.seconds.whole, row.batch)):
            groups.setdefault(key, []).append((place, own))
    for group in groups.values():
        group.sort(key=lambda one: -statistics.median(one[1]))
        shared, fastest = 1, group[0][1]
        for number, (place, own) in enumerate(group, start=1):
            if _slower(own, fastest):
                shared, fastest = number, own
            found[place] = shared
    return found


def _slower(own: Sequence[float], theirs: Sequence[float]) -> bool:
    rounds = min(len(own), len(theirs))
    wins = sum(a < b for a, b in zip(own[:rounds], theirs[:rounds], strict=True))
    by_chance = sum(math.comb(rounds, k) for k in range(wins, rounds + 1)) / 2 ** rounds
    return by_chance <= 0.05


def _medians(rounds: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(statistics.median(calls) for calls in rounds if calls)


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
